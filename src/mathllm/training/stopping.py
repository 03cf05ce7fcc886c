"""When a run must end early: a time limit, Ctrl-C, SIGTERM."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType


class Stopping:
    """Says between two steps whether to stop now; signals wait until the step is done.

    `seconds` is the limit from now on, 0 for none. It is met ahead of time: by twice the
    longest stretch between two calls of `lap`, so that saving still fits. A second
    Ctrl-C stops at once, as KeyboardInterrupt. Handlers are set in the main thread only,
    and put back at the end.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.limit = clock() + seconds if seconds > 0 else None
        self.lapped = clock()
        self.longest = 0.0
        self.signal: int | None = None
        self._old: dict[int, object] = {}

    def __enter__(self) -> "Stopping":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._received)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _received(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def lap(self) -> None:
        """A stretch of work is done: a step, and what was saved or measured since the last."""
        now = self.clock()
        self.longest = max(self.longest, now - self.lapped)
        self.lapped = now

    @property
    def reason(self) -> str:
        """Why to stop now; empty: go on."""
        if self.signal is not None:
            return signal.Signals(self.signal).name
        if self.limit is not None and self.clock() + 2 * self.longest >= self.limit:
            return "time limit"
        return ""
