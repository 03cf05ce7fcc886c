"""What a training example looks like to a person."""

from html import escape

from transformers import PreTrainedTokenizerBase

from mathllm.data.chat import Example


def example_html(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    """The example as HTML: the masked prompt pale, every label token with a mark of its own."""
    prompt = escape(tokenizer.decode(example.tokens[: example.prompt]))
    labels = "".join(
        f'<span style="border-bottom:2px solid #2a7de1;margin-right:1px">'
        f"{escape(tokenizer.decode([token]))}</span>"
        for token in example.tokens[example.prompt :]
    )
    return (
        '<pre style="white-space:pre-wrap;line-height:1.7">'
        f'<span style="opacity:0.5">{prompt}</span>{labels}</pre>'
    )
