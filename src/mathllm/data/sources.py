"""Finding data and reading it lazily: gsm8k, math, numina, or any file.

What the rows of a source mean is in conversions; what is generated is in arithmetic.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mathllm import paths
from mathllm.data import conversions
from mathllm.data.conversions import SCHEMA, Conversion
from mathllm.data.csv_header import repeated_column
from mathllm.errors import DataError
from mathllm.files import parse_json
from mathllm.settings import CURRENT
from mathllm.wording import shown

FILE = "file"  # the source whose columns the caller maps


@dataclass(frozen=True)
class Source:
    """A known data set: its columns, its conversion, and its place on the hub."""

    columns: tuple[str, ...]
    convert: Conversion
    hub: str  # with {split}


SOURCES = {
    "gsm8k": Source(
        ("question", "answer"),
        conversions.from_gsm8k,
        "hf://datasets/openai/gsm8k/main/{split}-*.parquet",
    ),
    "math": Source(
        ("problem", "solution", "level"),
        conversions.from_math,
        "hf://datasets/nlile/hendrycks-MATH-benchmark/data/{split}-*.parquet",
    ),
    "numina": Source(
        ("source", "problem", "solution"),
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
            # Thousands separators aside, nothing is computed: grading is another room's work.
            digits = pl.col("answer").str.replace_all(r",|\{,\}|\\!|\\,|\s|\$", "")
            value = digits.cast(pl.Int64, strict=False)
            whole = digits.str.contains(r"^-?\d{1,9}$")
            whole &= value.is_between(self.answer_min, self.answer_max)
            low, high = self.answer_min, self.answer_max
            rules.append((f"answer no integer in {low}…{high}", whole.fill_null(False)))
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

    Nothing is read but schemas. `path` is a file, a folder with files of the split, or a
    glob. Without it the folders under `roots` whose name has the source's are searched,
    then the Hugging Face hub. `columns` maps the schema's names to those of source "file".
    Raises DataError when nothing is found (with what was tried), a file cannot be read, or
    a column is missing.
    """
    check_source(source, [*SOURCES, FILE])
    if source == FILE and (path is None or not columns):
        raise DataError(
            "source 'file' needs a path, and columns such as 'problem: question, solution: answer'"
        )
    files = _find(source, split, path, roots)
    rows = pl.concat([_scan(file) for file in files], how="vertical_relaxed")
    needed = list(SOURCES[source].columns) if source != FILE else list(columns.values())
    found = rows.collect_schema().names()
    if missing := [name for name in needed if name not in found]:
        raise DataError(
            f"{files[0]}: no column {shown(missing[0])}; found {', '.join(found)}\n"
            "source 'file' with columns such as 'problem: question' reads files of other shapes"
        )
    if source == FILE:
        converted = conversions.from_columns(rows, columns)
    else:
        converted = SOURCES[source].convert(rows)
    if "id" not in converted.collect_schema().names():
        converted = converted.with_row_index("row").with_columns(
            id=pl.lit(f"{source}-{split}-") + pl.col("row").cast(pl.String)
        )
    return converted.select(SCHEMA)


def filtered(rows: pl.LazyFrame, filters: Filters) -> pl.LazyFrame:
    """The rows that pass every filter."""
    for _, condition in filters.rules():
        rows = rows.filter(condition)
    return rows


def drop_report(rows: pl.LazyFrame, filters: Filters) -> dict[str, int]:
    """Rows read, dropped by each filter in turn, and left; one streaming pass."""
    passed, counts = pl.lit(True), [pl.len().alias("read")]
    for name, condition in filters.rules():
        condition = condition.fill_null(False)
        counts.append((passed & ~condition).sum().alias(name))
        passed = passed & condition
    counts.append(passed.sum().alias("left"))
    return rows.select(counts).collect(engine="streaming").row(0, named=True)


def drawn(
    rows: pl.LazyFrame, counts: Sequence[int], offset: int = 0, seed: int | None = None
) -> list[pl.LazyFrame]:
    """Disjoint parts of the rows after the first `offset`, `counts` rows each; 0: all the rest.

    With a seed they are drawn, otherwise taken from the beginning. Rows keep their order,
    and only their numbers are in memory.
    """
    total = rows.select(pl.len()).collect(engine="streaming").item()
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
    table = chosen.collect(engine="streaming")
    if table.is_empty():
        raise DataError(no_rows(drop_report(rows, filters), offset))
    return table


def read_statements(path: Path) -> list[str]:
    """The problems' texts of any file that has them in a column problem or question."""
    rows = _scan(path)
    names = rows.collect_schema().names()
    column = next((name for name in ("problem", "question") if name in names), None)
    if column is None:
        raise DataError(f"{path}: no column 'problem' or 'question'; found {', '.join(names)}")
    return rows.select(pl.col(column).cast(pl.String)).drop_nulls().collect()[column].to_list()


def no_rows(report: Mapping[str, int], offset: int = 0) -> str:
    """What to say when nothing is left: which filter took how many."""
    taken = [f"{count:,} {name}" for name, count in report.items() if count and name != "read"]
    more = f" (offset {offset:,})" if offset else ""
    return f"no row is left of {report['read']:,}: {', '.join(taken) or 'none'}{more}: loosen that"


def _find(
    source: str, split: str, path: Path | str | None, roots: Sequence[Path]
) -> list[Path | str]:
    """Files of the split, by the order that `scan_problems` states."""
    if path is not None:
        return _files(Path(path), split)
    tried = []
    for root in roots:
        for folder in paths.datasets(root):
            if source in folder.name.lower() and folder.is_dir():
                tried.append(str(folder))
                if files := _in_folder(folder, split):
                    return files
        tried.append(f"{root}/*{source}*")
    hub = SOURCES[source].hub.format(split=split)
    try:
        pl.scan_parquet(hub, storage_options={"max_retries": "1"}).collect_schema()
    except Exception as fault:  # no network, no such split: polars has many types for it
        reason = str(fault).strip().splitlines()[0]
        raise DataError(
            f"{source} ({split}) was not found; tried {', '.join(tried) or 'no folder'} and "
            f"{hub} ({reason})\ngive data_path, or attach a dataset whose name has {shown(source)}"
        ) from fault
    return [hub]


TYPES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv")


def _in_folder(folder: Path, split: str) -> list[Path]:
    """Files of one type whose name, or folder's name, begins with the split's."""
    for suffix in TYPES:
        files = sorted(folder.rglob(f"*{suffix}"))
        if named := [f for f in files if f.name.startswith(split) or f.parent.name == split]:
            return named
    return []


def _files(path: Path, split: str) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        if files := _in_folder(path, split):
            return files
        raise DataError(f"{path} has no file of the split {shown(split)} ({', '.join(TYPES)})")
    if files := sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor)))):
        return files
    raise DataError(f"{path} does not exist: give a file, a folder or a pattern")


def _scan(file: Path | str) -> pl.LazyFrame:
    """One file, lazily, its footer, header or lines checked."""
    suffix = Path(file).suffix
    try:
        if suffix in (".jsonl", ".ndjson", ".json"):
            _check_lines(Path(file))
            rows = pl.scan_ndjson(file, infer_schema_length=1000)
        elif suffix == ".csv":
            rows = pl.scan_csv(file, infer_schema=False)
        elif suffix == ".parquet":
            rows = pl.scan_parquet(file)
        else:
            raise DataError(f"{file}: a file ends in one of {', '.join(TYPES)}")
        names = rows.collect_schema().names()
        if suffix == ".csv" and (twice := repeated_column(Path(file), names)):
            raise DataError(
                f"{file}: the column {shown(twice)} stands twice; leave one, or rename the other"
            )
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as fault:
        reason = (str(fault).strip() or "no data").splitlines()[0]
        raise DataError(
            f"{file} cannot be read ({reason}): it is truncated or damaged; fetch it again"
        ) from fault
    return rows


def _check_lines(path: Path) -> None:
    """Raise DataError that names the first line that is no JSON object."""
    empty = True
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            empty = False
            try:
                fine = isinstance(parse_json(line), dict)
            except ValueError:
                fine = not line.strip()
            if not fine:
                raise DataError(
                    f"{path}, line {number} is no JSON object ({shown(line.strip()[:60])}): "
                    "mend or remove it"
                )
    if empty:
        raise DataError(f"{path} is empty: fetch it again")
