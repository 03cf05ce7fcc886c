"""What a person sees of training: rows as they are learned, their lengths, and the losses."""

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
