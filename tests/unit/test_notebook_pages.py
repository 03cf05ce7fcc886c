"""A notebook's page: what it shows, and that it asks nothing of anyone."""

import base64

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers.pages import Page, check_alone
from mathllm.notebooks import export_html

# nbconvert says so of the script that no page may run.
pytestmark = pytest.mark.filterwarnings("ignore:Your element with mimetype")

PARAMETERS = "steps: int = 100  # optimizer steps\nname: str = 'a<b'  # of the run\nlr = 1e-3"
TABLE = '<table class="dataframe"><tr><td>a wide table</td></tr></table>'
WIDGET = "application/vnd.jupyter.widget-view+json"
PNG = base64.b64encode(b"no picture, but nobody looks").decode()


def outputs() -> list:
    return [
        new_output("stream", name="stdout", text="step  loss\n   1  2.50\n"),
        new_output("stream", name="stderr", text="a warning <i>"),
        new_output("display_data", data={"text/html": TABLE, "text/plain": "plain"}),
        new_output("display_data", data={"image/png": PNG, "text/plain": "Figure(640x480)"}),
        new_output("execute_result", data={"text/plain": "the <last> value"}, execution_count=1),
        new_output("display_data", data={"application/javascript": "steal()"}),
        new_output(
            "display_data",
            data={WIDGET: {"model_id": "1"}, "text/plain": "100% done"},
        ),
        new_output("error", ename="E", evalue="no", traceback=["\x1b[31mE\x1b[0m: no such thing"]),
    ]


@pytest.fixture
def page(tmp_path) -> str:
    cells = [
        new_markdown_cell("# A run\n\nWhat it is **for**."),
        new_code_cell("import hidden_code"),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell('steps = 3\nname = "a<b"', metadata={"tags": ["injected-parameters"]}),
        new_code_cell("hidden_code.work()", outputs=outputs()),
    ]
    path = tmp_path / "run.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return export_html(path).read_text(encoding="utf-8")


def test_a_page_needs_no_network_and_fits_a_phone(page):
    check_alone(page)
    elements = Page(page).elements
    viewport = {"name": "viewport", "content": "width=device-width, initial-scale=1"}
    assert ("meta", viewport) in elements
    for rule in ("prefers-color-scheme: dark", "@media print", "overflow-x: auto"):
        assert rule in page


def test_a_page_shows_results_and_no_code(page):
    assert "hidden_code" not in page
    assert "steal" not in page
    for shown in ("<h1>A run</h1>", TABLE, f"data:image/png;base64,{PNG}", "100% done"):
        assert shown in page
    for escaped in ("a warning &lt;i&gt;", "the &lt;last&gt; value", "no such thing"):
        assert escaped in page
    assert "Figure(640x480)" not in page  # a picture says it


def test_parameters_stand_in_a_table_those_that_were_given_first(page):
    given, own = page.split("<details>")
    assert Page(given).cells == ["steps", "3", "optimizer steps"]
    assert Page(own).cells[:6] == ["name", "'a<b'", "of the run", "lr", "0.001", ""]
    assert "2 parameters with the notebook's own value" in own


def test_columns_are_not_broken_and_sentences_are(page):
    assert '<pre class="columns">step  loss' in page
    assert '<pre class="aside prose">a warning' in page


def test_a_page_stays_small(page):
    assert len(page) < 15_000  # the look and no more: JupyterLab's own is half a megabyte


def test_a_page_is_whole_or_not_there(page, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mathllm.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        export_html(tmp_path / "run.ipynb")
    assert (tmp_path / "run.html").read_text(encoding="utf-8") == page
