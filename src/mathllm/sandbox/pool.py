"""Kernels ready for sessions, one fresh kernel for each session, spares for the next.

Nothing of a session survives: its kernel is killed and its folder deleted.
"""

import atexit
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mathllm.sandbox.kernel import Kernel, KernelError
from mathllm.sandbox.result import SandboxSettings, ToolResult

WATCH_SECONDS = 0.1
# Kernels that fail one after another before the pool gives up on a session or a block.
ATTEMPTS = 3
FRESH = "a new kernel takes over: all variables are gone"
KEPT = "the block was interrupted; variables are kept"


class SandboxPool:
    """`settings.size` sessions at a time, each with a kernel of its own.

    Use it in a `with`, or call `start` and `close`. Sessions may be taken from any thread.
    """

    def __init__(self, settings: SandboxSettings | None = None):
        self._settings = settings or SandboxSettings()
        self._places = threading.BoundedSemaphore(self._settings.size)
        self._fresh: queue.Queue[Kernel | Exception] = queue.Queue()
        self._used: queue.Queue[Kernel] = queue.Queue()
        self._wake, self._closing, self._known = (threading.Event() for _ in range(3))
        self._layers: list[str] = []
        self._keeper: threading.Thread | None = None

    def __enter__(self) -> "SandboxPool":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the kernels and return at once; the first sessions wait for theirs."""
        if self._keeper is None:
            # One thread for the pool's whole life: kernels end with the thread that made them.
            self._keeper = threading.Thread(target=self._keep, name="sandbox", daemon=True)
            self._keeper.start()
            atexit.register(self.close)

    def close(self) -> None:
        """End all kernels, those that sessions still hold too."""
        self._closing.set()
        self._wake.set()
        if self._keeper is not None:
            self._keeper.join()
            atexit.unregister(self.close)

    @property
    def size(self) -> int:
        """How many sessions can be open at once."""
        return self._settings.size

    @property
    def layers(self) -> list[str]:
        """What confines the kernels here, by name; waits for the first kernel to say so."""
        self._require_started()
        self._known.wait(self._settings.start_seconds)
        return list(self._layers)

    @contextmanager
    def session(self) -> Iterator["SandboxSession"]:
        """A kernel with nothing but the preloaded names in it; waits for a free place."""
        self._require_started()
        with self._places:
            session = SandboxSession(self, self._settings)
            try:
                yield session
            finally:
                session._end()

    def _require_started(self) -> None:
        if self._keeper is None or self._closing.is_set():
            raise RuntimeError("the sandbox is not running: call start() before, close() after")

    def _take(self) -> Kernel:
        """The kernel that has been ready longest, once it is."""
        fault: Exception | None = None
        for _ in range(ATTEMPTS):
            while True:
                self._require_started()
                try:
                    kernel = self._fresh.get(timeout=WATCH_SECONDS)
                    break
                except queue.Empty:
                    continue
            if isinstance(kernel, Exception):
                fault = kernel
                continue
            try:
                kernel.wait_ready()
            except KernelError as error:
                fault = error
                kernel.release()
                self._give_back(kernel)
            else:
                return kernel
        raise KernelError(str(fault)) from fault

    def _give_back(self, kernel: Kernel) -> None:
        """A kernel that is done with; another one is started in its place."""
        self._used.put(kernel)
        self._wake.set()

    def _keep(self) -> None:
        """Start, watch and discard kernels until the pool closes."""
        kernels: list[Kernel] = []
        wanted = self._settings.size + self._settings.spares
        try:
            while not self._closing.is_set():
                self._wake.clear()
                while not self._used.empty():
                    used = self._used.get()
                    kernels.remove(used)
                    used.discard()
                while len(kernels) < wanted and not self._closing.is_set():
                    try:
                        kernels.append(Kernel(self._settings))
                    except Exception as error:
                        # For whoever waits for a kernel; the next try comes a tick later.
                        if self._fresh.empty():
                            self._fresh.put(error)
                        break
                    self._fresh.put(kernels[-1])
                for kernel in kernels:
                    kernel.watch()
                    if not self._known.is_set() and (layers := kernel.layers()):
                        self._layers = layers
                        self._known.set()
                self._wake.wait(WATCH_SECONDS)
        finally:
            for kernel in kernels:
                kernel.discard()


class SandboxSession:
    """One kernel's namespace, block after block. For one thread at a time."""

    def __init__(self, pool: SandboxPool, settings: SandboxSettings):
        self._pool = pool
        self._settings = settings
        self._kernel: Kernel | None = pool._take()

    def run(self, code: str) -> ToolResult:
        """Run a block. Whatever it does, this returns; KernelError where no kernel starts."""
        if self._kernel is None:
            self._kernel = self._pool._take()
        begin = time.monotonic()
        pending, fault = self._kernel.run(code)
        seconds = time.monotonic() - begin
        parts = [pending.text]
        if fault is not None:
            lost = not self._kernel.alive()
            parts.append(f"[{fault}; {FRESH if lost else KEPT}]")
            if lost:
                self._end()
        ok = fault is None and pending.status == "ok"
        return ToolResult("\n".join(filter(None, parts)), ok, seconds, fault)

    def _end(self) -> None:
        if self._kernel is not None:
            self._kernel.release()
            self._pool._give_back(self._kernel)
            self._kernel = None
