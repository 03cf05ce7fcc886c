"""A file of rows, of whatever format: its columns as lazy text, in the file's order.

No type is guessed, so no row can break what earlier ones led to expect. A value is the text
of it; a list of one is its one value; a conversation (a list of turns with role and content)
is its JSON text; whatever else is nested has no single value and is null.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.io.plugins import register_io_source

from mathllm.data.csv_rows import check_names, csv_columns, csv_rows
from mathllm.data.json_rows import json_rows
from mathllm.data.text_lines import COMPRESSIONS
from mathllm.errors import DataError
from mathllm.files import is_full
from mathllm.wording import brief, shown

HUB = "hf://"
PARQUET = ".parquet"
JSON = (".jsonl", ".ndjson", ".json")
CSV = (".csv", ".tsv")
FORMATS = (PARQUET, *JSON, *CSV)
KNOWN = f"{', '.join(FORMATS)}, or but for the first with {', '.join(COMPRESSIONS)} after it"
ROWS_AT_ONCE = 2_048
_TURNS = ({"role", "content"}, {"from", "value"})


def format_of(file: Path) -> str | None:
    """The ending that names a file's format, None where none is known."""
    *before, ending = ["", *(suffix.lower() for suffix in file.suffixes)]
    if ending in COMPRESSIONS:
        return before[-1] if before[-1] in (*JSON, *CSV) else None
    return ending if ending in FORMATS else None


@dataclass(frozen=True)
class Table:
    """A file's columns, and how those that one asks for are read, some rows at a time."""

    names: list[str]
    batches: Callable[[Sequence[str]], Iterator[pl.DataFrame]]

    def read(self, columns: Sequence[str]) -> pl.DataFrame:
        """The columns in memory. Raises DataError as `open_table` does."""
        empty = pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
        return pl.concat([empty, *self.batches(columns)])


def open_table(file: Path, otherwise: str | None = None) -> Table:
    """Of a parquet file the footer is read, of a CSV the header, and JSON is gone through once,
    for its keys. `otherwise` is the format of a file whose name ends in none.

    Raises DataError, with the file and the line or row, here and where the rows are read.
    """
    kind = format_of(file) or otherwise
    if kind is None:
        raise DataError(f"{file}: a file ends in one of {KNOWN}")
    if kind == PARQUET:
        return Table(_parquet_columns(file), lambda names: _parquet_batches(file, names))
    if kind in CSV:
        return Table(csv_columns(file), lambda names: _batches(csv_rows(file), names))
    columns = list(dict.fromkeys(name for row in json_rows(file) for name in row))
    if not columns:
        raise DataError(f"{file} is empty: fetch it again")
    return Table(columns, lambda names: _batches(json_rows(file), names))


def scan_table(file: Path | str) -> pl.LazyFrame:
    """`open_table`, lazy; `file` may be on the hub (hf://…) as well."""
    if str(file).startswith(HUB):
        return _scan_hub(str(file))
    table = open_table(Path(file))

    def read(
        columns: list[str] | None, condition: pl.Expr | None, rows: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        for frame in table.batches(columns or table.names):
            part = frame if rows is None else frame.head(rows)
            yield part if condition is None else part.filter(condition)
            if rows is not None and (rows := rows - len(part)) == 0:
                return

    return register_io_source(read, schema=dict.fromkeys(table.names, pl.String))


def find_column(file: Path | str, names: Sequence[str], wanted: str) -> str | None:
    """Which of a file's columns is the wanted one: of that very name, else but for case.

    Raises DataError where two are.
    """
    if wanted in names:
        return wanted
    alike = [name for name in names if name.strip().casefold() == wanted.strip().casefold()]
    if len(alike) > 1:
        raise DataError(
            f"{file}: both {shown(alike[0])} and {shown(alike[1])} may be the column "
            f"{shown(wanted)}: rename one"
        )
    return alike[0] if alike else None


def collected(rows: pl.LazyFrame) -> pl.DataFrame:
    """The rows in memory. Raises DataError for whatever keeps them from being read."""
    with reading():
        return rows.collect(engine="streaming")


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Raises DataError, in one line, for what polars meets in rows that are collected meanwhile."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as fault:
        mend = "make room on the disk" if is_full(fault) else "fetch the files again"
        raise DataError(f"the rows cannot be read ({reason(fault)}): {mend}") from fault


def reason(fault: Exception) -> str:
    """The first line of what a library says, or the kind of fault where it says nothing."""
    return brief((str(fault).strip() or type(fault).__name__).splitlines()[0], 300)


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of turns, with role and content or, as some sets have it, from
    and value."""
    return (
        isinstance(value, list)
        and value != []
        and all(isinstance(turn, dict) for turn in value)
        and any(all(turn.keys() >= keys for turn in value) for keys in _TURNS)
    )


def text_of(value: Any) -> str | None:
    """The one text that a value stands for, by the rules above; a number that is none is null."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        if is_conversation(value):
            return json.dumps(value, ensure_ascii=False)
        return text_of(value[0]) if len(value) == 1 and not isinstance(value[0], list) else None
    if isinstance(value, bytes):
        return value.decode()
    return None if isinstance(value, dict | tuple) else str(value)


def _batches(rows: Iterator[Mapping[str, Any]], names: Sequence[str]) -> Iterator[pl.DataFrame]:
    while batch := list(islice(rows, ROWS_AT_ONCE)):
        columns = {name: [text_of(row.get(name)) for row in batch] for name in names}
        yield pl.DataFrame(columns, schema=dict.fromkeys(names, pl.String))


def _parquet_columns(file: Path) -> list[str]:
    try:
        return pq.read_schema(file).names
    except (pa.ArrowException, OSError) as fault:
        raise _damaged(file, fault) from fault


def _parquet_batches(file: Path, names: Sequence[str]) -> Iterator[pl.DataFrame]:
    read = 0
    try:
        opened = pq.ParquetFile(file)
        check_names(file, [name for name in opened.schema_arrow.names if name in names])
        for batch in opened.iter_batches(ROWS_AT_ONCE, columns=list(names)):
            batch.validate(full=True)  # text that is no UTF-8 passes otherwise
            yield pl.DataFrame([_text_column(name, batch.column(name)) for name in names])
            read += len(batch)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as fault:
        raise _damaged(file, fault, f" after row {read:,}") from fault


def _damaged(file: Path, fault: Exception, place: str = "") -> DataError:
    return DataError(
        f"{file} cannot be read{place} ({reason(fault)}): it is truncated or damaged; fetch it "
        "again"
    )


def _text_column(name: str, column: pa.Array) -> pl.Series:
    texts = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    values = column if texts else [text_of(value) for value in column.to_pylist()]
    return pl.Series(name, values, dtype=pl.String)


def _scan_hub(file: str) -> pl.LazyFrame:
    with reading():
        rows = pl.scan_parquet(file)
        schema = rows.collect_schema()
    return rows.select(
        (pl.lit(None) if kind.is_nested() else pl.col(name)).cast(pl.String).alias(name)
        for name, kind in schema.items()
    )
