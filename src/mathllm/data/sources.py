"""The rows of a source (gsm8k, math, numina, or any file), filtered, counted and drawn.

Where files are is in finding, how they are read in tables, what their rows mean in conversions.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from polars.selectors import by_name

from mathllm.data import conversions
from mathllm.data.conversions import SCHEMA, Conversion
from mathllm.data.finding import files_at, find_files
from mathllm.data.given_answers import integer_within
from mathllm.data.tables import collected, find_column, open_table, scan_table
from mathllm.errors import DataError
from mathllm.settings import CURRENT
from mathllm.wording import brief, shown

FILE = "file"  # the source whose columns the caller maps


@dataclass(frozen=True)
class Source:
    """A known data set: its columns, its conversion, and its place on the hub."""

    columns: tuple[str, ...]
    optional: tuple[str, ...]  # columns that some versions of it have
    convert: Conversion
    hub: str  # with {split}


SOURCES = {
    "gsm8k": Source(
        ("question", "answer"),
        (),
        conversions.from_gsm8k,
        "hf://datasets/openai/gsm8k/main/{split}-*.parquet",
    ),
    "math": Source(
        ("problem", "solution", "level"),
        ("type", "subject", "answer"),
        conversions.from_math,
        "hf://datasets/nlile/hendrycks-MATH-benchmark/data/{split}-*.parquet",
    ),
    "numina": Source(
        ("problem", "solution"),
        ("source", "answer", "problem_type", "problem_is_valid", "solution_is_valid"),
        conversions.from_numina,
        "hf://datasets/AI-MO/NuminaMath-CoT/data/{split}-*.parquet",
    ),
}


@dataclass(frozen=True)
class Filters:
    """Which rows stay. Empty means any; names are compared as text.

    complete: problem, solution and answer must be there (a model is to be trained on it).
    """

    sources: Sequence[str] = ()
    levels: Sequence[str] = ()
    subjects: Sequence[str] = ()
    integer_answers: bool = False
    answer_min: int = CURRENT.answer_min
    answer_max: int = CURRENT.answer_max
    complete: bool = True

    def rules(self) -> list[tuple[str, pl.Expr]]:
        """Name and condition of each filter, in the order in which they are applied."""
        texts = ("problem", "solution", "answer") if self.complete else ("problem",)
        there = pl.all_horizontal(pl.col(t).fill_null("").str.strip_chars() != "" for t in texts)
        rules = [(f"without {', '.join(texts)}", there)]
        for name, wanted in (
            ("source", self.sources),
            ("level", self.levels),
            ("subject", self.subjects),
        ):
            if wanted:
                kept = [str(value) for value in wanted]
                rules.append((f"{name} not {', '.join(kept)}", pl.col(name).is_in(kept)))
        if self.integer_answers:
            low, high = self.answer_min, self.answer_max
            whole = integer_within(pl.col("answer"), low, high).is_not_null()
            rules.append((f"answer no integer in {low}…{high}", whole))
        return rules


def check_source(source: str, known: Sequence[str]) -> None:
    """Raise DataError, with the nearest known one, unless the source is `known`."""
    if source not in known:
        near = difflib.get_close_matches(source, known, n=1)
        hint = f"; did you mean {shown(near[0])}?" if near else ""
        raise DataError(f"no data source {shown(source)}; known are {', '.join(known)}{hint}")


def scan_problems(
    source: str,
    split: str = "train",
    path: Path | str | None = None,
    columns: Mapping[str, str] | None = None,
    roots: Sequence[Path] = (),
) -> pl.LazyFrame:
    """All rows of a source as (id, source, problem, solution, answer, level, subject), text.

    Nothing is read but names of columns. `path` is a file, a folder with files of the split,
    or a glob. Without it the folders under `roots` whose name has the source's are searched,
    then the Hugging Face hub. `columns` maps the schema's names to those of source "file".
    Names of columns are found in any case. Raises DataError when nothing is found (with what
    was tried), a file cannot be read, or a column is missing.
    """
    check_source(source, [*SOURCES, FILE])
    if source == FILE:
        if path is None or not columns:
            raise DataError(
                "source 'file' needs a path, and columns such as "
                "'problem: question, solution: answer'"
            )
        if unknown := sorted(set(columns) - set(SCHEMA)):
            raise DataError(f"columns: {shown(unknown[0])} is none of {', '.join(SCHEMA)}")
        known = Source((), (), conversions.from_columns, "")
    else:
        known = SOURCES[source]
        columns = {name: name for name in known.columns}
    if path is not None:
        files = files_at(Path(path), split)
    else:
        files = find_files(source, known.hub.format(split=split), split, roots)
    rows = pl.concat([known.convert(_named(file, columns, known.optional)) for file in files])
    numbers = pl.lit(f"{source}-{split}-") + pl.col("row").cast(pl.String)
    given = ["id"] if "id" in columns else []
    return rows.with_row_index("row").with_columns(id=pl.coalesce(*given, numbers)).select(SCHEMA)


def _named(file: Path | str, columns: Mapping[str, str], optional: Sequence[str]) -> pl.LazyFrame:
    """The file's columns under our names; null where an optional one is not there."""
    rows = scan_table(file)
    names = rows.collect_schema().names()
    found = {name: find_column(file, names, wanted) for name, wanted in columns.items()}
    if missing := [columns[name] for name, column in found.items() if column is None]:
        raise DataError(
            f"{file}: no column {shown(missing[0])}; found {brief(', '.join(names), 400)}\n"
            "source 'file' with columns such as 'problem: question' reads files of other shapes"
        )
    found |= {name: find_column(file, names, name) for name in optional}
    return rows.select(
        # by_name, since pl.col takes "*" and "^…$" for patterns.
        (by_name(column) if column else pl.lit(None, pl.String)).alias(name)
        for name, column in found.items()
    )


def filtered(rows: pl.LazyFrame, filters: Filters) -> pl.LazyFrame:
    """The rows that pass every filter; answers that had to be integers are plain digits."""
    for _, condition in filters.rules():
        rows = rows.filter(condition)
    if filters.integer_answers:
        answer = integer_within(pl.col("answer"), filters.answer_min, filters.answer_max)
        rows = rows.with_columns(answer=answer)
    return rows


def drop_report(rows: pl.LazyFrame, filters: Filters) -> dict[str, int]:
    """Rows read, dropped by each filter in turn, and left; one streaming pass."""
    passed, counts = pl.lit(True), [pl.len().alias("read")]
    for name, condition in filters.rules():
        condition = condition.fill_null(False)
        counts.append((passed & ~condition).sum().alias(name))
        passed = passed & condition
    counts.append(passed.sum().alias("left"))
    return collected(rows.select(counts)).row(0, named=True)


def drawn(
    rows: pl.LazyFrame, counts: Sequence[int], offset: int = 0, seed: int | None = None
) -> list[pl.LazyFrame]:
    """Disjoint parts of the rows after the first `offset`, `counts` rows each; 0: all the rest.

    With a seed they are drawn, otherwise taken from the beginning. Rows keep their order,
    and only their numbers are in memory.
    """
    total = collected(rows.select(pl.len())).item()
    left = pl.int_range(offset, max(offset, total), eager=True)
    if seed is not None:
        left = left.sample(fraction=1.0, shuffle=True, seed=seed)
    parts, start = [], 0
    for count in counts:
        numbers = left.slice(start, count or None).cast(pl.UInt32)
        start += len(numbers)
        chosen = pl.col("row").is_in(numbers.implode())
        parts.append(rows.with_row_index("row").filter(chosen).drop("row"))
    return parts


def load_problems(
    source: str,
    split: str = "train",
    path: Path | str | None = None,
    columns: Mapping[str, str] | None = None,
    roots: Sequence[Path] = (),
    filters: Filters | None = None,
    num_samples: int = 0,
    offset: int = 0,
    seed: int | None = None,
) -> pl.DataFrame:
    """`scan_problems`, filtered and sampled, in memory.

    Raises DataError as `scan_problems` does, and when the filters leave no row.
    """
    filters = filters or Filters()
    rows = scan_problems(source, split, path, columns, roots)
    (chosen,) = drawn(filtered(rows, filters), [num_samples], offset, seed)
    table = collected(chosen)
    if table.is_empty():
        raise DataError(no_rows(drop_report(rows, filters), offset))
    return table


def read_statements(path: Path) -> list[str]:
    """The problems' texts of any file that has them in a column problem or question."""
    table = open_table(path)
    found = (find_column(path, table.names, name) for name in ("problem", "question"))
    column = next(filter(None, found), None)
    if column is None:
        raise DataError(
            f"{path}: no column 'problem' or 'question'; found {brief(', '.join(table.names), 400)}"
        )
    texts = table.read([column]).select(conversions.first_question(column)).to_series()
    statements = [text for text in texts if text and text.strip()]
    if not statements:
        raise DataError(
            f"{path}: the column {shown(column)} holds no problem: fill it, or leave the file out"
        )
    return statements


def no_rows(report: Mapping[str, int], offset: int = 0) -> str:
    """What to say when nothing is left: which filter took how many."""
    if not report["read"]:
        return "no row was read: there are columns and nothing in them"
    taken = [f"{count:,} {name}" for name, count in report.items() if count and name != "read"]
    more = f" (offset {offset:,})" if offset else ""
    return f"no row is left of {report['read']:,}: {', '.join(taken) or 'none'}{more}: loosen that"
