"""A batch's folder on the disk, and what of each run is known there.

batch.json                  which YAML the folder belongs to
lock                        held by the process that drives the batch
runs/ID/run.json            all that the run is: notebooks, parameters, git's commit
runs/ID/status.json         how far it is; whoever reads "done" there finds all the rest
runs/ID/log.txt             what its processes printed
runs/ID/STEP.ipynb, .html   the executed notebooks
runs/ID/STEP/               their output
runs/ID/metrics.json        what the steps recorded, in one
runs/ID/environment.json    what it was made with
runs/ID/attempts/N/         log, status and notebooks of attempts that failed
summary.*, runs.parquet     the comparison
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mathllm.batches.runs import Run
from mathllm.errors import BatchError
from mathllm.files import write_json

BATCH, LOCK, RUNS = "batch.json", "lock", "runs"
ORDER, STATUS, LOG, ENVIRONMENT = "run.json", "status.json", "log.txt", "environment.json"
ATTEMPTS = "attempts"

RUNNING, DONE = "running", "done"
FAILED, TIMED_OUT, KILLED = "failed", "timed out", "killed"
ENDED_BADLY = (FAILED, TIMED_OUT, KILLED)


class BatchFolder:
    """The folder of one batch."""

    def __init__(self, folder: Path):
        self.folder = folder

    def run(self, run_id: str) -> Path:
        """The folder of a run."""
        return self.folder / RUNS / run_id

    def status(self, run_id: str) -> dict[str, Any]:
        """What is known of a run; nothing of one that was never begun."""
        return read_status(self.run(run_id))

    @contextmanager
    def claimed(self, owner: str) -> Iterator[None]:
        """Hold the folder for the batch `owner`, one process at a time. Raises BatchError."""
        self._check_owner(owner)
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise BatchError(
                    f"process {lock.read().strip() or '?'} runs this batch already, in "
                    f"{self.folder}: wait until it has ended"
                ) from None
            self._check_owner(owner)  # another batch may have come first
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            write_json(self.folder / BATCH, {"batch": owner})
            yield

    def _check_owner(self, owner: str) -> None:
        mend = "give another folder with --folder"
        if self.folder.exists() and not self.folder.is_dir():
            raise BatchError(f"{self.folder} is a file: {mend}")
        found = _read(self.folder / BATCH).get("batch")
        if found not in (None, owner):
            raise BatchError(f"{self.folder} belongs to the batch {found}, not {owner}: {mend}")
        strangers = [
            p.name for p in self.folder.glob("*") if p.name not in (LOCK, f".{BATCH}.part")
        ]
        if found is None and strangers:
            raise BatchError(f"{self.folder} holds {min(strangers)} and no batch: {mend}")

    def begin(self, run: Run, about: dict[str, Any]) -> Path:
        """Make the run's folder ready for another attempt; returns it.

        What is left of an earlier attempt goes, apart from its records if it ended badly, and
        from outputs that the notebooks go on with. `about` goes into run.json.
        """
        folder, before = self.run(run.id), self.status(run.id)
        attempt = before.get("attempt", 0) + 1
        folder.mkdir(parents=True, exist_ok=True)
        if before.get("status") in ENDED_BADLY:
            _put_away(folder, folder / ATTEMPTS / str(attempt - 1))
        write_status(folder, RUNNING, attempt=attempt)
        kept = {part for part in run.resumable() if attempt > 1}
        _clear(folder, kept)
        write_json(folder / ORDER, run.order() | about | {"attempt": attempt})
        return folder

    def put(self, run_id: str, brought: Path) -> None:
        """Put what a run left somewhere else into its folder; its status last."""
        folder = self.run(run_id)
        for path in sorted(brought.iterdir(), key=lambda p: p.name == STATUS):
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            shutil.move(path, target)


def read_status(folder: Path) -> dict[str, Any]:
    """Status of the run in `folder`."""
    return _read(folder / STATUS)


def write_status(folder: Path, status: str, message: str = "", **more: Any) -> None:
    """Say how far the run in `folder` is, keeping what was said of this attempt before."""
    said = {} if status == RUNNING else read_status(folder)
    write_json(folder / STATUS, said | {"status": status, "message": message} | more)


def _put_away(folder: Path, kept: Path) -> None:
    """The records of an attempt, its status last: until then it is still the run's own."""
    kept.mkdir(parents=True, exist_ok=True)
    names = [p for p in folder.iterdir() if p.is_file() and p.name not in (STATUS, ORDER)]
    for path in names:
        path.replace(kept / path.name)
    shutil.copyfile(folder / STATUS, kept / STATUS)


def _clear(folder: Path, kept: set[str]) -> None:
    """Remove all but the status, earlier attempts and the folders `kept`, as "weights/a"."""
    if "" in kept:  # the run's folder itself is a notebook's output
        return
    for path in folder.iterdir():
        inner = {name.partition("/")[2] for name in kept if name.split("/")[0] == path.name}
        if path.name in (STATUS, ATTEMPTS):
            continue
        if inner:
            _clear(path, inner)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _read(path: Path) -> dict[str, Any]:
    """A JSON file; nothing where it is absent or no JSON, which only a failing disk leaves."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
