"""A batch as one page that needs no other file and no network.

Knows HTML. Knows nothing of where the figures come from.
"""

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from mathllm import pages
from mathllm.batches.plan import Batch
from mathllm.batches.plots import plot_setting
from mathllm.batches.summary import COUNT, DONE, MINUTES, SPREAD, Summary


def write_page(path: Path, batch: Batch, summary: Summary) -> None:
    """Write the page of a batch."""
    metric = batch.metric
    counts = ", ".join(f"{count} {status}" for status, count in summary.counts.items())
    better = "more" if metric.higher else "less"
    parts = [
        f"<h1>{_text(batch.path.stem)}</h1>",
        f'<p class="note">{_text(batch.about)}</p>' if batch.about else "",
        f"<p>{len(summary.runs)} runs: {_text(counts)}. Compared by {_text(metric.name)}"
        f"{f' ({_text(metric.unit)})' if metric.unit else ''}; {better} is better.</p>",
        *_comparison(batch, summary),
        *_plots(batch, summary),
        *_failures(summary),
        "<h2>Every run</h2>",
        _table(summary.runs),
    ]
    pages.write_page(path, batch.path.stem, "\n".join(filter(None, parts)))


def _comparison(batch: Batch, summary: Summary) -> Iterable[str]:
    if summary.table.is_empty():
        return
    shown = [*summary.settings, COUNT, batch.metric.name, SPREAD]
    rest = [name for name in summary.table.columns if name not in (*shown, MINUTES)]
    yield "<h2>Best first</h2>"
    yield _table(summary.table.select(*shown, MINUTES), best=True)
    yield (
        f"<p>{_text(batch.metric.name)} is the mean over the runs of a line, spread their sample "
        "standard deviation, minutes the mean time of a run.</p>"
    )
    if rest:
        yield "<details><summary>All other metrics, means</summary>"
        yield _table(summary.table.select(*summary.settings, *rest))
        yield "</details>"


def _plots(batch: Batch, summary: Summary) -> Iterable[str]:
    done = summary.runs.filter(pl.col("status") == DONE)
    for setting in batch.varied if not done.is_empty() else []:
        label = batch.label(setting)
        if done[label].drop_nulls().n_unique() < 2:
            continue
        metric = batch.metric
        drawn = plot_setting(done, label, metric.name, batch.meaning(setting), metric.unit)
        yield f"<h2>{_text(metric.name)} against {_text(label)}</h2>"
        yield f"<figure>{drawn}</figure>"


def _failures(summary: Summary) -> Iterable[str]:
    if not summary.failures:
        return
    yield "<h2>Ended badly</h2><ul>"
    for row in summary.failures:
        given = ", ".join(f"{name} {value}" for name, value in row["settings"].items())
        yield (
            f'<li><span class="bad">{_text(row["status"])}</span> {_text(given)} '
            f"(<code>{row['run']}</code>): {_text(row['message'])}</li>"
        )
    yield "</ul><p>Their logs are in runs/ID/log.txt; --retry-failed runs them again.</p>"


def _table(frame: pl.DataFrame, best: bool = False) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in frame.columns)
    rows = [
        f"<tr{' class=best' if best and not number else ''}>"
        + "".join(f"<td>{_text(_figure(value))}</td>" for value in row)
        + "</tr>"
        for number, row in enumerate(frame.iter_rows())
    ]
    return f'<div class="box"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _figure(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(value: Any) -> str:
    return html.escape(str(value))
