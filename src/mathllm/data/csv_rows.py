"""Rows of a CSV file, with commas, semicolons or tabs, as Excel and others write it."""

import ast
import contextlib
import csv
import io
import re
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from mathllm.data.text_lines import text_lines
from mathllm.errors import DataError
from mathllm.files import parse_json
from mathllm.wording import shown

SEPARATORS = (",", ";", "\t")
_STATED = re.compile(r'"?sep=(.)"?\s*')  # Excel's own first line
_MEND = "put quotes around texts with separators or line breaks, and double quotes inside them"
_LISTS = ("['", '["', "[{'", '[{"')
_EMPTY = re.compile(r'[\s,;"]*')
csv.field_size_limit(2**31 - 1)  # solutions are longer than the default of 128 KB


def csv_columns(path: Path) -> list[str]:
    """The names in the header, those without a name left out.

    Raises DataError for an empty file and for a name that stands twice.
    """
    names = [name for name in next(_records(path))[1] if name.strip()]
    check_names(path, names)
    return names


def check_names(path: Path, names: list[str]) -> None:
    """Raise DataError for a column that stands twice."""
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(
            f"{path}: the column {shown(twice)} stands twice; leave one, or rename the other"
        )


def csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Every row in order but those that are empty throughout. A field is its text, None where
    it is empty, and a list where it is one of texts or objects as JSON or Python writes it.

    Raises DataError, with the line, for quotes that do not match and for more fields than
    the header has. A row with fewer has None for the rest.
    """
    records = _records(path)
    _, names = next(records)
    for line, fields in records:
        if not any(map(str.strip, fields)):
            continue
        if any(map(str.strip, fields[len(names) :])):
            raise DataError(
                f"{path}, line {line:,} has {len(fields)} fields, and the header {len(names)}: "
                f"{_MEND}"
            )
        pairs = zip_longest(names, fields[: len(names)])
        yield {name: _value(field) if field else None for name, field in pairs if name}


def _value(field: str) -> Any:
    if not field.startswith(_LISTS):
        return field
    with contextlib.suppress(ValueError):
        return parse_json(field)
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        value = ast.literal_eval(field)
        if repr(value) == field:  # NumPy's lists have no commas, which joins their texts
            return value
    return field


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Header and rows, each with the number of its first line."""
    # A file of an old Mac's is one line to the system; its own ends are found again here.
    lines = chain.from_iterable(io.StringIO(line, newline="") for line in text_lines(path))
    header, separator = "", ""
    for before, header in enumerate(lines):  # noqa: B007
        if stated := _STATED.fullmatch(header):
            separator = stated[1]
        elif not _EMPTY.fullmatch(header):
            break
    else:
        raise DataError(f"{path} is empty: a header and rows were expected")
    separator = separator or max(SEPARATORS, key=lambda s: len(_fields(header, s)))
    # Where a blank follows each separator, quotes come after it: id, "a, b"
    blanks = f"{separator} " in header
    reader = csv.reader(
        chain([header], lines), delimiter=separator, skipinitialspace=blanks, strict=True
    )
    line = before + 1
    try:
        for fields in reader:
            yield line, fields
            line = before + reader.line_num + 1
    except csv.Error as fault:
        raise DataError(
            f"{path}, line {line:,} begins no row of a CSV file ({fault}): {_MEND}"
        ) from None


def _fields(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator))
