"""Answers alone, taught by the results of worked solutions: a real problem's own chain.

48/2 = 24 … 48+24 = 72   →   "The answer is $\\boxed{24}$." after one step, 72 after two
"""

import re
from typing import Any

import polars as pl

from mathllm.answers.reading import integer_value

# What stands behind an equals sign and ends a formula: a number, perhaps with a currency or commas.
_RESULT = re.compile(
    r"=\s*\\?\$?\s*(-?\d[\d,]*(?:\.\d+)?)"
    r"(?![.,]?\d|[A-Za-z]\b|\s*[-+*/^=(]\s*[\d(\\$.]|\s*\\(?!text)[a-z])"
)
_TOLD = pl.Struct({"solution": pl.String, "steps": pl.List(pl.String), "hops": pl.Int64})


def results(worked: str) -> list[int]:
    """The integers that a worked solution's formulas come to, in order; what is none is left out,
    and so is one that only repeats the last."""
    found: list[int] = []
    for text in _RESULT.findall(worked):
        value = integer_value(text)
        if value is not None and found[-1:] != [value]:
            found.append(value)
    return found


def answers_alone(rows: pl.LazyFrame, most: int) -> pl.LazyFrame:
    """The rows with the answer alone as solution, and `steps` and `hops` from the worked one.

    Rows stay whose answer is an integer, and whose solution has at most `most` results with the
    answer as the last; where it is not, it is one more.
    """

    def told(row: dict[str, Any]) -> dict[str, Any] | None:
        answer = integer_value(row["answer"] or "")
        if answer is None:
            return None
        values = results(row["solution"])
        if values[-1:] != [answer]:
            values.append(answer)
        if len(values) > most:
            return None
        steps = [f"The answer is $\\boxed{{{value}}}$." for value in values]
        return {"solution": steps[-1], "steps": steps, "hops": len(steps)}

    made = pl.struct("answer", "solution").map_elements(told, return_dtype=_TOLD)
    return (
        rows.with_columns(told=made)
        .filter(pl.col("told").is_not_null())
        .drop("solution")
        .unnest("told")
    )
