"""Loss curves of a metrics file."""

from pathlib import Path

import polars as pl
from matplotlib.figure import Figure


def plot_losses(metrics: Path) -> Figure:
    """Loss against batch, a line for each supervision step, from `train`'s metrics file."""
    rows = pl.read_ndjson(metrics, infer_schema_length=None).drop_nulls("batch")
    losses = rows["loss"].list.to_struct(fields=lambda i: f"step {i + 1}").struct.unnest()
    window = max(1, len(rows) // 40)  # a running mean, since one batch says little
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    shown = sorted({0, len(losses.columns) // 2, len(losses.columns) - 1})
    for index in shown:
        curve = losses.to_series(index).rolling_mean(window, min_samples=1)
        axes.plot(rows["batch"], curve, label=f"supervision step {index + 1}")
    axes.set(xlabel="batch", ylabel="loss (nats per label token)", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    return figure
