"""Problems with known answers, from the named sets or any file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from mathllm import paths
from mathllm.data.generated import GENERATED, generate
from mathllm.data.problems import read_problems
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
from mathllm.data.tables import collected, format_of
from mathllm.errors import DataError, ParameterError
from mathllm.parameters import parse_list
from mathllm.wording import shown

MATH500, AIMO = "math500", "aimo"
SETS = (*GENERATED, *SOURCES, MATH500, AIMO, FILE)
HELD_OUT = "held_out"
REFERENCE = "reference.csv"  # the competition's public problems with answers
# Where each source's answer comes from, for whoever has none.
_TRUTHS = {
    "gsm8k": "'answer' after ####",
    "math": "'answer', or the last box in 'solution'",
    "numina": "'answer', or the last box in 'solution'",
}


@dataclass(frozen=True)
class ProblemSet:
    """`rows`: id, problem, truth, level, subject, all text, each id and statement once.

    `ungraded` rows were left out since they have no answer to grade by.
    """

    name: str
    split: str
    rows: pl.DataFrame
    ungraded: int = 0

    @property
    def digest(self) -> str:
        """Of ids, statements and truths: the same for the same problems."""
        texts = self.rows.select("id", "problem", "truth").rows()
        return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def load_set(
    dataset: str,
    split: str = "test",
    path: Path | str | None = None,
    columns: Mapping[str, str] | None = None,
    roots: Sequence[Path] = (),
    filters: Filters | None = None,
    num_samples: int = 0,
    offset: int = 0,
    seed: int = 0,
) -> ProblemSet:
    """`num_samples` problems (0: all) with answers, drawn from those after the first `offset`.

    Found as in training: `path`, else folders under `roots`, else the hub. "aimo" is the
    competition's reference.csv; what is generated comes from the seed, with `filters`' subjects
    as families and levels as difficulties or hops. The hub's "math" has MATH-500 as its
    test split (the other 4,500 are in its train split), so "math500" is that there. Split
    "held_out": rows that training kept apart, if seed, offset, filters and data are those
    of the training, and `num_samples` no more than its held_out.

    Raises DataError where nothing is found, is left, or has an answer, and where an id comes
    twice; ParameterError for a number of problems that cannot be.
    """
    filters = filters or Filters()
    check_source(dataset, SETS)
    if num_samples < 0 or offset < 0:
        raise ParameterError(
            f"num_samples is {num_samples}, offset {offset}: give at least 0 (0 samples: all)"
        )
    if split == HELD_OUT and (num_samples == 0 or dataset in (*GENERATED, MATH500, AIMO)):
        raise ParameterError(
            f"split is {HELD_OUT}: give num_samples, at most the training's held_out, and a "
            "dataset that was read for training"
        )
    if dataset in GENERATED:
        return _generated(dataset, split, filters, num_samples, offset, seed)
    rows = _rows(dataset, split, path, columns, roots)
    # Training draws from rows that have a solution too, so its held-out rows are drawn so.
    filters = replace(filters, complete=split == HELD_OUT)
    graded = filtered(rows, filters).filter(pl.col("answer").str.strip_chars() != "")
    report = drop_report(rows, filters)
    (chosen,) = drawn(graded, [num_samples], offset, seed)
    table = collected(chosen)
    kept = collected(graded.select(pl.len())).item()
    if report["left"] and not kept:
        raise DataError(
            f"{path or dataset}: no row has an answer to grade by; {dataset} takes it from "
            f"{_truth_column(dataset, columns)}"
        )
    if table.is_empty():
        raise DataError(no_rows(report, offset))
    return _checked(dataset, split, table, report["left"] - kept)


def _checked(dataset: str, split: str, table: pl.DataFrame, ungraded: int = 0) -> ProblemSet:
    if twice := table.filter(pl.col("id").is_duplicated())["id"].to_list():
        raise DataError(f"id {shown(twice[0])} comes twice: every problem needs an id of its own")
    rows = table.unique("problem", keep="first", maintain_order=True).select(
        *(pl.col(name).cast(pl.String) for name in ("id", "problem")),
        pl.col("answer").cast(pl.String).alias("truth"),
        *(pl.col(name).cast(pl.String) for name in ("level", "subject")),
    )
    return ProblemSet(dataset, split, rows, ungraded)


def _generated(
    dataset: str, split: str, filters: Filters, count: int, offset: int, seed: int
) -> ProblemSet:
    levels = parse_list("levels", ",".join(filters.levels), int)
    table = generate(dataset, split, count and count + offset, seed, filters.subjects, levels)
    return _checked(dataset, split, table[offset:])


def _truth_column(dataset: str, columns: Mapping[str, str] | None) -> str:
    if dataset != FILE:
        return _TRUTHS["math" if dataset == MATH500 else dataset]
    columns = columns or {}
    named = [shown(columns[name]) for name in ("answer", "solution") if name in columns]
    if not named:
        return "no column: add 'answer: NAME' or 'solution: NAME' to columns"
    return named[0] if "answer" in columns else f"the last box in {named[0]}"


def _rows(
    dataset: str,
    split: str,
    path: Path | str | None,
    columns: Mapping[str, str] | None,
    roots: Sequence[Path],
) -> pl.LazyFrame:
    if dataset == AIMO:
        return _reference(path, roots)
    if dataset == MATH500:
        found, of = _math500(path, roots)
        rows = scan_problems("math", of, found)
        # One id for a problem, wherever the file lies: its samples' seeds depend on it.
        row = pl.col("id").str.extract(r"(\d+)$")
        return rows.with_columns(id=pl.lit(f"{MATH500}-") + row)
    return scan_problems(
        dataset, "train" if split == HELD_OUT else split, path, columns or None, roots
    )


def _math500(path: Path | str | None, roots: Sequence[Path]) -> tuple[Path | str | None, str]:
    """File or folder, and which split to look for there; None is the hub's."""
    if path is not None:
        named = Path(path).is_dir() and any(Path(path).rglob(f"{MATH500}*"))
        return path, MATH500 if named else "test"
    for root in roots:
        for place in paths.datasets(root, inside=True):
            if place.is_file() and place.name.split(".")[0] == MATH500 and format_of(place):
                return place, MATH500
            if place.is_dir() and MATH500 in place.name.lower().replace("-", ""):
                return place, "test"
    return None, "test"


def _reference(path: Path | str | None, roots: Sequence[Path]) -> pl.LazyFrame:
    """The competition's problems with answers, in the data sources' columns."""
    places = [Path(path)] if path is not None else []
    if path is None:
        places = [
            place
            for root in roots
            for place in [*paths.competitions(root), *paths.datasets(root, inside=True)]
        ]
    files = [place / REFERENCE if place.is_dir() else place for place in places]
    file = next((f for f in files if f.is_file() and (f.name == REFERENCE or path)), None)
    if file is None:
        tried = path or ", ".join(f"{root}/competitions/*" for root in roots) or "no folder"
        raise DataError(
            f"{AIMO}: no {REFERENCE} in {tried}\ngive its data_path, or attach the competition"
        )
    table = read_problems(file)
    if "answer" not in table.columns:
        raise DataError(
            f"{file}: no row has an answer to grade by; found columns {', '.join(table.columns)}, "
            "and 'answer' is needed"
        )
    null = pl.lit(None, pl.String)
    return table.lazy().select(
        "id",
        source=pl.lit(AIMO),
        problem="problem",
        solution=null,
        answer=pl.col("answer").cast(pl.String),
        level=null,
        subject=null,
    )
