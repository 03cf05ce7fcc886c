"""A batch from its first run to its last, on whatever engine."""

import sys
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Protocol

from tqdm import tqdm

from mathllm import metrics
from mathllm.batches.runs import Run
from mathllm.batches.summary import missing
from mathllm.batches.workdir import DONE, ENDED_BADLY, BatchFolder


class Engine(Protocol):
    """Where runs run. `slots` of them are submitted at once, at most.

    `submit` takes a run whose folder is ready; some time later `wait` gives its id back, and
    then the folder holds all that it left and its status says how it ended.
    """

    name: str
    slots: int

    def submit(self, run: Run) -> None:
        """Start a run, or put it in line."""

    def wait(self, seconds: float) -> list[str]:
        """Ids of runs that have ended since; waits up to `seconds` for the first."""

    def close(self) -> None:
        """End what still runs, and let go of everything."""


WAIT_SECONDS = 1.0


def to_do(place: BatchFolder, runs: list[Run], retry_failed: bool) -> list[Run]:
    """Runs that have no result, and with `retry_failed` those that ended badly."""
    passed = (DONE,) if retry_failed else (DONE, *ENDED_BADLY)
    return [run for run in runs if place.status(run.id).get("status") not in passed]


def drive(
    place: BatchFolder,
    engine: Engine,
    runs: list[Run],
    waiting: list[Run],
    describe: Callable[[Run], str],
    code: dict[str, Any],
    metric: str,
) -> None:
    """Have the `waiting` of all `runs` run. Whatever ends this, the engine's runs end too."""
    names = {run.id: describe(run) for run in waiting}
    line, running, warned = deque(waiting), 0, False
    ended: Counter[str] = Counter()
    with tqdm(total=len(runs), initial=len(runs) - len(waiting), unit="run", desc="batch") as bar:
        try:
            while line or running:
                while line and running < engine.slots:
                    run = line.popleft()
                    place.begin(run, {"code": code, "engine": engine.name})
                    engine.submit(run)
                    running += 1
                for run_id in engine.wait(WAIT_SECONDS):
                    running -= 1
                    status = place.status(run_id)
                    ended[status["status"]] += 1
                    bar.update()
                    bar.write(_line(names[run_id], run_id, status, place, metric))
                    if status["status"] == DONE and not warned:
                        warned = _warn(bar.write, place, run_id, metric)
                counts = ", ".join(f"{count} {name}" for name, count in ended.items())
                # Into a file only what ends is worth a line.
                bar.set_postfix_str(
                    f"{running} running{', ' if counts else ''}{counts}",
                    refresh=sys.stderr.isatty(),
                )
        finally:
            engine.close()


def _line(name: str, run_id: str, status: dict[str, Any], place: BatchFolder, metric: str) -> str:
    seconds = f"{status.get('seconds', 0):.0f} s"
    if status["status"] != DONE:
        return f"{run_id}  {name}  {status['status']} after {seconds}: {status['message']}"
    value = metrics.read(place.run(run_id)).get(metric)
    shown = f"{value:.6g}" if isinstance(value, (int, float)) else value
    return f"{run_id}  {name}  {metric} {shown}, {seconds}"


def _warn(say: Callable[[str], None], place: BatchFolder, run_id: str, metric: str) -> bool:
    """Say at the first run that its metric is not there, not after the last."""
    found = metrics.read(place.run(run_id))
    if metric in found:
        return False
    say(f"warning: {missing(metric, list(found))}")
    return True
