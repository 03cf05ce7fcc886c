"""Files of problems in the competition's format: columns id, problem and perhaps answer."""

from pathlib import Path

import polars as pl

from mathllm.data.csv_header import repeated_column
from mathllm.errors import ProblemFileError
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
    further columns are left out.

    Raises ProblemFileError: no such file, not CSV in UTF-8, a column missing or twice, no rows,
    an id empty or repeated, an answer that is no integer in answer_min…answer_max.
    """
    path = Path(path)
    table = _read(path)
    if twice := repeated_column(path, table.columns):
        raise ProblemFileError(
            f"{path}: the column {_quoted(twice)} stands twice; leave one, or rename the other"
        )
    if missing := [name for name in COLUMNS if name not in table.columns]:
        raise ProblemFileError(
            f"{path}: no column {' and '.join(map(repr, missing))}; expected id, problem and "
            f"perhaps answer, separated by commas, found {', '.join(map(_quoted, table.columns))}"
        )
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


def _read(path: Path) -> pl.DataFrame:
    """The whole file, every column as text."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ProblemFileError(f"{path}: {what}; expected a CSV file with columns id, problem")
    try:
        return pl.read_csv(path, infer_schema=False)
    except pl.exceptions.NoDataError:
        raise ProblemFileError(f"{path}: empty; expected a header id,problem and rows") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        first_line = str(error).strip().splitlines()[0]
        mend = "put quotes around texts with commas or line breaks, and double quotes inside them"
        if "utf-8" in first_line.lower():
            mend = "save it in UTF-8"
        raise ProblemFileError(f"{path}: not read as CSV in UTF-8: {first_line}\n{mend}") from None


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
    digits = (text or "").strip()
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
