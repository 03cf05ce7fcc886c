"""What a data set gives as a row's answer, and the sentence that puts it into a solution.

Values are read by the one reader of answers (`answers.reading`); here is what only data sets
have: floats, dollars around a number, words for "none".
"""

import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

import polars as pl

from mathllm.answers.boxes import last_box, mentions_box
from mathllm.answers.reading import integer_value

PROOF = "proof"  # nothing is asked for; the others say that what is asked for is not known
NONE = frozenset(
    {"", "-", "–", "—", "?", "n/a", "#n/a", "na", "nan", "<na>", "none", "null", "nil", "unknown"}
    | {"no answer", "not found", "notfound", "not available", "not applicable", PROOF}
)
_MATHS_SIGN = re.compile(r"(?<!\\)(?:\$|\\[()\[\]])")
_FLOAT = re.compile(r"[+-]?\d{1,1000}(?:\.\d{0,1000})?(?:[eE][+-]?\d{1,3})?", re.ASCII)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def whole_number(text: str) -> str:
    """12.0 as 12 and 1E+05 as 100000, as tables hold integers; any other text as it is."""
    if not _FLOAT.fullmatch(text) or text.lstrip("+-").isdigit():
        return text
    value = Fraction(text)
    return str(value.numerator) if value.denominator == 1 else text


def plain_answer(text: str) -> str | None:
    """An answer without its box and dollars; None for a word such as "N/A", for a box that is
    empty or cut off, and where braces do not match."""
    while mentions_box(text):
        if (content := last_box(text)) is None:
            return None
        text = content
    text = _MATHS_SIGN.sub("", text).strip()
    if text.rstrip(".").casefold() in NONE or not _balanced(text):
        return None
    return whole_number(text)


def boxed(text: pl.Expr) -> pl.Expr:
    """The content of the last box; null without one."""
    return _each(last_box, text)


def stated(answer: pl.Expr, box: pl.Expr) -> pl.Expr:
    """The answer as it is given, else the solution's last box, which a proof does not have."""
    proof = answer.str.strip_chars().str.to_lowercase() == PROOF
    return (
        pl.when(proof.fill_null(False))
        .then(None)
        .otherwise(pl.coalesce(_each(plain_answer, answer), _each(plain_answer, box)))
    )


def in_digits(answer: pl.Expr) -> pl.Expr:
    """An answer that is an integer as plain digits, any other as it is."""
    return _each(lambda text: text if (value := _integer(text)) is None else str(value), answer)


def integer_within(answer: pl.Expr, low: int, high: int) -> pl.Expr:
    """An answer that is an integer in low…high as plain digits; null for any other."""

    def read(text: str) -> str | None:
        value = _integer(text)
        return str(value) if value is not None and low <= value <= high else None

    return _each(read, answer)


def closed(solution: pl.Expr, answer: pl.Expr, box: pl.Expr) -> pl.Expr:
    """The solution, with the answer in a box at its end where it has no box of its own."""
    sentence = pl.lit("\nThe answer is $\\boxed{") + in_digits(answer) + pl.lit("}$.")
    return (
        pl.when(box.is_null() & solution.is_not_null() & answer.is_not_null())
        .then((solution + sentence).str.strip_chars())
        .otherwise(solution)
    )


@lru_cache(maxsize=65_536)  # data sets repeat few answers
def _integer(answer: str) -> int | None:
    return integer_value(answer)


def _each(read: Callable[[str], str | None], column: pl.Expr) -> pl.Expr:
    return column.map_elements(read, return_dtype=pl.String, skip_nulls=True)


def _balanced(text: str) -> bool:
    depth = 0
    for sign in _BRACE.findall(text):
        depth += (sign == "{") - (sign == "}")
        if depth < 0:
            return False
    return depth == 0
