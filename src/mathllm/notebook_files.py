"""Notebooks as Jupyter, Kaggle, Colab and papermill leave them, read as one kind of thing."""

import json
import re
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mathllm.errors import ParameterError
from mathllm.files import is_file, parse_json
from mathllm.wording import shown

if TYPE_CHECKING:
    from nbformat import NotebookNode

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_WIDGETS = "application/vnd.jupyter.widget-state+json"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_IDENT = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
# What cells and outputs of each kind may have in format 4 beside what all have, and what stands
# for what they lack.
_OF_ALL = ("id", "cell_type", "metadata", "source")
_CELLS: dict[str, dict[str, Any]] = {
    "code": {"outputs": [], "execution_count": None},
    "markdown": {},
    "raw": {},
}
_OUTPUTS: dict[str, dict[str, Any]] = {
    "stream": {"name": "stdout", "text": ""},
    "display_data": {"data": {}, "metadata": {}},
    "execute_result": {"data": {}, "metadata": {}, "execution_count": None},
    "error": {"ename": "", "evalue": "", "traceback": []},
}


def read_notebook(path: Path) -> "NotebookNode":
    """A valid notebook of format 4.5 that asks for Python, whatever its file leaves out.

    Raises ParameterError for a file that is no notebook.
    """
    # Here and not above: no other command needs it.
    import nbformat

    if not is_file(path):
        raise ParameterError(f"no notebook {path}: give the path of an .ipynb file")
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = parse_json(text)
        if _SURROGATE.search(text):  # half of a pair is no character, and no file can hold it
            whole = json.dumps(content, ensure_ascii=False).encode(errors="replace")
            content = parse_json(whole.decode())
        # Before format 4 cells were in worksheets.
        if not content.keys() & {"cells", "worksheets"}:
            raise ValueError("it has no cells")
        _settle(content)
        # Not by nbformat.reads(), which logs a fault before it goes on.
        notebook = nbformat.versions[content["nbformat"]].to_notebook_json(content)
        notebook = nbformat.convert(notebook, 4)
        nbformat.validate(notebook)
    except nbformat.ValidationError as fault:
        raise ParameterError(
            f"{path} is no valid notebook ({_where(fault)}{shown(fault.message)}): open it in "
            "Jupyter, mend that and save it"
        ) from fault
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        raise ParameterError(
            f"{path} is not a notebook ({shown(fault)}): give the .ipynb of a pair, not its .py"
        ) from fault
    return notebook


def cells_tagged(cells: list[Any], tag: str) -> list[int]:
    """The places of the cells with a tag."""
    return [at for at, cell in enumerate(cells) if tag in cell.get("metadata", {}).get("tags", [])]


def _settle(content: dict[str, Any]) -> None:
    """Put right what runs elsewhere and that nbformat, papermill or nbconvert trip over."""
    content.setdefault("nbformat", 4)
    metadata = content["metadata"] = _or_else(content, "metadata", {})
    metadata["kernelspec"] = KERNEL | {
        key: value
        for key, value in _or_else(metadata, "kernelspec", {}).items()
        if key not in KERNEL
    }
    if _or_else(metadata, "language_info", {}).get("name") != "python":
        metadata.pop("language_info", None)
    widgets = metadata.get("widgets")
    if widgets is not None and "state" not in widgets.get(_WIDGETS, {}):
        metadata.pop("widgets")
    if content["nbformat"] == 4:
        content["nbformat_minor"] = 5
    ids = set()
    for number, cell in enumerate(content.get("cells", [])):
        ident = cell.get("id")
        if not isinstance(ident, str) or not _IDENT.fullmatch(ident) or ident in ids:
            cell["id"] = f"cell-{number}"
        ids.add(cell["id"])
        cell.setdefault("cell_type", "code")
        cell["metadata"] = _or_else(cell, "metadata", {})
        if "tags" in cell["metadata"]:
            tags = _or_else(cell["metadata"], "tags", [])
            cell["metadata"]["tags"] = [tags] if isinstance(tags, str) else tags
        if content["nbformat"] == 4:
            attachments = () if cell["cell_type"] == "code" else ("attachments",)
            _keep_only(cell, _CELLS.get(cell["cell_type"]), (*_OF_ALL, *attachments))
            for output in cell.get("outputs", []):
                _keep_only(output, _OUTPUTS.get(output["output_type"]), ("output_type",))


def _or_else(content: Mapping[str, Any], key: str, absent: Any) -> Any:
    """What stands under a key; `absent` for nothing and for null."""
    return absent if content.get(key) is None else content[key]


def _keep_only(
    content: dict[str, Any], wanted: dict[str, Any] | None, beside: Sequence[str]
) -> None:
    """Fill in what lacks and leave out the rest, as a cell keeps it that was of another kind."""
    if wanted is None:
        return
    for key in content.keys() - wanted.keys() - set(beside):
        del content[key]
    for key, absent in wanted.items():
        content[key] = _or_else(content, key, copy(absent))


def _where(fault: Any) -> str:
    """The cell that a fault of validation is in, for people, who count from 1."""
    path = list(fault.absolute_path)
    return f"cell {path[1] + 1}: " if path[:1] == ["cells"] and len(path) > 1 else ""
