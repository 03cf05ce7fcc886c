"""Which rows are trained on, which are kept to measure on, and that the two do not meet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import polars as pl

from mathllm.data.decontaminate import Contamination, Reserved, decontaminate
from mathllm.data.generated import GENERATED, generate
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
from mathllm.wording import shown


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
    """Rows of a data set, or of generated ones, `held_out` of them kept apart.

    Of generated sets, and of no others, `dataset` may name several, with commas between: each
    gives as many.

    `num_samples` 0 takes all there are. No training row is among `reserved`, or shares a
    long run of words with a held-out row or with a statement of `never`. Raises DataError
    when nothing is left, and ParameterError for a number of rows that cannot be.
    """
    filters = filters or Filters()
    names = parse_list("dataset", dataset)
    for name in names or [dataset]:
        check_source(name, [*GENERATED, *SOURCES, FILE])
    if held_out < 1:
        raise ParameterError(f"held_out is {held_out}: at least 1 row is needed to measure on")
    if set(names) <= set(GENERATED):
        return _generated(names, reserved, num_samples, held_out, seed, filters)
    if len(names) > 1:
        raise ParameterError(
            f"dataset is {shown(dataset)}: only generated sets ({', '.join(GENERATED)}) go together"
        )
    rows = scan_problems(dataset, "train", path, columns, roots)
    dropped = drop_report(rows, filters)
    if dropped["left"] <= offset + held_out:
        raise DataError(no_rows(dropped, offset + held_out))
    tests, train = drawn(filtered(rows, filters), [held_out, num_samples], offset, seed)
    tests = collected(tests)
    clean, contamination = decontaminate(train, [*never, *tests["problem"]])
    free = ~pl.col("problem").map_elements(reserved.holds, return_dtype=pl.Boolean)
    return Selection(clean.filter(free), tests, dropped, contamination)


def _generated(
    names: Sequence[str],
    reserved: Reserved,
    num_samples: int,
    held_out: int,
    seed: int,
    filters: Filters,
) -> Selection:
    """As many rows of each set. Its splits are disjoint by operands or structure; statements share
    their few wordings."""
    if num_samples < len(names) or held_out < len(names):
        raise ParameterError(
            f"num_samples is {num_samples}, held_out {held_out}: generated rows need a number, at "
            f"least {len(names)}"
        )
    levels = parse_list("levels", ",".join(filters.levels), int)

    def made(split: str, count: int, never: Reserved | None = None) -> pl.DataFrame:
        ends = [n * count // len(names) for n in range(len(names) + 1)]
        counts = [end - begin for begin, end in pairwise(ends)]
        return pl.concat(
            [
                generate(name, split, count, seed, filters.subjects, levels, never)
                for name, count in zip(names, counts, strict=True)
            ],
            how="diagonal",
        )

    train = made("train", num_samples, reserved)
    reserved.check(train["problem"])
    tests = made("test", held_out)
    return Selection(train.lazy(), tests, {"read": len(train)}, Contamination(len(train)))
