"""What a run of a notebook has measured, for whoever compares runs.

A notebook calls `record(output_dir, accuracy=0.5)`; the values stand in
output_dir/metrics.json.
"""

import json
import math
from pathlib import Path
from typing import Any

from mathllm.files import write_json

METRICS = "metrics.json"

Value = float | int | str | bool | None


def record(folder: str | Path, **values: Value) -> None:
    """Add values to folder/metrics.json, or replace them there; whole or not at all.

    A number that is not finite is kept as null: JSON has none. NumPy's and torch's numbers
    will do.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: _plain(value) for name, value in values.items()}
    write_json(folder / METRICS, read(folder) | plain)


def read(folder: str | Path) -> dict[str, Value]:
    """What was recorded in a folder; nothing where there is no file."""
    path = Path(folder) / METRICS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _plain(value: Any) -> Value:
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
