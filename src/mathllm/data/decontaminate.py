"""What is never trained on: reserved statements, and rows that share long runs of words with
problems one evaluates on.

Only statements are compared: two solutions may well share a phrase.
"""

import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from mathllm.data.tables import reading
from mathllm.errors import ParameterError

_MATH = re.compile(r"\$([^$]+)\$")
_NOISE = re.compile(r"[\s.?!,:;]+")


def fingerprints(statement: str) -> frozenset[str]:
    """SHA-256 of the statement's text and, where it has formulas, of its formulas."""
    forms = [statement]
    if formulas := _MATH.findall(statement):
        # A lone variable ("for $x$") is wording; the formulas are the problem.
        forms.append("|".join(f for f in formulas if re.search(r"\d", f)) or statement)
    normal = {_NOISE.sub("", form.casefold()) for form in forms}
    return frozenset(hashlib.sha256(form.encode()).hexdigest() for form in normal)


@dataclass(frozen=True)
class Reserved:
    """Statements that no training set may contain, recognised without storing them.

    `sums` are SHA-256 of two normal forms of each: its whole text, and its mathematics alone
    (so that "What is $1-1$?" also reserves "Compute $1 - 1$."). Spaces, case and final
    punctuation do not count.
    """

    sums: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> "Reserved":
        """From a text file with one SHA-256 sum a line; `#` begins a comment."""
        lines = path.read_text(encoding="utf-8").splitlines()
        return cls(frozenset(x for line in lines if (x := line.split("#")[0].strip())))

    def add(self, statements: Iterable[str]) -> "Reserved":
        """The same set with these statements in it."""
        return Reserved(self.sums.union(*map(fingerprints, statements)))

    def holds(self, statement: str) -> bool:
        return not self.sums.isdisjoint(fingerprints(statement))

    def check(self, statements: Iterable[str]) -> None:
        """Raise ParameterError for the first statement that may not be trained on."""
        for row, statement in enumerate(statements):
            if self.holds(statement):
                raise ParameterError(
                    f"training row {row} is a reserved problem ({statement[:80]!r}): "
                    "drop it, or what you measure on that problem means nothing"
                )


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
        with reading():
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
