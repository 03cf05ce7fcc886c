"""One confined process: its start, its folder, its end, and a watch over what it takes.

The process is confined by itself, before it runs anything of a model's (`inside/`); here are
the environment it gets, the limits that it is told, and the means to end it whatever it does.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mathllm import children
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
LOG_CHARS = 1500
FILES = 1000  # in a session's folder
GRACE_SECONDS = 1.0  # for a block to yield to the interrupt


class KernelError(RuntimeError):
    """A kernel that does not start: a fault of the installation, with the kernel's own words."""


class Kernel:
    """A kernel process from its start on.

    Make it in a thread that outlives it: the process ends with the thread that started it.
    """

    def __init__(self, settings: SandboxSettings):
        self._settings = settings
        self._cause: str | None = None
        self._ready = self._killed = False
        self._folder = children.temporary_folder("sandbox", _temporary())
        self._report = self._folder / "channel" / "layers.json"
        self._channel = Channel(self._folder / "channel", settings.output_chars)
        try:
            self._process = self._start()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _start(self) -> "subprocess.Popen[bytes]":
        work = self._folder / "work"
        for folder in (work, self._folder / "channel"):
            folder.mkdir()
        self._channel.describe()
        with (self._folder / "log").open("wb") as log:
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
        return self._process.poll() is None

    def layers(self) -> list[str] | None:
        """What confines it, in its own words before a model's code ran; None until known."""
        try:
            return json.loads(self._report.read_text())
        except OSError:
            return None

    def wait_ready(self) -> None:
        """Wait until blocks can be sent; KernelError where that does not come."""
        if not self._ready:
            self._channel.open()
            deadline = time.monotonic() + self._settings.start_seconds
            self._ready = self._channel.greet(deadline, self.alive)
        if not (self._ready and self.alive()):
            log = (self._folder / "log").read_text(errors="replace")[-LOG_CHARS:].strip()
            raise KernelError(f"a kernel of the sandbox did not start ({self.death()}): {log}")

    def run(self, code: str) -> tuple[Pending, str | None]:
        """Run a block; what came of it, and why it was not left to itself.

        Where it does not yield after its time, the kernel is killed: see `alive`.
        """
        pending = self._channel.send(code)
        if pending.wait(time.monotonic() + self._settings.seconds, self.alive):
            return pending, None
        if not self.alive():
            return pending, self.death()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGINT)
        if not pending.wait(time.monotonic() + GRACE_SECONDS, self.alive):
            self.kill()
        return pending, f"timed out after {self._settings.seconds:g} s"

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
        if _threads(self.pid) > self._settings.processes:
            self._cause = f"more than {self._settings.processes} threads"
        elif not _fits(self._folder, self._settings.file_bytes):
            self._cause = f"more than {FILES} files or {self._settings.file_bytes} bytes of files"
        if self._cause:
            self.kill()

    def kill(self) -> None:
        """End the process and all of its group, and wait for it."""
        if not self._killed:  # once: later its number may be another's
            self._killed = True
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def release(self) -> None:
        """Kill it and let go of its sockets; for the thread that used them."""
        self.kill()
        self._channel.close()

    def discard(self) -> None:
        """Kill it and leave no file of it."""
        self.kill()
        try:
            shutil.rmtree(self._folder, ignore_errors=True)
        except RecursionError:  # folders in folders, deeper than Python follows
            subprocess.run(["rm", "-rf", "--", str(self._folder)], check=False)

    def _order(self) -> dict[str, Any]:
        """What the child is told: its folders, what it may read, its limits."""
        origins = [_origin(name) for name in PACKAGES]
        packages = sorted({str(origin.parents[1]) for origin in origins})
        prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
        must_read = [*map(str, origins), os.__file__, sys.executable, str(self._folder.parent)]
        return {
            "parent": os.getpid(),
            "folder": str(self._folder),
            "work": str(self._folder / "work"),
            "channel": str(self._folder / "channel"),
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


def _threads(pid: int) -> int:
    """Threads of a process; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line[8:]) for line in status.splitlines() if line.startswith("Threads:")), 0)


def _fits(folder: Path, limit: int) -> bool:
    """Whether a folder's files are few and small enough. Links are not followed."""
    waiting, count, size = [str(folder)], 0, 0
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                count += 1
                with suppress(OSError):
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                if count > FILES or size > limit:
                    return False
    return True
