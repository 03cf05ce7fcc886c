"""What a completions server streams: its events, and what they say of tokens. Nothing of it is
believed before it was looked at."""

import json
import math
from collections.abc import Iterator
from typing import Any

from mathllm.engines.base import EngineError

ROUNDING = 1e-3  # by which a probability may be over 1


class StreamError(EngineError):
    """What a server says in the middle of a stream, where the status has been sent."""


def choices(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The first choice, which alone was asked for, of each event of a stream, up to [DONE].
    Raises EngineError for what is no such event."""
    for line in lines:
        if not line.startswith(b"data:"):
            continue
        data = line[len(b"data:") :].strip()
        if data == b"[DONE]":
            return
        try:
            event = json.loads(data)
        except (ValueError, RecursionError) as fault:
            raise EngineError(f"the stream has an event that is no JSON: {data[:80]!r}") from fault
        if not isinstance(event, dict):
            raise EngineError(f"the stream has an event that is no object: {data[:80]!r}")
        if error := event.get("error"):
            code = error.get("code") if isinstance(error, dict) else None
            raise StreamError(str(error)[:300], code if type(code) is int else None)
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                yield choice


def measures(logprobs: Any, count: int, unsure: float) -> tuple[list[float], list[float]]:
    """Log probability and entropy in nats of `count` tokens, 0 where the server tells none.

    The entropy is that of the most likely tokens with all others taken as one: a lower bound.
    Numbers that are no log probabilities (NaN, logits, words) count as `unsure` nats.
    """
    told = logprobs if isinstance(logprobs, dict) else {}
    own, top = told.get("token_logprobs"), told.get("top_logprobs")
    if not isinstance(own, list) or len(own) != count or not all(map(_is_finite, own)):
        own = [0.0] * count
    if not isinstance(top, list) or len(top) != count:
        return own, [0.0] * count
    return own, [_entropy(known, unsure) for known in top]


def _entropy(known: Any, unsure: float) -> float:
    if not known:
        return 0.0
    if not isinstance(known, dict) or not all(map(_is_logprob, known.values())):
        return unsure
    likely = [math.exp(value) for value in known.values()]
    if sum(likely) > 1 + ROUNDING:
        return unsure
    parts = [*likely, max(0.0, 1.0 - sum(likely))]
    return max(0.0, -sum(p * math.log(p) for p in parts if p > 0))


def _is_finite(value: Any) -> bool:
    return _is_logprob(value) and value > -math.inf


def _is_logprob(value: Any) -> bool:
    """NaN is none, and no integer that a float cannot hold."""
    return (type(value) is float or (type(value) is int and value > -(2**53))) and value <= ROUNDING
