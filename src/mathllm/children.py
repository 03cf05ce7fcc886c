"""Child processes that end with this one, however it ends, and what a dead one left behind.

Standard library only. It is also a program, the guardian of a server and of whatever that
starts:

    python -I -S children.py COMMAND…     runs COMMAND until it ends, or until standard input does

Standard input is a pipe from the process that wants the server, so that its end is seen even
when it was killed; the guardian then ends all that COMMAND has started. Where a guardian was
killed too, `remove_leftovers` finds what it left by a mark in the environment.
"""

import ctypes
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

OWNER = "MATHLLM_OWNER"  # the mark: process and start time of whoever wants a child
GRACE_SECONDS = 5.0  # for a server to end after SIGTERM, before it is killed
KILL_SECONDS = 5.0  # for a process to be gone after SIGKILL; one that hangs in a driver stays
POLL_SECONDS = 0.1
SHORTEST = "/tmp"  # where the system's folder for what is temporary has too long a name
# Of a temporary folder: its kind, its owner, and what tempfile adds.
_FOLDER = re.compile(r"mathllm-(?:sandbox|wheels|rehearsal)-([0-9]+-[0-9]+)-[a-z0-9_]{8}")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def start_time(pid: int) -> str | None:
    """When a process began, in the system's ticks; None where there is none, or none to see.

    With it a process's number is unique: numbers are given again.
    """
    try:
        # The name before the last parenthesis may hold anything, spaces too.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields[19].decode() if len(fields) > 19 and fields[0] != b"Z" else None


def owner() -> str:
    """This process, as children are marked with it."""
    return f"{os.getpid()}-{start_time(os.getpid()) or 0}"


def is_gone(name: str) -> bool:
    """Whether an owner is known to have ended; False where the system does not tell."""
    pid, _, began = name.partition("-")
    return sys.platform == "linux" and pid.isdigit() and start_time(int(pid)) != began


def end_with(parent: int) -> None:
    """Let the system kill this process when the thread of `parent` that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def start_guarded(
    command: Sequence[str], environment: Mapping[str, str], output: Any
) -> "subprocess.Popen[bytes]":
    """A guardian that runs `command`. Its standard input ends the command when it is closed.

    Raises OSError where the guardian cannot be started; a command that cannot be is its exit
    status 127, with the reason in `output`.
    """
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**environment, OWNER: owner()},
        start_new_session=True,
    )


def end_guarded(guardian: "subprocess.Popen[bytes]") -> None:
    """End a guardian's command and all that it started; returns within some seconds."""
    with suppress(OSError):
        guardian.stdin.close()
    try:
        guardian.wait(GRACE_SECONDS + KILL_SECONDS)
    except subprocess.TimeoutExpired:
        kill(guardian)


def kill(process: "subprocess.Popen[bytes]") -> bool:
    """Kill a process and its group, which it leads. Whether it is gone within KILL_SECONDS."""
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(KILL_SECONDS)
    return process.returncode is not None


def temporary_folder(
    kind: Literal["sandbox", "wheels", "rehearsal"], place: str | None = None
) -> Path:
    """A new folder below `place`, by default the system's, known by its name as this process's."""
    return Path(tempfile.mkdtemp(prefix=f"mathllm-{kind}-{owner()}-", dir=place))


def ending(code: int) -> str:
    """A process's end in words, from its return code."""
    if code >= 0:
        return f"exit status {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def remove_leftovers(places: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Kill what was started by a process that is gone, and remove the temporary folders of one.

    The commands of what was killed, and the folders; `places` are looked into beside the
    system's folders for what is temporary.
    """
    killed = []
    for pid, environment in _environments():
        mark = next((e for e in environment if e.startswith(f"{OWNER}=".encode())), b"")
        if mark and is_gone(mark.partition(b"=")[2].decode(errors="replace")):
            with suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                os.kill(pid, signal.SIGKILL)
                killed.append(command.decode(errors="replace").strip()[:200])
    removed = []
    for place in {tempfile.gettempdir(), SHORTEST, *places}:
        for folder in Path(place).glob("mathllm-*"):
            name = _FOLDER.fullmatch(folder.name)
            if name and is_gone(name[1]):
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(str(folder))
    return killed, sorted(removed)


def _environments() -> Iterator[tuple[int, list[bytes]]]:
    """Of the processes whose environment this one may read, its own left out."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        pid = int(path.parent.name)
        if pid != os.getpid():
            with suppress(OSError):
                yield pid, path.read_bytes().split(b"\0")


def _guard(command: list[str]) -> int:
    """Run a command until it ends or standard input does; its exit status, as a shell's."""
    if sys.platform == "linux":  # what its children leave behind becomes ours
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    parent = os.getpid()
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: end_with(parent),
        )
    except (OSError, ValueError, subprocess.SubprocessError) as fault:
        print(f"{command[0]} cannot be started: {fault}", flush=True)
        return 127
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    while not asked:
        if (status := _reaped(child.pid)) is not None:
            _end_all(child.pid, grace=0.0)
            return status if status >= 0 else 128 - status
        ready, _, _ = select.select([0], [], [], POLL_SECONDS)
        if ready and not os.read(0, 1024):
            break
    _end_all(child.pid, GRACE_SECONDS)
    return 0


def _reaped(pid: int) -> int | None:
    """Take the end of any child; the exit status of `pid` if that is among them, else None."""
    found = None
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == pid:
                found = os.waitstatus_to_exitcode(ended[1])
    return found


def _end_all(pid: int, grace: float) -> None:
    """End the group of `pid`, then whatever else has come from it, which is our child by then."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGTERM if grace else signal.SIGKILL)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and _descendants():
        _reaped(pid)
        time.sleep(POLL_SECONDS / 2)
    deadline = time.monotonic() + KILL_SECONDS
    while (left := _descendants()) and time.monotonic() < deadline:
        for doomed in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(doomed, signal.SIGKILL)
        _reaped(pid)
        time.sleep(POLL_SECONDS / 10)


def _descendants() -> list[int]:
    """Children of this process, their children, and so on, that have not ended."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError, ValueError):
            state, parent = path.read_bytes().rpartition(b")")[2].split()[:2]
            if state != b"Z":
                children.setdefault(int(parent), []).append(int(path.parent.name))
    found, waiting = [], [os.getpid()]
    while waiting:
        own = children.get(waiting.pop(), [])
        found += own
        waiting += own
    return found


if __name__ == "__main__":
    sys.exit(_guard(sys.argv[1:]))
