"""A long rerun with faults at random: is every answer there, and does anything grow or stay?"""

import json
import shutil
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import psutil

from mathllm import children
from mathllm.competition.kernel.journal import NAME, read_journal
from mathllm.competition.rehearsal import session
from mathllm.competition.rehearsal.rehearse import Rehearsal, keep, staged
from mathllm.competition.rehearsal.scorecard import PlayedRun
from mathllm.settings import CURRENT

FAULT_SHARE = 0.03  # of the problems
PROBLEM_SECONDS = 4.0  # that each gets, at first
SAMPLE_SECONDS = 2.0  # between two looks at the kernel's processes
WARM_SHARE = 0.1  # of the problems, after which nothing should grow any more
GROWTH_BYTES = 50 << 20  # that the kernel's memory may grow by after that
GROWTH_COUNT = 3  # threads, open files and folders that may come on top
# Small, so that the time goes into many problems and not into long ones.
PARAMETERS = {"n_samples": "2", "max_new_tokens": "48", "tool_kernels": "2"}


@dataclass(frozen=True)
class Look:
    """The kernel after so many answers: memory in bytes, its threads and open files, the
    processes below it, the sandbox's folders, and its worker's memory and number."""

    answers: int
    memory: int
    threads: int
    files: int
    processes: int
    folders: int
    worker_memory: int
    worker: int


def soak(
    order: Rehearsal, count: int, share: float = FAULT_SHARE, say: Callable[[str], None] = print
) -> bool:
    """One rerun of `count` generated problems; True if it came through whole and flat.

    `order.problems` are not looked at. Figures go to soak.json in its `runs_dir`. Raises as
    rehearse.
    """
    seed = order.seed or 0
    # Twice as many expected as come, so that what is saved does not heap up on the last.
    expected = 2 * count
    hours = {"hours": str((expected * PROBLEM_SECONDS + 60) / 3600), "margin_minutes": "1"}
    parameters = {**PARAMETERS, **hours, "expected_problems": str(expected)}
    parameters |= dict(order.parameters)
    folder = children.temporary_folder("rehearsal")
    try:
        problems = folder / "soak.csv"
        _write_problems(problems, count, seed)
        order = replace(order, problems=problems, parameters=[*parameters.items()])
        result = _play(order, count, f"soak:{seed}:{share}", say)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, value in result.items():
        say(f"{name:24} {value}")
    return not result["failures"]


def _play(order: Rehearsal, count: int, fault: str, say: Callable[[str], None]) -> dict[str, Any]:
    """The rerun, and its figures, which are in soak.json too."""
    with staged(order, say) as (play, _):
        play = replace(play, fault=fault)
        run = PlayedRun(1, "soak", play.folders.working("soak"))
        looks: list[Look] = []
        with _watching(run, Path(play.folders.folder) / "tmp", looks):
            try:
                session.rerun(play, run)
            except session.RunError as fault:
                run.fault = str(fault)
        left = _left(run, Path(play.folders.folder) / "tmp")
        keep([run], order.runs_dir)
    result = _result(run, looks, left, count)
    text = json.dumps(result | {"looks": [asdict(look) for look in looks]}, indent=1)
    (order.runs_dir / "soak.json").write_text(text + "\n", encoding="utf-8")
    return result


def _write_problems(path: Path, count: int, seed: int) -> None:
    from mathllm.data import arithmetic

    rows = arithmetic.generate("test", 2 * count, seed).filter(
        pl.col("answer").cast(pl.Int64, strict=False).is_between(0, CURRENT.answer_max)
    )[:count]
    ids = [f"s{number:05}" for number in range(len(rows))]
    rows = pl.DataFrame({CURRENT.id_column: ids, CURRENT.problem_column: rows["problem"]})
    rows.write_csv(path)


@contextmanager
def _watching(run: PlayedRun, temporary: Path, looks: list[Look]) -> Iterator[None]:
    """Meanwhile, a thread that looks at the kernel again and again."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_SECONDS):
            # A process may end while it is looked at.
            with suppress(psutil.Error, OSError, IndexError):
                looks.append(_look(run, temporary))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(SAMPLE_SECONDS + 10)


def _look(run: PlayedRun, temporary: Path) -> Look:
    events = read_journal(run.folder / "kernel" / NAME)
    kernel = psutil.Process([e["pid"] for e in events if e["event"] == "start"][-1])
    last = [e for e in events if e["event"] == "worker"][-1]
    worker = psutil.Process(last["pid"])
    return Look(
        answers=sum(event["event"] == "answer" for event in events),
        memory=kernel.memory_info().rss,
        threads=kernel.num_threads(),
        files=kernel.num_fds(),
        processes=len(kernel.children(recursive=True)),
        folders=len(list(temporary.glob("mathllm-*"))),
        worker_memory=worker.memory_info().rss,
        worker=last["number"],
    )


def _left(run: PlayedRun, temporary: Path) -> list[str]:
    """Processes of the kernel that are there after it, and temporary folders."""
    events = read_journal(run.folder / "kernel" / NAME)
    pids = {str(event["pid"]) for event in events if event["event"] in ("start", "worker")}
    found = [str(path) for path in temporary.glob("mathllm-*")]
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            mark = process.environ().get(children.OWNER, "").partition("-")[0]
            if mark in pids or str(process.pid) in pids:
                found.append(f"process {process.pid}: {' '.join(process.cmdline())[:100]}")
    return found


def _result(run: PlayedRun, looks: Sequence[Look], left: list[str], count: int) -> dict[str, Any]:
    """What came of it, as figures, with what of it is a failure."""
    lines = (run.folder / "kernel" / NAME).read_bytes().splitlines()
    events = read_journal(run.folder / "kernel" / NAME)
    warm = [look for look in looks if look.answers >= WARM_SHARE * count]
    tenth = max(1, len(warm) // 10)
    growth = {}
    for name in ("memory", "threads", "files", "processes", "folders"):
        values = [getattr(look, name) for look in warm]
        growth[name] = (
            round(statistics.median(values[-tenth:]) - statistics.median(values[:tenth]))
            if values
            else None
        )
    struck = [e for e in events if e["event"] == "answer" and (e["fault"] or e["faults"])]
    over = [
        event["seconds"] - event["waited"] - event["allowance"]
        for event in events
        if event["event"] == "answer"
    ]
    failures = [run.fault] if run.fault else []
    failures += [f"left behind: {what}" for what in left]
    if len(run.submitted) != count:
        failures.append(f"{len(run.submitted)} rows of {count}")
    if len(lines) != len(events):
        failures.append(f"{len(lines) - len(events)} lines of the journal are damaged")
    if growth["memory"] is None:
        failures.append("too short to see whether anything grows")
    elif growth["memory"] > GROWTH_BYTES:
        failures.append(f"memory grew by {growth['memory'] / 2**20:.0f} MiB")
    failures += [
        f"{name} grew by {growth[name]}"
        for name in ("threads", "files", "processes", "folders")
        if (growth[name] or 0) > GROWTH_COUNT
    ]
    return {
        "problems": count,
        "rows": len(run.submitted),
        "struck": len(struck),
        "stood in": sum(e["fault"] is not None for e in struck),
        "workers": sum(event["event"] == "worker" for event in events),
        "longest beyond the share": round(max([0.0, *over]), 1),
        "growth": growth,
        "left behind": len(left),
        "failures": failures,
    }
