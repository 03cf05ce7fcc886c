"""The metric against each setting that varies, as SVG that takes the page's colours."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import polars as pl
from markupsafe import Markup
from matplotlib.figure import Figure

from mathllm import pages
from mathllm.batches.plan import Batch
from mathllm.batches.summary import COUNT, DONE, MINUTES, SPREAD, Summary
from mathllm.labels import drawn

_INK = "#010203"  # becomes the page's text colour, light or dark
_POINTS, _MEAN = "#2a7de1", "#e07b00"  # both stand out on white and on black
_TICKS = 8  # values, up to which each has its tick
_AXIS = 60  # characters along an axis
_LOG_SPAN = 10  # largest to smallest value, from which an axis is logarithmic


def plot_setting(
    points: pl.DataFrame, setting: str, metric: str, meaning: str = "", unit: str = ""
) -> str:
    """An SVG: a point for each run and a line through the means. `points` has both columns."""
    points = points.drop_nulls([setting, metric])
    values = points[setting].unique(maintain_order=True).to_list()
    places = _places(values)
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [places[value] for value in points[setting]],
        points[metric],
        "o",
        color=_POINTS,
        alpha=0.65,
        markersize=5,
        label=f"a run ({len(points)})",
    )
    means = {v: points.filter(pl.col(setting) == v)[metric].mean() for v in values}
    ordered = sorted(values, key=places.__getitem__)
    axes.plot(
        [places[value] for value in ordered],
        [means[value] for value in ordered],
        "-_",
        color=_MEAN,
        markersize=16,
        markeredgewidth=2,
        label="mean",
    )
    numeric = _is_numeric(values)
    if numeric and _is_logarithmic(values):
        axes.set_xscale("log")
    if not numeric or len(values) <= _TICKS:
        named = [f"{value:g}" if numeric else drawn(value) for value in places]
        axes.set_xticks(list(places.values()), named)
        axes.minorticks_off()
    axes.margins(x=0.05 if numeric else 0.2)
    measured = drawn(f"{metric} ({unit})" if unit else metric, _AXIS)
    axes.set(xlabel=_axis(setting, meaning), ylabel=measured)
    axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), labelcolor=_INK)
    axes.grid(alpha=0.25, color=_INK)
    return _svg(figure)


def _axis(setting: str, meaning: str) -> str:
    return f"{drawn(setting)}: {drawn(meaning, _AXIS)}" if meaning else drawn(setting, _AXIS)


def _is_numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def _is_logarithmic(values: Sequence[Any]) -> bool:
    return min(values) > 0 and max(values) >= _LOG_SPAN * min(values)


def _places(values: Sequence[Any]) -> dict[Any, float]:
    """Where each value stands: numbers at themselves, names side by side."""
    if _is_numeric(values):
        return {value: float(value) for value in values}
    return {value: float(number) for number, value in enumerate(values)}


def _svg(figure: Figure) -> str:
    for axes in figure.axes:
        axes.patch.set_alpha(0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_INK)
        axes.tick_params(colors=_INK, which="both")
        axes.xaxis.label.set_color(_INK)
        axes.yaxis.label.set_color(_INK)
    buffer = io.StringIO()
    # Words stay words: they are searched, read aloud, and take the page's font.
    with mpl.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")


def write_page(path: Path, batch: Batch, summary: Summary) -> None:
    """Write the page of a batch."""
    compared = [*summary.settings, COUNT, batch.metric.name, SPREAD, MINUTES]
    rest = [name for name in summary.table.columns if name not in compared]
    empty = summary.table.is_empty()
    pages.write_page(
        path,
        "batch.html.j2",
        title=batch.path.stem,
        about=batch.about,
        metric=batch.metric,
        runs=summary.runs,
        counts=", ".join(f"{count} {status}" for status, count in summary.counts.items()),
        means=summary.table if empty else summary.table.select(compared),
        others=summary.table.select(*summary.settings, *rest) if rest and not empty else None,
        plots=_plots(batch, summary),
        failures=summary.failures,
    )


def _plots(batch: Batch, summary: Summary) -> Iterator[tuple[str, Markup]]:
    """What varies, and the metric drawn against it."""
    done, metric = summary.runs.filter(pl.col("status") == DONE), batch.metric
    for setting in batch.varied if not done.is_empty() else []:
        label = batch.label(setting)
        if done[label].drop_nulls().n_unique() > 1:
            meaning = batch.meaning(setting)
            yield label, Markup(plot_setting(done, label, metric.name, meaning, metric.unit))
