"""A notebook as Kaggle takes and runs it: its parameters put in, and what it would stumble over.

Knows the JSON of notebooks and how Kaggle runs them: papermill, without a kernel's name and
without parameters, so that the notebook itself must say what it is. Neither nbformat nor
papermill writes here, because another version of theirs would give other bytes.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mathllm.errors import BundleError
from mathllm.wording import shown

TAG = "injected-parameters"  # papermill's, so that a run of its own replaces the cell
# "The kernel source must be less than 1 megabytes in size" (JovianHQ/kernel-run#2).
NOTEBOOK_BYTES = 1_000_000
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
_INSTALLS = re.compile(
    r"^\s*[!%]*\s*(\S+\s+-m\s+)?(uv\s+)?(pip3?|conda|mamba|apt|apt-get)\s+"
    r"(-\S+\s+)*install\b(?!.*--no-index)",
)
_SHELL_CELLS = ("%%bash", "%%sh", "%%script")


def inject(notebook: str, values: Mapping[str, Any]) -> str:
    """The text of a notebook with a cell that sets `values`, after the one tagged `parameters`."""
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


def check_notebook(path: Path, text: str) -> None:
    """Refuse a notebook beyond Kaggle's size, with outputs, or that Kaggle could not run.

    `path` is what messages name. Raises BundleError.
    """
    content = _valid(path, text)
    if (size := len(pushed(content))) > NOTEBOOK_BYTES:
        raise BundleError(
            f"{path} has {size:,} bytes as it would be pushed, Kaggle takes {NOTEBOOK_BYTES:,}: "
            "move code into src/ and data into assets/"
        )
    _check_kernelspec(path, content["metadata"])
    for number, cell in enumerate(content["cells"], 1):
        if cell.get("outputs") or cell.get("execution_count") is not None:
            raise BundleError(
                f"{path}: cell {number} has outputs: run `jupytext --to ipynb "
                f"{path.with_suffix('.py').name}` beside it"
            )
    for _ in programs(path, text):
        pass


def programs(path: Path, text: str) -> Iterator[tuple[int, ast.Module]]:
    """Number and program of each code cell, IPython's own lines being calls in it.

    Raises BundleError for a cell that is no Python, or that installs from a network.
    """
    # Here and not above: `--help` needs no IPython.
    from IPython.core.inputtransformer2 import TransformerManager

    for number, cell in enumerate(_valid(path, text)["cells"], 1):
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        shell = source.lstrip().startswith(_SHELL_CELLS)
        for line in source.splitlines():
            if (shell or line.lstrip()[:1] in ("!", "%")) and _INSTALLS.match(line):
                raise BundleError(
                    f"{path}: cell {number} runs {shown(line.strip())}, and Kaggle has no network "
                    "for it: lock the package with `build.py wheels`, and take the line out"
                )
        program = TransformerManager().transform_cell(source)
        flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        try:
            tree = compile(program, str(path), "exec", flags, dont_inherit=True)
            compile(tree, str(path), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        except (SyntaxError, ValueError) as fault:  # ValueError: a sign that no file can hold
            line = getattr(fault, "lineno", None) or 1
            why = getattr(fault, "msg", fault)
            raise BundleError(
                f"{path}: cell {number}, line {line} is no Python ({why}): mend it"
            ) from fault
        yield number, tree


def pushed(content: dict[str, Any]) -> str:
    """A notebook as the client sends it: each source in one piece, other signs escaped."""
    cells = [cell | {"source": "".join(cell["source"])} for cell in content["cells"]]
    return json.dumps(content | {"cells": cells})


def _valid(path: Path, text: str) -> dict[str, Any]:
    import nbformat

    try:
        content = json.loads(text)
        version = content["nbformat"], content["nbformat_minor"]
        if version[0] != 4 or version[1] < 5:
            raise ValueError(f"its format is {version[0]}.{version[1]}, not 4.5")
        nbformat.validate(nbformat.from_dict(content))
    except (ValueError, KeyError, TypeError, nbformat.ValidationError) as fault:
        why = str(fault).strip().partition("\n")[0]
        raise BundleError(
            f"{path} is no valid notebook ({why}): open and save it in Jupyter, or write it anew "
            "with jupytext"
        ) from fault
    return content


def _check_kernelspec(path: Path, metadata: Mapping[str, Any]) -> None:
    """Kaggle's image has a kernel called python3, and takes the name from the notebook."""
    spec = metadata.get("kernelspec", {})
    languages = {spec.get("language"), metadata.get("language_info", {}).get("name", "python")}
    if spec.get("name") != KERNELSPEC["name"] or languages != {"python"}:
        shown = json.dumps({"kernelspec": spec, "language": sorted(map(str, languages))})
        raise BundleError(
            f"{path} asks for {shown}, and Kaggle has python3 alone: set metadata.kernelspec to "
            f"{json.dumps(KERNELSPEC)}"
        )


def _literal(value: Any) -> str:
    """A str, int, float or bool in Python."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
