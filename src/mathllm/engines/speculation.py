"""The backbone drafts, the recursion verifies: which drafts stand, and how many to draw.

Leviathan, Kalman and Matias, 2211.17192.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mathllm.engines.sampling import ACCEPT, DRAFT, REPLACE, Rules, inverse_transform, measures


def settle(p: Tensor, q: Tensor, drafts: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [B] of distributions p [B, V], from drafts [B] of q [B, V]; and which were kept.

    A draft stands with probability min(1, p/q), else a token of (p − q)⁺ takes its place
    (their algorithm 1): then the token has distribution p, whatever q is. `uniform` [B, 3].
    """
    at = drafts[:, None]
    stands = uniform[:, ACCEPT] * q.gather(-1, at).squeeze(-1) < p.gather(-1, at).squeeze(-1)
    rest = (p - q).clamp(min=0)
    none = rest.sum(dim=-1, keepdim=True) == 0  # p and q the same but for rounding
    other = inverse_transform(torch.where(none, p, rest), uniform[:, REPLACE])
    return torch.where(stands, drafts, other), stands


@dataclass
class Verdict:
    """What a pass over k drafts gives, k + 1 tokens a row [B, k + 1] of which the first
    kept [B] + 1 count: drafts that stand, then one token of the recursion's own."""

    tokens: Tensor
    kept: Tensor
    logprobs: Tensor
    entropy: Tensor
    broken: Tensor


def verify(
    rules: Rules,
    logits: Tensor,
    drafts: list[Tensor],
    proposals: list[Tensor],
    uniform: Tensor,
    seen: Tensor | None,
) -> Verdict:
    """The recursion's logits [B, k + 1, V] against the drafts, k tensors [B].

    `proposals`: the k + 1 distributions [B, V] of the backbone and `drafts` one token more,
    so that a token comes about in the same way wherever a pass ends: a sample does not
    depend on k. Without proposals drafts stand if the recursion says the same (greedy), or
    there are none. `uniform` [B, k + 1, 3]; `seen` [B, V], what a repetition penalty counts.
    """
    tokens, logprobs, entropy, broken = [], [], [], []
    stands = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    kept = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    last = logits.shape[1] - 1
    for j in range(last + 1):
        own = logits[:, j].float()
        broken.append(~own.logsumexp(dim=-1).isfinite())
        own = own.masked_fill(broken[-1][:, None], 0.0)
        if rules.greedy:
            token = rules.penalise(own, seen).argmax(dim=-1)
            same = token == drafts[j] if j < last else stands
        elif proposals:
            p = rules.probabilities(own, seen)
            token, same = settle(p, proposals[j], drafts[j], uniform[:, j])
        else:
            p = rules.probabilities(own, seen)
            token, same = inverse_transform(p, uniform[:, j, DRAFT]), stands
        for measured, value in zip((logprobs, entropy), measures(own, token), strict=True):
            measured.append(value)
        tokens.append(token)
        if j < last:
            stands = stands & same
            kept = kept + stands
            if seen is not None:
                seen = seen.scatter(1, drafts[j][:, None], True)
    columns = (torch.stack(part, dim=1) for part in (tokens, logprobs, entropy, broken))
    tokens_, logprobs_, entropy_, broken_ = columns
    return Verdict(tokens_, kept, logprobs_, entropy_, broken_)


class DraftLength:
    """How many drafts to draw: the k that promises most tokens a second.

    k drafts give (1 − a^{k+1}) / (1 − a) tokens a row where a is the share of drafts that
    stand (Leviathan et al., equation 1); a pass takes fixed + k · each seconds, a line
    through what passes took. Old observations fade.
    """

    CHOICES = (0, 1, 2, 3, 4, 6, 8, 12, 16)
    FIRST = 4
    FADE = 0.9  # of the weight of everything seen, at each pass
    GUESS = 0.2  # each / fixed before two lengths were timed
    LOOK = 32  # after so many passes without drafts, one with a draft shows whether it pays

    def __init__(self, most: int) -> None:
        self.choices = [k for k in self.CHOICES if k <= most]
        self._stood, self._fell = 3.0, 1.0  # before anything is seen: 3 of 4 stand
        self._sums = torch.zeros(5, dtype=torch.float64)  # 1, k, k², s, k·s
        self._without = 0

    @property
    def share(self) -> float:
        """Of drafts, those that stand, as far as seen."""
        return self._stood / (self._stood + self._fell)

    def choose(self, room: int) -> int:
        """k for the next pass, where no row may have more than `room` tokens more."""
        choices = [k for k in self.choices if k < room] or [0]
        if self._sums[0] == 0:
            return max(k for k in choices if k <= self.FIRST)
        if self._without >= self.LOOK:
            return choices[min(1, len(choices) - 1)]
        fixed, each = self._line()
        return max(choices, key=lambda k: self._tokens(k) / (fixed + k * each))

    def observe(self, k: int, kept: list[int], seconds: float | None) -> None:
        """A pass with k drafts kept so many in each row, and took `seconds` (None: untold)."""
        self._without = self._without + 1 if k == 0 else 0
        self._stood = self.FADE * self._stood + sum(kept)
        self._fell = self.FADE * self._fell + sum(count < k for count in kept)
        if seconds is None:
            return
        seen = torch.tensor([1, k, k * k, seconds, k * seconds], dtype=torch.float64)
        self._sums = self.FADE * self._sums + seen

    def _tokens(self, k: int) -> float:
        return sum(self.share**i for i in range(k + 1))

    def _line(self) -> tuple[float, float]:
        one, k, kk, s, ks = self._sums.tolist()
        spread = one * kk - k * k
        if spread > 1e-6 * max(1.0, one * kk):
            each = (one * ks - k * s) / spread
            fixed = (s - each * k) / one
            if each > 0 and fixed > 0:
                return fixed, each
        fixed = s / (one + self.GUESS * k)
        return fixed, self.GUESS * fixed
