"""From logits to tokens: what a row may draw, and how it draws.

Temperature, top-k, top-p, min-p and repetition penalty are transformers' in meaning and
order. A row draws from random numbers of its own, a fixed few for each token that it may
emit, so that a sample depends neither on its neighbours nor on how many tokens a pass holds.
Knows nothing of models and caches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event

import torch
from torch import Tensor

from mathllm.errors import ParameterError

# The random numbers of one token: to draft it, to accept the draft, to replace it.
DRAFT, ACCEPT, REPLACE = range(3)


@dataclass(frozen=True)
class SamplingConfig:
    """How to draw for one prompt, and when to stop.

    Temperature 0 is greedy; top_k 0, top_p 1, min_p 0 and repetition_penalty 1 are off.
    `stop_ids` and `stop_sequences` (token ids) end a completion and are part of it.
    `deadline` is a time.monotonic() in seconds, `cancel` ends generation once it is set.
    Raises ParameterError for a value out of its range.
    """

    n: int = 1
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop_ids: frozenset[int] = frozenset()
    stop_sequences: tuple[tuple[int, ...], ...] = ()
    deadline: float | None = None
    cancel: Event | None = None

    def __post_init__(self) -> None:
        for name, low in (("n", 1), ("max_new_tokens", 1), ("temperature", 0), ("top_k", 0)):
            value = getattr(self, name)
            if not value >= low:
                raise ParameterError(f"{name} is {value}: it must be at least {low}")
        if not 0 < self.top_p <= 1:
            raise ParameterError(f"top_p is {self.top_p}: it must be over 0 and at most 1")
        if not 0 <= self.min_p <= 1:
            raise ParameterError(f"min_p is {self.min_p}: it must be from 0 to 1")
        if not self.repetition_penalty > 0:
            raise ParameterError(
                f"repetition_penalty is {self.repetition_penalty}: it must be over 0"
            )
        if not all(self.stop_sequences):
            raise ParameterError(
                "stop_sequences has an empty sequence: give each at least one token id"
            )


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
