"""Notebooks that run through papermill and fail: what is said, and where."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from helpers.paths import ROOT

BUILD = ROOT / "build.py"


KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def run(
    folder: Path, cell: str, *given: str, kernel: dict[str, str] | None = KERNEL
) -> subprocess.CompletedProcess[str]:
    """`build.py run` of a notebook with this cell, by somebody who would type an answer."""
    cells = [
        nbformat.v4.new_code_cell("size: int = 1  # of it", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(cell),
    ]
    path = folder / "asks.ipynb"
    metadata = {"kernelspec": kernel} if kernel else {}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    output = str(folder / "o.ipynb")
    command = [sys.executable, str(BUILD), "run", str(path), "--output", output, *given]
    return subprocess.run(command, input="y\n" * 9, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell",
    ["input('go on? ')", "import getpass\ngetpass.getpass()", "def ask():\n    input()\nask()"],
    ids=range(3),
)
def test_a_cell_that_asks_is_refused_in_a_line(tmp_path, cell):
    ran = run(tmp_path, cell)
    assert ran.returncode == 2
    said = ran.stderr.splitlines()[-1]
    assert said.startswith(f"error: {tmp_path}/asks.ipynb: cell 2 waits for somebody to type")
    assert said.endswith("make what it asks for a parameter")
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
def test_what_is_read_of_standard_input_is_at_its_end(tmp_path):
    ran = run(tmp_path, "import os, sys\nprint(repr(os.read(0, 10)), repr(sys.stdin.read()))")
    assert ran.returncode == 0
    assert "b'' ''" in ran.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("x = 1\n1/0", "cell 2, line 2: ZeroDivisionError"),
        ("x = (1", "cell 2, line 1: SyntaxError"),
        ("\n\nx = 1\n1/0", "cell 2, line 4: ZeroDivisionError"),
        ("%%time\nx = 1\n1/0", "cell 2, line 3: ZeroDivisionError"),
        ("import os\nos.kill(os.getpid(), 9)", "cell 2: the notebook's process has ended"),
    ],
)
@pytest.mark.parametrize("given", [(), ("-p", "size", "3")], ids=["", "with a value"])
def test_a_fault_is_said_with_its_cell_in_the_file(tmp_path, cell, said, given):
    ran = run(tmp_path, cell, *given)
    assert ran.returncode == 1
    assert f"{tmp_path}/asks.ipynb: {said}" in ran.stderr.splitlines()[-2]


@pytest.mark.slow
def test_a_notebook_that_does_not_say_its_language_runs(tmp_path):
    ran = run(tmp_path, "print(size + 1)", "-p", "size", "3", kernel=None)
    assert ran.returncode == 0
    assert "4\n" in ran.stdout
