"""Loss curves of a metrics file."""

from pathlib import Path

import polars as pl
from matplotlib.figure import Figure


def plot_losses(metrics: Path) -> Figure:
    """Loss against batch, a line for each supervision step, from `train`'s metrics file."""
    rows = pl.read_ndjson(metrics, infer_schema_length=None).drop_nulls("batch")
    losses = list(zip(*rows["loss"], strict=True))  # supervision step by supervision step
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for index in sorted({0, len(losses) // 2, len(losses) - 1}):
        # A running mean, since one batch says little.
        curve = pl.Series(losses[index]).ewm_mean(half_life=max(1, len(rows) / 40))
        axes.plot(rows["batch"], curve, label=f"supervision step {index + 1}")
    axes.set(xlabel="batch", ylabel="loss (nats per label token)", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    return figure
