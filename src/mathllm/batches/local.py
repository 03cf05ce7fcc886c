"""Runs as processes of this machine: started, timed, ended with all that they have started."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from mathllm.batches.runs import Run
from mathllm.batches.workdir import (
    DONE,
    FAILED,
    KILLED,
    LOG,
    TIMED_OUT,
    BatchFolder,
    read_status,
    write_status,
)
from mathllm.environment import cores
from mathllm.errors import ParameterError

# Every process of a run has it in its environment, with the run's folder: notebooks' kernels
# live in sessions of their own, so that a process group would not hold them.
MARK = "MATHLLM_BATCH_RUN"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
_POLARS = "POLARS_MAX_THREADS"

_SWEEPS = 5  # one that is killed may just have started another


class Supervised:
    """The processes of one run, from its start in `folder` on.

    `threads` is for each of the libraries that compute, `gpu` a name for
    CUDA_VISIBLE_DEVICES or None for whatever there is.
    """

    def __init__(
        self, folder: Path, minutes: float, threads: int, gpu: str | None, root: Path
    ) -> None:
        self.folder, self.minutes = folder, minutes
        environment = {**os.environ, MARK: str(folder), "PYTHONUNBUFFERED": "1"}
        environment |= dict.fromkeys((*_THREADS, _POLARS), str(threads))
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")))
        )
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        end_marked(folder)  # of an attempt whose driver was killed a moment ago
        with (folder / LOG).open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mathllm.batches.running", str(folder)],
                cwd=root,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C is the driver's to handle
            )
        self._began = time.monotonic()

    def ended(self) -> bool:
        """Whether the run is over; its status then says how. Ends it when its time is."""
        late = time.monotonic() - self._began > 60 * self.minutes
        code = self._process.poll()
        if code is None and not late:
            return False
        self.end()
        if read_status(self.folder).get("status") in (DONE, FAILED):
            return True
        if code is None:
            status, message = TIMED_OUT, f"not done after {self.minutes:g} minutes"
        else:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            status, message = KILLED, f"its process ended with {how} and without a word"
        write_status(self.folder, status, message, seconds=round(time.monotonic() - self._began, 2))
        return True

    def end(self) -> None:
        """Kill what still runs, without another word about it."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        end_marked(self.folder)


def end_marked(folder: Path) -> None:
    """Kill every other process that belongs to the run in `folder`, and see it gone."""
    for _ in range(_SWEEPS):
        if not (marked := list(_marked(str(folder)))):
            return
        for process in marked:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(marked, timeout=5)


def _marked(folder: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            ours = process.pid != os.getpid() and process.environ().get(MARK) == folder
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                yield process


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
