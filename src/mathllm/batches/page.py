"""A batch as one page that needs no other file and no network."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
from markupsafe import Markup

from mathllm import pages
from mathllm.batches.plan import Batch
from mathllm.batches.plots import plot_setting
from mathllm.batches.summary import COUNT, DONE, MINUTES, SPREAD, Summary


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
