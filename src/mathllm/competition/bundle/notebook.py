"""Values put into a notebook as papermill does: a cell after the one tagged `parameters`.

Knows the JSON of notebooks. Knows nothing of what the values mean; they were checked before.
Neither nbformat nor papermill writes here, because another version of theirs would give
other bytes.
"""

import json
from collections.abc import Mapping
from typing import Any

TAG = "injected-parameters"  # papermill's, so that a run of its own replaces the cell


def inject(notebook: str, values: Mapping[str, Any]) -> str:
    """The text of a notebook with a cell that sets `values`."""
    content = json.loads(notebook)
    cells = content["cells"]
    tags = [cell.get("metadata", {}).get("tags", []) for cell in cells]
    place = next(index for index, tagged in enumerate(tags) if "parameters" in tagged)
    lines = ["# Parameters", *(f"{name} = {_literal(value)}" for name, value in values.items())]
    cell = {
        "cell_type": "code",
        "execution_count": None,
        "id": TAG,
        "metadata": {"tags": [TAG]},
        "outputs": [],
        "source": [*(f"{line}\n" for line in lines[:-1]), lines[-1]],
    }
    cells.insert(place + 1, cell)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _literal(value: Any) -> str:
    """A str, int, float or bool in Python."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
