"""What a rehearsal found: the score, a table for people, and the same as a text file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mathllm.competition.kernel.journal import votes_text
from mathllm.settings import penalised_score

NONE = "-"  # in the table, where there is nothing to show


@dataclass
class PlayedRun:
    """One run of the rehearsal, the commit run as number 0.

    `fault` says why it failed, None if it did not.
    `package` is the folder that mathllm came from, `answers` the journal's by problem id,
    `submission` and `submitted` what the gateway wrote. `listening_seconds` count from the
    start of the kernel's process.
    """

    number: int
    name: str
    folder: Path
    fault: str | None = None
    package: str | None = None
    listening_seconds: float | None = None
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    budget_used: float = 0.0
    submission: Path | None = None
    submitted: dict[str, int] = field(default_factory=dict)

    @property
    def notebook(self) -> Path:
        """Where the executed notebook stands."""
        return self.folder / "submission.ipynb"


def right(truth: Mapping[str, int], runs: Sequence[PlayedRun]) -> list[list[bool]]:
    """For each problem with a known answer, which of the runs gave it."""
    return [[run.submitted.get(id_) == answer for run in runs] for id_, answer in truth.items()]


def _seconds(run: PlayedRun, id_: str) -> float | None:
    entry = run.answers.get(id_)
    return entry["seconds"] if entry else None


def _row(id_: str, truth: Mapping[str, int], runs: Sequence[PlayedRun]) -> list[str]:
    given = [str(run.submitted.get(id_, NONE)) for run in runs]
    votes = [votes_text(run.answers[id_]) if id_ in run.answers else NONE for run in runs]
    seconds = [s for run in runs if (s := _seconds(run, id_)) is not None]
    agreeing = sum(run.submitted.get(id_) == truth.get(id_, -1) for run in runs)
    return [
        id_,
        *given,
        str(truth.get(id_, NONE)),
        f"{agreeing} of {len(runs)}" if id_ in truth else NONE,
        "  ".join(votes),
        f"{sum(seconds) / len(seconds):.1f}" if seconds else NONE,
    ]


def table(ids: Sequence[str], truth: Mapping[str, int], runs: Sequence[PlayedRun]) -> str:
    """One line for each problem; votes are those for the answer given, of samples drawn."""
    names = [f"run {number}" for number in range(1, len(runs) + 1)]
    rows = [["problem", *names, "truth", "right", "votes", "seconds"]]
    rows += [_row(id_, truth, runs) for id_ in ids]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def conclusion(
    ids: Sequence[str], truth: Mapping[str, int], commit: PlayedRun, reruns: Sequence[PlayedRun]
) -> str:
    """The lines under the table."""
    lines = [_score_line(truth, reruns)] if truth else ["score      unknown: no truth in the file"]
    differing = [id_ for id_ in ids if len({run.submitted.get(id_) for run in reruns}) > 1]
    which = f"; others: {', '.join(differing[:8])}" if differing else ""
    lines.append(
        f"agreement  {len(ids) - len(differing)} of {len(ids)} answers the same in all "
        f"reruns{which}"
    )
    for run in (commit, *reruns):
        lost = [id_ for id_, entry in run.answers.items() if entry["fault"]]
        if lost:
            cause = run.answers[lost[0]]["fault"]
            lines.append(f"faults     {run.name}: {len(lost)} answered with 0, first {cause}")
    budget = ", ".join(f"{run.budget_used:.2%}" for run in reruns)
    lines.append(f"time       {budget} of the time budget used by the reruns")
    listening = ", ".join(
        NONE if run.listening_seconds is None else f"{run.listening_seconds:.1f} s"
        for run in (commit, *reruns)
    )
    lines.append(f"listening  {listening} after the start of the kernel's process")
    return "\n".join(lines)


def _score_line(truth: Mapping[str, int], reruns: Sequence[PlayedRun]) -> str:
    table = right(truth, reruns)
    counts = [sum(problem) for problem in table]
    split = ", ".join(
        f"{counts.count(n)} {'right in' if n == len(reruns) else 'in'} {n}"
        for n in range(len(reruns), -1, -1)
    )
    return (
        f"score      {penalised_score(table):g} of {len(truth)} (of {len(reruns)} reruns: {split})"
    )
