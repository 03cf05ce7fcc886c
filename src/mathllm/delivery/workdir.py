"""Where a checkout keeps what it knows of Kaggle, and that one command at a time uses it.

    runs/delivery/lock            held by the command that is running
    runs/delivery/uploads/        files on their way, and what the client remembers of them
    runs/delivery/kernel/         what was pushed last
    runs/delivery/output/         what runs left, a folder for each version

Nothing here is believed about Kaggle that Kaggle could tell: all of it may be deleted.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DeliveryFolder:
    """Folders under `folder`, usually runs/delivery."""

    folder: Path

    @property
    def uploads(self) -> Path:
        return self.folder / "uploads"

    @property
    def kernel(self) -> Path:
        return self.folder / "kernel"

    def output(self, ref: str, version: int, identity: str) -> Path:
        owner, slug = ref.split("/")
        return self.folder / "output" / owner / f"{slug}-v{version}-{identity[:12]}"

    @contextmanager
    def alone(self, say: Callable[[str], None]) -> Iterator[None]:
        """Wait for another command of this checkout to end, and say so; then keep others out."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                say(f"process {lock.read().strip() or '?'} delivers from here already: waiting")
                fcntl.flock(lock, fcntl.LOCK_EX)
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield
