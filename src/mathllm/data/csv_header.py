"""A CSV's first line as it is written: polars gives a second column of one name another name."""

import csv
from collections.abc import Sequence
from pathlib import Path


def repeated_column(path: Path, names: Sequence[str]) -> str | None:
    """The first column that a CSV has twice; None without one. `names` are polars' names.

    Columns without a name do not count.
    """
    if not any("_duplicated_" in name for name in names):
        return None
    with path.open(encoding="utf-8-sig", newline="") as file:
        written = next((record for record in csv.reader(file) if record), [])
    return next((name for name in written if name and written.count(name) > 1), None)
