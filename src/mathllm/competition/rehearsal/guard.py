"""What isolation.py puts into every Python process: no network, no working tree, an input
that is read-only, and no packages that Kaggle's image lacks.

Copied as `sitecustomize.py` to a folder on PYTHONPATH, so that Python runs it at start-up,
children included, after the editable installs have joined the path. So it stands alone:
the standard library and a file beside it, and nothing happens without its variables:

- MATHLLM_ISOLATION_HIDDEN: folders that nothing is imported from, an os.pathsep between;
- MATHLLM_ISOLATION_READ_ONLY: folders in which nothing is written, in the same way;
- MATHLLM_ISOLATION_ABSENT: names of distributions and modules, a comma between, that are not
  found where they were installed before, but in folders that join the path later;
- MATHLLM_ISOLATION_GUARD: set where connections other than loopback's are to be refused;
- MATHLLM_FAULT: the fault that this process is to have (strikes.py).
"""

import errno
import importlib
import ipaddress
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from typing import Any

_REACHING_OUT = ("socket.connect", "socket.sendto", "socket.sendmsg")
_LOOKING_UP = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
_LOCAL_NAMES = (None, "", "localhost", "ip6-localhost")


def is_loopback(host: str | bytes | None) -> bool:
    """Whether a host, as sockets take it, can be nothing but this machine's loopback."""
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host in _LOCAL_NAMES:
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def refuse(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook (PEP 578), which Python calls before the system is asked."""
    host: Any = None
    if event in _REACHING_OUT and isinstance(args[1], tuple):  # not a Unix socket's path
        host = args[1][0]
    elif event in _LOOKING_UP:
        host = args[0]
    # Numbers are addresses within the machine, such as netlink's.
    if isinstance(host, (str, bytes)) and not is_loopback(host):
        raise ConnectionRefusedError(f"there is no network here: {event} {host}")


def hide(folders: list[str]) -> None:
    """Take `folders` off the import path, and setuptools' finders of editable installs."""
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") not in folders]
    sys.meta_path[:] = [
        finder
        for finder in sys.meta_path
        if "__editable__" not in getattr(finder, "__module__", "")
    ]


_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGING = (
    *("os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir"),
    *("os.symlink", "os.truncate", "os.utime"),
)


def read_only(folders: list[str]) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that refuses what a read-only mount at `folders` would."""

    def refuse_writing(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            paths = args[:1] if isinstance(args[2], int) and args[2] & _WRITING else ()
        elif event in _CHANGING:
            paths = args[1:2] if event in ("os.link", "os.symlink") else args[:2]
        else:
            return
        for path in paths:
            if not isinstance(path, (str, bytes)) or (
                event == "os.mkdir" and os.path.lexists(path)
            ):
                continue
            real = os.path.realpath(os.fsdecode(path))
            if any(real == folder or real.startswith(folder + os.sep) for folder in folders):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    return refuse_writing


class Finder:
    """Python's finder of modules and distributions in files, which finds those of the names
    `absent` in no folder that is on the path now, unless PYTHONPATH put it there."""

    def __init__(self, absent: list[str]):
        given = {*map(_real, os.environ.get("PYTHONPATH", "").split(os.pathsep))}
        self._absent = {_normal(name) for name in absent}
        self._folders = {*map(_real, sys.path)} - given

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if path is None and _normal(name) in self._absent:
            path = [entry for entry in sys.path if _real(entry) not in self._folders]
        return PathFinder.find_spec(name, path, target)

    def find_distributions(self, *context: Any) -> Iterator[Any]:
        for found in PathFinder.find_distributions(*context):
            path = found._path  # of its metadata: FOLDER/NAME-VERSION.dist-info
            name = _normal(path.name.partition("-")[0])
            if name not in self._absent or _real(str(path.parent)) not in self._folders:
                yield found

    def invalidate_caches(self) -> None:
        PathFinder.invalidate_caches()


def _real(entry: str) -> str:
    return os.path.realpath(entry or ".")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


if hidden := os.environ.get("MATHLLM_ISOLATION_HIDDEN"):
    hide(hidden.split(os.pathsep))
if lacking := os.environ.get("MATHLLM_ISOLATION_ABSENT"):
    place = sys.meta_path.index(PathFinder)
    sys.meta_path[place] = Finder(lacking.split(","))
if kept := os.environ.get("MATHLLM_ISOLATION_READ_ONLY"):
    sys.addaudithook(read_only(kept.split(os.pathsep)))
if os.environ.get("MATHLLM_ISOLATION_GUARD"):
    sys.addaudithook(refuse)
if fault := os.environ.get("MATHLLM_FAULT"):
    importlib.import_module("mathllm_strikes").await_modules(fault)
