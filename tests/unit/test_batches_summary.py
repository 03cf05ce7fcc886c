"""Results, compared: the table, the plots and the page."""

import json
import re
from xml.etree import ElementTree

import polars as pl
import pytest

from helpers import batching
from helpers.paths import ROOT
from mathllm.batches import runs
from mathllm.batches.plan import read_batch
from mathllm.batches.plots import plot_setting, write_page
from mathllm.batches.summary import summarise
from mathllm.batches.workdir import BatchFolder
from mathllm.errors import BatchError
from mathllm.metrics import read, record


def finished(folder, score, **keys):
    """A batch whose runs have `score(width, seed)`, a failure where that is a text."""
    path = batching.write_batch(folder, grid={"width": [1, 20, 3]}, seeds=2, **keys)
    batch = read_batch(path, ROOT)
    place, expanded = BatchFolder(folder / "out"), runs.expand(batch)
    for run in expanded:
        value = score(run.settings["light", "width"], run.seed)
        where = place.begin(run, {})
        status = {"status": "done", "seconds": 60, "attempt": 1}
        if isinstance(value, str):
            status = {"status": "failed", "message": value}
        else:
            record(where, score=value, extra=2 * value, kind="<b>bold</b>")
        (where / "status.json").write_text(json.dumps(status))
    return batch, place, expanded


def test_the_best_stands_first_with_mean_and_spread(tmp_path):
    summary = summarise(*finished(tmp_path, lambda width, seed: width + 2.0 * seed))
    assert summary.table["width"].to_list() == [20, 3, 1]
    assert summary.table["score"].to_list() == [21, 4, 2]
    assert summary.table["spread"].to_list() == pytest.approx([2**0.5] * 3)
    assert summary.table["extra"].to_list() == [42, 8, 4]
    assert "kind" not in summary.table.columns
    assert summary.runs["kind"][0] == "<b>bold</b>"


def test_lower_may_be_better(tmp_path):
    metric = {"name": "score", "better": "lower"}
    summary = summarise(*finished(tmp_path, lambda width, seed: width + seed, metric=metric))
    assert summary.table["width"].to_list() == [1, 3, 20]


def test_one_result_has_no_spread_and_failures_are_no_results(tmp_path):
    summary = summarise(
        *finished(tmp_path, lambda width, seed: "gone <wrong>" if seed else float(width))
    )
    assert summary.table["runs"].to_list() == [1, 1, 1]
    assert summary.table["spread"].to_list() == [None] * 3
    assert summary.counts == {"done": 3, "failed": 3}


def test_a_metric_that_is_nowhere_is_named_with_the_nearest(tmp_path):
    metric = {"name": "scores", "better": "higher"}
    with pytest.raises(BatchError, match=r"no metric scores .* did you mean score\?"):
        summarise(*finished(tmp_path, lambda *_: 1.0, metric=metric))


def test_a_metric_that_is_no_number_is_refused(tmp_path):
    metric = {"name": "kind", "better": "higher"}
    with pytest.raises(BatchError, match="kind is no number"):
        summarise(*finished(tmp_path, lambda *_: 1.0, metric=metric))


def test_a_batch_without_results_has_a_page_all_the_same(tmp_path):
    batch, place, expanded = finished(tmp_path, lambda *_: "broken")
    summary = summarise(batch, place, expanded)
    assert summary.table.is_empty()
    write_page(tmp_path / "page.html", batch, summary)
    assert "broken" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_stands_alone(tmp_path):
    batch, place, expanded = finished(
        tmp_path, lambda width, seed: "gone <wrong>" if (width, seed) == (3, 1) else width + seed
    )
    write_page(tmp_path / "page.html", batch, summarise(batch, place, expanded))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    # Nothing is loaded from anywhere; addresses in the SVG are names of its format.
    assert not re.search(r"""(src|href)=["'](?!#)""", page)
    assert "<script" not in page
    assert "gone &lt;wrong&gt;" in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert page.count("<svg") == 1


def test_a_plot_names_its_axes_and_takes_the_pages_colour():
    points = pl.DataFrame({"lr": [1e-4, 1e-4, 1e-2], "score": [0.1, 0.3, 0.5]})
    svg = plot_setting(points, "lr", "score", "peak learning rate", "share of problems")
    ElementTree.fromstring(svg)
    assert "lr: peak learning rate" in svg
    assert "score (share of problems)" in svg
    assert "a run (3)" in svg
    assert "currentColor" in svg
    assert "#000000" not in svg
    names = plot_setting(
        pl.DataFrame({"mixer": ["attention", "none"], "score": [1.0, 2.0]}), "mixer", "score"
    )
    assert ">attention<" in names


def test_metrics_are_added_whole_or_not_at_all(tmp_path):
    assert read(tmp_path) == {}
    record(tmp_path / "new", accuracy=0.5, name="a")
    record(tmp_path / "new", accuracy=pl.Series([0.75]).to_numpy()[0], loss=float("inf"))
    assert read(tmp_path / "new") == {"accuracy": 0.75, "name": "a", "loss": None}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["metrics.json"]
