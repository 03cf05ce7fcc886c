"""What a person sees of training: rows as they are learned, their lengths, and the losses."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import polars as pl
from matplotlib.figure import Figure
from transformers import PreTrainedTokenizerBase

from mathllm.tokens.rows import Example, TokenSet


def plot_losses(metrics: Path) -> Figure:
    """Loss against step, a line for some supervision steps and one for held-out losses.

    `metrics` is `train`'s file of JSON lines.
    """
    rows = _read(metrics)
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    each = rows.with_columns(index=pl.int_ranges(pl.col("losses").list.len()))
    each = each.explode("losses", "index").with_columns(
        pl.col("supervision_step") + pl.col("index")
    )
    last = each["supervision_step"].max()
    for step in sorted({1, (last + 1) // 2, last}):
        curve = each.filter(pl.col("supervision_step") == step)
        # A running mean, since one group says little.
        smooth = curve["losses"].ewm_mean(half_life=max(1, len(curve) / 40))
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


def _read(metrics: Path) -> pl.DataFrame:
    return pl.read_ndjson(metrics, infer_schema_length=None).drop_nulls("step")


def plot_curriculum(metrics: Path, gate: float) -> Figure:
    """The moving share of right rows that a gate looks at, stage by stage."""
    rows = _read(metrics).group_by("group", maintain_order=True).last()
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(rows["group"], rows["accuracy"], linewidth=1.2)
    axes.axhline(gate, color="grey", ls=":", label="gate")
    begun = rows.group_by("stage", maintain_order=True).first()
    for stage, group in zip(begun["stage"], begun["group"], strict=True):
        axes.axvline(group, color="grey", alpha=0.3)
        axes.text(group, 1.03, f" {stage}", rotation=45, fontsize=7)
    axes.set(xlabel="group", ylabel="right rows, moving share", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    return figure


def plot_staircase(shares: Mapping[int, Sequence[float]]) -> Figure:
    """Shares of right rows after each supervision step (0: the backbone), a row for each number
    of hops."""
    hops = sorted(shares)
    table = [shares[k] for k in hops]
    figure = Figure(figsize=(7, 0.6 + 0.4 * len(hops)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(table, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for row, values in enumerate(table):
        for column, value in enumerate(values):
            color = "white" if value > 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color)
    columns = len(table[0])
    names = ["backbone", *map(str, range(1, columns))]
    axes.set_xticks(range(columns), names)
    axes.set_yticks(range(len(hops)), [str(k) for k in hops])
    axes.set(xlabel="after so many supervision steps", ylabel="hops")
    return figure


def example_html(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    """The example as HTML: the masked prompt pale, every label token with a mark of its own."""
    tokens = [int(token) for token in example.tokens]
    prompt = escape(tokenizer.decode(tokens[: example.prompt]))
    labels = "".join(
        f'<span style="border-bottom:2px solid #2a7de1;margin-right:1px">'
        f"{escape(tokenizer.decode([token]))}</span>"
        for token in tokens[example.prompt :]
    )
    return (
        '<pre style="white-space:pre-wrap;line-height:1.7">'
        f'<span style="opacity:0.5">{prompt}</span>{labels}</pre>'
    )


def plot_lengths(data: TokenSet) -> Figure:
    """How many rows have how many tokens, prompt and label tokens apart."""
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    parts = {"prompt": data.prompts, "labels": data.lengths - data.prompts}
    axes.hist(parts.values(), bins=50, histtype="step", label=list(parts), linewidth=1.5)
    axes.set(xlabel="tokens of a row", ylabel="rows")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure
