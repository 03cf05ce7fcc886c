"""Attempts that were drawn before, from files: a kernel's attempts.parquet, or the results of an
evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mathllm.answers.reading import integer_value
from mathllm.errors import ParameterError, ResultsError
from mathllm.evaluation.results import RESULTS
from mathllm.settings import CURRENT
from mathllm.solving.race import Drawn
from mathllm.solving.records import ATTEMPTS, Rules
from mathllm.solving.voting import Ballot
from mathllm.wording import brief, shown

CUT = ("cancelled", "deadline", "running")  # ends that came from outside


@dataclass(frozen=True)
class Problem:
    """What was drawn for one problem, in the order of samples; its answer, None if unknown."""

    id: str
    drawn: list[Drawn]
    truth: int | None


def read_drawn(
    paths: Sequence[Path], truth: Mapping[str, int] | None = None
) -> tuple[Rules, list[Problem]]:
    """The first file's rules, and the problems of all files, in the order of their runs.

    `truth` has answers by id; an evaluation's result file brings its own. Raises ParameterError
    for no file, two files with one problem, and a truth that names none of the problems;
    ResultsError for a file that is none.
    """
    if not paths:
        raise ParameterError("no files: give attempts.parquet of a run, or an evaluation's results")
    rules: Rules | None = None
    problems: dict[str, Problem] = {}
    for path in paths:
        own, found = _read(path, truth or {})
        rules = rules or own
        for problem in found:
            if problem.id in problems:
                raise ParameterError(
                    f"{path}: problem {shown(problem.id)} is in an earlier file, too: give "
                    "files of different problems"
                )
            problems[problem.id] = problem
    if not problems:
        raise ParameterError(f"{paths[0]} has no attempts: let a run answer at least one problem")
    if truth and not any(problem.truth is not None for problem in problems.values()):
        raise ParameterError(
            f"the truth names none of the problems, such as {shown(next(iter(problems)))}: "
            "give the file that they came from"
        )
    return rules or Rules(), list(problems.values())


def _read(path: Path, truth: Mapping[str, int]) -> tuple[Rules, list[Problem]]:
    if _is_results(path):
        header, rows = RESULTS.read(path)
        unknown = pl.col("id").is_null() | pl.col("seconds").fill_nan(None).is_null()
        if rows.select(unknown.any()).item():
            raise ResultsError(f"{path} has rows without id or seconds: {RESULTS.mend}")
        try:
            rules = Rules(n_samples=int(dict(header.settings).get("n_samples", 1)))
        except (ParameterError, TypeError, ValueError) as fault:
            raise ResultsError(f"{path}: its header's settings are damaged ({fault})") from None
        return rules, _of_results(rows)
    rules, rows = ATTEMPTS.read(path)
    columns = ("mean_entropy", "tail_entropy", "confidence", "group_entropy")
    ordered = rows.sort("place", "sample")
    grouped: dict[str, list[Drawn]] = {}
    for row in ordered.iter_rows(named=True):
        boxes = [(b["seconds"] - row["begun"], b["answer"]) for b in row["boxes"]]
        grouped.setdefault(row["id"], []).append(
            Drawn(
                _ballot(row["answer"], *(row[name] for name in columns)),
                max(row["ended"] - row["begun"], 0.0),
                boxes,
                row["end"] in CUT,
            )
        )
    return rules, [Problem(id_, drawn, truth.get(id_)) for id_, drawn in grouped.items()]


def _is_results(path: Path) -> bool:
    if path.is_dir():
        raise ResultsError(f"{path} is a folder: name the files in it, as {path}/*.parquet")
    try:
        return path.is_file() and RESULTS.key in pl.read_parquet_metadata(path)
    except (pl.exceptions.PolarsError, OSError) as fault:
        raise ResultsError(
            f"{path} cannot be read ({brief(fault, 200)}): give a parquet file of attempts"
        ) from fault


def _of_results(rows: pl.DataFrame) -> list[Problem]:
    """Those of an evaluation whose truth is an integer that the competition could ask for."""
    columns = ("entropy", "tail_entropy", "confidence", "group_entropy")
    found: dict[str, Problem] = {}
    for row in rows.iter_rows(named=True):
        if (truth := _integer(row["truth"])) is None:
            continue
        ballot = _ballot(_integer(row["answer"]), *(row[name] for name in columns))
        problem = found.setdefault(row["id"], Problem(row["id"], [], truth))
        problem.drawn.append(Drawn(ballot, row["seconds"]))
    return list(found.values())


def _integer(text: str | None) -> int | None:
    value = None if text is None else integer_value(text)
    fits = value is not None and CURRENT.answer_min <= value <= CURRENT.answer_max
    return value if fits else None


def _ballot(
    answer: int | None,
    mean: float | None,
    tail: float | None,
    sure: float | None,
    group: float | None,
) -> Ballot:
    numbers = (value if value is not None and value >= 0 else 0.0 for value in (mean, tail, group))
    mean, tail, group = numbers
    return Ballot(answer, mean, tail, sure, group)
