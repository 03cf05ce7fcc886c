"""Notebook parameters: what does not fit is named, with the mend, before anything runs."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from helpers.paths import ROOT
from mathllm.errors import ParameterError
from mathllm.parameters import (
    Declared,
    check_parameters,
    parse_list,
    parse_parameters,
    read_declarations,
)

DECLARED = [
    Declared("epochs", "int", True),
    Declared("lr", "float", True),
    Declared("weights", "str", False),
    Declared("freeze_lm_head", "bool", True),
    Declared("anything", "", True),
]


def write_notebook(path: Path, parameters: str, *cells: str) -> Path:
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    notebook.metadata["kernelspec"]["language"] = "python"
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook.cells = [tagged, *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(notebook, path)
    return path


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (int, [0, -3], [1.0, "1", True, None]),
        (float, [1, 0.5], ["0.5", True, float("nan"), float("inf")]),
        (str, ["", "a"], [1, None]),
        (bool, [True, False], [0, 1, "True"]),
    ],
)
def test_a_value_of_another_type_is_refused(kind, good, bad):
    for value in good:
        check_parameters({"size": value}, {"size": kind})
        check_parameters({"size": value}, {"size": kind.__name__})
    for value in bad:
        with pytest.raises(ParameterError, match=rf"size is .*{kind.__name__}"):
            check_parameters({"size": value}, {"size": kind})


def test_a_missing_value_names_parameter_type_and_mend():
    with pytest.raises(ParameterError, match=r"weights is missing.*str.*-p weights VALUE"):
        check_parameters({"epochs": 1}, {"epochs": int, "weights": str})


def test_other_names_and_other_types_are_not_checked():
    check_parameters({"a": [1], "b": 2}, {"a": list[int]})


def test_texts_become_values_of_the_declared_types():
    pairs = [
        ("epochs", "2"),
        ("lr", "1e-3"),
        ("weights", "7"),
        ("freeze_lm_head", "False"),
        ("anything", "[1, 2]"),
    ]
    values = parse_parameters(pairs, DECLARED)
    assert values == {
        "epochs": 2,
        "lr": 1e-3,
        "weights": "7",
        "freeze_lm_head": False,
        "anything": [1, 2],
    }
    assert isinstance(parse_parameters([("weights", "w"), ("lr", "1")], DECLARED)["lr"], float)


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (("epoch", "2"), "epoch is unknown.*did you mean epochs"),
        (("colour", "2"), "colour is unknown.*epochs, lr, weights"),
        (("epochs", "two"), "epochs is 'two'.*an int"),
        (("epochs", "1.5"), "epochs is 1.5.*an int"),
        (("freeze_lm_head", "true"), "freeze_lm_head is 'true'.*True or False"),
    ],
)
def test_a_text_that_does_not_fit_is_named(pair, words):
    with pytest.raises(ParameterError, match=words):
        parse_parameters([("weights", "w"), pair], DECLARED)


def test_a_parameter_without_default_must_be_given():
    with pytest.raises(ParameterError, match="weights is missing"):
        parse_parameters([], DECLARED)


def test_declarations_are_read_from_the_tagged_cell(tmp_path):
    source = 'weights: str\nepochs: int = 1  # passes\nname = r"a # b"\n'
    notebook = write_notebook(tmp_path / "n.ipynb", source, "other: int = 3")
    assert read_declarations(notebook) == [
        Declared("weights", "str", False),
        Declared("epochs", "int", True),
        Declared("name", "", True),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no notebook"),
        ("# %% not JSON", "not a notebook"),
        ('{"cells": []}', "no cell tagged"),
    ],
)
def test_a_file_that_is_no_notebook_is_named(tmp_path, text, words):
    path = tmp_path / "n.ipynb"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ParameterError, match=rf"n\.ipynb.*{words}|{words}.*n\.ipynb"):
        read_declarations(path)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "build.py"), "run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.process
def test_run_executes_a_notebook_and_shows_it_as_a_page(tmp_path):
    notebook = write_notebook(
        tmp_path / "n.ipynb",
        "text: str = ''\ncount: int = 1",
        "from mathllm.parameters import check_parameters\n"
        "check_parameters(globals(), __annotations__)\nprint(text * count)",
    )
    output = tmp_path / "out" / "done.ipynb"
    arguments = ["-p", "text", "12", "-p", "count", "3", "--output", output, "--html"]
    result = run(notebook, *arguments)
    assert result.returncode == 0, result.stderr
    assert "121212" in output.with_suffix(".html").read_text(encoding="utf-8")
    assert 'src="http' not in output.with_suffix(".html").read_text(encoding="utf-8")


@pytest.mark.process
def test_run_shows_a_users_mistake_in_one_line(tmp_path):
    cells = ["from mathllm.errors import WeightsError\nraise WeightsError('no weights in x')"]
    notebook = write_notebook(tmp_path / "n.ipynb", "a: int = 1", *cells)
    result = run(notebook, "--output", tmp_path / "done.ipynb")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == "error: no weights in x"
    assert "Traceback" not in result.stderr


@pytest.mark.process
def test_run_keeps_the_traceback_of_another_fault(tmp_path):
    notebook = write_notebook(tmp_path / "n.ipynb", "a: int = 1", "1 / 0")
    result = run(notebook, "--output", tmp_path / "done.ipynb")
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stderr


def test_run_writes_nothing_when_a_parameter_does_not_fit(tmp_path):
    notebook = write_notebook(tmp_path / "n.ipynb", "epochs: int = 1")
    result = run(notebook, "-p", "epoch", "2", "--output", tmp_path / "out" / "done.ipynb")
    assert result.returncode == 2
    assert (
        result.stderr
        == "error: parameter epoch is unknown to this notebook: did you mean epochs?\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [("1,2,3", int, [1, 2, 3]), (" add , gcd", str, ["add", "gcd"]), ("", int, [])],
)
def test_a_list_is_read_from_one_parameter(text, kind, values):
    assert parse_list("names", text, kind) == values


def test_a_wrong_value_in_a_list_is_named():
    with pytest.raises(ParameterError, match=r"difficulties is '1,two': 'two' is not an int"):
        parse_list("difficulties", "1,two", int)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int", 2**63),
        ("int", -(10**5000)),
        ("float", 10**5000),
        ("float", 10**400),
        ("str", {"a": 1}),
        ("int", [[["x" * 10**7] * 100]] * 100),
    ],
    ids=range(6),
)
def test_a_value_that_is_too_large_is_refused_in_a_line(kind, value):
    with pytest.raises(ParameterError, match=r"parameter size is .*: it must be") as caught:
        check_parameters({"size": value}, {"size": kind})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "text", ["[" * 5000, "(" * 300, "-" * 9000 + "1", "9" * 6000, "{[]: 1}", "x" * 10**6, "1\0"]
)
def test_a_text_that_python_cannot_read_is_no_value(text):
    with pytest.raises(
        ParameterError, match=r"parameter epochs is .*: it must be an int"
    ) as caught:
        parse_parameters([("weights", "w"), ("epochs", text)], DECLARED)
    assert len(str(caught.value)) < 300
    with pytest.raises(ParameterError, match="is unknown to this notebook") as caught:
        parse_parameters([(text, "1")], DECLARED)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"cells": 1}',
        '{"cells": [{"metadata": {"tags": ["parameters"]}}]}',
        '{"cells": [{"metadata": {"tags": ["parameters"]}, "source": [1]}]}',
        '{"cells": [{"metadata": {"tags": ["parameters"]}, "source": "' + "(" * 5000 + '"}]}',
        '{"cells": [{"metadata": {"tags": ["parameters"]}, "source": "a = 1\\u0000"}]}',
        f'{{"cells": {"9" * 5000}}}',
    ],
    ids=range(7),
)
def test_a_file_that_is_no_notebook_is_refused_in_a_line(tmp_path, text):
    path = tmp_path / "n.ipynb"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(
        ParameterError, match=r"n\.ipynb.*(no[t a]* (valid )?notebook|is not Python)"
    ) as caught:
        read_declarations(path)
    assert len(str(caught.value).removeprefix(str(path))) < 300
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["n" * 5000, "a\0b", "a/" * 3000 + "b"], ids=range(3))
def test_a_name_that_no_file_can_have_is_no_notebook(name):
    with pytest.raises(ParameterError, match="no notebook"):
        read_declarations(Path(name))
