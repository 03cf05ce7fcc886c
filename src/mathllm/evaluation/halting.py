"""What halting costs: where it says something else than the full recursion."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mathllm.engines import Decoder
from mathllm.errors import ParameterError


@dataclass(frozen=True)
class Disagreement:
    """Over `tokens` tokens of text: where the argmax differs, and supervision steps used."""

    tokens: int
    differ: int
    steps: int

    @property
    def share(self) -> float:
        """Of tokens, those where halting says something else."""
        return self.differ / self.tokens

    @property
    def steps_per_token(self) -> float:
        return self.steps / self.tokens


@torch.inference_mode()
def disagreement(
    decoder: Decoder, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]
) -> Disagreement:
    """Compare a halting decoder with greedy texts of the full recursion, token by token.

    Every token is asked for after the text that the full recursion wrote, so that one
    difference does not make the rest another text. Raises ParameterError for a decoder that
    does not halt, and without any text.
    """
    if decoder.halting_threshold is None:
        raise ParameterError("halting_threshold is None: give a decoder that halts")
    tokens = differ = steps = 0
    for prompt, text in zip(prompts, texts, strict=True):
        if not text:
            continue
        lanes = decoder.lanes(1, len(prompt) + len(text))
        lanes.prefill([list(prompt[:-1])], [len(prompt) - 1], [0])
        columns = lanes.window(len(text))
        device = columns.columns.device
        asked = torch.tensor([[prompt[-1], *text[:-1]]], device=device)
        h, _ = lanes.feed(asked, columns)
        y, used = lanes.refine(h, columns)
        said = decoder.model.head(y)[0].argmax(dim=-1)
        tokens += len(text)
        differ += int((said != torch.tensor(text, device=device)).sum())
        steps += int(used.sum())
    if not tokens:
        raise ParameterError("no text to compare: every completion is empty")
    return Disagreement(tokens, differ, steps)
