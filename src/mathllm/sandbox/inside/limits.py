"""A process's own limits: resources, user, capabilities, and its end with its parent.

Standard library only.
"""

import ctypes
import os
import resource
import signal
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

LINUX = sys.platform == "linux"
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION_3 = 0x20080522
# Users of their own, in the range that systemd hands out for the time of a service: nobody's
# by convention, and still among the 65536 that a container maps.
FIRST_USER, USERS = 61184, 4336


def prctl(option: int, value: int) -> bool:
    """Whether the kernel did as asked; False on other systems."""
    return LINUX and ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0


def no_new_privileges() -> bool:
    """From here on no program that is started gains rights by set-uid bits or the like."""
    return prctl(PR_SET_NO_NEW_PRIVS, 1)


def first_to_go() -> None:
    """Where memory runs out, the system shall end this process, never its parent."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def set_limits(order: dict[str, Any], alone: bool) -> None:
    """CPU, memory, files and threads. `alone` says that no other process has this user."""
    cpu, threads = order["cpu_seconds"], order["processes"]
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_AS: order["memory_bytes"],
        resource.RLIMIT_FSIZE: order["file_bytes"],
        resource.RLIMIT_NOFILE: 128,
        # Counted over all that the user runs. Root is exempt: there the watch from outside
        # counts.
        resource.RLIMIT_NPROC: threads if alone else threads + _threads_of_user(),
    }
    for which, value in wanted.items():
        _, hard = resource.getrlimit(which)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # macOS refuses a limit on address space.
        with suppress(ValueError, OSError):
            resource.setrlimit(which, (value, value))
    # A second earlier comes the signal that says what it was.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu - 1, cpu))


def drop_user(folders: Sequence[str], must_read: Sequence[str]) -> int | None:
    """Become a user who owns `folders` and nothing else; None where that cannot be.

    It cannot without root's rights, and not where that user could not read `must_read`, as
    with an interpreter below /root.
    """
    if os.geteuid() != 0 or not all(_anyone_reads(path) for path in must_read):
        return None
    user = FIRST_USER + os.getpid() % USERS
    try:
        for folder in folders:
            os.chown(folder, user, user)
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    except OSError:
        # A container without these rights: the folders belong to root again, as before.
        if os.geteuid() == 0:
            with suppress(OSError):
                for folder in folders:
                    os.chown(folder, 0, 0)
        return None
    return user


def drop_capabilities() -> bool:
    """Give up all that sets root apart, apart from owning root's files."""
    if not LINUX:
        return False

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    header = Header(CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; low and high
    return ctypes.CDLL(None).capset(ctypes.byref(header), ctypes.byref(nothing)) == 0


def die_with_parent(parent: int) -> bool:
    """End when the parent's thread that started this process ends."""
    # Not dumpable: no process of the same user may look into this one.
    prctl(PR_SET_DUMPABLE, 0)
    if not prctl(PR_SET_PDEATHSIG, signal.SIGKILL):
        return False
    if os.getppid() != parent:  # it was gone before we asked
        os._exit(1)
    return True


def _anyone_reads(path: str) -> bool:
    """Whether a user without any rights can reach and read a file or folder."""
    try:
        real = Path(path).resolve(strict=True)
        mode = real.stat().st_mode
        needed = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
        return mode & needed == needed and all(
            above.stat().st_mode & stat.S_IXOTH for above in real.parents
        )
    except OSError:
        return False


def _threads_of_user() -> int:
    """Threads of all processes of this process's user, as far as /proc tells."""
    count = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError, ValueError, KeyError):
            # Bytes: the first line is the process's name, which may be any.
            fields = dict(line.split(b":", 1) for line in status.read_bytes().splitlines())
            if int(fields[b"Uid"].split()[0]) == os.getuid():
                count += int(fields[b"Threads"])
    return count
