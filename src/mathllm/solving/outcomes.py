"""What an attempt came to, and whether it broke."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

BROKEN = ("fault", "memory", "nan")  # finish reasons that say that something is wrong


class BrokenSampleError(RuntimeError):
    """Samples that ended because something is wrong with the engine."""


@dataclass(frozen=True)
class Attempt:
    """One sample: its text, its answer, and how it ended.

    `tokens` counts what was generated, without the tools' output. Entropies and log probabilities
    are in nats per token (see measures), 0 for none; `confidence` is the halting head's mean
    probability, None where the engine has none, and `supervision_steps` counts those of all tokens.
    `turns` are what lies between two programs, `calls` counts those that were run, `faults` says
    which of them failed to. `broke` says what ended a sample that broke, "" where nothing did. It
    ran from `begun` to `ended`, in seconds since the problem was asked; `boxes` are the answers
    that it put to the vote on the way, with their time.
    """

    text: str
    answer: int | None
    tokens: int
    finish_reason: str
    mean_entropy: float
    tail_entropy: float = 0.0
    confidence: float | None = None
    calls: int = 0
    faults: tuple[str, ...] = ()
    supervision_steps: int = 0
    broke: str = ""
    group_entropy: float = 0.0
    turns: int = 0
    begun: float = 0.0
    ended: float = 0.0
    boxes: tuple[tuple[float, int], ...] = ()
    mean_logprob: float = 0.0


def broken(drawn: Sequence[Attempt]) -> str:
    """How many of the samples broke and how, in words; "" if none."""
    reasons = Counter(a.finish_reason for a in drawn if a.finish_reason in BROKEN)
    kinds = ", ".join(f"{count} by {reason!r}" for reason, count in reasons.items())
    cause = next((f" ({a.broke})" for a in drawn if a.broke), "")
    return f"of {len(drawn)} samples ended {kinds}{cause}" if kinds else ""


def check_whole(drawn: Sequence[Attempt]) -> None:
    """Raise BrokenSampleError if a sample broke."""
    if told := broken(drawn):
        raise BrokenSampleError(told)
