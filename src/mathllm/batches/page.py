"""A batch as one page that needs no other file and no network, light or dark, wide or narrow.

Knows HTML. Knows nothing of where the figures come from.
"""

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from mathllm.batches.plan import Batch
from mathllm.batches.plots import plot_setting
from mathllm.batches.summary import COUNT, DONE, MINUTES, SPREAD, Summary

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --line: #d5d8dc; --pale: #5c6470;
  --best: #e3f0ff; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --paper: #16181c; --line: #3a3f47;
  --pale: #9aa3af; --best: #17324f; --bad: #ff8a80; } }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.about { color: var(--pale); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--pale); font-weight: 600; }
tr.best td { background: var(--best); }
figure { margin: 1rem 0; } figure svg { width: 100%; height: auto; max-width: 42rem; }
.bad { color: var(--bad); } code { overflow-wrap: anywhere; }
"""


def write_page(path: Path, batch: Batch, summary: Summary) -> None:
    """Write the page of a batch."""
    metric = batch.metric
    counts = ", ".join(f"{count} {status}" for status, count in summary.counts.items())
    better = "more" if metric.higher else "less"
    parts = [
        f"<h1>{_text(batch.path.stem)}</h1>",
        f'<p class="about">{_text(batch.about)}</p>' if batch.about else "",
        f"<p>{len(summary.runs)} runs: {_text(counts)}. Compared by {_text(metric.name)}"
        f"{f' ({_text(metric.unit)})' if metric.unit else ''}; {better} is better.</p>",
        *_comparison(batch, summary),
        *_plots(batch, summary),
        *_failures(summary),
        "<h2>Every run</h2>",
        _table(summary.runs),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(batch.path.stem)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )
    part = path.with_name(f".{path.name}.part")
    part.write_text(page, encoding="utf-8")
    part.replace(path)


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
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _figure(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(value: Any) -> str:
    return html.escape(str(value))
