"""Seconds for the next problem, so that a run of unknown length ends in time.

Knows a clock and a count of problems. Knows nothing of what is done with the time.
"""

import time
from collections.abc import Callable

from mathllm.errors import ParameterError

# Of the time that is left, what a problem beyond plan may take: a share, so that however
# many come, the end is never reached.
OVERTIME_SHARE = 0.1


class Budget:
    """total − margin, shared evenly over the problems still expected; surplus is handed on.

    All times in seconds. Call `start` when the competition's clock starts, and for each
    problem `allowance` before and `finish` after it. A problem beyond the expected ones gets
    a tenth of what they left over, or `floor_seconds` if that is more. Where their time is
    used up the floor comes out of the margin, and shrinks as the very end comes near.
    """

    def __init__(
        self,
        total_seconds: float,
        margin_seconds: float,
        expected_problems: int,
        clock: Callable[[], float] = time.monotonic,
        floor_seconds: float = 1.0,
    ):
        if total_seconds <= 0:
            raise ParameterError(f"total_seconds is {total_seconds}: give more than 0")
        if not 0 <= margin_seconds < total_seconds:
            raise ParameterError(
                f"margin_seconds is {margin_seconds}: give at least 0 and less than "
                f"total_seconds ({total_seconds})"
            )
        if expected_problems < 1:
            raise ParameterError(f"expected_problems is {expected_problems}: give at least 1")
        self.total_seconds = total_seconds
        self.margin_seconds = margin_seconds
        self.expected_problems = expected_problems
        self.floor_seconds = floor_seconds
        self.finished = 0
        self._clock = clock
        self._started: float | None = None

    def start(self) -> None:
        """Starts the clock; a second call changes nothing."""
        if self._started is None:
            self._started = self._clock()

    def allowance(self) -> float:
        """Seconds for the next problem, at least 0. Starts the clock if `start` did not."""
        self.start()
        left = self.left_seconds
        remaining = self.expected_problems - self.finished
        if remaining > 0 and left > 0:
            return left / remaining
        to_the_end = max(0.0, left + self.margin_seconds)
        floor = min(self.floor_seconds, to_the_end * OVERTIME_SHARE)
        return max(floor, left * OVERTIME_SHARE)

    def finish(self) -> None:
        """Counts one problem as done."""
        self.finished += 1

    @property
    def elapsed_seconds(self) -> float:
        return 0.0 if self._started is None else self._clock() - self._started

    @property
    def left_seconds(self) -> float:
        """Until the margin begins; negative within it."""
        return self.total_seconds - self.margin_seconds - self.elapsed_seconds

    @property
    def used_share(self) -> float:
        """Of total − margin, what has passed since the start; above 1 within the margin."""
        return self.elapsed_seconds / (self.total_seconds - self.margin_seconds)
