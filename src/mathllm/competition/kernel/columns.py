"""What a gateway sent -> ids and problems, whatever form it chose; answers -> what it gets.

Series of polars or pandas in every known gateway; a frame, lists or scalars may come too.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import polars as pl

from mathllm.settings import CURRENT
from mathllm.wording import writable


def problems_in(columns: tuple[Any, ...], named: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """(id, problem) of each row of a request. Raises ValueError for what has none."""
    wanted = (CURRENT.id_column, CURRENT.problem_column)
    if len(columns) == 1 and hasattr(columns[0], "columns"):
        frame = columns[0]
        if missing := [name for name in wanted if name not in frame.columns]:
            raise ValueError(f"the gateway sent a frame without {', '.join(missing)}")
        values = [_values(frame[name]) for name in wanted]
    else:
        given = [*columns, *(named[name] for name in wanted[len(columns) :] if name in named)]
        if len(given) < len(wanted):
            raise ValueError(f"the gateway sent {len(given)} columns, expected {', '.join(wanted)}")
        values = [_values(column) for column in given[:2]]
    ids, problems = values
    if len(ids) != len(problems) or not ids:
        raise ValueError(f"the gateway sent {len(ids)} ids and {len(problems)} problems")
    return list(zip(("" if id_ is None else id_ for id_ in ids), problems, strict=True))


def ids_in(columns: tuple[Any, ...], named: Mapping[str, Any]) -> list[Any]:
    """The ids of a request that cannot be read otherwise; one empty id where there are none."""
    column = named.get(CURRENT.id_column, columns[0] if columns else None)
    with suppress(Exception):
        if CURRENT.id_column in getattr(column, "columns", ()):
            column = column[CURRENT.id_column]
        ids = [id_ for id_ in _values(column) if id_ is not None]
        return ids or [""]
    return [""]


def reply(ids: list[Any], answers: list[int]) -> pl.DataFrame:
    """A row (id, answer) each. Ids that make no column that can be sent are text."""
    column = None
    with suppress(Exception):  # of several types, or with signs that nothing can encode
        column = pl.Series(ids)
    if column is None or column.dtype in (pl.Object, pl.Int128):
        column = [text_of(id_) for id_ in ids]
    return pl.DataFrame({CURRENT.id_column: column, CURRENT.answer_column: answers})


def text_of(value: Any) -> str:
    """A value's text, which can be written; "" for None, and for what has none."""
    with suppress(Exception):
        return "" if value is None else writable(str(value))
    return ""


def digest(problem: str) -> str:
    """Tells a problem's text from another's."""
    return hashlib.sha256(problem.encode()).hexdigest()[:16]


def _values(column: Any) -> list[Any]:
    """Of a Series, a frame of one column, or a scalar, which stands for itself."""
    if hasattr(column, "columns"):
        if len(column.columns) != 1:
            raise ValueError(f"the gateway sent a frame with {len(column.columns)} columns as one")
        column = column[column.columns[0]]
    scalar = isinstance(column, (str, bytes)) or not hasattr(column, "__len__")
    return [column] if scalar else list(column)
