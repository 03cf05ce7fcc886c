"""Processes of a rehearsed session: what they said last, how they ended, and ending them."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mathllm.competition.rehearsal.isolation import Isolation

END_SECONDS = 30  # for a process to end after SIGTERM, before it is killed
LOG_LINES = 12  # of a failed process, shown
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class RunError(Exception):
    """A run that did not end as it should; the message says why."""


@dataclass(frozen=True)
class Process:
    """A process of a run, with the file that both of its outputs go to."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def ended(self) -> bool:
        return self.popen.poll() is not None

    @property
    def status(self) -> str:
        """How it ended, in words; empty for a success."""
        code = self.popen.returncode
        return "" if code == 0 else f"signal {-code}" if code < 0 else f"status {code}"

    def last_lines(self) -> str:
        text = _ANSI.sub("", self.log.read_text(encoding="utf-8", errors="replace"))
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        shown = "\n".join(f"    {line}" for line in lines[-LOG_LINES:])
        return f"the last lines of the {self.name}:\n{shown}"

    def failed(self, what: str) -> RunError:
        return RunError(f"the {self.name} {what}; {self.last_lines()}")


@contextmanager
def started(
    isolation: Isolation, folder: Path, name: str, command: list[str], environment: dict[str, str]
) -> Iterator[Process]:
    """A process in `folder`/NAME, which exists, with its log beside that; not ended here."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        popen = isolation.popen(command, environment, folder / name, output)
        yield Process(name, popen, log)


def terminate(popen: subprocess.Popen[bytes], pid: int | None = None) -> None:
    """End a process by SIGTERM, then by SIGKILL. `pid` is the one to ask first, if another.

    Under papermill the code runs in a process of its own, with a session of its own.
    """
    if popen.poll() is not None:
        return
    with suppress(ProcessLookupError):
        os.kill(pid or popen.pid, signal.SIGTERM)
    try:
        popen.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        for doomed in filter(None, (pid, popen.pid)):
            with suppress(ProcessLookupError):
                os.kill(doomed, signal.SIGKILL)
        popen.wait()
