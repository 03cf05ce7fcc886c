"""One confined process: its start, its folder, its blocks, its end.

The process is confined by itself, before it runs anything of a model's (`inside/`); here are
the environment it gets, the limits that it is told, and the means to end it whatever it does.
"""

import importlib.util
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mathllm import children
from mathllm.sandbox import footprint
from mathllm.sandbox.channel import Channel, Pending
from mathllm.sandbox.result import SandboxSettings

INSIDE = Path(__file__).with_name("inside")
PACKAGES = ("ipykernel", "IPython", "jupyter_client", "zmq", "sympy", "mpmath", "numpy")
# What programs and libraries read on any system, none of it anyone's own.
SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/localtime"),
    *("/etc/nsswitch.conf", "/etc/passwd", "/etc/group", "/etc/mime.types"),
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system/cpu"),
)
FOLDER_BYTES = 64  # of a socket's path below the folder for what is temporary
SOCKET_PATH_BYTES = 100  # the system's limit is 108 on Linux, 104 elsewhere
LOG_BYTES = 1500
REPORT_BYTES = 4096
# Deleted files are searched for in every fifth look: that takes much longer than all else.
LOOKS_A_SEARCH = 5
GRACE_SECONDS = 1.0  # for a block to yield to the interrupt
# What the program may have made in a file's place: a link, a pipe that nobody writes to, a file
# with a lease on it. With these, opening it neither follows nor waits.
READ_ONLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class KernelError(RuntimeError):
    """No kernel for a session: none starts, with its own words, or none is free in time."""


class Kernel:
    """A kernel process from its start on.

    Make it in a thread that outlives it: the process ends with the thread that started it.
    """

    def __init__(self, settings: SandboxSettings):
        self._settings = settings
        self._cause: str | None = None
        self._layers: list[str] | None = None
        self._killed = False
        self._looks, self._held = 0, (0, 0)
        self.folder = children.temporary_folder("sandbox", _temporary())
        self._report = self.folder / "channel" / "layers.json"
        self._channel = Channel(self.folder / "channel", settings.output_chars)
        try:
            self._process = self._start()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self._due = time.monotonic() + settings.start_seconds

    def _start(self) -> "subprocess.Popen[bytes]":
        work = self.folder / "work"
        for folder in (work, self.folder / "channel"):
            folder.mkdir()
        self._channel.describe()
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-B", str(INSIDE), json.dumps(self._order())],
                env=_environment(work),
                cwd=work,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        """Whether it runs, and has not been told to end."""
        return not self._killed and self._process.poll() is None

    def layers(self) -> list[str] | None:
        """What confines it, in its own words before a model's code ran; None until known."""
        if self._layers is None and self._report.exists():
            said = json.loads(_read(self._report, REPORT_BYTES))
            seen = ["deleted files counted"] if footprint.sees_deleted(self.pid) else []
            self._layers = [*map(str, said), *seen]
        return self._layers

    def ready(self) -> bool:
        """Whether blocks can be sent; does not wait. KernelError where that will not come."""
        if self.alive() and self._channel.answered():
            self.layers()  # before anything else could write what it reads
            return True
        if not self.alive() or time.monotonic() > self._due:
            log = _read(self.folder / "log", LOG_BYTES, end=True).decode(errors="replace").strip()
            raise KernelError(f"a kernel of the sandbox did not start ({self.death()}): {log}")
        return False

    def run(self, code: str, deadline: float | None = None) -> tuple[Pending, str | None]:
        """Run a block, until `deadline` at the most; what came of it, and why it was stopped.

        Where it does not yield after its time, the kernel is killed: see `alive`.
        """
        now = time.monotonic()
        end, fault = now + self._settings.seconds, f"timed out after {self._settings.seconds:g} s"
        if deadline is not None and deadline < end:
            end, fault = deadline, f"stopped after {max(0, deadline - now):.1f} s, at the deadline"
        pending = self._channel.send(code)
        if pending.wait(end, self.alive):
            return pending, None
        if not self.alive():
            return pending, self.death()
        grace = time.monotonic() + GRACE_SECONDS
        grace = grace if deadline is None else min(grace, deadline)
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGINT)
        if not pending.wait(grace, self.alive):
            self.end()
        return pending, fault

    def death(self) -> str:
        """How it ended, in one line."""
        if self._cause:
            return f"the kernel was ended: {self._cause}"
        code = self._process.poll()
        if code is None:
            return "the kernel does not answer"
        if code == -signal.SIGXCPU:
            return f"the kernel died: {self._settings.cpu_seconds} s of CPU time are spent"
        if code < 0:
            with suppress(ValueError):
                return f"the kernel died ({signal.Signals(-code).name})"
        return f"the kernel died (exit status {code})"

    def watch(self) -> None:
        """End it where it has too many threads or files; what no limit of its own holds."""
        if not self.alive():
            return
        if footprint.threads(self.pid) > self._settings.processes:
            self.end(f"more than {self._settings.processes} threads")
            return
        if self._looks % LOOKS_A_SEARCH == 0:
            self._held = footprint.deleted(self.folder, self.pid)
        self._looks += 1
        if cause := footprint.excess(self.folder, self._settings.file_bytes, self._held):
            self.end(cause)

    def end(self, cause: str | None = None) -> None:
        """Kill the process and all of its group. Does not wait: see `gone`."""
        self._cause = self._cause or cause
        if not self._killed:  # once: later its number may be another's
            self._killed = True
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()

    def gone(self) -> bool:
        """Whether the process has ended, and its folder can be deleted."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End it and let go of its sockets; for the thread that uses them."""
        self.end()
        self._channel.close()

    def _order(self) -> dict[str, Any]:
        """What the child is told: its folders, what it may read, its limits."""
        origins = [_origin(name) for name in PACKAGES]
        packages = sorted({str(origin.parents[1]) for origin in origins})
        prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
        must_read = [*map(str, origins), os.__file__, sys.executable, str(self.folder.parent)]
        return {
            "parent": os.getpid(),
            "folder": str(self.folder),
            "work": str(self.folder / "work"),
            "channel": str(self.folder / "channel"),
            "connection": str(self._channel.connection),
            "report": str(self._report),
            "packages": packages,
            "readable": [*SYSTEM, *sorted(prefixes), *packages],
            "must_read": must_read,
            "cpu_seconds": self._settings.cpu_seconds,
            "memory_bytes": self._settings.memory_bytes,
            "processes": self._settings.processes,
            "file_bytes": self._settings.file_bytes,
            "output_chars": self._settings.output_chars,
        }


def _environment(home: Path) -> dict[str, str]:
    """All that the process gets: nothing of ours but where libraries are found."""
    own = str(home)
    names = ("HOME", "TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")
    one_thread = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {
        **kept,
        **dict.fromkeys(names, own),
        **dict.fromkeys(one_thread, "1"),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "MPLBACKEND": "Agg",
        # Each arena of glibc's takes 64 MiB of address space, and by default every thread one.
        "MALLOC_ARENA_MAX": "2",
    }


def _temporary() -> str:
    """Where kernels have their folders: short enough for a socket's whole path."""
    usual = tempfile.gettempdir()
    return (
        usual if len(os.fsencode(usual)) + FOLDER_BYTES <= SOCKET_PATH_BYTES else children.SHORTEST
    )


def _origin(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise KernelError(f"the sandbox needs the package {package}, which is not installed")
    return Path(spec.origin)


def _read(path: Path, most: int, end: bool = False) -> bytes:
    """The beginning or the end of a regular file; nothing of anything else."""
    try:
        descriptor = os.open(path, READ_ONLY)
    except OSError:
        return b""
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return b""
        return os.pread(descriptor, most, max(0, found.st_size - most) if end else 0)
    finally:
        os.close(descriptor)
