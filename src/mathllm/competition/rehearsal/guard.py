"""What isolation.py puts into every Python process: no network, no working tree.

Copied as `sitecustomize.py` to a folder on PYTHONPATH, so that Python runs it at start-up,
children included, after the editable installs have joined the path. So it stands alone:
the standard library only, nothing of mathllm, and nothing happens without its variables:

- MATHLLM_ISOLATION_HIDDEN: folders that nothing is imported from, an os.pathsep between;
- MATHLLM_ISOLATION_GUARD: set where connections other than loopback's are to be refused.
"""

import ipaddress
import os
import sys
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


if hidden := os.environ.get("MATHLLM_ISOLATION_HIDDEN"):
    hide(hidden.split(os.pathsep))
if os.environ.get("MATHLLM_ISOLATION_GUARD"):
    sys.addaudithook(refuse)
