"""A run's attempts as a file beside its journal: parquet, a row for each.

`build.py replay` plays rules to stop, to vote and to share time over them. The rules that they were
drawn by are the file's header.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mathllm.errors import ParameterError, ResultsError
from mathllm.solving.budget import Budget
from mathllm.solving.outcomes import Attempt
from mathllm.solving.solution import SolverSettings
from mathllm.table_files import TableFormat

NAME = "attempts.parquet"
# Seconds count from when the problem was asked. `problem` is a digest of its text, `place` counts
# the run's problems from 0. `answer` is null without one; `arrival` is when it was first put to
# the vote. Entropies are nats a token (see measures), `end` is the finish reason.
SCHEMA = {
    "id": pl.String,
    "problem": pl.String,
    "place": pl.Int64,
    "sample": pl.Int64,
    "answer": pl.Int64,
    "arrival": pl.Float64,
    "begun": pl.Float64,
    "ended": pl.Float64,
    "boxes": pl.List(pl.Struct({"seconds": pl.Float64, "answer": pl.Int64})),
    "tokens": pl.Int64,
    "turns": pl.Int64,
    "calls": pl.Int64,
    "mean_entropy": pl.Float64,
    "tail_entropy": pl.Float64,
    "group_entropy": pl.Float64,
    "confidence": pl.Float64,
    "end": pl.String,
}


@dataclass(frozen=True)
class Rules:
    """What a run's attempts were drawn by: those of its SolverSettings that say how many there
    are and when they end, its `sessions` for programs (0: none), and how time was shared.

    Raises ParameterError for values out of their range.
    """

    n_samples: int = 4
    parallel: int = 0
    sessions: int = 0
    voting: str = "majority"
    agreement: int = 0
    lead: float = 0.0
    total_seconds: float | None = None
    margin_seconds: float = 0.0
    expected_problems: int = 50
    base_seconds: float | None = None
    ceiling_seconds: float | None = None
    hard_problems: int | None = None

    def __post_init__(self) -> None:
        self.solver()
        self.budget(time.monotonic)
        if self.sessions < 0:
            raise ParameterError(f"sessions is {self.sessions}: give at least 0")

    def solver(self) -> SolverSettings:
        """Those to vote and to stop by."""
        names = ("n_samples", "parallel", "voting", "agreement", "lead")
        return SolverSettings(**{name: getattr(self, name) for name in names})

    def budget(self, clock: Callable[[], float]) -> Budget | None:
        """How time is shared by this clock, None where it is no limit."""
        if self.total_seconds is None:
            return None
        return Budget(
            self.total_seconds,
            self.margin_seconds,
            self.expected_problems,
            clock,
            ceiling_seconds=self.ceiling_seconds,
            base_seconds=self.base_seconds,
            hard_problems=self.hard_problems,
        )

    @property
    def at_once(self) -> int:
        """How many attempts run side by side, 0 for all."""
        return min((limit for limit in (self.parallel, self.sessions) if limit), default=0)


ATTEMPTS = TableFormat(
    "mathllm_attempts",
    version=1,
    header=Rules,
    schema=SCHEMA,
    kind=f"file of attempts, {NAME}",
    mend="give one that a kernel of this version wrote beside its journal",
)


def row_of(name: str, digest: str, place: int, sample: int, attempt: Attempt) -> dict[str, Any]:
    """One attempt's."""
    first = (seconds for seconds, answer in attempt.boxes if answer == attempt.answer)
    arrival = None if attempt.answer is None else next(first, attempt.ended)
    same = (
        *("answer", "begun", "ended", "tokens", "turns", "calls"),
        *("mean_entropy", "tail_entropy", "group_entropy", "confidence"),
    )
    return {
        "id": name,
        "problem": digest,
        "place": place,
        "sample": sample,
        "arrival": arrival,
        "boxes": [{"seconds": seconds, "answer": answer} for seconds, answer in attempt.boxes],
        "end": attempt.finish_reason,
        **{name: getattr(attempt, name) for name in same},
    }


class AttemptsFile:
    """Grows by problems; what is on the disk is always whole. `resume`: from what is there.

    `add` raises OSError where it cannot be written.
    """

    def __init__(self, path: Path, rules: Rules, resume: bool = False) -> None:
        self.path, self.rules = path, rules
        self._rows = pl.DataFrame(schema=SCHEMA)
        if resume:
            with suppress(ResultsError):  # damaged, or never written
                self._rows = ATTEMPTS.read(path)[1]

    def add(self, name: str, digest: str, attempts: Sequence[Attempt]) -> None:
        """All attempts at the next problem."""
        last = self._rows["place"].max()
        place = 0 if last is None else last + 1
        rows = [row_of(name, digest, place, n, attempt) for n, attempt in enumerate(attempts)]
        self._rows = pl.concat([self._rows, pl.DataFrame(rows, schema=SCHEMA)])
        ATTEMPTS.write(self.path, self.rules, self._rows)
