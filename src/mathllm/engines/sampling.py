"""From logits to tokens: what a row may draw, and how it draws.

Temperature, top-k, top-p, min-p and repetition penalty are transformers' in meaning and order.
A row draws from random numbers of its own, a fixed few for each token that it may emit, so that
a sample depends neither on its neighbours nor on how many tokens a pass holds.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mathllm.engines.base import SamplingConfig

# The random numbers of one token: to draft it, to accept the draft, to replace it.
DRAFT, ACCEPT, REPLACE = range(3)


def random_numbers(seed: int, tokens: int) -> Tensor:
    """Uniform numbers in [0, 1) of one sample, [tokens, 3]; more tokens change none of them."""
    stream = torch.Generator().manual_seed(seed % 2**63)
    return torch.rand(tokens, 3, dtype=torch.float64, generator=stream)


def inverse_transform(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Tokens [B] of distributions [B, V], each at its `uniform` [B] of the cumulative sum."""
    cumulative = probabilities.double().cumsum(dim=-1)
    target = uniform * cumulative[:, -1]
    tokens = torch.searchsorted(cumulative, target[:, None], right=True).squeeze(-1)
    return tokens.clamp(max=probabilities.shape[-1] - 1)


class Rules:
    """The settings of the rows of a batch, as columns [B, 1], and what they allow to be drawn.

    No method waits for the device.
    """

    def __init__(self, configs: Sequence[SamplingConfig], device: torch.device) -> None:
        def column(name: str) -> Tensor:
            return torch.tensor([[float(getattr(c, name))] for c in configs], device=device)

        temperature = column("temperature")
        self._cold = temperature == 0
        self._temperature = temperature.masked_fill(self._cold, 1.0)
        self._top_k = column("top_k").long()
        self._top_p = column("top_p")
        self._min_p = column("min_p")
        self._penalty = column("repetition_penalty")
        self.greedy = all(c.temperature == 0 for c in configs)
        self.penalised = any(c.repetition_penalty != 1 for c in configs)
        self._any_cold = any(c.temperature == 0 for c in configs)
        self._any_sorted = any(c.top_k > 0 or c.top_p < 1 for c in configs)
        self._any_min_p = any(c.min_p > 0 for c in configs)

    def penalise(self, logits: Tensor, seen: Tensor | None) -> Tensor:
        """Logits [B, V] with the tokens that were `seen` [B, V] made less likely (1909.05858)."""
        if seen is None:
            return logits
        lowered = torch.where(logits < 0, logits * self._penalty, logits / self._penalty)
        return torch.where(seen, lowered, logits)

    def probabilities(self, logits: Tensor, seen: Tensor | None = None) -> Tensor:
        """What rows with these logits [B, V] may draw, [B, V]; all of it on one token if greedy."""
        logits = self.penalise(logits.float(), seen)
        if self.greedy:
            return _all_on(logits.argmax(dim=-1), logits)
        scaled = logits / self._temperature
        if self._any_sorted:
            scaled = self._most_likely(scaled)
        p = scaled.softmax(dim=-1)
        if self._any_min_p:  # at most 1, so the most likely token always stays
            p = p.masked_fill(p < self._min_p * p.amax(dim=-1, keepdim=True), 0.0)
            p = p / p.sum(dim=-1, keepdim=True)
        if self._any_cold:
            p = torch.where(self._cold, _all_on(logits.argmax(dim=-1), logits), p)
        return p

    def _most_likely(self, logits: Tensor) -> Tensor:
        """−∞ outside the top k, then outside the smallest set that holds top_p (1904.09751)."""
        ordered, order = logits.sort(dim=-1, descending=True)
        last = self._top_k.sub(1).clamp(0, logits.shape[-1] - 1)
        least = ordered.gather(-1, last)  # [B, 1]; equals of the k-th stay
        outside = (ordered < least) & (self._top_k > 0)
        ordered = ordered.masked_fill(outside, -torch.inf)
        p = ordered.softmax(dim=-1)
        outside |= (p.cumsum(dim=-1) - p >= self._top_p) & (self._top_p < 1)
        outside[:, 0] = False
        return logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)


def _all_on(tokens: Tensor, like: Tensor) -> Tensor:
    """Distributions [B, V] with everything on tokens [B]."""
    return torch.zeros_like(like).scatter_(-1, tokens[:, None], 1.0)


def measures(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Log probability of tokens [B] and entropy [B] under logits [B, V], in nats.

    The model's own, before any setting changes them.
    """
    logprobs = logits.float().log_softmax(dim=-1)
    entropy = torch.special.entr(logprobs.exp()).sum(dim=-1)
    return logprobs.gather(-1, tokens[:, None]).squeeze(-1), entropy
