"""Runs as processes of this machine."""

import time
from pathlib import Path

from mathllm.batches.runs import Run
from mathllm.batches.supervision import Supervised
from mathllm.batches.workdir import BatchFolder
from mathllm.environment import cores
from mathllm.errors import ParameterError

_LOOK_SECONDS = 0.1


class Local:
    """`jobs` at once, each with its share of the cores, and with a GPU of its own of `gpus`
    if there are any."""

    name = "local"

    def __init__(
        self,
        place: BatchFolder,
        root: Path,
        minutes: float,
        jobs: int,
        threads: int | None,
        gpus: list[str],
    ):
        if gpus and jobs > len(gpus):
            raise ParameterError(
                f"--jobs {jobs}: there are {len(gpus)} GPUs and each run gets one of its own; "
                "give fewer jobs, or set CUDA_VISIBLE_DEVICES= to run without"
            )
        self.slots = jobs
        self._place, self._root, self._minutes = place, root, minutes
        self._threads = threads or max(1, cores() // jobs)
        self._free = list(gpus)
        self._running: dict[str, tuple[Supervised, str | None]] = {}

    def submit(self, run: Run) -> None:
        gpu = self._free.pop(0) if self._free else None
        process = Supervised(self._place.run(run.id), self._minutes, self._threads, gpu, self._root)
        self._running[run.id] = process, gpu

    def wait(self, seconds: float) -> list[str]:
        deadline = time.monotonic() + seconds
        while not (ended := [i for i, (run, _) in self._running.items() if run.ended()]):
            if time.monotonic() > deadline:
                return []
            time.sleep(_LOOK_SECONDS)
        for run_id in ended:
            _, gpu = self._running.pop(run_id)
            self._free += [gpu] if gpu is not None else []
        return ended

    def close(self) -> None:
        for run, _ in self._running.values():
            run.end()
        self._running.clear()
