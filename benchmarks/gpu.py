"""Everything that a GPU must show of this project, in one command of at most nine minutes.

Random weights in the shapes of a real backbone, made on the device: nothing is downloaded.
Needs torch, transformers, safetensors, numpy and tqdm alone, and no installation.

    python benchmarks/gpu.py --plan             what would run, in how many seconds
    python benchmarks/gpu.py --output gpu.json
    python benchmarks/gpu.py --device cpu --shapes tiny     a try of the plan itself

    part  what
    -     ceilings: bytes/s of a large copy, FLOP/s of a large product; all shares are of these
    a     passes as CUDA graphs against the same passes without: tokens equal, times as fast
    b     bfloat16 against float32 over the same weights: equal tokens, difference of logits
    c     decoding: tokens/s of the plain backbone and of the TRM, against transformers' own
          generate (the named baseline), and the share of the roofline that is reached
    d     training: tokens/s of a supervision step, peak memory, share of the product's FLOP/s

Roofline of decoding: the longer of reading every weight and cached value once a use at the
copy's bandwidth, and of the pass's FLOPs at the product's rate. First token: the prompt's
FLOPs at that rate.

Cases run one after another in a process of their own. One that fails, or outlasts its time,
is written down with its cause, and the next goes on, in a new process where the device no
longer answers. The output is written after each case, so that a run that is killed leaves
what it has. Cases that no longer fit into the time are skipped by name.
"""

import argparse
import json
import math
import os
import queue
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from mathllm.environment import commit, gpu_names  # noqa: E402 (found by the line above)
from mathllm.files import write_json  # noqa: E402

PARTS = ("ceilings", "a", "b", "c", "d")
GRACE = 30.0  # seconds that a case may have beyond its estimate's treble
TRACEBACK_LINES = 12
SMALL, LARGE = {"n": 1, "T": 1, "N_sup": 4}, {"n": 6, "T": 3, "N_sup": 16}


@dataclass(frozen=True)
class Case:
    """One measurement: a function of gpu_parts with its arguments, and its seconds, guessed."""

    part: str
    name: str
    kind: str
    seconds: float
    arguments: dict[str, Any] = field(default_factory=dict)


def plan(shape: str) -> list[Case]:
    """The cases of all parts, the most telling first within each."""
    tiny = shape == "tiny"
    few, some, *more = (1, 2) if tiny else (1, 16, 64)
    cases = [Case("ceilings", "copy and product", "ceilings", 8)]
    exact = {"dtype": "float32", "rows": some}
    cases += [
        Case("a", f"float32, {few} rows", "graphed", 12, exact | {"rows": few}),
        Case("a", f"float32, {some} rows", "graphed", 12, exact),
        Case("a", f"drawn, {some} rows", "graphed", 12, exact | {"temperature": 0.8}),
        Case("a", f"halting, {some} rows", "graphed", 12, exact | {"halting": True}),
        Case("a", f"drafts, {some} rows", "graphed", 15, exact | {"drafts": 4}),
        Case("a", f"bfloat16, {few} rows", "graphed", 12, {"dtype": "bfloat16", "rows": few}),
        Case("a", f"bfloat16, {some} rows", "graphed", 12, {"dtype": "bfloat16", "rows": some}),
    ]
    cases.append(Case("b", f"{some} rows", "precision", 25, {"rows": some}))
    for rows in (few, some, *more):
        given = {"rows": rows} | SMALL
        cases += [
            Case("c", f"generate, {rows} rows", "decoding", 15, given | {"engine": "generate"}),
            Case("c", f"backbone, {rows} rows", "decoding", 15, given | {"engine": "backbone"}),
            Case("c", f"TRM, {rows} rows", "decoding", 6, given | {"engine": "trm"}),
            Case(
                *("c", f"TRM with drafts, {rows} rows", "decoding", 12),
                given | {"engine": "trm", "drafts": 16},
            ),
        ]
    cases.append(Case("c", f"profile, {few} rows", "profile", 8, {"rows": few} | SMALL))
    large = SMALL | {"n": 2} if tiny else LARGE
    deep = ", ".join(f"{k} = {v}" for k, v in large.items())
    for rows in (few, some):
        given = {"rows": rows, "engine": "trm"} | large
        cases.append(Case("c", f"TRM, {deep}, {rows} rows", "decoding", 40, given))
    size = {"batch": 48, "length": 12} if tiny else {"batch": 8000, "length": 1000}
    for trm in (SMALL, large | {"N_sup": 4}):
        name = ", ".join(f"{k} = {v}" for k, v in trm.items())
        cases.append(Case("d", name, "training", 20, size | trm))
    return [replace(case, seconds=case.seconds / 4) for case in cases] if tiny else cases


class Child:
    """A process that runs cases; a case goes in as a line, figures come out as one."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--child"]
        command += ["--device", arguments.device, "--shapes", arguments.shapes]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def run(self, case: Case, limit: float) -> dict[str, Any]:
        """The case's row; after a failed or killed one, `usable` says whether to go on here."""
        try:
            self._process.stdin.write(json.dumps(asdict(case)) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=limit)
        except queue.Empty:
            return {"status": "killed", "error": f"not done in {limit:.0f} s", "usable": False}
        except OSError:
            line = ""
        if not line:
            status = self._process.wait()
            return {"status": "failed", "error": f"exit status {status}", "usable": False}
        return json.loads(line)

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()


def serve(device: str, shape: str) -> None:
    """The child: run each case that comes in, until there are no more."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints must not come between
    import torch
    from gpu_parts import KINDS

    if shape == "tiny":
        torch.set_num_threads(1)
    bench = new_bench(device, shape)
    for line in sys.stdin:
        case = Case(**json.loads(line))
        row: dict[str, Any] = {"status": "done", "usable": True}
        try:
            bench.tidy()
            row["figures"] = KINDS[case.kind](bench, **case.arguments)
        except Exception:
            lines = traceback.format_exc().splitlines()
            row |= {"status": "failed", "error": lines[-TRACEBACK_LINES:]}
            bench.drop()
        if device == "cuda":
            try:
                torch.cuda.synchronize()
            except Exception:  # the context is dead: nothing runs in this process any more
                row["usable"] = False
        channel.write(json.dumps(row) + "\n")
        channel.flush()


def new_bench(device: str, shape: str) -> Any:
    """Prompt, new tokens and repeats for a shape."""
    from gpu_parts import Bench

    return Bench(device, shape, *((12, 6, 1) if shape == "tiny" else (512, 128, 3)))


def supervise(cases: list[Case], arguments: argparse.Namespace, report: dict[str, Any]) -> None:
    """Run the cases into `report`, and write it after each."""
    began = time.monotonic()
    total = 60 * arguments.minutes
    wanted: Counter[str] = Counter()
    for case in cases:
        wanted[case.part] += case.seconds
    # Each part may have its share of the time, and what earlier parts left.
    ends, share = {}, 0.0
    for part in PARTS:
        share += wanted[part] / wanted.total()
        ends[part] = began + total * share
    child: Child | None = None
    try:
        for number, case in enumerate(cases, 1):
            left = ends[case.part] - time.monotonic()
            row = {"part": case.part, "name": case.name, "arguments": case.arguments}
            if left < case.seconds and case.part != "ceilings":
                row |= {"status": "skipped", "error": f"{left:.0f} s were left of its part's time"}
            else:
                child = child or Child(arguments)
                limit = min(3 * case.seconds + GRACE, began + total - time.monotonic())
                started = time.monotonic()
                row |= child.run(case, limit)
                row["seconds"] = time.monotonic() - started
                if not row.pop("usable"):
                    child.stop()
                    child = None
            report["cases"].append(row)
            add_shares(report)
            if arguments.output:
                write_json(arguments.output, report)
            spent = time.monotonic() - began
            print(f"[{spent:4.0f} s, {number}/{len(cases)}] {line_of(row)}", flush=True)
    finally:
        if child:
            child.stop()


def add_shares(report: dict[str, Any]) -> None:
    """Shares of the measured ceilings, and ratios to generate on as many rows, where known."""
    done = [row for row in report["cases"] if row["status"] == "done"]
    tops = next((row["figures"] for row in done if row["part"] == "ceilings"), None)
    if tops is None:
        return
    rate = tops.get("bfloat16", tops["float32"])
    baselines = {
        row["arguments"]["rows"]: row["figures"]["decoding_rate"]
        for row in done
        if row["arguments"].get("engine") == "generate"
    }
    for row in done:
        figures, rows = row["figures"], row["arguments"].get("rows")
        if "pass" in figures:
            work = figures["pass"]
            least = max(work["bytes"] / tops["bandwidth"], work["flops"] / rate)
            figures["share_of_roofline"] = least * figures["decoding_rate"] / rows
        if "prompt_flops" in figures:
            figures["share_of_product"] = figures["prompt_flops"] / rate / figures["first_token"]
            if baselines.get(rows):
                figures["against_generate"] = figures["decoding_rate"] / baselines[rows]
        if "flops_per_second" in figures:
            figures["share_of_product"] = figures["flops_per_second"] / rate


def line_of(row: dict[str, Any]) -> str:
    """A case as a person reads it."""
    head = f"{row['part']:8} {row['name']:36}"
    if row["status"] != "done":
        error = row["error"]
        return f"{head} {row['status']}: {error if isinstance(error, str) else error[-1]}"
    figures = row["figures"]
    if "bandwidth" in figures:
        rates = {k: v for k, v in figures.items() if k in ("bfloat16", "float32")}
        products = ", ".join(f"{v / 1e12:.2f} TFLOP/s {k}" for k, v in rates.items())
        return f"{head} copy {figures['bandwidth'] / 1e9:.0f} GB/s; {products}"
    if "speed_ratio" in figures:
        equal, twice = figures["graphs_and_none"], figures["none_twice"]
        return (
            f"{head} {equal['equal']}/{equal['tokens']} tokens equal (none twice "
            f"{twice['equal']}), {figures['speed_ratio']:.2f} times as fast"
        )
    if "greedy" in figures:
        equal, logits = figures["greedy"], figures["recursion"]
        return (
            f"{head} {equal['equal']}/{equal['tokens']} greedy tokens, {logits['argmax_equal']:.2%}"
            f" of argmaxes equal, logits differ by at most {logits['largest_difference']:.3g}"
        )
    if "kernel_seconds" in figures:
        longest = next(iter(figures["longest"]), "")
        busy = figures["kernel_seconds"] / figures["seconds"]
        return f"{head} device busy {busy:.0%}, longest {longest[:40]}"
    if "first_token" in figures:
        share = figures.get("share_of_roofline")
        kept = figures["acceptance"]
        return (
            f"{head} {figures['decoding_rate']:9,.1f} tokens/s, "
            f"{figures.get('against_generate', float('nan')):5.2f} x generate, "
            + (f"{share:.1%} of the roofline, " if share is not None else "")
            + (f"{kept:.0%} of drafts stand, " if kept is not None else "")
            + f"first {figures['first_token']:.3f} s"
        )
    gib = figures.get("peak_bytes", 0) / 2**30
    return (
        f"{head} {figures['tokens_per_second']:9,.0f} tokens/s, peak {gib:.1f} GiB "
        f"(estimated {figures['estimated_bytes'] / 2**30:.1f}), "
        f"{figures.get('share_of_product', float('nan')):.1%} of the product's FLOP/s"
    )


def about(arguments: argparse.Namespace) -> dict[str, Any]:
    """Card, driver, versions and settings."""
    import platform
    from importlib.metadata import version

    packages = ("torch", "transformers", "safetensors", "numpy")
    settings = vars(arguments) | {"output": str(arguments.output)}
    return {
        "settings": {k: v for k, v in settings.items() if k not in ("child", "plan")},
        "cards": gpu_names(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "git": commit(ROOT),
    }


def show_plan(cases: list[Case], arguments: argparse.Namespace) -> None:
    """Seconds and memory of each case, guessed; nothing runs."""
    from gpu_parts import needed

    bench = new_bench(arguments.device, arguments.shapes)
    for case in cases:
        size = needed(bench, case.kind, case.arguments) / 2**30
        print(f"{case.part:8} {case.name:36} {case.seconds:4.0f} s {size:8.2f} GiB")
    print(f"{sum(c.seconds for c in cases):.0f} s of {60 * arguments.minutes:.0f}, on a GPU")


def main() -> int:
    """Run as described in --help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", action="store_true", help="print the cases, run nothing")
    parser.add_argument("--parts", default="a,b,c,d", help="which, with commas (a,b,c,d)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="default: cuda")
    parser.add_argument(
        "--shapes", choices=["tiny", "0.5b", "1.5b"], default="1.5b", help="default: 1.5b"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="at most, all told (9)")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        serve(arguments.device, arguments.shapes)
        return 0
    parts = {part.strip() for part in arguments.parts.split(",")}
    if unknown := sorted(parts - set(PARTS)):
        print(f"error: --parts has {unknown[0]!r}: give some of a,b,c,d", file=sys.stderr)
        return 2
    if not 0 < arguments.minutes < math.inf:
        print(f"error: --minutes is {arguments.minutes:g}: give more than 0", file=sys.stderr)
        return 2
    if arguments.output is not None and not arguments.output.resolve().parent.is_dir():
        folder = arguments.output.resolve().parent
        print(f"error: --output: there is no folder {folder}: make it first", file=sys.stderr)
        return 2
    cases = [case for case in plan(arguments.shapes) if case.part in parts | {"ceilings"}]
    if arguments.plan:
        show_plan(cases, arguments)
        return 0
    if arguments.device == "cuda" and not gpu_names():
        print(
            "error: nvidia-smi names no GPU here: try the plan with --device cpu --shapes tiny",
            file=sys.stderr,
        )
        return 2
    report = {"about": about(arguments), "cases": []}
    supervise(cases, arguments, report)
    print("\n" + "\n".join(line_of(row) for row in report["cases"]))
    return 0 if any(row["status"] == "done" for row in report["cases"]) else 1


if __name__ == "__main__":
    sys.exit(main())
