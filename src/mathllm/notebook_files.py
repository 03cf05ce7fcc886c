"""Notebooks as Jupyter, Kaggle, Colab and papermill leave them, read as one kind of thing."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mathllm.errors import ParameterError
from mathllm.files import is_file, parse_json
from mathllm.wording import shown

if TYPE_CHECKING:
    from nbformat import NotebookNode

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_WIDGETS = "application/vnd.jupyter.widget-state+json"


def read_notebook(path: Path) -> "NotebookNode":
    """A valid notebook of format 4.5 that asks for Python, whatever its file leaves out.

    Raises ParameterError for a file that is no notebook.
    """
    # Here and not above: no other command needs it.
    import nbformat

    if not is_file(path):
        raise ParameterError(f"no notebook {path}: give the path of an .ipynb file")
    try:
        content = parse_json(path.read_text(encoding="utf-8-sig"))
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
    metadata = content.setdefault("metadata", {})
    metadata["kernelspec"] = KERNEL | {
        key: value for key, value in metadata.get("kernelspec", {}).items() if key not in KERNEL
    }
    if metadata.get("language_info", {}).get("name") != "python":
        metadata.pop("language_info", None)
    widgets = metadata.get("widgets")
    if widgets is not None and "state" not in widgets.get(_WIDGETS, {}):
        metadata.pop("widgets")
    if content["nbformat"] == 4:
        content["nbformat_minor"] = 5
    ids = set()
    for number, cell in enumerate(content.get("cells", [])):
        if (ident := cell.get("id")) is None or ident in ids:
            cell["id"] = f"cell-{number}"
        ids.add(cell["id"])
        cell.setdefault("metadata", {})
        cell.setdefault("cell_type", "code")
        if isinstance(tags := cell["metadata"].get("tags", []), str):
            cell["metadata"]["tags"] = [tags]
        if cell.get("cell_type") == "code":
            cell.setdefault("outputs", [])
            cell.setdefault("execution_count", None)


def _where(fault: Any) -> str:
    """The cell that a fault of validation is in, for people, who count from 1."""
    path = list(fault.absolute_path)
    return f"cell {path[1] + 1}: " if path[:1] == ["cells"] and len(path) > 1 else ""
