"""What a pushed kernel does: the push itself, and a run as it is to go.

Knows two runs to begin with, one that ends well and one that does not. Knows nothing of
how a run is shown while it goes.
"""

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from standin.state import Version

COMPLETE, ERROR = "COMPLETE", "ERROR"


@dataclass(frozen=True)
class Push:
    """A kernel's version as Kaggle understood it; `request` is what the client sent."""

    ref: str
    version: int
    title: str
    text: str
    datasets: dict[str, "Version"]  # by OWNER/SLUG: what the run sees under /kaggle/input
    competitions: list[str]
    request: dict[str, Any]


@dataclass
class Run:
    """`lines` are (second, text) of the log, counted from the run's begin; so is `seconds`,
    its end, by default right after the last line. `queued` seconds pass before all of it."""

    lines: list[tuple[float, str]] = field(default_factory=list)
    outputs: dict[str, bytes] = field(default_factory=dict, repr=False)
    status: str = COMPLETE
    failure_message: str = ""
    seconds: float | None = None
    queued: float = 0.0

    @property
    def ends(self) -> float:
        """Seconds from the push to the run's end."""
        last = max((second for second, _ in self.lines), default=0.0)
        return self.queued + (last if self.seconds is None else self.seconds)


def succeeding(push: Push) -> Run:
    """Three lines and a submission file."""
    import polars as pl

    file = io.BytesIO()
    pl.DataFrame({"id": ["a", "b", "c"], "answer": [1, 2, 3]}).write_parquet(file)
    lines = [(float(i), f"{push.ref} version {push.version}: {i + 1}/3\n") for i in range(3)]
    return Run(lines, {"submission.parquet": file.getvalue()})


def failing(push: Push) -> Run:
    """One line, no output, and a message."""
    return Run([(1.0, f"{push.ref}: broken\n")], {}, ERROR, "Notebook Threw Exception")
