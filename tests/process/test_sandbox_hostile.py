"""Hostile programs: each is contained, whatever it tries, and the next answer is right."""

import ctypes
import os
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mathllm.sandbox import SandboxPool, SandboxSession, SandboxSettings

pytestmark = pytest.mark.slow

SECRET = "0f1e2d-planted"
SECONDS = 2.0
MEMORY = 768 << 20
FILES = 8 << 20
REFUSED = r"PermissionError|Operation not permitted|Permission denied|OSError"
FAILED = r"^-1 (1|13|97)$"  # the call's result, and EPERM, EACCES or EAFNOSUPPORT
NATIVE = "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\n"
DIED = r"the kernel (died|was ended)"


@dataclass(frozen=True)
class Program:
    """What it does, what its output has to show, and the layers without which it gets by.

    {outside}, {home} and so on are filled in.
    """

    code: str
    shows: str
    needs: tuple[str, ...] = ()


def native(call: str, *needs: str) -> Program:
    """A call into the C library, which Python's audit hook does not see."""
    code = f"{NATIVE}print(c.{call}, ctypes.get_errno())"
    return Program(code, FAILED, needs or ("seccomp",))


PROGRAMS = {
    "fork bomb": Program("import os\nwhile True:\n    os.fork()", REFUSED),
    "native fork bomb": native("fork()"),
    "native vfork": native("vfork()"),
    "subprocess": Program("import subprocess\nsubprocess.run(['id'])", REFUSED),
    "multiprocessing": Program(
        "import multiprocessing as m\np = m.Process(target=print)\np.start()", REFUSED
    ),
    "os.system": Program("import os\nprint(os.system('touch {outside}/made'))", REFUSED),
    "native system": Program(
        NATIVE + "print(c.system(b'touch {outside}/made') != 0)", "^True$", ("seccomp",)
    ),
    "shell magic": Program("!touch {outside}/made", REFUSED),
    "another Python": Program("import os\nos.execv('{python}', ['{python}'])", REFUSED),
    "native exec": native("execl(b'{python}', b'python', None)"),
    "100 GB": Program("x = bytearray(100 << 30)", "^MemoryError"),
    "100 GB of numpy": Program("np.ones((100 << 30) // 8)", "Unable to allocate"),
    "a list that grows": Program("x = []\nwhile True: x.append(bytes(1 << 20))", "MemoryError"),
    "memory beside the limit": native("memfd_create(b'x', 0)"),
    "prints for ever": Program("while True: print('x' * 1000)", "characters cut.*timed out"),
    "prints for ever elsewhere": Program(
        "import os, sys\nwhile True: print('x' * 99, file=sys.stderr); os.write(1, b'x' * 999)",
        "timed out|OSError|bytes of files",
    ),
    "floods the channel": Program(
        "k = get_ipython().kernel\nwhile True:\n"
        "    k.send_response(k.iopub_socket, 'stream', dict(name='stdout', text='x' * 2000000))",
        rf"timed out|{DIED}|MemoryError",
    ),
    "a message without an end": Program(
        "import zmq\nsocket = get_ipython().kernel.iopub_thread.socket\n"
        "for _ in range(3000):\n    socket.send(b'x' * 200_000, zmq.SNDMORE)",
        "",
    ),
    "catches interrupts": Program(
        "import time\nwhile True:\n    try: time.sleep(0.01)\n    except BaseException: pass",
        "timed out.*all variables are gone",
    ),
    "ignores interrupts": Program(
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        "timed out.*all variables are gone",
    ),
    "stops itself": Program("import os\nos.kill(os.getpid(), 19)", "timed out.*gone"),
    "environment": Program("import os\nprint(dict(os.environ))", "PATH"),
    "native environment": Program("print(open('/proc/self/environ').read())", "PATH|Permission"),
    "parent's environment": Program("print(open('/proc/{parent}/environ').read())", REFUSED),
    "native parent's environment": native("open(b'/proc/{parent}/environ', 0)", "landlock"),
    "parent's memory": native("open(b'/proc/{parent}/mem', 2)", "landlock"),
    "credentials": Program(
        "from pathlib import Path\nprint(Path('{home}/.kaggle/kaggle.json').read_text())", REFUSED
    ),
    "credentials by home": Program(
        "import os\nprint(open(os.path.expanduser('~/.kaggle/kaggle.json')).read())",
        "FileNotFoundError",
    ),
    "native credentials": native("open(b'{home}/.kaggle/kaggle.json', 0)", "landlock"),
    "credentials by link": Program(
        "import os\nos.symlink('{home}', 'link')\nprint(open('link/.kaggle/kaggle.json').read())",
        REFUSED,
    ),
    "other kernels": Program(
        "import os\nfor top in os.scandir(os.path.dirname(os.path.dirname(os.getcwd()))):\n"
        "    print(open(top.path + '/channel/connection.json').read())",
        REFUSED,
    ),
    "TCP": Program(
        "import socket\ns = socket.create_connection(('127.0.0.1', {port}))\ns.send(b'x')",
        REFUSED,
    ),
    "native TCP": native("socket(2, 1, 0)"),
    "native UDP over IPv6": native("socket(10, 2, 0)"),
    "native netlink": native("socket(16, 3, 0)"),
    "native Unix datagrams": native("socket(1, 2, 0)"),
    "native connect": native("connect(0, b'xx', 2)"),
    "name look-up": Program("import socket\nsocket.gethostbyname('localhost')", REFUSED),
    "deletes": Program("import shutil\nshutil.rmtree('{outside}')", REFUSED),
    "native delete": native("unlink(b'{outside}/file')", "landlock"),
    "renames": Program("import os\nos.rename('{outside}/file', 'mine')", REFUSED),
    "native rename": native("rename(b'{outside}/file', b'{outside}/other')", "landlock"),
    "changes modes": Program("import os\nos.chmod('{outside}/file', 0o777)", REFUSED),
    # Said to be done, and not done.
    "native chmod": Program(
        NATIVE + "print(c.chmod(b'{outside}/file', 0o777))", "^0$", ("seccomp",)
    ),
    "writes outside": Program("open('{outside}/made', 'w')", REFUSED),
    "native write outside": native("open(b'{outside}/made', 0o101, 0o666)", "landlock"),
    "native truncate": native("truncate(b'{outside}/file', 0)", "landlock"),
    "a huge file": Program(
        "with open('big', 'wb') as f:\n    while True: f.write(bytes(1 << 20))",
        "File too large|bytes of files",
    ),
    "many files": Program(
        "n = 0\nwhile True:\n    n += 1\n    open(str(n), 'w').write('x' * 9999)", "files or"
    ),
    "many files beside its folder": Program(
        "n = 0\nwhile True:\n    n += 1\n    open(f'../channel/{n}', 'w').write('x' * 9999)",
        "files or",
    ),
    "files below long paths": Program(
        NATIVE + "import time\nfor _ in range(30):\n    c.mkdir(b'x' * 200, 0o700)\n"
        "    c.chdir(b'x' * 200)\nfor n in range(12):\n"
        "    c.write(c.creat(b'%d' % n, 0o600), bytes(1 << 20), 1 << 20)\ntime.sleep(1)",
        "bytes of files",
    ),
    "deleted files that are open": Program(
        "import os, time\nheld = [open(str(n), 'wb', buffering=0) for n in range(12)]\n"
        "for n, file in enumerate(held):\n    os.remove(str(n))\n    file.write(bytes(1 << 20))\n"
        "time.sleep(1)",
        "bytes of files",
        ("deleted files counted",),
    ),
    "deleted files that are mapped": Program(
        NATIVE + "import os, time\nfor n in range(12):\n"
        "    file = os.open(str(n), os.O_RDWR | os.O_CREAT)\n    os.write(file, bytes(1 << 20))\n"
        "    c.mmap(None, 4096, 1, 1, file, 0)\n    os.close(file)\n    os.remove(str(n))\n"
        "time.sleep(1)",
        "bytes of files",
        ("deleted files counted",),
    ),
    "files that never had a name": Program(
        "import os, time\nfor _ in range(12):\n    file = os.open('.', os.O_TMPFILE | os.O_RDWR)\n"
        "    os.write(file, bytes(1 << 20))\ntime.sleep(1)",
        "bytes of files",
        ("deleted files counted",),
    ),
    "a lease": Program(
        NATIVE + "file = open('leased', 'w')\n"
        "print(c.fcntl(file.fileno(), 1024, 1), ctypes.get_errno())",
        FAILED,
        ("seccomp",),
    ),
    "a pipe in a file's place": Program(
        "import os\nos.remove('../channel/layers.json')\nos.mkfifo('../channel/layers.json')",
        REFUSED,
        ("seccomp",),
    ),
    "a name that is no text": Program(
        NATIVE + "import time\nprint(c.prctl(15, b'\\xff\\xfe'))\ntime.sleep(0.5)", "^0$"
    ),
    "deep folders": Program(
        "import os\nwhile True:\n    os.mkdir('x')\n    os.chdir('x')",
        "folders in folders",
    ),
    "kills its parent": Program("import os\nos.kill(os.getppid(), 9)", REFUSED),
    "native kill": native("kill({parent}, 9)"),
    "native kill of everyone": native("kill(-1, 9)"),
    "signals by descriptor": native("fcntl(0, 8, {parent})"),  # F_SETOWN
    "limits of the parent": native("prlimit({parent}, 0, (ctypes.c_long * 2)(0, 0), None)"),
    "outlives its parent": native("prctl(1, 0, 0, 0, 0)"),  # PR_SET_PDEATHSIG
    "traces": native("ptrace(16, {parent}, 0, 0)"),
    "mounts": native("mount(b'none', b'/mnt', b'tmpfs', 0, None)"),
    "namespaces": native("unshare(0x10000000)"),
    "many threads": Program(
        "import threading, time\nthreading.stack_size(65536)\n"
        "while True: threading.Thread(target=time.sleep, args=(99,)).start()",
        "threads|can't start new thread",
    ),
    "endless recursion": Program(
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        f"{DIED}|timed out|MemoryError|RecursionError",
    ),
    "breaks its own kernel": Program(
        "import builtins, sympy, sys\nsympy.factorint = builtins.sum = None\n"
        "sys.stdout = builtins.print = builtins.__import__ = None\n1 + 1",
        "",
    ),
}


@dataclass
class Planted:
    """What hostile programs find around them, and must neither read nor change."""

    outside: Path
    home: Path
    server: socket.socket
    connections: list[object] = field(default_factory=list)

    def fill(self, text: str) -> str:
        places = {
            "{outside}": self.outside,
            "{home}": self.home,
            "{port}": self.server.getsockname()[1],
            "{python}": sys.executable,
            "{parent}": os.getpid(),
        }
        for name, value in places.items():
            text = text.replace(name, str(value))
        return text

    def untouched(self) -> bool:
        file = self.outside / "file"
        return (
            list(self.outside.iterdir()) == [file]
            and file.read_text() == SECRET
            and file.stat().st_mode & 0o777 == 0o644
            and not self.connections
        )


@pytest.fixture(scope="module")
def planted() -> Iterator[Planted]:
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        planted = Planted(Path(folder, "outside"), Path(folder, "home"), server)
        planted.outside.mkdir()
        file, key = planted.outside / "file", planted.home / ".kaggle" / "kaggle.json"
        file.write_text(SECRET)
        file.chmod(0o644)
        key.parent.mkdir(parents=True)
        key.write_text(SECRET)
        patch.setenv("HOME", str(planted.home))
        for name in ("KAGGLE_KEY", "KAGGLE_API_TOKEN", "HF_TOKEN", "OTHER"):
            patch.setenv(name, SECRET)

        def listen() -> None:
            while True:
                try:
                    planted.connections.append(server.accept())
                except OSError:
                    return

        threading.Thread(target=listen, daemon=True).start()
        yield planted
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def earlier() -> set[int]:
    """What other tests have started and this process still has, such as sympy's worker."""
    return set(children())


@pytest.fixture(scope="module")
def pool(planted: Planted, earlier: set[int]) -> Iterator[SandboxPool]:  # noqa: ARG001 (both first)
    settings = SandboxSettings(
        size=2, spares=1, seconds=SECONDS, memory_bytes=MEMORY, file_bytes=FILES, processes=32
    )
    with SandboxPool(settings) as pool:
        yield pool


@pytest.fixture(scope="module")
def bystander(pool: SandboxPool) -> Iterator[SandboxSession]:
    with pool.session() as session:
        session.run("n = 7")
        yield session


@pytest.fixture(scope="module")
def hostile(pool: SandboxPool, bystander: SandboxSession) -> Iterator[SandboxSession]:  # noqa: ARG001
    with pool.session() as session:
        yield session


def children() -> list[int]:
    """Processes that this one started, the ended and unreaped among them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_bytes().rpartition(b")")[2].split()[1])
        except OSError:
            continue
        if parent == os.getpid():
            found.append(int(stat.parent.name))
    return found


def memory(pid: int | str, kind: str = "VmRSS") -> int:
    """Bytes of memory that a process really takes, or took at its peak."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return 0
    found = re.search(rf"{kind}:\s+(\d+) kB", status)
    return int(found[1]) << 10 if found else 0


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_hostile_program_is_contained(
    name: str,
    pool: SandboxPool,
    hostile: SandboxSession,
    bystander: SandboxSession,
    planted: Planted,
    earlier: set[int],
) -> None:
    program = PROGRAMS[name]
    for layer in program.needs:
        if not any(known.startswith(layer) for known in pool.layers):
            pytest.skip(f"{layer} is not to be had here")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    before = memory("self")
    result = hostile.run(planted.fill(program.code))
    assert re.search(program.shows, result.output, re.DOTALL), result
    assert SECRET not in result.output
    assert result.seconds < SECONDS + 10
    assert planted.untouched()
    assert bystander.run("n * sum(range(4)), factorint(2026)").output == "(42, {2: 1, 1013: 1})"
    assert memory("self", "VmHWM") - before < 200 << 20
    # The pool's three, and one that is on its way out.
    started = set(children()) - earlier
    assert len(started) <= 4
    # A child that is not its own program yet counts this process's memory as its own.
    deadline = time.monotonic() + SECONDS
    while too_large := [pid for pid in started if memory(pid) > MEMORY]:
        assert time.monotonic() < deadline, too_large
        time.sleep(0.05)
    if not program.code.startswith(NATIVE):  # single calls leave nothing behind
        hostile.run("import os; os._exit(0)")
    assert hostile.run("sum([1, 2]), sympy.factorint(6)").output == "(3, {2: 1, 3: 1})"


def test_threads_and_files_are_watched_between_blocks(
    hostile: SandboxSession, bystander: SandboxSession
) -> None:
    code = "\n".join(
        [
            "import threading",
            "def write():",
            "    n = 0",
            "    while True:",
            "        n += 1",
            "        open(str(n), 'w').write('x')",
            "threading.Thread(target=write).start()",
        ]
    )
    assert hostile.run(code).ok
    deadline = time.monotonic() + 30  # a slow disk takes long for a thousand files
    while not (fault := hostile.run("import time; time.sleep(0.2)").fault):
        assert time.monotonic() < deadline
    assert "files or" in fault
    assert bystander.run("n").output == "7"


@pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are Linux'")
def test_this_machine_says_which_layers_hold(pool: SandboxPool) -> None:
    layers = " ".join(pool.layers)
    for always in ("scrubbed environment", "resource limits", "audit hook", "no new privileges"):
        assert always in layers
    version = ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1)
    assert (f"landlock (ABI {version})" in layers) == (version > 0)
