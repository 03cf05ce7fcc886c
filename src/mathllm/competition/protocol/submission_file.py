"""A submission file, read and checked by the competition's rules."""

from pathlib import Path

import polars as pl

from mathllm.errors import ProblemFileError
from mathllm.settings import CURRENT


def read_submission(path: Path) -> dict[str, int]:
    """id -> answer. Raises ProblemFileError for what the competition would not take."""
    wanted = [CURRENT.id_column, CURRENT.answer_column]
    try:
        rows = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as fault:
        raise ProblemFileError(f"{path} is no Parquet file ({fault})") from fault
    if rows.columns != wanted:
        raise ProblemFileError(f"{path} has columns {rows.columns}, it must have {wanted}")
    ids, answers = rows[wanted[0]].cast(pl.String), rows[wanted[1]]
    if rows.is_empty() or ids.null_count() or answers.null_count():
        raise ProblemFileError(f"{path} has no rows, or rows without an id or an answer")
    if repeated := ids.filter(ids.is_duplicated()).to_list():
        raise ProblemFileError(f"{path} has the id {repeated[0]} more than once")
    low, high = CURRENT.answer_min, CURRENT.answer_max
    if not answers.dtype.is_numeric():
        raise ProblemFileError(f"{path} has answers of type {answers.dtype}, they must be integers")
    for id_, answer in zip(ids, answers, strict=True):
        if not low <= answer <= high or int(answer) != answer:
            raise ProblemFileError(f"{path}: {id_} has {answer}, no integer from {low} to {high}")
    return {id_: int(answer) for id_, answer in zip(ids, answers, strict=True)}
