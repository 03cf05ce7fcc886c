"""Names out of data in plots: each is drawn as what it is, whatever signs it has."""

import io
import warnings
from pathlib import Path

import polars as pl
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from mathllm.batches.plots import plot_setting
from mathllm.competition.kernel.journal import Journal
from mathllm.competition.kernel.plots import plot_run
from mathllm.evaluation.figures import plot_groups, plot_times
from mathllm.labels import LONGEST, drawn

ODD = [
    r"$\frac$",
    r"$\frac{1}{2}$ and $\nope$",
    "costs $5 or $6",
    r"a \$ b",
    "$",
    "$$",
    "_hidden",
    "__",
    "n" * 5000,
    "line\nbreak\ttab\r\x00\x1b[31mred\x7f",
    "\U0001f600\U0001f9ee",
    "\u4e2d\u6587\u6570\u5b66",
    "\u05e9\u05dc\u05d5\u05dd \u202eabc",
    "\u0633\u0644\u0627\u0645",
    "e\u0301\u200d\u200b\ufeff",
    "\ue000\U0010ffff\ufffe",
    "",
    " ",
    "{}%s%d\\alpha^_&#~",
    "<b>&amp;</b>",
]


def written(figure: Figure) -> list[str]:
    """The texts of a figure; drawing it neither raises nor warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form in ("png", "svg"):
            figure.savefig(io.BytesIO(), format=form)
    return [text.get_text() for text in figure.findobj(Text)]


def journal(path: Path, ids: list[str]) -> Path:
    entry = {
        **{"problem": "", "answer": 7, "votes": {"7": 2.0}, "samples": 3, "without_answer": 1},
        **{"reason": "", "seconds": 3.0, "allowance": 5.0, "waited": 0.0, "budget_used": 0.1},
        **{"tokens_per_second": 1.0, "fault": "", "faults": [], "tool_faults": {}},
    }
    kept = Journal(path)
    for id_ in ids:
        kept.write("answer", id=id_, **entry)
    return path


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_a_text_is_drawn_as_it_is_in_one_line_that_fits(text):
    figure = Figure()
    figure.text(0.5, 0.5, drawn(text))
    written(figure)
    assert len(drawn(text).replace(r"\$", "$")) <= LONGEST + 1
    assert drawn(text).replace(r"\$", "").count("$") == 0
    assert not drawn(text).startswith("_")


@pytest.mark.parametrize("text", ["add", "power_mod", "caf\u00e9 \u00d7 \u03c0", "0e6441", "a-b.c"])
def test_a_usual_name_stays_as_it_is(text):
    assert drawn(text) == text


def test_long_names_that_differ_at_their_end_still_do():
    assert drawn("n" * 100 + "1") != drawn("n" * 100 + "2")


def test_a_run_with_odd_ids_is_drawn(tmp_path):
    texts = written(plot_run(journal(tmp_path / "journal.jsonl", ODD)))
    assert r"\$\frac\$" in texts
    assert sum(len(text) > 60 for text in texts) <= 1  # the title


@pytest.mark.parametrize("name", ODD[:15], ids=range(15))
def test_groups_and_engines_with_odd_names_are_drawn(name):
    rows = {
        "family": [name, "add", name, "add"],
        "engine": ["backbone", "backbone", name, name],
        "problems": [3, 4, 3, 4],
        "right": [1, 2, 2, 3],
        "percent": [33.0, 50.0, 66.0, 75.0],
        "low": [10.0, 20.0, 30.0, 40.0],
        "high": [60.0, 70.0, 90.0, 95.0],
    }
    figure, _ = plot_groups(pl.DataFrame(rows))
    assert drawn(name, 24) in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert f"{drawn(name, 24)} (3)" in written(figure)
    times = {
        "engine": ["backbone", name],
        "problem": [1, 1],
        "id": [name, name],
        "seconds": [1.0, 2.0],
        "tokens": [10, 20],
    }
    written(plot_times(pl.DataFrame(times))[0])


def test_many_engines_with_long_names_leave_room_for_what_is_drawn():
    rows = [
        {"family": f, "engine": f"{'n' * 100}{e}", "problems": 3, "right": 1, "percent": 20.0}
        for e in range(5)
        for f in ("add", "m" * 100)
    ]
    table = pl.DataFrame(rows).with_columns(low=pl.lit(10.0), high=pl.lit(30.0))
    figure, _ = plot_groups(table)
    written(figure)
    assert figure.axes[0].get_position().width > 0.4


@pytest.mark.parametrize("name", ODD[:15], ids=range(15))
def test_a_batchs_odd_values_and_names_are_drawn(name):
    points = pl.DataFrame({"p": [name, "b", name], "score": [1.0, 2.0, 3.0]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = plot_setting(points, "p", "score", meaning=name, unit=name)
        assert "<svg" in svg
        other = points.rename({"score": name or "-"})
        assert "<svg" in plot_setting(other, "p", name or "-")


def test_a_logarithmic_axis_keeps_its_powers():
    points = pl.DataFrame({"lr": [1e-4, 1e-3, 1e-2], "score": [1.0, 2.0, 3.0]})
    assert "mathdefault" not in plot_setting(points, "lr", "score")
