"""Folders that appear whole or not at all, even if the process is killed in the middle.

A folder is put together under a hidden name beside its place, synced and renamed.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mathllm.files import sync

_PREFIX = ".staging-"


@contextlib.contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the folder's lock, which the system lets go of when the process ends.

    Gives whether it is held: not when another process has it and `wait` is False, and not
    where the file system has no locks on folders (some network ones).
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """An empty hidden folder in `folder`, removed at the end with all that is still in it.

    Removes as well what killed processes left: a staging folder whose lock nobody holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for abandoned in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), locked(abandoned, wait=False) as held:
            if held:
                shutil.rmtree(abandoned, ignore_errors=True)
    unseen = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    with locked(unseen):  # before it has the name that others look for
        ours = unseen.with_name(_PREFIX + unseen.name.removeprefix(".new-"))
        unseen.rename(ours)
        try:
            yield ours
        finally:
            shutil.rmtree(ours, ignore_errors=True)


def publish(built: Path, target: Path) -> None:
    """Rename a folder of files to `target`, all of it on the disk first.

    A target that is there already stays: another process was faster.
    """
    for path in (*built.iterdir(), built):
        sync(path)
    try:
        built.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    sync(target.parent)
