"""The runs of a batch, compared: one row a run, and one row for each set of settings."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import polars as pl

from mathllm import metrics
from mathllm.batches.plan import Batch
from mathllm.batches.runs import Run
from mathllm.batches.workdir import DONE, ENDED_BADLY, BatchFolder
from mathllm.errors import BatchError
from mathllm.parameters import mend_name

WAITING = "waiting"
SPREAD, COUNT, MINUTES = "spread", "runs", "minutes"


@dataclass(frozen=True)
class Summary:
    """`runs` has a row for each run; `table` one for each set of settings, the best first:
    mean and sample standard deviation of the metric over its runs, and means of the rest."""

    runs: pl.DataFrame
    table: pl.DataFrame
    settings: list[str]
    failures: list[dict[str, Any]]

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(self.runs["status"]))


def missing(metric: str, found: list[str]) -> str:
    """That a metric was not recorded, with the nearest that was."""
    return f"no metric {metric} in {metrics.METRICS}: {mend_name(metric, found)}"


def summarise(batch: Batch, place: BatchFolder, runs: list[Run]) -> Summary:
    """Compare what is there so far. Raises BatchError when no result has the metric."""
    rows = [_row(batch, place, run) for run in runs]
    settings = [batch.label(setting) for setting in batch.varied]
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    if names and batch.metric.name not in names:
        raise BatchError(f"{batch.path}: {missing(batch.metric.name, names)}")
    # What the runs are compared by, then the rest.
    names = sorted(names, key=lambda name: name != batch.metric.name)
    columns = {label: [row["settings"].get(label) for row in rows] for label in settings}
    if batch.seed:
        columns[batch.label(batch.seed)] = [row["seed"] for row in rows]
    columns |= {name: [row["metrics"].get(name) for row in rows] for name in names}
    columns |= {key: [row[key] for row in rows] for key in ("status", MINUTES, "attempt", "run")}
    frame = pl.DataFrame([_series(name, values) for name, values in columns.items()])
    failures = [row for row in rows if row["status"] in ENDED_BADLY]
    return Summary(frame, _table(frame, batch, settings, names), settings, failures)


def _row(batch: Batch, place: BatchFolder, run: Run) -> dict[str, Any]:
    found = place.status(run.id)
    status = found.get("status", WAITING)
    done = status == DONE
    return {
        "run": run.id,
        "status": status,
        "settings": {batch.label(setting): value for setting, value in run.settings.items()},
        "seed": run.seed,
        "attempt": found.get("attempt", 0),
        "message": found.get("message", ""),
        MINUTES: found["seconds"] / 60 if "seconds" in found else None,
        "metrics": metrics.read(place.run(run.id)) if done else {},
    }


def _series(name: str, values: list[Any]) -> pl.Series:
    """A column; values of several kinds are kept as texts."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        values = [None if value is None else float(value) for value in values]
    elif len(kinds) > 1:
        values = [None if value is None else str(value) for value in values]
    return pl.Series(name, values, strict=False)


def _table(
    frame: pl.DataFrame, batch: Batch, settings: list[str], names: list[str]
) -> pl.DataFrame:
    metric = batch.metric.name
    done = frame.filter(pl.col("status") == DONE)
    if done.is_empty():
        return done.select(settings)
    if not frame[metric].dtype.is_numeric():
        raise BatchError(f"{batch.path}: the metric {metric} is no number: compare by another")
    rest = [name for name in names[1:] if frame[name].dtype.is_numeric()]
    figures = [
        pl.len().alias(COUNT),
        pl.col(metric).mean(),
        pl.col(metric).std().alias(SPREAD),
        *(pl.col(name).mean() for name in rest),
        pl.col(MINUTES).mean(),
    ]
    if not settings:
        return done.select(figures)
    groups = done.group_by(settings, maintain_order=True).agg(figures)
    return groups.sort(metric, descending=batch.metric.higher, nulls_last=True, maintain_order=True)
