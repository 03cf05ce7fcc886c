"""Files of problems in the competition's format: columns id, problem and perhaps answer."""

import contextlib
from pathlib import Path

import polars as pl

from mathllm.data.given_answers import whole_number
from mathllm.data.tables import find_column, open_table
from mathllm.data.text_lines import COMPRESSIONS
from mathllm.errors import DataError, ProblemFileError
from mathllm.settings import CURRENT

COLUMNS = ("id", "problem")
ANSWER = "answer"

SHOWN = 40  # characters of a wrong value that a message quotes


def read_problems(
    path: Path | str,
    answer_min: int = CURRENT.answer_min,
    answer_max: int = CURRENT.answer_max,
) -> pl.DataFrame:
    """Columns id (str), problem (str) and, where the file has it, answer (int), in file order.

    Nothing is guessed: ids stay text, "0e6441" and "000123" as they are written. (The
    competition's own gateway lets polars guess, so that a file in which every id looks like
    a number would give numbers there: 0.0 and 123.) An absent problem text is an empty one;
    rows that are empty throughout and further columns are left out, and an answer of 12.0 is 12.

    A file is CSV unless its name ends as another format's that `scan_table` reads. Raises
    ProblemFileError: no such file, one that cannot be read as what it is, a column missing or
    twice, no rows, an id empty or repeated, an answer that is no integer in
    answer_min…answer_max.
    """
    path = Path(path)
    table = _read(path)
    if table.is_empty():
        raise ProblemFileError(f"{path}: no problems, only a header; add a row for each problem")
    _check_ids(path, table["id"].to_list())
    columns = [table["id"], table["problem"].fill_null("")]
    if ANSWER in table.columns:
        answers = [
            _answer(path, id_, text, answer_min, answer_max)
            for id_, text in zip(table["id"].to_list(), table[ANSWER].to_list(), strict=True)
        ]
        columns.append(pl.Series(ANSWER, answers, dtype=pl.Int64))
    return pl.DataFrame(columns)


def plain_csv(path: Path | str) -> bytes:
    """A file of problems as every reader of CSV reads it: its own bytes where polars sees the
    same ids and problems in them, else id, problem and answer written anew."""
    path, problems = Path(path), read_problems(path)
    if path.suffix.lower() in COMPRESSIONS:
        return problems.write_csv().encode()
    with contextlib.suppress(pl.exceptions.PolarsError):
        if (
            pl.read_csv(path, infer_schema=False)
            .select(COLUMNS)
            .fill_null("")
            .equals(problems.select(COLUMNS))
        ):
            return path.read_bytes()
    return problems.write_csv().encode()


def _read(path: Path) -> pl.DataFrame:
    """The columns of a file of problems, under their names, every one as text."""
    if not path.is_file():
        there = "is a folder" if path.is_dir() else "is no file"
        what = there if path.exists() else "does not exist"
        raise ProblemFileError(f"{path}: {what}; expected a CSV file with columns id, problem")
    try:
        table = open_table(path, otherwise=".csv")
        found = {name: find_column(path, table.names, name) for name in (*COLUMNS, ANSWER)}
        if missing := [name for name in COLUMNS if found[name] is None]:
            raise ProblemFileError(
                f"{path}: no column {' and '.join(map(repr, missing))}; expected id, problem and "
                f"perhaps answer, found {', '.join(map(_quoted, table.names))}"
            )
        there = {column: name for name, column in found.items() if column is not None}
        return table.read(list(there)).rename(there)
    except DataError as fault:
        raise ProblemFileError(str(fault)) from fault


def _check_ids(path: Path, ids: list[str | None]) -> None:
    rows: dict[str, int] = {}
    for row, id_ in enumerate(ids, start=1):
        if id_ is None or not id_.strip():
            raise ProblemFileError(f"{path}: problem {row} has no id; give it one of its own")
        if id_ in rows:
            raise ProblemFileError(
                f"{path}: id {_quoted(id_)} stands at problems {rows[id_]} and {row}; "
                "every problem needs an id of its own"
            )
        rows[id_] = row


def _answer(path: Path, id_: str, text: str | None, low: int, high: int) -> int:
    digits = whole_number((text or "").strip())
    # int() alone would take "1_0" and "+5" as well.
    if digits.removeprefix("-").isascii() and digits.removeprefix("-").isdigit():
        # Longer than any integer in range: no need to convert a million digits.
        value = int(digits) if len(digits) <= len(str(high)) + 20 else high + 1
        if low <= value <= high:
            return value
    found = _quoted(digits) if digits else "nothing"
    raise ProblemFileError(
        f"{path}: the answer of problem {_quoted(id_)} is {found}; "
        f"expected an integer in {low}…{high}"
    )


def _quoted(value: str) -> str:
    return repr(value if len(value) <= SHOWN else value[:SHOWN] + "…")
