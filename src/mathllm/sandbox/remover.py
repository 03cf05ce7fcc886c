"""Folders deleted by a child process, so that one with thousands of files delays nobody."""

import subprocess
import time
from contextlib import suppress
from pathlib import Path

from mathllm import children

REMOVE_SECONDS = 60.0  # for the folders that wait together
STEP_SECONDS = 0.02
# Its owner can delete a folder without rights once it has them again.
COMMAND = 'rm -rf -- "$@" || { chmod -R u+rwX -- "$@"; rm -rf -- "$@"; }'


class Remover:
    """Has one child at a time delete all folders that wait; for one thread."""

    def __init__(self) -> None:
        self._waiting: list[Path] = []
        self._tried: list[Path] = []
        self._child: subprocess.Popen[bytes] | None = None
        self._since = 0.0

    def add(self, folder: Path) -> None:
        """Delete a folder soon."""
        self._waiting.append(folder)

    def look(self) -> None:
        """See what is done, and go on with what waits. Does not wait for it."""
        if self._child is not None and self._child.poll() is None:
            if time.monotonic() - self._since < REMOVE_SECONDS:
                return
            children.kill(self._child)
        self._child = None
        if self._waiting:
            self._tried = [*filter(Path.exists, self._tried), *self._waiting]
            self._since, self._waiting = time.monotonic(), []
            self._child = _delete(self._tried)

    def finish(self, deadline: float) -> list[Path]:
        """Delete what waits and what was left; what is still there at the deadline.

        At least one more try is made, and what has been begun goes on by itself.
        """
        self._waiting, self._tried = [*self._waiting, *self._tried], []
        with suppress(OSError):
            while self._waiting or self._child is not None:
                self.look()
                if time.monotonic() > deadline:
                    break
                time.sleep(STEP_SECONDS)
        return [folder for folder in {*self._tried, *self._waiting} if folder.exists()]


def _delete(folders: list[Path]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        ["/bin/sh", "-c", COMMAND, "sh", *map(str, folders)],
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
