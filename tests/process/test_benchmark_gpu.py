"""benchmarks/gpu.py without a GPU: its plan at tiny shapes, and what it does when parts fail."""

import argparse
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
PACKAGES = ("torch", "transformers", "safetensors", "numpy", "tqdm")

# Runs in every Python that has its folder on PYTHONPATH, before anything else.
WITHOUT = """
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

class Others(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if path is None and name in {refused!r}:
            return None
        return super().find_spec(name, path, target)

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Others]
"""


def with_needs(names: tuple[str, ...]) -> set[str]:
    """The distributions with all that they ask for, extras apart."""
    found, waiting = set(), list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another system
            continue
        found.add(name)
        waiting += [re.match(r"[\w.-]+", need)[0] for need in needs if "extra ==" not in need]
    return found


@pytest.fixture
def machine(tmp_path) -> dict[str, str]:
    """The environment of Pythons in which no package is there but the few that are needed."""
    there = with_needs(PACKAGES) | {"mathllm"}
    refused = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not any(re.sub(r"[-_.]+", "-", owner).lower() in there for owner in owners)
    }
    assert {"polars", "psutil", "accelerate", "grpc", "pandas", "pyarrow", "scipy"} <= refused
    (tmp_path / "sitecustomize.py").write_text(WITHOUT.format(refused=refused))
    return os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_the_whole_plan_runs_at_tiny_shapes_with_few_packages(tmp_path, machine):
    refused = subprocess.run(
        [sys.executable, "-c", "import torch, polars"],
        env=machine,
        capture_output=True,
        check=False,
    )
    assert b"No module named 'polars'" in refused.stderr
    output = tmp_path / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--shapes", "tiny"]
    done = subprocess.run(
        [*command, "--minutes", "30", "--output", str(output)],
        env=machine,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert set(report["about"]["packages"]) > {"torch", "transformers"}
    for row in report["cases"]:
        assert row["status"] == "done", row
        assert f"{row['part']:8} {row['name']}" in done.stdout
    assert {row["part"] for row in report["cases"]} == {"ceilings", "a", "b", "c", "d"}
    of_a = [row for row in report["cases"] if row["part"] == "a"]
    for row in of_a:
        if row["arguments"]["dtype"] == "float32":
            equal = row["figures"]["graphs_and_none"]
            assert equal["equal"] == equal["tokens"] > 0
    shares = [row["figures"].get("share_of_roofline") for row in report["cases"]]
    assert all(0 < share < 1.5 for share in shares if share is not None)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu

    return gpu


def settings(output: Path, minutes: float = 9.0) -> argparse.Namespace:
    return argparse.Namespace(minutes=minutes, output=output, device="cpu", shapes="tiny")


def test_a_case_that_fails_stops_nothing_and_a_dead_process_is_replaced(gpu, tmp_path, monkeypatch):
    output = tmp_path / "gpu.json"
    replies = {
        "copy": {"status": "done", "usable": True, "figures": {"bandwidth": 4e9, "float32": 1e9}},
        "wrong": {"status": "failed", "usable": True, "error": ["Traceback", "KeyError: 1"]},
        "dead": {"status": "failed", "usable": False, "error": "exit status -6"},
        "late": {"status": "killed", "usable": False, "error": "not done in 9 s"},
        "last": {"status": "done", "usable": True, "figures": {"tokens_per_second": 1.0}},
    }
    started, stopped = [], []

    class Scripted:
        def __init__(self, _):
            started.append(self)

        def run(self, case, limit):
            assert 0 < limit <= 540
            if started[1:] or case.name != "copy":  # what came before is on the disk
                assert json.loads(output.read_text())["cases"]
            return dict(replies[case.name])

        def stop(self):
            stopped.append(self)

    monkeypatch.setattr(gpu, "Child", Scripted)
    monkeypatch.setattr(gpu, "line_of", lambda row: row["status"])
    report = {"cases": []}
    parts = ["ceilings", "a", "b", "c", "d"]
    cases = [gpu.Case(p, n, "k", 1.0) for p, n in zip(parts, replies, strict=True)]
    gpu.supervise(cases, settings(output), report)
    assert json.loads(output.read_text()) == json.loads(json.dumps(report))
    assert [row["status"] for row in report["cases"]] == [r["status"] for r in replies.values()]
    assert len(started) == 3
    assert started == stopped


def test_what_no_longer_fits_is_skipped_by_name(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "Child", None)
    report = {"cases": []}
    gpu.supervise([gpu.Case("a", "long", "k", 100.0)], settings(tmp_path / "o", 1.0), report)
    (row,) = report["cases"]
    assert (row["name"], row["status"]) == ("long", "skipped")
    assert "long" in gpu.line_of(row)


def test_a_real_process_reports_its_fault_and_can_be_killed(gpu, tmp_path):
    child = gpu.Child(settings(tmp_path / "o"))
    try:
        row = child.run(gpu.Case("a", "x", "graphed", 1.0, {"dtype": "none", "rows": 1}), 300.0)
        assert (row["status"], row["usable"]) == ("failed", True)
        assert row["error"][-1] == "KeyError: 'none'"
        assert child.run(gpu.Case("d", "x", "ceilings", 1.0), 0.0)["status"] == "killed"
    finally:
        child.stop()


def test_shares_are_of_the_ceilings_of_the_same_run(gpu):
    work = {"pass": {"bytes": 50.0, "flops": 100.0}, "prompt_flops": 400.0, "first_token": 2.0}

    def row(engine, rate):
        figures = work | {"decoding_rate": rate}
        return {
            "part": "c",
            "status": "done",
            "arguments": {"rows": 4, "engine": engine},
            "figures": figures,
        }

    tops = {"bandwidth": 100.0, "float32": 1.0, "bfloat16": 1000.0}
    ceilings = {"part": "ceilings", "status": "done", "arguments": {}, "figures": tops}
    report = {"cases": [ceilings, row("generate", 2.0), row("trm", 4.0)]}
    gpu.add_shares(report)
    figures = report["cases"][2]["figures"]
    assert figures["share_of_roofline"] == pytest.approx(0.5)  # 1 pass/s, 2 were possible
    assert figures["share_of_product"] == pytest.approx(0.2)
    assert figures["against_generate"] == pytest.approx(2.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [(["--plan"], 0, "s of 540"), (["--parts", "a,x"], 2, "error: --parts has 'x'")],
)
def test_the_command_line(arguments, status, said):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--shapes", "tiny", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status
    assert said in done.stdout + done.stderr
