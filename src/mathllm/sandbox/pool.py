"""Kernels ready for sessions, one fresh kernel for each session, spares for the next.

Nothing of a session survives: its kernel is killed and its folder deleted.
"""

import atexit
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mathllm.sandbox.keeper import WATCH_SECONDS, Keeper
from mathllm.sandbox.kernel import Kernel, KernelError
from mathllm.sandbox.result import SandboxSettings, ToolResult

KEEPERS = 10  # that a pool starts in its life, should one end by itself
FRESH = "a new kernel takes over: all variables are gone"
KEPT = "the block was interrupted; variables are kept"
CANCELLED = "its session was cancelled"
NO_TIME = "no time was left to run the block"


class SandboxPool:
    """`settings.size` sessions at a time, each with a kernel of its own.

    Use it in a `with`, or call `start` and `close`. Sessions may be taken from any thread.
    """

    def __init__(self, settings: SandboxSettings | None = None):
        self._settings = settings or SandboxSettings()
        self._places = threading.BoundedSemaphore(self._settings.size)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._keepers: list[Keeper] = []  # the last one is in charge

    def __enter__(self) -> "SandboxPool":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the kernels and return at once; the first sessions wait for theirs."""
        with self._lock:
            if not self._keepers:
                self._add_keeper()
                atexit.register(self.close)

    def close(self) -> None:
        """End all kernels, those that sessions still hold too."""
        with self._lock:
            self._closing.set()
        for keeper in self._keepers[-1:]:
            keeper.close()
            atexit.unregister(self.close)

    @property
    def size(self) -> int:
        """How many sessions can be open at once."""
        return self._settings.size

    @property
    def layers(self) -> list[str]:
        """What confines the kernels here, by name; waits for the first kernel to say so."""
        return self._keeper().layers(time.monotonic() + self._settings.start_seconds)

    @contextmanager
    def session(self, deadline: float | None = None) -> Iterator["SandboxSession"]:
        """A kernel with nothing but the preloaded names in it; waits for a free place.

        `deadline` is a time.monotonic(); without one, neither the place nor the kernel is
        waited for longer than a kernel may take to start. KernelError where it comes to that.
        """
        self._take_place(deadline)
        try:
            session = SandboxSession(self, self._settings, deadline)
            try:
                yield session
            finally:
                session._end()
        finally:
            self._places.release()

    def _take_place(self, deadline: float | None) -> None:
        begin = time.monotonic()
        limit = begin + self._settings.start_seconds if deadline is None else deadline
        while True:
            self._keeper()
            left = limit - time.monotonic()
            if self._places.acquire(timeout=min(max(left, 0), WATCH_SECONDS)):
                return
            if left <= 0:
                raise KernelError(
                    f"no place in the sandbox became free within {max(limit - begin, 0):.3g} s: "
                    f"{self.size} sessions are open"
                )

    def _take(self, deadline: float | None) -> tuple[Keeper, Kernel]:
        """A kernel that is ready, and whom to give it back to."""
        limit = time.monotonic() + self._settings.start_seconds
        limit = limit if deadline is None else min(limit, deadline)
        while True:
            keeper = self._keeper()
            if (kernel := keeper.take(limit)) is not None:
                return keeper, kernel

    def _keeper(self) -> Keeper:
        """Who has kernels; another one where the last has ended, though it should not."""
        if not self._keepers or self._closing.is_set():
            raise RuntimeError("the sandbox is not running: call start() before, close() after")
        with self._lock:
            if not self._keepers[-1].alive() and not self._closing.is_set():
                if len(self._keepers) == KEEPERS:
                    raise KernelError(f"the sandbox ended by itself {KEEPERS} times")
                self._add_keeper()
            return self._keepers[-1]

    def _add_keeper(self) -> None:
        keeper = Keeper(self._settings)
        keeper.start()
        self._keepers.append(keeper)


class SandboxSession:
    """One kernel's namespace, block after block. For one thread at a time."""

    def __init__(self, pool: SandboxPool, settings: SandboxSettings, deadline: float | None):
        self._pool = pool
        self._settings = settings
        self._keeper: Keeper | None = None
        self._kernel: Kernel | None = None
        self._cancelled = False
        self._take(deadline)

    def cancel(self) -> None:
        """End what runs, now, and let no block run any more. From any thread."""
        self._cancelled = True
        if (kernel := self._kernel) is not None:
            kernel.end(CANCELLED)

    def run(self, code: str, deadline: float | None = None) -> ToolResult:
        """Run a block, no longer than until `deadline`, a time.monotonic().

        Whatever it does, this returns; KernelError where no kernel starts.
        """
        begin = time.monotonic()
        if self._cancelled:
            return ToolResult(f"[{CANCELLED}]", False, 0.0, CANCELLED)
        if deadline is not None and deadline <= begin:
            return ToolResult(f"[{NO_TIME}]", False, 0.0, NO_TIME)
        if self._kernel is None:
            self._take(deadline)
            begin = time.monotonic()
        pending, fault = self._kernel.run(code, deadline)
        seconds = time.monotonic() - begin
        parts = [pending.text]
        if fault is not None:
            lost = not self._kernel.alive()
            parts.append(f"[{fault}; {FRESH if lost else KEPT}]")
            if lost:
                self._end()
        ok = fault is None and pending.status == "ok"
        return ToolResult("\n".join(filter(None, parts)), ok, seconds, fault)

    def _take(self, deadline: float | None) -> None:
        self._keeper, self._kernel = self._pool._take(deadline)

    def _end(self) -> None:
        if self._kernel is not None:
            kernel, self._kernel = self._kernel, None
            self._keeper.give_back(kernel)
