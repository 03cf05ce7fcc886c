"""How a problem is sampled, and what comes of its samples: settings in, the answer out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from mathllm.errors import ParameterError
from mathllm.settings import CURRENT
from mathllm.solving.outcomes import Attempt
from mathllm.solving.voting import WEIGHTS, Ballot, vote

FALLBACK_ANSWER = 0  # submitted when no sample gives a valid one


@dataclass(frozen=True)
class SolverSettings:
    """How one problem is sampled; the answer range is the competition's.

    `temperature` 0 is greedy: then all samples are the same, so `n_samples` should be 1.
    `parallel` of them run at once (0: all); no more are begun and those that run are cancelled
    once `agreement` of them agree, or the leader is `lead` whole votes ahead (0: only once it
    cannot be caught). `voting` is a method of mathllm.solving.voting. `max_calls` programs may be
    run in a sample with tools; a turn has `turn_tokens` at most, a sample `sample_seconds` (0: what
    is left of all).
    """

    n_samples: int = 4
    max_new_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    parallel: int = 0
    voting: str = "majority"
    agreement: int = 0
    lead: float = 0.0
    max_calls: int = 4
    turn_tokens: int = 0
    sample_seconds: float = 0.0
    answer_min: int = CURRENT.answer_min
    answer_max: int = CURRENT.answer_max

    def __post_init__(self) -> None:
        least = {"n_samples": 1, "max_new_tokens": 1}
        least |= dict.fromkeys(("parallel", "agreement", "lead", "max_calls"), 0)
        least |= {"turn_tokens": 0, "sample_seconds": 0}
        for name, low in least.items():
            if not getattr(self, name) >= low:
                raise ParameterError(f"{name} is {getattr(self, name)}: it must be at least {low}")
        if self.voting not in WEIGHTS:
            raise ParameterError(f"voting is {self.voting!r}: it must be {', '.join(WEIGHTS)}")


@dataclass(frozen=True)
class Solution:
    """The answer to submit (FALLBACK_ANSWER without a valid vote) and how it came about.

    `votes` has the weight of each answer. `faults` says what failed on the way and what was
    done instead. `hung`: something goes on though it was ended, so that whoever solves is best
    replaced.
    """

    problem_id: str
    answer: int
    votes: dict[int, float]
    reason: str
    attempts: list[Attempt]
    seconds: float
    faults: list[str] = field(default_factory=list)
    hung: bool = False


def decide(
    problem_id: str,
    attempts: Sequence[Attempt],
    voters: Sequence[Attempt],
    voting: str,
    seconds: float,
    early: str | None = None,
    note: str = "",
    faults: Sequence[str] = (),
) -> Solution:
    """The vote over `voters`: attempts as they were when it was decided. `early` says why no more
    were drawn, `note` of the prompt."""
    decision = vote([ballot_of(voter) for voter in voters], voting)
    answer, reason = decision.answer, decision.reason
    if answer is None:
        answer = FALLBACK_ANSWER
        reason += f", {answer} stands in"
    reason += (f"; {early}" if early else "") + note
    return Solution(problem_id, answer, decision.votes, reason, [*attempts], seconds, [*faults])


def ballot_of(attempt: Attempt) -> Ballot:
    """What voting knows of an attempt. Measures that are no numbers count as the least sure."""
    sure = attempt.confidence
    entropies = (attempt.mean_entropy, attempt.tail_entropy, attempt.group_entropy)
    mean, tail, group = (value if value >= 0 else math.inf for value in entropies)
    sure = None if sure is None else sure if 0 <= sure <= 1 else 0.0
    return Ballot(attempt.answer, mean, tail, sure, group)
