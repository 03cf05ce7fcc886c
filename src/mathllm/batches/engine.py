"""Where runs run: what the driver of a batch asks of an engine, and no more.

`submit` takes a run whose folder is ready (place.begin); some time later `wait` gives the
run's id back, and then its folder holds all that it left and its status says how it ended.
"""

from typing import Protocol

from mathllm.batches.runs import Run


class Engine(Protocol):
    """`slots` runs are submitted at once, at most."""

    name: str
    slots: int

    def submit(self, run: Run) -> None:
        """Start a run, or put it in line."""

    def wait(self, seconds: float) -> list[str]:
        """Ids of runs that have ended since; waits up to `seconds` for the first."""

    def close(self) -> None:
        """End what still runs, and let go of everything."""
