"""Whether what a program imports is there where it will run."""

import ast
import functools
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


@dataclass(frozen=True)
class Imports:
    """All imports of a program in order of lines, and the modules whose absence it handles."""

    all: tuple[Import, ...]
    handled: frozenset[str]


def missing(imports: Imports, there: Collection[str], beside: Collection[str]) -> Import | None:
    """The first import of something that is nowhere, None if all are somewhere.

    `there` are names of modules and canonical names of distributions, `beside` names of
    modules in the program's folder. A module whose absence the program handles in one place
    may be absent: there it finds out, and it imports it elsewhere only if it was found.
    """
    for found in imports.all:
        name = found.module
        if name in imports.handled or name in sys.stdlib_module_names or name in beside:
            continue
        if name not in there and canonicalize_name(_DISTRIBUTIONS.get(name, name)) not in there:
            return found
    return None


@functools.lru_cache(maxsize=1024)  # a package's files; whoever vendors again has the same
def of_text(program: str) -> Imports:
    """What a program imports. Raises SyntaxError for what is none."""
    return of_program(ast.parse(program))


def of_program(program: ast.Module) -> Imports:
    """Goes through statements alone: no expression imports."""
    found, handled = [], set()
    pending: list[tuple[ast.AST, bool]] = [(program, False)]
    while pending:
        node, guarded = pending.pop()
        for name in _names(node):
            found.append(Import(name, node.lineno))
            if guarded:
                handled.add(name)
        tries = isinstance(node, ast.Try) and any(map(_catches, node.handlers))
        for field in ("body", "handlers", "orelse", "finalbody", "cases"):
            inside = guarded or (tries and field == "body")
            pending += [(child, inside) for child in getattr(node, field, ())]
    return Imports(tuple(sorted(found, key=lambda each: each.line)), frozenset(handled))


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
