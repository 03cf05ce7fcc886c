"""Python's own last resort: what is refused before the system is even asked.

Standard library only. An audit hook (PEP 578) cannot be taken off again, but native code
passes it by. It is all there is where the system offers neither Landlock nor seccomp.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

REFUSED = frozenset(
    (
        *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn"),
        *("os.startfile", "os.killpg", "pty.spawn", "subprocess.Popen"),
        *("socket.connect", "socket.sendto", "socket.sendmsg"),
        *("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"),
        *("socket.getnameinfo",),
    )
)
# How many of an event's arguments are paths that would be changed.
CHANGES = {
    "os.remove": 1,
    "os.rmdir": 1,
    "os.mkdir": 1,
    "os.truncate": 1,
    "shutil.rmtree": 1,
    "os.chmod": 1,
    "os.chown": 1,
    "os.utime": 1,
    "os.setxattr": 1,
    "os.removexattr": 1,
    "os.rename": 2,
    "os.link": 2,
}
# F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY: signals to others, others made to wait.
FCNTL_REFUSED = frozenset((8, 10, 15, 1024, 1026))
READS = frozenset(("os.listdir", "os.scandir", "os.listxattr", "os.getxattr"))
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


def install(readable: Sequence[str], writable: Sequence[str]) -> None:
    """Refuse, from here on, sockets, processes, and files outside of these folders."""
    changing = tuple(os.path.realpath(path) for path in (*writable, *DEVICES))
    reading = (*changing, *(os.path.realpath(path) for path in readable))
    sys.addaudithook(_hook(reading, changing))


def _hook(
    reading: tuple[str, ...], changing: tuple[str, ...]
) -> Callable[[str, tuple[Any, ...]], None]:
    # Everything is bound here, so that a block which replaces os.path.realpath or this
    # module's names changes nothing.
    realpath, fspath, fsdecode, own = os.path.realpath, os.fspath, os.fsdecode, os.getpid()
    refused, changes, reads, writing_flags = REFUSED, CHANGES, READS, WRITING
    control, separator = FCNTL_REFUSED, os.sep

    def lies_in(path: Any, folders: tuple[str, ...]) -> bool:
        if path is None or isinstance(path, int):  # the current folder, an open descriptor
            return True
        real = realpath(fsdecode(fspath(path)))
        return any(real == top or real.startswith(top + separator) for top in folders)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            writing = isinstance(args[2], int) and args[2] & writing_flags
            allowed = lies_in(args[0], changing if writing else reading)
        elif event in refused:
            allowed = False
        elif event in changes:
            allowed = all(lies_in(path, changing) for path in args[: changes[event]])
        elif event in reads:
            allowed = lies_in(args[0], reading)
        elif event == "os.symlink":
            allowed = lies_in(args[1], changing)
        elif event == "os.kill":
            allowed = args[0] == own
        elif event == "fcntl.fcntl":
            allowed = args[1] not in control
        else:
            return
        if not allowed:
            raise PermissionError(f"not allowed here: {event}")

    return hook
