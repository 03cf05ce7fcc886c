"""Every percent .py in notebooks/ and kernel/ agrees with its .ipynb, which has no outputs.

Prints each pair that does not, with the mend, and exits with 1 if there is one.
"""

import sys
from pathlib import Path

import jupytext
from nbformat import NotebookNode

FOLDERS = ("notebooks", "kernel")


def cells(notebook: NotebookNode) -> list[tuple[str, str, tuple[str, ...]]]:
    """What a pair must share of each cell: its type, its text and its tags."""
    return [
        (cell.cell_type, cell.source.rstrip(), tuple(cell.metadata.get("tags", ())))
        for cell in notebook.cells
    ]


def has_outputs(notebook: NotebookNode) -> bool:
    code = (cell for cell in notebook.cells if cell.cell_type == "code")
    return any(cell.outputs or cell.execution_count is not None for cell in code)


def fault(script: Path) -> str | None:
    """What is wrong with the pair of a .py and the .ipynb beside it, with the mend."""
    notebook = script.with_suffix(".ipynb")
    if not script.is_file():
        return f"{notebook} has no {script.name}: jupytext --to py:percent {notebook}"
    if not notebook.is_file():
        return f"{script} has no {notebook.name}: jupytext --sync {script}"
    paired = jupytext.read(notebook)
    if has_outputs(paired):
        return f"{notebook} has outputs: jupytext --to ipynb {script}"
    if cells(jupytext.read(script)) != cells(paired):
        return f"{notebook} differs from {script.name}: jupytext --sync {script}"
    return None


def main(root: Path) -> int:
    found = (p for f in FOLDERS for p in (root / f).glob("*") if p.suffix in (".py", ".ipynb"))
    scripts = sorted({path.with_suffix(".py") for path in found})
    faults = [text for script in scripts if (text := fault(script.relative_to(root)))]
    for text in faults:
        print(f"error: {text}", file=sys.stderr)
    print(f"{len(scripts) - len(faults)} of {len(scripts)} notebook pairs in sync")
    return 1 if faults or not scripts else 0


if __name__ == "__main__":
    sys.exit(main(Path.cwd()))
