"""What training data look like to a person."""

from html import escape

from matplotlib.figure import Figure
from transformers import PreTrainedTokenizerBase

from mathllm.tokens.rows import Example, TokenSet


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
