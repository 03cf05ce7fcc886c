"""From logits to tokens. Every row draws from a random stream of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mathllm.errors import ParameterError


@dataclass(frozen=True)
class SamplingConfig:
    """How to draw. Temperature 0 is greedy; `deadline` is a time.monotonic() in seconds.

    Raises ParameterError for a value out of its range.
    """

    n: int = 1
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    stop_ids: frozenset[int] = frozenset()
    deadline: float | None = None

    def __post_init__(self) -> None:
        for name, value, low in (
            ("n", self.n, 1),
            ("max_new_tokens", self.max_new_tokens, 1),
            ("temperature", self.temperature, 0),
        ):
            if value < low:
                raise ParameterError(f"{name} is {value}: it must be at least {low}")
        if not 0 < self.top_p <= 1:
            raise ParameterError(f"top_p is {self.top_p}: it must be over 0 and at most 1")


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The smallest set of most likely tokens that holds `top_p`, renormalised; [B, V] -> [B, V].

    Top-p sampling (Holtzman et al., 1904.09751); the most likely token always stays.
    """
    if top_p >= 1:
        return probabilities
    ordered, order = probabilities.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    ordered = ordered.masked_fill(before >= top_p, 0.0)
    kept = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    return kept / kept.sum(dim=-1, keepdim=True)


def draw(
    logits: Tensor, config: SamplingConfig, streams: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [B, V] -> tokens [B], their log probabilities [B], entropies [B], in nats.

    Log probability and entropy are the model's own, before temperature and top-p.
    Inverse transform sampling: row b spends one uniform number of streams[b] a token, so
    that a row does not change with its neighbours in the batch.
    """
    logits = logits.float()
    logprobs = logits.log_softmax(dim=-1)
    entropy = torch.special.entr(logprobs.exp()).sum(dim=-1)
    if config.temperature == 0:
        tokens = logits.argmax(dim=-1)
    else:
        probabilities = (logits / config.temperature).softmax(dim=-1)
        cumulative = nucleus(probabilities, config.top_p).double().cumsum(dim=-1)
        uniform = torch.stack([torch.rand((), generator=s, dtype=torch.float64) for s in streams])
        target = uniform.to(logits.device) * cumulative[:, -1]
        tokens = torch.searchsorted(cumulative, target[:, None], right=True).squeeze(-1)
        tokens = tokens.clamp(max=logits.shape[-1] - 1)
    return tokens, logprobs.gather(-1, tokens[:, None]).squeeze(-1), entropy
