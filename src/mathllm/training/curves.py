"""Curves of a metrics file."""

from pathlib import Path

import polars as pl
from matplotlib.figure import Figure


def plot_losses(metrics: Path) -> Figure:
    """Loss against step, a line for some supervision steps and one for held-out losses.

    `metrics` is `train`'s file of JSON lines.
    """
    rows = pl.read_ndjson(metrics, infer_schema_length=None).drop_nulls("step")
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    last = rows["supervision_step"].max()
    for step in sorted({1, (last + 1) // 2, last}):
        curve = rows.filter(pl.col("supervision_step") == step)
        # A running mean, since one group says little.
        smooth = curve["loss"].ewm_mean(half_life=max(1, len(curve) / 40))
        axes.plot(curve["step"], smooth, label=f"supervision step {step} of {last}")
    if "held_out_loss" in rows.columns:
        held_out = rows.drop_nulls("held_out_loss")
        axes.plot(held_out["step"], held_out["held_out_loss"], "o", label="held out, averaged")
        axes.axhline(
            held_out["backbone_loss"][-1], color="grey", ls=":", label="held out, backbone"
        )
    axes.set(xlabel="optimizer step", ylabel="loss (nats per label token)", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    return figure
