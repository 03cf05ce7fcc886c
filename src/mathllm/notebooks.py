"""Running a notebook from a command line, and showing it to a person."""

import ast
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from mathllm import errors, pages
from mathllm.files import write_text
from mathllm.notebook_files import cells_tagged, read_notebook
from mathllm.parameters import parse_parameters, read_declarations
from mathllm.redaction import hide, known_secrets

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# Of the cell, in IPython's traceback: as IPython counts, and behind a first line of %%time.
_LINE = re.compile(r"Cell In\[\d+\], line (\d+)")
_TIMED_LINE = re.compile(r"File <timed \w+>:(\d+)")
_ATTACHED = re.compile(r"\battachment:([^\s)>\"']+)")
_INJECTED = "injected-parameters"
_ASKED = "StdinNotImplementedError"  # what a kernel raises where it may not ask
_COLUMNS = re.compile(r"\S {2,}\S|\t|[│┃|]\s.*[│┃|]$", re.MULTILINE)
# Of an output's forms the first that it has. Scripts and widgets are none: pages run nothing.
_SHOWN = ("text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg")
_SHOWN += ("text/plain", "text/latex")


class NotebookError(Exception):
    """A cell raised something that is no mistake of the user's, or ended its process.

    `summary` is one line: the cell, its line and the fault. The message ends with it, after
    the cell's traceback.
    """

    def __init__(self, notebook: Path, summary: str, traceback: str = ""):
        super().__init__(f"{traceback}\n{notebook}: {summary}".strip("\n"))
        self.summary = summary


def run_notebook(notebook: Path, output: Path, pairs: Sequence[tuple[str, str]]) -> None:
    """Execute `notebook` into `output`, with parameters as (name, text) pairs.

    Parameters are checked before anything is written. A UserError that a cell raises comes
    out as it is, anything else as NotebookError; `output` then holds the notebook so far.
    """
    parameters = parse_parameters(pairs, read_declarations(notebook))
    content = read_notebook(notebook)
    (place,) = cells_tagged(content.cells, "parameters")
    added = bool(parameters) and not cells_tagged(content.cells, _INJECTED)

    def number(executed: int) -> int:
        """A cell's number in the file, where papermill's own with the values is not."""
        return executed + 1 - (added and executed > place)

    # Here and not above: papermill takes a second that no other command needs.
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook
    from traitlets.config import Config

    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _sockets() as sockets:
            # What cells print, and their progress bars, as they come: a cell may run for hours.
            execute_notebook(
                content,
                str(output),
                parameters,
                kernel_name="python3",
                progress_bar=False,
                stdout_file=sys.stdout,
                stderr_file=sys.stderr,
                config=Config(KernelManager=sockets),
            )
    except PapermillExecutionError as fault:
        kind = getattr(errors, fault.ename, None)
        if isinstance(kind, type) and issubclass(kind, errors.UserError):
            raise kind(fault.evalue) from None
        if fault.ename == _ASKED:
            raise errors.ParameterError(
                f"{notebook}: cell {number(fault.cell_index)} waits for somebody to type (input or "
                "getpass), and nobody is there: make what it asks for a parameter"
            ) from None
        traceback = "\n".join(fault.traceback)
        line = _line(plain(traceback), fault.source)
        where = f"cell {number(fault.cell_index)}" + (f", line {line}" if line else "")
        said = f"{fault.ename}: {fault.evalue}".partition("\n")[0]
        raise NotebookError(notebook, f"{where}: {said}", traceback) from None
    except DeadKernelError:
        begun = [n for n, cell in enumerate(read_notebook(output).cells) if _has_begun(cell)]
        raise NotebookError(
            notebook,
            f"cell {number(begun[-1])}: the notebook's process has ended, killed or out of memory: "
            "ask for less at a time",
        ) from None
    finally:
        _hide_secrets(output)


def _line(traceback: str, source: str) -> int | None:
    """The cell's line that raised; IPython does not count blank ones before the first."""
    before = source[: len(source) - len(source.lstrip())].count("\n")
    if timed := _TIMED_LINE.search(traceback):
        return before + 1 + int(timed[1])
    counted = _LINE.search(traceback)
    return before + int(counted[1]) if counted else None


def _hide_secrets(notebook: Path) -> None:
    """An executed notebook is shown to others; a cell may have printed anything."""
    if notebook.is_file():
        text = notebook.read_text(encoding="utf-8")
        if (hidden := hide(text, known_secrets())) != text:
            write_text(notebook, hidden)


def _has_begun(cell: NotebookNode) -> bool:
    return cell.metadata.get("papermill", {}).get("start_time") is not None


@contextmanager
def _sockets() -> Iterator[dict[str, str]]:
    """How a kernel is talked to: by sockets in the file system where there are some.

    On TCP others on the machine can listen. The folder is the kernel's own: Jupyter's default
    names in the current one are taken by another kernel that starts at the same moment.
    """
    if os.name != "posix":
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="kernel-") as folder:
        yield {"transport": "ipc", "ip": f"{folder}/ipc"}


def plain(text: str) -> str:
    """A traceback as Jupyter colours it, without the colours."""
    return _COLOURS.sub("", text)


def export_html(notebook: Path) -> Path:
    """What an executed notebook shows, as one HTML file beside it; returns its path.

    Its prose, its parameters and its outputs, to be read offline. The code is left out: the
    notebook has it.
    """
    from markupsafe import Markup
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    executed = read_notebook(notebook)
    for cell in executed.cells:
        if cell.cell_type == "code":
            cell.outputs = _settled(cell.outputs)
        else:
            cell.source = _ATTACHED.sub(partial(_attached, cell), cell.source)
    exporter = HTMLExporter(
        extra_template_basedirs=[str(pages.TEMPLATES)],
        template_name=pages.NOTEBOOK,
        filters={"layout": _layout},
        config=Config(NbConvertBase={"display_data_priority": list(_SHOWN)}),
        exclude_input=True,
        exclude_anchor_links=True,
        embed_images=True,
    )
    resources = {"parameters": _parameters(notebook, executed.cells)}
    body, _ = exporter.from_notebook_node(executed, resources)
    page = notebook.with_suffix(".html")
    pages.write_page(page, "frame.html.j2", title=notebook.stem, body=Markup(body))
    return page


def _attached(cell: NotebookNode, name: re.Match[str]) -> str:
    """An attachment's address; nbconvert ends at one that the cell lacks."""
    return name[0] if cell.get("attachments", {}).get(name[1]) else name[1]


def _parameters(notebook: Path, cells: list[NotebookNode]) -> list[dict[str, Any]]:
    """name, value (as Python), meaning and `given` (it is not the notebook's own) of each."""
    own, injected = (_assigned(cells, tag) for tag in ("parameters", _INJECTED))
    return [
        {"name": one.name, "value": value, "meaning": one.meaning, "given": value != default}
        for one in (read_declarations(notebook) if own else ())
        for default in [own.get(one.name)]
        for value in [injected.get(one.name, default)]
    ]


def _assigned(cells: list[NotebookNode], tag: str) -> dict[str, str | None]:
    """What the cells with a tag assign, as Python that is written in one way."""
    found: dict[str, str | None] = {}
    for cell in cells:
        if tag not in cell.metadata.get("tags", []):
            continue
        try:
            assigned = ast.parse(cell.source).body
        except (SyntaxError, ValueError):  # with magic commands; what is declared has been read
            continue
        for node in assigned:
            if isinstance(node, ast.Assign | ast.AnnAssign):
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                found[ast.unparse(target)] = ast.unparse(node.value) if node.value else None
    return found


def _layout(text: str) -> str:
    """Whether a text stands in columns, which a narrow page must not break, or is prose."""
    return "columns" if _COLUMNS.search(text) else "prose"


def _settled(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Each stream in one piece, and of each line what its last carriage return left.

    A progress bar so shows its end; a browser would show each of its states on a line.
    """
    settled: list[NotebookNode] = []
    streams: dict[str, NotebookNode] = {}
    for output in outputs:
        if output.output_type != "stream":
            settled.append(output)
        elif output.name in streams:
            streams[output.name].text += output.text
        else:
            streams[output.name] = output
            settled.append(output)
    for output in streams.values():
        output.text = re.sub(r"[^\n]*\r(?=[^\n])", "", output.text)
    return settled
