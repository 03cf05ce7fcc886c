"""Training rows that share long runs of words with problems one evaluates on.

Only statements are compared: two solutions may well share a phrase.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

N = 13  # words in a run, as for GPT-3 (Brown et al., 2005.14165); docs/BENCHMARKS.md
SHOWN = 5  # examples that a report keeps
ROWS_AT_ONCE = 8_192
_WORD = re.compile(r"[a-z0-9]+")


@dataclass
class Contamination:
    """How many of the rows were dropped; (id, its statement, the shared words) of a few."""

    rows: int = 0
    dropped: int = 0
    examples: list[tuple[str, str, str]] = field(default_factory=list)


def runs(statement: str, n: int) -> Iterator[str]:
    """Every run of n words, lower case, signs dropped; the whole when it is shorter."""
    words = _WORD.findall(statement.lower())
    for start in range(max(1, len(words) - n + 1)):
        yield " ".join(words[start : start + n])


def index(held_out: Iterable[str], n: int = N) -> frozenset[str]:
    """The runs of the statements that are not to be trained on."""
    return frozenset(run for statement in held_out for run in runs(statement, n))


def shared_run(statement: str, held_out: frozenset[str], n: int = N) -> str | None:
    """The first run that the statement has in common with `held_out`."""
    return next((run for run in runs(statement, n) if run in held_out), None)


def decontaminate(
    rows: pl.LazyFrame, held_out: Iterable[str], n: int = N
) -> tuple[pl.LazyFrame, Contamination]:
    """The rows (id, problem, …) without those that share a run, and a report.

    Exact, without hashing: the held-out runs are in memory, the rows stream by. A held-out
    statement of fewer than n words drops only rows that are the same words.
    """
    known, report, bad = index(held_out, n), Contamination(), []
    with tempfile.TemporaryDirectory() as folder:
        spooled = Path(folder) / "statements.parquet"
        rows.select("id", "problem").sink_parquet(spooled)
        for batch in pq.ParquetFile(spooled).iter_batches(ROWS_AT_ONCE):
            ids, statements = (column.to_pylist() for column in batch.columns)
            for place, statement in enumerate(statements):
                if run := shared_run(statement or "", known, n):
                    bad.append(report.rows + place)
                    if len(report.examples) < SHOWN:
                        report.examples.append((ids[place], statement, run))
            report.rows += len(statements)
    report.dropped = len(bad)
    if not bad:
        return rows, report
    dropped = pl.Series(bad, dtype=pl.UInt32).implode()
    kept = rows.with_row_index("row").filter(~pl.col("row").is_in(dropped)).drop("row")
    return kept, report
