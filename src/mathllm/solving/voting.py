"""One answer from many samples, with the reason for it, and whether more could change it.

Every sample has a weight of FLOOR…1 by every method, and of answers with as much weight that of
more samples wins: so one sample never outvotes 1/FLOOR others, however sure the model was. Weights
are whole thousandths: they add up to the same in any order, and a tie is a tie.

    method          weight of a sample
    majority        1
    entropy         FLOOR + (1 − FLOOR) · exp(−mean entropy)
    tail_entropy    FLOOR + (1 − FLOOR) · exp(−tail entropy)
    group_entropy   FLOOR + (1 − FLOOR) · exp(−group entropy), as DeepConf's lowest group
    confidence      FLOOR + (1 − FLOOR) · confidence, unknown: as NEUTRAL
    combined        the geometric mean of entropy, tail_entropy and confidence

exp(−entropy) is one over the perplexity: 1 for a sample made without hesitation, 1/2 for one
that hesitated between two tokens throughout. It has no scale to tune, and unlike 1/entropy
it cannot run away for short and certain texts. The geometric mean stays within the same
bounds, and where confidence is unknown for all it takes the same share from all.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mathllm.errors import ParameterError

FLOOR = 0.25  # no weight is less: the surest sample has that of four unsure ones
NEUTRAL = 0.5  # stands in for a confidence that is unknown
RIVAL_SHARE = 0.25  # of the leader's weight, what another answer may have in an agreement
UNITS = 1000  # of a whole vote
ROUNDING = 1e-3  # nats below 0 that an entropy from float32 or bfloat16 may have


@dataclass(frozen=True)
class Ballot:
    """What voting knows of a sample; entropies in nats per token.

    `tail_entropy` is the mean over the tokens just before the answer, `group_entropy` that of the
    least sure group, `confidence` the halting head's mean probability, None if unknown. Raises
    ParameterError outside of that.
    """

    answer: int | None
    mean_entropy: float = 0.0
    tail_entropy: float = 0.0
    confidence: float | None = None
    group_entropy: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mean_entropy", "tail_entropy", "group_entropy"):
            if not getattr(self, name) >= -ROUNDING:  # so that NaN is refused too
                raise ParameterError(f"{name} is {getattr(self, name)}: give at least 0 nats")
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise ParameterError(f"confidence is {self.confidence}: give 0 to 1, or None")


@dataclass(frozen=True)
class Decision:
    """`answer` is None when no sample gave one; `votes` has each answer's weight, most first."""

    answer: int | None
    votes: dict[int, float]
    reason: str


def _sure(entropy: float) -> float:
    return FLOOR + (1 - FLOOR) * math.exp(-max(entropy, 0.0))


def _confident(confidence: float | None) -> float:
    return FLOOR + (1 - FLOOR) * (NEUTRAL if confidence is None else confidence)


WEIGHTS: dict[str, Callable[[Ballot], float]] = {
    "majority": lambda _: 1.0,
    "entropy": lambda b: _sure(b.mean_entropy),
    "tail_entropy": lambda b: _sure(b.tail_entropy),
    "group_entropy": lambda b: _sure(b.group_entropy),
    "confidence": lambda b: _confident(b.confidence),
    "combined": lambda b: math.cbrt(
        _sure(b.mean_entropy) * _sure(b.tail_entropy) * _confident(b.confidence)
    ),
}

Ballots = Sequence[Ballot | int | None]


def vote(ballots: Ballots, method: str = "majority", total: int | None = None) -> Decision:
    """The answer of most weight; a sample without an answer does not vote.

    A plain answer is a ballot without measures. `total` is how many samples were planned,
    where fewer may have been drawn; the reason says how many were not. Tie rule: of the
    answers with the highest weight, that of most samples wins, and of those the one that was
    there first in sample order.
    """
    undrawn = 0 if total is None else _to_come(ballots, total)
    note = f", {undrawn} of {total} not drawn" if undrawn else ""
    leader, weights, counts = _tally(ballots, method)
    if leader is None:
        return Decision(None, {}, f"no valid answer in {len(ballots)} samples{note}")
    reason = f"{counts[leader]} of {len(ballots)} votes"
    if method != "majority":
        everything = _votes(sum(weights.values()))
        reason += f", weight {_votes(weights[leader])} of {everything} by {method}"
    if tied := [a for a, w in weights.items() if w == weights[leader] and a != leader]:
        reason += f", before {', '.join(map(str, tied))} with as many"
    ranking = sorted(weights, key=lambda answer: (-weights[answer], answer != leader))
    return Decision(leader, {a: _votes(weights[a]) for a in ranking}, reason + note)


def decided(
    ballots: Ballots,
    total: int,
    method: str = "majority",
    agreement: int = 0,
    lead: float = 0.0,
) -> str | None:
    """Why no more of the `total` samples need to be drawn, or None.

    One of: all are drawn; the leader cannot be caught, even if every sample still to come
    had a whole vote and one rival got them all; `agreement` samples (0: never mind) gave the
    leading answer while no other answer has more than RIVAL_SHARE of its weight; or the leader
    has `lead` whole votes (0: never mind) more than any other. To stop for the first two never
    changes what `vote` says, in whatever order samples come; to stop for the others may, and buys
    time with it.
    """
    to_come = _to_come(ballots, total)
    if agreement < 0:
        raise ParameterError(f"agreement is {agreement}: give at least 1 sample, or 0 for none")
    if not lead >= 0:
        raise ParameterError(f"lead is {lead}: give votes, over 0, or 0 for none")
    leader, weights, counts = _tally(ballots, method)
    if to_come == 0:
        return f"all {total} samples are drawn"
    if leader is None:
        return None
    ahead = weights[leader] - max((w for a, w in weights.items() if a != leader), default=0)
    if ahead > to_come * UNITS:
        return f"{leader} cannot be caught, {to_come} to come"
    if 0 < agreement <= counts[leader] and ahead >= (1 - RIVAL_SHARE) * weights[leader]:
        return f"{counts[leader]} agree on {leader}"
    if 0 < lead * UNITS <= ahead:
        return f"{leader} leads by {_votes(ahead)}"
    return None


def _tally(ballots: Ballots, method: str) -> tuple[int | None, dict[int, int], Counter[int]]:
    """Leader, weight of each answer in UNITS, number of samples of each answer."""
    if method not in WEIGHTS:
        raise ParameterError(f"method is {method!r}: give one of {', '.join(WEIGHTS)}")
    weigh = WEIGHTS[method]
    weights: Counter[int] = Counter()
    counts: Counter[int] = Counter()
    leader = None
    for given in ballots:
        ballot = given if isinstance(given, Ballot) else Ballot(given)
        if ballot.answer is None:
            continue
        counts[ballot.answer] += 1
        weights[ballot.answer] += round(UNITS * weigh(ballot))
        of = (weights[ballot.answer], counts[ballot.answer])
        if leader is None or of > (weights[leader], counts[leader]):
            leader = ballot.answer
    return leader, weights, counts


def _to_come(ballots: Ballots, total: int) -> int:
    if total < max(1, len(ballots)):
        raise ParameterError(
            f"total is {total}: give at least 1 and no fewer than the {len(ballots)} samples drawn"
        )
    return total - len(ballots)


def _votes(units: int) -> float:
    """Whole votes stay whole numbers."""
    return units // UNITS if units % UNITS == 0 else units / UNITS
