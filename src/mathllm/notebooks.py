"""Running a notebook from a command line, and showing it to a person.

Knows papermill and nbconvert. Knows nothing of what a notebook is about.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from mathllm import errors
from mathllm.parameters import parse_parameters, read_declarations

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class NotebookError(Exception):
    """A cell raised something that is no mistake of the user's; the message is its traceback."""


def run_notebook(notebook: Path, output: Path, pairs: Sequence[tuple[str, str]]) -> None:
    """Execute `notebook` into `output`, with parameters as (name, text) pairs.

    Parameters are checked before anything is written. A UserError that a cell raises comes
    out as it is, anything else as NotebookError; `output` then holds the notebook so far.
    """
    parameters = parse_parameters(pairs, read_declarations(notebook))
    # Here and not above: papermill takes a second that no other command needs.
    from papermill import PapermillExecutionError, execute_notebook
    from traitlets.config import Config

    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _sockets() as sockets:
            # What cells print, and their progress bars, as they come: a cell may run for hours.
            execute_notebook(
                str(notebook),
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
        raise NotebookError("\n".join(fault.traceback)) from None


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
    """The notebook as one HTML file beside it, to be read offline; returns its path."""
    from nbconvert import HTMLExporter

    # Scripts from the web are left out: the page must read the same without a network.
    nowhere = dict.fromkeys(("require_js_url", "jquery_url", "mathjax_url"), "")
    exporter = HTMLExporter(embed_images=True, **nowhere)
    executed = nbformat.read(notebook, as_version=4)
    for cell in executed.cells:
        if cell.cell_type == "code":
            cell.outputs = _settled(cell.outputs)
    title = {"metadata": {"name": notebook.stem}}
    text, _ = exporter.from_notebook_node(executed, title)
    page = notebook.with_suffix(".html")
    part = page.with_name(f".{page.name}.part")
    part.write_text(text, encoding="utf-8")
    return part.replace(page)


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
