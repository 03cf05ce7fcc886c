"""Whether what a program imports is there where it will run.

Knows Python's import statements, and which distribution brings a module that is named
otherwise. Knows nothing of where the names of what is there come from.
"""

import ast
import sys
from collections.abc import Collection
from dataclasses import dataclass

from packaging.utils import canonicalize_name

# Modules whose distribution has another name.
_DISTRIBUTIONS = {"google": "protobuf", "grpc": "grpcio", "yaml": "pyyaml", "zmq": "pyzmq"}
# What catches the error of an import.
_CATCHES = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}


@dataclass(frozen=True)
class Import:
    """The top name of an imported module, and its line."""

    module: str
    line: int


def missing(program: ast.Module, there: Collection[str], beside: Collection[str]) -> Import | None:
    """The first import of something that is nowhere, None if all are somewhere.

    `there` are names of modules and canonical names of distributions, `beside` names of
    modules in the program's folder. A module whose absence the program handles in one place
    may be absent: there it finds out, and it imports it elsewhere only if it was found.
    """
    imports, handled = _imports(program)
    for found in imports:
        name = found.module
        if name in handled or name in sys.stdlib_module_names or name in beside:
            continue
        if name not in there and canonicalize_name(_DISTRIBUTIONS.get(name, name)) not in there:
            return found
    return None


def _imports(tree: ast.Module) -> tuple[list[Import], set[str]]:
    """All imports in order of lines, and the names of those whose failure is caught."""
    guarded = {
        id(inside)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) and any(map(_catches, node.handlers))
        for statement in node.body
        for inside in ast.walk(statement)
    }
    imports, handled = [], set()
    for node in ast.walk(tree):
        for name in _names(node):
            imports.append(Import(name, node.lineno))
            if id(node) in guarded:
                handled.add(name)
    return sorted(imports, key=lambda found: found.line), handled


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [node.module.partition(".")[0]]
    return []


def _catches(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(kind, ast.Name) and kind.id in _CATCHES for kind in kinds)
