"""Which rows are trained on, which are kept to measure on, and that the two do not meet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mathllm.data.arithmetic import generate
from mathllm.data.decontaminate import Contamination, Reserved, decontaminate
from mathllm.data.sources import (
    FILE,
    SOURCES,
    Filters,
    check_source,
    drawn,
    drop_report,
    filtered,
    no_rows,
    scan_problems,
)
from mathllm.data.tables import collected
from mathllm.errors import DataError, ParameterError
from mathllm.parameters import parse_list

GENERATED = "arithmetic"


@dataclass(frozen=True)
class Selection:
    """Rows to train on, lazy, and rows held out; what was dropped on the way, and why."""

    train: pl.LazyFrame
    held_out: pl.DataFrame
    dropped: Mapping[str, int]
    contamination: Contamination


def select_rows(
    dataset: str,
    reserved: Reserved,
    num_samples: int,
    held_out: int,
    seed: int,
    filters: Filters | None = None,
    offset: int = 0,
    path: Path | str | None = None,
    columns: Mapping[str, str] | None = None,
    roots: Sequence[Path] = (),
    never: Sequence[str] = (),
) -> Selection:
    """Rows of a data set (or "arithmetic", generated), `held_out` of them kept apart.

    `num_samples` 0 takes all there are. No training row is among `reserved`, or shares a
    long run of words with a held-out row or with a statement of `never`. Raises DataError
    when nothing is left, and ParameterError for a number of rows that cannot be.
    """
    filters = filters or Filters()
    check_source(dataset, [GENERATED, *SOURCES, FILE])
    if held_out < 1:
        raise ParameterError(f"held_out is {held_out}: at least 1 row is needed to measure on")
    if dataset == GENERATED:
        if num_samples < 1:
            raise ParameterError(f"num_samples is {num_samples}: generated rows need a number")
        levels = parse_list("levels", ",".join(filters.levels), int)
        train = generate("train", num_samples, seed, filters.subjects, levels, reserved)
        reserved.check(train["problem"])
        tests = generate("test", held_out, seed, filters.subjects)
        # Its splits are disjoint by their operands; statements share their few wordings.
        return Selection(train.lazy(), tests, {"read": len(train)}, Contamination(len(train)))
    rows = scan_problems(dataset, "train", path, columns, roots)
    dropped = drop_report(rows, filters)
    if dropped["left"] <= offset + held_out:
        raise DataError(no_rows(dropped, offset + held_out))
    tests, train = drawn(filtered(rows, filters), [held_out, num_samples], offset, seed)
    tests = collected(tests)
    clean, contamination = decontaminate(train, [*never, *tests["problem"]])
    free = ~pl.col("problem").map_elements(reserved.holds, return_dtype=pl.Boolean)
    return Selection(clean.filter(free), tests, dropped, contamination)
