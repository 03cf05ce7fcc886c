"""Each layer of the sandbox on its own, and the system calls' filter for both machines."""

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mathllm.sandbox.inside import seccomp
from mathllm.sandbox.kernel import INSIDE

PREPARE = f"""
import ctypes, errno, fcntl, os, socket, subprocess, sys, threading
sys.path.insert(0, {str(INSIDE)!r})
import audit, landlock, limits, seccomp
own, other = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)

def refused(action):
    try:
        action()
    except OSError as error:
        return True
    return False
"""


@pytest.fixture
def folders() -> Iterator[tuple[Path, Path]]:
    """One that a process may have, one with a file that is none of its business."""
    with tempfile.TemporaryDirectory(dir="/tmp") as own, tempfile.TemporaryDirectory() as other:
        Path(other, "file").write_text("secret")
        yield Path(own), Path(other)


def inside(folders: tuple[Path, Path], code: str) -> str:
    """What a process prints that confines itself as `code` says."""
    command = [sys.executable, "-I", "-c", PREPARE + code, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_landlock_alone_keeps_files_apart(folders: tuple[Path, Path]) -> None:
    output = inside(
        folders,
        """
limits.no_new_privileges()
if not landlock.confine([sys.prefix], [own]):
    print("none")
    sys.exit()
assert refused(lambda: open(other + "/file"))
assert refused(lambda: open(other + "/new", "w"))
assert refused(lambda: os.listdir(other))
assert refused(lambda: os.remove(other + "/file"))
assert refused(lambda: open(f"/proc/{os.getppid()}/environ"))
open(own + "/new", "w").write("x")
os.rename(own + "/new", own + "/newer")
open("/dev/null", "w").write("x")
""",
    )
    if output:
        pytest.skip("this system has no Landlock")


def test_seccomp_alone_keeps_processes_apart(folders: tuple[Path, Path]) -> None:
    output = inside(
        folders,
        """
limits.no_new_privileges()
if not seccomp.confine():
    print("none")
    sys.exit()
assert refused(os.fork)
assert refused(lambda: subprocess.run(["true"]))
assert refused(lambda: os.execv(sys.executable, [sys.executable]))
assert refused(lambda: socket.socket(socket.AF_INET))
assert refused(lambda: socket.socket(socket.AF_INET6))
assert refused(lambda: socket.socket(socket.AF_UNIX).connect(own + "/socket"))
assert refused(lambda: os.kill(os.getppid(), 0))
os.kill(os.getpid(), 0)
here, there = socket.socketpair()
here.send(b"x")
thread = threading.Thread(target=print)
thread.start()
thread.join()
""",
    )
    if output:
        pytest.skip("this system has no seccomp filters")


def test_the_audit_hook_alone_refuses_what_python_is_asked(folders: tuple[Path, Path]) -> None:
    inside(
        folders,
        """
audit.install([sys.prefix, sys.base_prefix], [own])
os.path.realpath = lambda path, **_: own
assert refused(lambda: open(other + "/file"))
assert refused(lambda: open(other + "/new", "w"))
assert refused(lambda: open(sys.prefix + "/new", "w"))
assert refused(lambda: os.listdir(other))
assert refused(lambda: os.remove(other + "/file"))
assert refused(lambda: os.chmod(other + "/file", 0))
assert refused(lambda: os.symlink(own, other + "/link"))
os.symlink(other, own + "/link")
assert refused(lambda: open(own + "/link/file"))
assert refused(os.fork)
assert refused(lambda: os.system("true"))
assert refused(lambda: subprocess.run(["true"]))
assert refused(lambda: socket.create_connection(("127.0.0.1", 9)))
assert refused(lambda: socket.getaddrinfo("localhost", 9))
assert refused(lambda: os.kill(os.getppid(), 0))
open(own + "/new", "w").write("x")
os.rename(own + "/new", own + "/newer")
with open(own + "/newer") as file:
    fcntl.fcntl(file, fcntl.F_GETFD)
    for command in (fcntl.F_SETLEASE, fcntl.F_NOTIFY, fcntl.F_SETOWN, fcntl.F_SETSIG):
        assert refused(lambda: fcntl.fcntl(file, command, 1))
""",
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_becomes_a_user_of_its_own(folders: tuple[Path, Path]) -> None:
    output = inside(
        folders,
        """
import encodings.idna, resource
assert limits.drop_user([own], [other]) is None  # out of reach for others: all stays as it is
assert os.getuid() == 0
user = limits.drop_user([own], [])
if user is None:
    print("none")
    sys.exit()
order = dict(cpu_seconds=9, processes=20, memory_bytes=1 << 30, file_bytes=1 << 20)
limits.set_limits(order, alone=True)
assert limits.drop_capabilities()
assert os.getresuid() == os.getresgid() == (user,) * 3
assert os.getgroups() == []
assert refused(lambda: os.setuid(0))
assert refused(lambda: open(other + "/file"))
assert refused(lambda: open(f"/proc/{os.getppid()}/environ").read())
assert refused(lambda: os.kill(os.getppid(), 0))
open(own + "/new", "w").write("x")
children = []
def breed():
    while True:
        child = os.fork()
        if not child:
            os.read(gate, 1)
            os._exit(0)
        children.append(child)
gate, end = os.pipe()
assert refused(breed)
assert len(children) < 20
os.write(end, b"x" * 20)
for child in children:
    os.waitpid(child, 0)
""",
    )
    if output:
        pytest.skip("this container does not let root become another user")


def verdict(machine: str, number: int, *arguments: int, name: int | None = None) -> int:
    """What the filter answers to a system call: an errno, None's stand-in 0x7FFF for "go on"."""
    data = {seccomp.NUMBER: number, seccomp.MACHINE: name or seccomp.MACHINES[machine][0]}
    for i in range(6):
        data[seccomp.ARGUMENTS + 8 * i] = (arguments[i : i + 1] or (0,))[0]
    steps, place, value = seccomp.program(machine, pid=1234), 0, 0
    while True:
        code, if_true, if_false, constant = steps[place]
        place += 1
        if code == seccomp.LOAD:
            value = data[constant]
        elif code == seccomp.AND:
            value &= constant
        elif code == seccomp.EQUAL:
            place += if_true if value == constant else if_false
        elif code == seccomp.AT_LEAST:
            place += if_true if value >= constant else if_false
        else:
            return constant


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_the_filter_says_what_it_should_on_both_machines(machine: str) -> None:
    column = seccomp.MACHINES[machine][1]

    def error(call: tuple[int | None, int | None], *arguments: int) -> int | None:
        answer = verdict(machine, call[column], *arguments)
        return None if answer == seccomp.ALLOW else answer & 0xFFFF

    for calls, expected in ((seccomp.REFUSED, errno.EPERM), (seccomp.PRETENDED, 0)):
        for name, call in calls.items():
            assert call[column] is None or error(call) == expected, name
    sockets, signals = seccomp.SOCKETS, seccomp.SIGNALS
    assert error(sockets["socket"], 1, 1 | 0o2000000) is None
    assert error(sockets["socket"], 1, 2 | 0o2000000) == errno.EPERM
    for family in (2, 10, 16, 17, 38, 40):
        assert error(sockets["socket"], family, 1) == errno.EAFNOSUPPORT
    for call in signals.values():
        assert error(call, 1234, 9) is None
        for pid in (0, 1, 1235, 0xFFFFFFFF):
            assert error(call, pid, 9) == errno.EPERM
    assert error(seccomp.CLONE, 0x3D0F00) is None
    assert error(seccomp.CLONE, 17) == errno.EPERM
    assert error(seccomp.CLONE3) == errno.ENOSYS
    assert error(seccomp.PRLIMIT, 0) is error(seccomp.PRLIMIT, 1234) is None
    assert error(seccomp.PRLIMIT, 1) == errno.EPERM
    assert error(seccomp.FCNTL, 1, 3) is None
    for command in (8, 10, 15, 1024, 1026):  # owners of signals, leases, notes of changes
        assert error(seccomp.FCNTL, 1, command) == errno.EPERM
    assert error(seccomp.PRCTL, 15) is None
    assert error(seccomp.PRCTL, 1) == errno.EPERM
    assert error((0, 63)) is None  # read
    assert error((463, 463)) == errno.ENOSYS  # setxattrat
    # Numbers of another machine are not looked at.
    assert verdict(machine, 0, name=0x40000003) == seccomp.KILL


def test_the_second_numbers_of_x86_64_are_refused() -> None:
    assert verdict("x86_64", 0x40000000 | 59) & 0xFFFF == errno.EPERM


def test_no_number_stands_twice() -> None:
    for column in (0, 1):
        tables = (seccomp.REFUSED, seccomp.PRETENDED, seccomp.SOCKETS, seccomp.SIGNALS)
        numbers = [n[column] for table in tables for n in table.values() if n[column] is not None]
        others = (
            seccomp.CLONE,
            seccomp.CLONE3,
            seccomp.PRLIMIT,
            seccomp.PRCTL,
            seccomp.FCNTL,
            seccomp.IOCTL,
        )
        numbers += [call[column] for call in others]
        assert len(numbers) == len(set(numbers))
