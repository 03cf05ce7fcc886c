"""The table in docs/SANDBOX.md, cell by cell: what each setting refuses to Python and to C."""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache

import pytest

from helpers.paths import ROOT
from mathllm.sandbox.kernel import INSIDE

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="becomes other users, as root can"
)

DOCUMENT = ROOT / "docs" / "SANDBOX.md"
SETTINGS = {
    "root, Landlock and seccomp": "root",
    "a user of its own, Landlock and seccomp": "own",
    "an ordinary user, Landlock and seccomp": "ordinary",
    "an ordinary user, audit hook only": "hook",
}
# Run as root: a parent that becomes what the setting says, and its child, which confines itself
# as every kernel does and then tries everything. Forked, since other users may not be able to
# start this interpreter.
PROGRAM = """
import ctypes, encodings.idna, fcntl, importlib.util, json, mmap, os, resource, signal, socket
import subprocess, sys, threading, time
from mathllm.sandbox.footprint import sees_deleted
setting, inside, own, other, port = sys.argv[1:]
sys.path.insert(0, inside)
import audit, landlock, limits, seccomp
spec = importlib.util.spec_from_file_location("child", inside + "/__main__.py")
child = importlib.util.module_from_spec(spec)
spec.loader.exec_module(child)
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
if setting in ("ordinary", "hook"):
    os.setgroups([])
    os.setresuid(4242, 4242, 4242)
    libc.prctl(4, 1, 0, 0, 0)  # dumpable, as processes of a user are that never were root's
os.chmod(other, 0o755)
open(other + "/file", "w").close()
os.chmod(other + "/file", 0o600)
for name in ("work", "channel"):
    os.mkdir(own + "/" + name)
if setting == "hook":
    landlock.confine, seccomp.confine = (lambda *_: 0), (lambda: False)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
there, here = os.pipe()
go, gone = os.pipe()
parent = os.getpid()

def connect():
    with socket.socket() as made:
        made.connect(("127.0.0.1", int(port)))

def native_connect():
    made = libc.socket(2, 1, 0)
    address = b"\\x02\\0" + int(port).to_bytes(2, "big") + bytes([127, 0, 0, 1]) + bytes(8)
    return libc.connect(made, address, 16)

def fork(call):
    if not (made := call()):
        os._exit(0)
    return made

def large():
    with open("large", "wb") as file:
        for _ in range(3):
            file.write(bytes(1 << 20))
            file.flush()

def native_large():
    file = libc.creat(b"larger", 0o600)
    return min(libc.write(file, bytes(1 << 20), 1 << 20) for _ in range(3))

def threads(start):
    for _ in range(40):
        start()

begun = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda _: time.sleep(9))

def native_thread():
    kept = ctypes.c_ulong()
    if error := libc.pthread_create(ctypes.byref(kept), None, begun, None):
        raise OSError(error, "no thread")

def native_map():
    # An error is -1, which is no address.
    return -1 if libc.mmap(None, ctypes.c_size_t(2 << 30), 3, 34, -1, 0) == 2**64 - 1 else 0

def leased(call):
    with open("leased", "w") as file:
        return call(file.fileno())

file, environ = other + "/file", f"/proc/{parent}/environ"
TRIES = {
    "read a file outside its folder": (lambda: open(file), lambda: libc.open(os.fsencode(file), 0)),
    "write a file outside its folder": (
        lambda: open(other + "/new", "w"),
        lambda: libc.open(os.fsencode(other + "/newer"), 0o101, 0o600),
    ),
    "change the mode of a file": (
        lambda: os.chmod(file, 0o640), lambda: libc.chmod(os.fsencode(file), 0o644)
    ),
    "connect to the network": (connect, native_connect),
    "start a process": (lambda: fork(os.fork), lambda: fork(libc.fork)),
    "signal its parent": (
        lambda: os.kill(parent, signal.SIGUSR1), lambda: libc.kill(parent, signal.SIGUSR1)
    ),
    "read its parent's environment": (
        lambda: open(environ, "rb").read(), lambda: libc.open(os.fsencode(environ), 0)
    ),
    "take a lease on a file": (
        lambda: leased(lambda number: fcntl.fcntl(number, 1024, 1)),
        lambda: leased(lambda number: libc.fcntl(number, 1024, 1)),
    ),
    "map more memory than allowed": (lambda: mmap.mmap(-1, 2 << 30), native_map),
    "write a larger file than allowed": (large, native_large),
    "start more threads than allowed": (
        lambda: threads(lambda: threading.Thread(target=time.sleep, args=(9,)).start()),
        lambda: threads(native_thread),
    ),
}

def done(action):
    mode = os.stat(file).st_mode
    try:
        result = action()
    except (OSError, MemoryError, RuntimeError):
        return False
    if action in TRIES["change the mode of a file"]:
        return os.stat(file).st_mode != mode
    return result != -1

if not (pid := os.fork()):
    order = dict(parent=parent, folder=own, work=own + "/work", channel=own + "/channel")
    order["readable"] = ["/usr", "/lib", "/lib64", sys.prefix, sys.base_prefix]
    order["must_read"] = [os.path.expanduser("~root")] if setting == "root" else []
    order |= dict(cpu_seconds=20, memory_bytes=1 << 30, processes=20, file_bytes=2 << 20)
    os.chdir(order["work"])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    layers = child.confine(order)
    os.write(here, b"x")
    os.read(go, 1)
    found = {name: [done(action) for action in pair] for name, pair in TRIES.items()}
    os.write(here, json.dumps([layers, found]).encode())
    os._exit(0)
os.close(here)
os.read(there, 1)
sees = sees_deleted(pid)
os.write(gone, b"x")
told = b""
while part := os.read(there, 1 << 16):
    told += part
print(json.dumps([*json.loads(told), sees]))
"""


@cache
def tried(setting: str) -> tuple[list[str], dict[str, list[bool]], bool]:
    """The layers in force, what Python and what C got done, and whether deleted files are seen."""
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as own,
        tempfile.TemporaryDirectory(dir="/tmp") as other,
        subprocess.Popen(
            [sys.executable, "-c", LISTEN], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
        ) as server,
    ):
        port = server.stdout.readline().strip()
        if setting in ("ordinary", "hook"):
            for folder in (own, other):
                os.chown(folder, 4242, 4242)
        command = [sys.executable, "-c", PROGRAM, setting, str(INSIDE), own, other, port]
        # An arena of glibc's for every thread would pass the limit on memory first.
        environment = {**os.environ, "MALLOC_ARENA_MAX": "2"}
        run = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=100, check=False
        )
        server.stdin.close()
    assert run.returncode == 0, run.stderr
    return tuple(json.loads(run.stdout))


LISTEN = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    sys.stdin.read()
"""


def table() -> dict[tuple[str, str], str]:
    """What the document says, by row and column."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in DOCUMENT.read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    columns = rows[0][1:]
    return {
        (row[0], column): cell
        for row in rows[2:]
        for column, cell in zip(columns, row[1:], strict=True)
    }


@pytest.mark.parametrize(("row", "column"), table())
def test_the_table_says_what_a_program_gets_done(row: str, column: str) -> None:
    setting = SETTINGS[column]
    layers, found, sees = tried(setting)
    for layer in ("landlock", "seccomp") if setting != "hook" else ():
        if not any(known.startswith(layer) for known in layers):
            pytest.skip(f"{layer} is not to be had here")
    if setting == "own" and not any(known.startswith("unprivileged user") for known in layers):
        pytest.skip("this container does not let root become another user")
    if row == "hold deleted files":
        measured = "ended from outside" if sees else "not seen"
    else:
        measured = {
            (False, False): "refused",
            (False, True): "native code can",
            (True, True): "anyone can",
        }[tuple(found[row])]
        if row == "start more threads than allowed" and measured == "anyone can":
            # Root's threads are not limited by the system: they are counted by the pool, which
            # tests/process/test_sandbox_hostile.py shows.
            measured = "ended from outside" if setting == "root" else measured
    assert table()[row, column] == measured


def test_every_setting_of_the_table_is_tried() -> None:
    assert {column for _, column in table()} == set(SETTINGS)
    rows = {row for row, _ in table()} - {"hold deleted files"}
    assert rows == set(tried("hook")[1])
