"""Files of rows that say what they are: parquet, with a header in the file's own metadata.

The header is JSON, so that any reader of parquet shows it and no second file can get lost.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import polars as pl

from mathllm.errors import ParameterError, ResultsError
from mathllm.files import parse_json, sync
from mathllm.wording import brief, shown

Header = TypeVar("Header")


@dataclass(frozen=True)
class TableFormat(Generic[Header]):
    """One kind of such files: the header's `key`, `version` and dataclass, and the columns.

    `kind` is what a file is called, `mend` what to do about a bad one. Columns `later` are null
    in files from before they were written.
    """

    key: str
    version: int
    header: type[Header]
    schema: Mapping[str, Any]
    kind: str
    mend: str
    later: Sequence[str] = ()

    def write(self, path: Path, header: Header, rows: pl.DataFrame) -> None:
        """The whole file, or the one that was there before: never a part of it. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        text = json.dumps({"version": self.version, **asdict(header)}, ensure_ascii=False)
        try:
            rows.select(*self.schema).write_parquet(part, metadata={self.key: text})
        except pl.exceptions.PolarsError as fault:
            raise OSError(f"{path} cannot be written: {brief(fault, 200)}") from fault
        sync(part)
        part.replace(path)
        sync(path.parent)

    def read(self, path: Path) -> tuple[Header, pl.DataFrame]:
        """Header and rows. Raises ResultsError for a file that is missing, damaged, of another
        kind, or of another version."""
        if not path.is_file():
            raise ResultsError(f"{path} does not exist: give a {self.kind}")
        try:
            text = pl.read_parquet_metadata(path).get(self.key)
            if text is None:
                raise ResultsError(
                    f"{path} is no {self.kind} (it has no {self.key!r}): {self.mend}"
                )
            header = self._header(path, parse_json(text))
            rows = pl.read_parquet(path)
            absent = [name for name in self.later if name not in rows.columns]
            rows = rows.with_columns(pl.lit(None, self.schema[name]).alias(name) for name in absent)
        except (pl.exceptions.PolarsError, OSError, ValueError, TypeError, ParameterError) as fault:
            reason = brief(fault, 200) or type(fault).__name__
            raise ResultsError(f"{path} cannot be read ({reason}): {self.mend}") from fault
        if (found := dict(rows.schema)) != self.schema:
            names = [*self.schema, *found]
            odd = next(name for name in names if found.get(name) != self.schema.get(name))
            raise ResultsError(
                f"{path}: column {shown(odd)} is {found.get(odd)}, "
                f"expected {self.schema.get(odd)}: {self.mend}"
            )
        return header, rows

    def _header(self, path: Path, given: Any) -> Header:
        if not isinstance(given, dict):
            raise TypeError(f"its {self.key!r} is no object")
        if (version := given.pop("version", None)) != self.version:
            raise ResultsError(
                f"{path} has format version {shown(version)} and this program writes "
                f"{self.version}: {self.mend}"
            )
        return self.header(**given)
