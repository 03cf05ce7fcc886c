"""Results as files: parquet, a row for each sample, and what they were made with."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl

from mathllm.errors import ResultsError
from mathllm.table_files import TableFormat
from mathllm.wording import shown

STEPS = "supervision_steps"  # in a header's settings
TOO_LONG = "prompt"  # finish reason of a problem that was cut to fit the engine's positions
SAVE_SECONDS = 20.0  # between two writings of a growing file: a kill costs no more than that
# A row for each sample. `truth` and `answer` are text: integers, or LaTeX. `answer`, `entropy`
# and `logprob` (means, nats a token), `confidence` (the halting head's mean probability) and
# `supervision_steps` (mean, a token) are null where there are none. `seconds` is the sample's
# share of its batch's, by tokens; `tail_entropy` is the entropy of the tokens before its answer,
# `group_entropy` that of the least sure group, and `calls` counts programs that were run.
SCHEMA = {
    "id": pl.String,
    "problem": pl.String,
    "truth": pl.String,
    "level": pl.String,
    "subject": pl.String,
    "engine": pl.String,
    "sample": pl.Int64,
    "seed": pl.Int64,
    "prompt": pl.String,
    "text": pl.String,
    "answer": pl.String,
    "right": pl.Boolean,
    "tokens": pl.Int64,
    "seconds": pl.Float64,
    "entropy": pl.Float64,
    "confidence": pl.Float64,
    "supervision_steps": pl.Float64,
    "finish_reason": pl.String,
    "tail_entropy": pl.Float64,
    "calls": pl.Int64,
    "group_entropy": pl.Float64,
    "logprob": pl.Float64,
}


@dataclass(frozen=True)
class Header:
    """What a file's rows were made with. `weights` and `problems` are digests, or names.

    `settings` are those that decide what is drawn: two files with the same header have the
    same rows, but for seconds.
    """

    engine: str
    weights: str
    dataset: str
    split: str
    problems: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def differences(self, other: "Header") -> list[tuple[str, Any, Any]]:
        """Name, value here and value there of all that differs."""
        ours, theirs = self._flat(), other._flat()
        names = list(ours | theirs)
        return [(n, ours.get(n), theirs.get(n)) for n in names if ours.get(n) != theirs.get(n)]

    def _flat(self) -> dict[str, Any]:
        flat = asdict(self)
        settings = flat.pop("settings")
        problems = flat.pop("problems")
        return flat | dict(settings) | {"problems": problems}  # what explains most comes first


RESULTS = TableFormat(
    "mathllm_results",
    version=1,
    header=Header,
    schema=SCHEMA,
    kind="result file, as the evaluation writes it",
    mend="evaluate again into another folder, or remove the file",
    # null in files from before they were written
    later=("tail_entropy", "calls", "group_entropy", "logprob"),
)


class ResultFile:
    """A file of results that grows by whole problems; used as a context.

    With `resume` it begins with the rows that the file has. Raises ResultsError where these
    were made with something else than `header` says, naming what. `order` are all problems'
    ids, in the order in which rows are kept.
    """

    def __init__(
        self,
        path: Path,
        header: Header,
        order: Sequence[str],
        resume: bool = True,
        every_seconds: float = SAVE_SECONDS,
    ) -> None:
        self.path = path
        self.header = header
        self._places = pl.DataFrame({"id": order}, schema={"id": pl.String}).with_row_index("place")
        self._every = every_seconds
        self._rows = pl.DataFrame(schema=SCHEMA)
        if resume and path.is_file():
            there, self._rows = RESULTS.read(path)
            if odd := header.differences(there):
                name, ours, theirs = odd[0]
                what = (
                    "other problems (the data, or which of them are taken)"
                    if name == "problems"
                    else f"{name} {shown(theirs)}, not {shown(ours)}"
                )
                raise ResultsError(
                    f"{path} was made with {what}: to begin anew give resume False, "
                    "or to keep it another output_dir"
                )
        self._last = time.monotonic()

    @property
    def rows(self) -> pl.DataFrame:
        """What there is, a row for each sample, in order."""
        kept = self._rows.join(self._places, on="id").sort("place", "sample")
        return kept.select(*SCHEMA)

    @property
    def done(self) -> frozenset[str]:
        """Ids of the problems that have their rows."""
        return frozenset(self._rows["id"])

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """All samples of some problems; they are on the disk `every_seconds`, and at the end."""
        self._rows = pl.concat([self._rows, pl.DataFrame(rows, schema=SCHEMA)])
        if time.monotonic() - self._last >= self._every:
            self.save()

    def save(self) -> None:
        """Write what there is."""
        RESULTS.write(self.path, self.header, self.rows)
        self._last = time.monotonic()

    def __enter__(self) -> "ResultFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: object, traceback: TracebackType | None
    ) -> None:
        if len(self._rows):  # after a fault as well: what was drawn until then stands
            self.save()
