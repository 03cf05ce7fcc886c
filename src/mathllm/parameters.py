"""Parameters of notebooks: what a notebook declares, and whether a given value fits.

A notebook declares its parameters in the cell tagged `parameters`, each as `name: type =
default # meaning`, and calls `check_parameters(globals(), __annotations__)` in the cell after
it, because whoever runs it may have put other values in.
"""

import ast
import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mathllm.errors import ParameterError
from mathllm.notebook_files import cells_tagged, read_notebook
from mathllm.wording import NAMED, brief, shown

TYPES = {"str": str, "int": int, "float": float, "bool": bool}
MOST = 2**63 - 1  # of an int: what files and other languages hold
_LITERAL = 10_000  # characters of a value that is not a text
_MISSING = object()


@dataclass(frozen=True)
class Declared:
    """A parameter as its notebook declares it: the type's name, whether it has a default, and
    the comment beside it, which is for people."""

    name: str
    type_name: str
    has_default: bool
    meaning: str = field(default="", compare=False)


def _type_name(declared: Any) -> str:
    return declared if isinstance(declared, str) else getattr(declared, "__name__", str(declared))


def _fits(value: Any, type_name: str) -> bool:
    """bool is no number, a float is a finite one, and an int one of 64 bits, which will do for
    a float."""
    expected = TYPES.get(type_name)
    if expected is None:
        return True
    if isinstance(value, bool) or expected is bool:
        return isinstance(value, bool) and expected is bool
    if isinstance(value, int) and abs(value) > MOST:
        return False
    if expected is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, expected)


def _shown(type_name: str) -> str:
    """A type as its user writes it on a command line."""
    return {"float": "a finite float", "bool": "a bool, True or False", "int": "an int"}.get(
        type_name, f"a {type_name}"
    )


def _size(value: Any) -> str:
    huge = isinstance(value, int) and abs(value) > MOST
    return f" between -{MOST} and {MOST}" if huge else ""


def check_parameters(given: Mapping[str, Any], declared: Mapping[str, Any]) -> None:
    """Raise ParameterError for the first of `declared` that `given` lacks or has otherwise.

    `given` may hold other names too (a notebook passes its globals). `declared` maps names
    to types or their names; types other than str, int, float and bool are not checked.
    """
    for name, kind in declared.items():
        value, type_name = given.get(name, _MISSING), _type_name(kind)
        if value is _MISSING:
            raise ParameterError(
                f"parameter {name} is missing: it has no default, so give {_shown(type_name)} "
                f"with -p {name} VALUE"
            )
        if not _fits(value, type_name):
            raise ParameterError(
                f"parameter {name} is {shown(value)} ({type(value).__name__}): "
                f"it must be {_shown(type_name)}{_size(value)}"
            )


def read_declarations(notebook: Path) -> list[Declared]:
    """What the cell tagged `parameters` of an .ipynb declares, in order.

    Raises ParameterError when the file is no notebook or has no such cell.
    """
    cells = read_notebook(notebook).cells
    tagged = cells_tagged(cells, "parameters")
    if not tagged:
        raise ParameterError(f"{notebook} has no cell tagged 'parameters': tag one")
    if len(tagged) > 1:
        raise ParameterError(
            f"{notebook}: cells {tagged[0] + 1} and {tagged[1] + 1} are both tagged 'parameters', "
            "and what the second says would undo a value that is given: leave the tag on one"
        )
    source = cells[tagged[0]].source
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as fault:
        line = f", line {fault.lineno}" if isinstance(fault, SyntaxError) else ""
        why = brief(getattr(fault, "msg", fault) or type(fault).__name__)
        raise ParameterError(
            f"{notebook}: cell {tagged[0] + 1}{line}, tagged 'parameters', is not Python ({why}): "
            "mend that cell"
        ) from fault
    lines = source.splitlines()
    found: dict[str, tuple[int, Declared]] = {}
    for node in tree.body:
        if (declared := _declaration(node, lines)) is None:
            continue
        if declared.name in found:
            raise ParameterError(
                f"{notebook}: cell {tagged[0] + 1} declares {declared.name} in line "
                f"{found[declared.name][0]} and in line {node.lineno}: leave one"
            )
        found[declared.name] = node.lineno, declared
    _check_later(notebook, cells, tagged[0], found)
    return [declared for _, declared in found.values()]


def _check_later(notebook: Path, cells: list[Any], place: int, names: Iterable[str]) -> None:
    """Raise ParameterError where a later cell declares a parameter again."""
    again = re.compile(rf"^({'|'.join(map(re.escape, names)) or '(?!)'})\s*:[^=\n]+=", re.MULTILINE)
    injected = cells_tagged(cells, "injected-parameters")
    for number, cell in enumerate(cells):
        if number <= place or number in injected or cell.cell_type != "code":
            continue
        if match := again.search(cell.source):
            line = cell.source.count("\n", 0, match.start()) + 1
            raise ParameterError(
                f"{notebook}: {match[1]} is a parameter of cell {place + 1}, and cell {number + 1} "
                f"declares it again in line {line}, where a value that is given would be lost: "
                "take one out"
            )


def _declaration(node: ast.stmt, lines: list[str]) -> Declared | None:
    # Columns of the tree are counted in bytes.
    behind = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
    meaning = behind.partition("#")[2].strip()
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        has_default = node.value is not None
        return Declared(node.target.id, ast.unparse(node.annotation), has_default, meaning)
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return Declared(node.targets[0].id, "", True, meaning)
    return None


def mend_name(name: str, known: Iterable[str]) -> str:
    """What to do about a name that is not among the known ones, for an error's last words."""
    known = list(known)
    near = difflib.get_close_matches(name[:NAMED], known, n=1)
    return f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"


def parse_parameters(
    pairs: Iterable[tuple[str, str]], declarations: Iterable[Declared]
) -> dict[str, Any]:
    """Values of the declared types from a command line's (name, text) pairs.

    Raises ParameterError for an unknown name (the nearest known one is named), a text that
    is not of the type, or a parameter that has no default and is not given.
    """
    known = {declared.name: declared for declared in declarations}
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name not in known:
            mend = mend_name(name, known)
            raise ParameterError(f"parameter {brief(name)} is unknown to this notebook: {mend}")
        values[name] = parse_value(name, text, known[name].type_name)
    required = {d.name: d.type_name for d in known.values() if not d.has_default}
    check_parameters(values, required)
    return values


def parse_value(name: str, text: str, type_name: str) -> Any:
    """`text` as `type_name`; a parameter declared without a type is taken as a literal."""
    if type_name == "str":
        return text
    try:
        value = ast.literal_eval(text) if len(text) <= _LITERAL else text
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = text
    check_parameters({name: value}, {name: type_name})
    return float(value) if type_name == "float" else value


def parse_list(name: str, text: str, kind: Callable[[str], Any] = str) -> list[Any]:
    """The values of a parameter such as "1,2,3"; spaces do not count, "" is no value.

    Raises ParameterError for a value that is not of the `kind`.
    """
    values = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        try:
            values.append(kind(part))
        except ValueError as fault:
            raise ParameterError(
                f"parameter {name} is {shown(text)}: {shown(part)} is not "
                f"{_shown(_type_name(kind))}; "
                "give values with commas between them"
            ) from fault
    return values


def parse_mapping(name: str, text: str) -> dict[str, str]:
    """The pairs of a parameter such as "problem: question, solution: answer"; "" has none.

    Raises ParameterError for a part without a colon, or without a name on either side.
    """
    pairs = {}
    for part in parse_list(name, text):
        key, colon, value = (piece.strip() for piece in part.partition(":"))
        if not (key and colon and value):
            raise ParameterError(
                f"parameter {name} is {shown(text)}: {shown(part)} is no 'name: column'; "
                "give such pairs with commas between them"
            )
        pairs[key] = value
    return pairs
