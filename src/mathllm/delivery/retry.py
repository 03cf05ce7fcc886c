"""Asking again: which answers of Kaggle are worth it, and how long to wait in between."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import requests
import urllib3

from mathllm.errors import ParameterError, TryAgainError

Answer = TypeVar("Answer")

TOO_MANY = 429
_PASSING = frozenset({TOO_MANY, 500, 502, 503, 504})


@dataclass(frozen=True)
class RetryPolicy:
    """Seconds: `poll` between two looks at something that takes long; `first` before asking
    again after a failure, doubled each time; `longest` that a server may make us wait."""

    poll: float = 15.0
    first: float = 1.0
    tries: int = 5
    longest: float = 120.0

    @classmethod
    def of(cls, poll: float) -> "RetryPolicy":
        """The one for a person who gives `poll`. Raises ParameterError unless it is above 0."""
        if not poll > 0:
            raise ParameterError(f"--poll {poll:g}: give seconds, more than 0")
        return cls(poll=poll, first=min(cls.first, poll))


def status_of(fault: Exception) -> int | None:
    """The HTTP status that the client raised, None where there was no reply."""
    response = getattr(fault, "response", None)
    return None if response is None else response.status_code


def is_passing(fault: Exception) -> bool:
    """Whether the same question may get another answer later: no connection, or no time."""
    # Not every OSError: a disk that is full is no lost connection.
    lost = (requests.ConnectionError, requests.Timeout, ConnectionError, TimeoutError)
    if isinstance(fault, requests.HTTPError):
        return status_of(fault) in _PASSING
    # A page for people where the client expects JSON: something stands in the way.
    return isinstance(fault, (*lost, urllib3.exceptions.HTTPError, json.JSONDecodeError))


def asked_for(fault: Exception) -> float | None:
    """Seconds that the reply's Retry-After asks for, None where it names none."""
    response = getattr(fault, "response", None)
    text = "" if response is None else response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None


def retry(
    what: str,
    ask: Callable[[], Answer],
    policy: RetryPolicy,
    say: Callable[[str], None],
    already_done: Callable[[], Answer | None] | None = None,
) -> Answer:
    """`ask()`, again where that may help. `what` names it to a person.

    For a question that changes something, `already_done` looks whether the change is there all
    the same, since a reply can be lost after the work was done; then its value is the
    answer and nothing is asked twice. Raises TryAgainError when the tries are used up, and
    anything that asking again cannot mend as it is.
    """
    for number in range(1, policy.tries + 1):
        try:
            return ask()
        except Exception as fault:
            if not is_passing(fault):
                raise
            wait = asked_for(fault)
            wait = policy.first * 2 ** (number - 1) if wait is None else wait
            if wait > policy.longest:
                raise TryAgainError(
                    f"Kaggle asks to wait {wait / 60:.0f} minutes ({what}): repeat the command then"
                ) from fault
            if number == policy.tries:
                raise TryAgainError(
                    f"{reason(fault)} ({what}): repeat the command later, it goes on from here"
                ) from fault
            say(f"{what}: {reason(fault)}; again in {wait:g} s")
            time.sleep(wait)
            if already_done is not None and (answer := _look(already_done)) is not None:
                return answer
    raise AssertionError("unreachable: the last try returns or raises")


def _look(already_done: Callable[[], Answer | None]) -> Answer | None:
    """None where the look itself fails in passing: then asking again finds out."""
    try:
        return already_done()
    except Exception as fault:
        if is_passing(fault) or isinstance(fault, TryAgainError):
            return None
        raise


def reason(fault: Exception) -> str:
    """One line for a person."""
    if isinstance(fault, json.JSONDecodeError):
        return "Kaggle's reply is no reply of its API"
    status = status_of(fault)
    if status == TOO_MANY:
        return "Kaggle has had too many requests (429)"
    if status is not None:
        return f"Kaggle has a fault of its own ({status})"
    return "no connection to Kaggle"
