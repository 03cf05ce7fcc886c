"""Seconds for the next problem, so that a run ends in time."""

import math
import time
from collections.abc import Callable

from mathllm.errors import ParameterError

# Of the time that is left, what a problem beyond plan may take: a share, so that however
# many come, the end is never reached.
OVERTIME_SHARE = 0.1
# Of the margin, what is never handed out. It is for what no allowance foresees: deadlines
# seen too late, replies, a machine that stands still.
RESERVE_SHARE = 0.5


class Budget:
    """total − margin, shared over the problems still expected; surplus is handed on.

    Evenly; or, with `base_seconds`, a problem gets all that leaves so much (or the even share,
    if that is less) for each of the others, up to `ceiling_seconds`: those that come first may
    be hard. `hard_problems`: how many may take longer than the even share in that way; after
    them shares are even (None: any number).

    All times in seconds. Call `start` when the competition's clock starts, and for each
    problem `allowance` before and `finish` after it. A problem beyond the expected ones gets
    a tenth of what they left over. Nobody gets more than `ceiling_seconds`, or less than
    `floor_seconds`, which where the even share is less come out of the time of the others
    and the first half of the margin, and shrink as that runs out. The second half is never
    handed out: if all that passes beyond the allowances adds up to less than half of the
    margin, no number of problems makes the run late.
    """

    def __init__(
        self,
        total_seconds: float,
        margin_seconds: float,
        expected_problems: int,
        clock: Callable[[], float] = time.monotonic,
        floor_seconds: float = 1.0,
        ceiling_seconds: float | None = None,
        base_seconds: float | None = None,
        hard_problems: int | None = None,
    ):
        # Each is asked for what it should be, so that NaN is refused too.
        if not 0 < total_seconds < math.inf:
            raise ParameterError(f"total_seconds is {total_seconds}: give a number over 0")
        if not 0 <= margin_seconds < total_seconds:
            raise ParameterError(
                f"margin_seconds is {margin_seconds}: give at least 0 and less than "
                f"total_seconds ({total_seconds})"
            )
        if not expected_problems >= 1:
            raise ParameterError(f"expected_problems is {expected_problems}: give at least 1")
        if not 0 <= floor_seconds < math.inf:
            raise ParameterError(f"floor_seconds is {floor_seconds}: give at least 0")
        if ceiling_seconds is not None and not (0 < ceiling_seconds >= floor_seconds):
            raise ParameterError(
                f"ceiling_seconds is {ceiling_seconds}: give more than 0 and at least "
                f"floor_seconds ({floor_seconds}), or None"
            )
        if base_seconds is not None and not 0 <= base_seconds < math.inf:
            raise ParameterError(f"base_seconds is {base_seconds}: give at least 0, or None")
        if hard_problems is not None and not (hard_problems >= 0 and base_seconds is not None):
            raise ParameterError(
                f"hard_problems is {hard_problems}: give at least 0, and base_seconds with it"
            )
        self.base_seconds = base_seconds
        self.hard_problems = math.inf if hard_problems is None else hard_problems
        self._hard = 0  # problems so far that took longer than the even share
        self._asked: tuple[float, float] | None = None  # the clock and the even share, at the last
        self.total_seconds = total_seconds
        self.margin_seconds = margin_seconds
        self.expected_problems = expected_problems
        self.floor_seconds = floor_seconds
        self.ceiling_seconds = math.inf if ceiling_seconds is None else ceiling_seconds
        self.finished = 0
        self._clock = clock
        self._started: float | None = None

    def start(self, elapsed_seconds: float = 0.0) -> None:
        """Starts the clock, `elapsed_seconds` ago; a second call changes nothing."""
        if self._started is None:
            self._started = self._clock() - elapsed_seconds

    def allowance(self) -> float:
        """Seconds for the next problem, at least 0. Starts the clock if `start` did not."""
        self.start()
        left = self.left_seconds
        remaining = self.expected_problems - self.finished
        even = share = left / remaining if remaining > 0 else left * OVERTIME_SHARE
        if self.base_seconds is not None and remaining > 0 and self._hard < self.hard_problems:
            share = left - min(self.base_seconds, even) * (remaining - 1)
        self._asked = (self._clock(), even)
        to_the_reserve = max(0.0, left + self.margin_seconds * (1 - RESERVE_SHARE))
        floor = min(self.floor_seconds, to_the_reserve * OVERTIME_SHARE)
        return min(max(share, floor), self.ceiling_seconds)

    def finish(self) -> None:
        """Counts one problem as done."""
        self.finished += 1
        if self._asked is not None:
            began, even = self._asked
            self._hard += self._clock() - began > even
            self._asked = None

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
