"""Notebooks as other tools leave them: read, shown, and refused with the cell's number."""

import json
from pathlib import Path

import pytest

from mathllm.errors import ParameterError
from mathllm.notebook_files import read_notebook
from mathllm.notebooks import export_html
from mathllm.parameters import read_declarations

WIDGETS = "application/vnd.jupyter.widget-state+json"
VIEW = {"application/vnd.jupyter.widget-view+json": {"model_id": "abc"}, "text/plain": "a bar"}
SHOWN = {"output_type": "display_data", "metadata": {}, "data": VIEW}


FIRST = {"source": "n: int = 1  # a number", "metadata": {"tags": ["parameters"]}}
TWICE = {"source": "n: int = 1\nm = 2\nn = 3", "metadata": {"tags": ["parameters"]}}
BROKEN = {"source": "n: int = 1\n!ls", "metadata": {"tags": ["parameters"]}}
R = {"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}}


def notebook(*cells, first=FIRST, **metadata):
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": metadata,
        "cells": [{"cell_type": "code"} | cell for cell in (first, *cells)],
    }


def written(folder: Path, content, encoding="utf-8") -> Path:
    path = folder / "n.ipynb"
    path.write_text(json.dumps(content), encoding=encoding)
    return path


OLD = {
    "nbformat": 3,
    "nbformat_minor": 0,
    "metadata": {"name": ""},
    "worksheets": [
        {
            "cells": [
                {
                    "cell_type": "code",
                    "input": "n: int = 1  # a number",
                    "metadata": {"tags": ["parameters"]},
                    "language": "python",
                    "outputs": [],
                }
            ]
        }
    ],
}


@pytest.mark.parametrize(
    "content",
    [
        notebook(),
        notebook(kernelspec={"name": "conda-env-x-py", "display_name": "x"}),
        notebook(**R, language_info={"name": "R"}),
        notebook(widgets={WIDGETS: {"abc": {}}}),
        notebook(widgets={WIDGETS: {"state": {}, "version_major": 2, "version_minor": 0}}),
        notebook(widgets={}),
        notebook({"source": "1", "outputs": [SHOWN]}, widgets={WIDGETS: {"abc": {}}}),
        notebook({"source": ["1\n", "2"], "id": "same"}, {"source": "3", "id": "same"}),
        notebook({"source": "1", "metadata": {"id": "x", "colab": {}, "trusted": True}}, colab={}),
        notebook(kaggle={"accelerator": "gpu", "dataSources": []}, accelerator="GPU"),
        notebook({"source": "n = 2", "metadata": {"tags": ["injected-parameters"]}}, papermill={}),
        notebook({"source": "x", "metadata": {"tags": "hide"}}),
        notebook({"cell_type": "markdown", "source": "# A title"}),
        {key: value for key, value in notebook().items() if key in ("cells", "metadata")},
        OLD,
        notebook(
            {"source": "1", "id": 7}, {"source": "2", "id": "a b"}, {"source": "3", "id": None}
        ),
        notebook({"cell_type": "markdown", "source": "x", "outputs": [], "execution_count": None}),
        notebook({"source": "1", "attachments": {}, "outputExpanded": False}),
        notebook({"source": "1", "outputs": None, "metadata": None}),
        notebook({"source": "1", "metadata": {"tags": None}}, kernelspec=None, language_info=None),
        notebook({"source": "1", "outputs": [{"output_type": "stream", "text": "a"}]}),
        notebook({"source": "1", "outputs": [SHOWN | {"transient": {"display_id": "x"}}]}),
        notebook(
            {
                "source": "1",
                "outputs": [{"output_type": "execute_result", "data": {"text/plain": "1"}}],
            }
        ),
        notebook({"source": "1", "outputs": [SHOWN | {"data": {"text/plain": "\ud83d"}}]}),
        notebook({"cell_type": "markdown", "source": "![a](attachment:lost.png)"}),
        notebook({"source": "%time n = 2", "metadata": {"tags": ["injected-parameters"]}}),
    ],
    ids=range(26),
)
def test_what_other_tools_leave_is_read_and_shown(tmp_path, content):
    path = written(tmp_path, content)
    found = read_notebook(path)
    assert found.metadata.kernelspec.name == "python3"
    assert found.metadata.kernelspec.language == "python"
    assert len({cell.id for cell in found.cells}) == len(found.cells)
    assert [declared.name for declared in read_declarations(path)] == ["n"]
    assert "a number" in export_html(path).read_text()


def test_a_byte_order_mark_is_no_fault(tmp_path):
    path = written(tmp_path, notebook(), encoding="utf-8-sig")
    assert [declared.name for declared in read_declarations(path)] == ["n"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            notebook({"source": ""}, {"source": "m = 5", "metadata": {"tags": ["parameters"]}}),
            "cells 1 and 3 are both tagged 'parameters'",
        ),
        (notebook({"source": "x = 1\nn: int = 5"}), "cell 2 declares it again in line 2"),
        (notebook({"source": "n : int=5\nm = n"}), "cell 2 declares it again in line 1"),
        (notebook(first=BROKEN), "cell 1, line 2, tagged 'parameters', is not Python"),
        (notebook(first=TWICE), "cell 1 declares n in line 1 and in line 3"),
        (notebook({"source": 7}), "cell 2: "),
        (notebook({"source": "1", "outputs": "none"}), "no valid notebook|not a notebook"),
        (notebook({"cell_type": "odd", "source": "1"}), "cell 2: "),
        ([], "not a notebook"),
        ({"cells": {}}, "not a notebook|no valid notebook|no cell tagged"),
        ({"nbformat": 4, "metadata": {}}, "it has no cells"),
        ({"nbformat": "four", "cells": []}, "notebook"),
        ({"cells": [1]}, "not a notebook"),
        ({"metadata": [], "cells": []}, "not a notebook"),
    ],
    ids=range(14),
)
def test_what_is_wrong_is_said_with_its_cell(tmp_path, content, said):
    path = written(tmp_path, content)
    with pytest.raises(ParameterError, match=rf"n\.ipynb.*({said})"):
        read_declarations(path)


def test_a_name_that_goes_on_differently_or_is_set_later_is_no_second_declaration(tmp_path):
    path = written(tmp_path, notebook({"source": "n = Path(n)\nnumber: int = 5\nf(n)[0:n] = 3"}))
    assert [declared.name for declared in read_declarations(path)] == ["n"]
