"""Every wait of a run has an end: each call that may block, and what ends it.

A new one fails the test until its end is written down here; one that is gone fails it too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from helpers.paths import ROOT

PACKAGE = ROOT / "src" / "mathllm"
ROOMS = ("solving", "sandbox", "competition/kernel", "competition/protocol", "engines")
FILES = ("children.py",)
BLOCKING = {
    *("accept", "acquire", "communicate", "connect", "destroy", "getresponse", "join", "map"),
    *("poll", "read", "readline", "recv", "recv_bytes", "result", "run", "select", "send"),
    *("send_bytes", "sendall", "serve", "shutdown", "sleep", "stop", "submit", "wait"),
    *("wait_for_termination", "wait_ready", "wait_until_loaded", "wait_until_ready", "waitpid"),
}
# Receivers whose methods of these names do not wait: texts, paths, tables of functions.
HARMLESS = ("os.path", '"', "'", "str", "path", "separator")
LOCKS = ("lock", "places", "saying")
QUEUES = ("_fresh", "_used", "_jobs", "heard", "inbox")


def calls(path: Path) -> Iterator[str]:
    """FUNCTION: CALL of what may block in a file."""

    def visit(node: ast.AST, inside: str) -> Iterator[str]:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            inside = f"{inside}.{node.name}".strip(".")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            receiver, name = ast.unparse(node.func.value), node.func.attr
            if (name in BLOCKING and not receiver.startswith(HARMLESS)) or (
                name in ("get", "put") and receiver.endswith(QUEUES)
            ):
                yield f"{inside}: {receiver}.{name}"
        if isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                words = ast.unparse(item.context_expr)
                if any(words.lower().endswith(lock) for lock in LOCKS):
                    yield f"{inside}: with {words}"
                if "Executor(" in words:
                    yield f"{inside}: with {words.partition('(')[0]}"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), "")


def found() -> set[str]:
    paths = [path for room in ROOMS for path in (PACKAGE / room).glob("*.py")]
    paths += [PACKAGE / name for name in FILES]
    return {f"{p.relative_to(PACKAGE)} {call}" for p in paths for call in calls(p)}
