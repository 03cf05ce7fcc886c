"""A notebook that waits for somebody to type: nobody is there, and that is said."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from helpers.paths import ROOT

BUILD = ROOT / "build.py"


def run(folder: Path, cell: str) -> subprocess.CompletedProcess[str]:
    """`build.py run` of a notebook with this cell, by somebody who would type an answer."""
    cells = [
        nbformat.v4.new_code_cell("size: int = 1  # of it", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(cell),
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    path = folder / "asks.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    command = [sys.executable, str(BUILD), "run", str(path), "--output", str(folder / "o.ipynb")]
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
