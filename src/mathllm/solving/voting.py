"""One answer from many samples, with the reason for it.

Knows integers and counts. Knows nothing of texts, models or time.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """`answer` is None when no sample gave one; `votes` counts each answer, most first."""

    answer: int | None
    votes: dict[int, int]
    reason: str


def vote(answers: Sequence[int | None]) -> Decision:
    """The most frequent answer; None does not vote.

    Tie rule: of the answers with the highest count, the one that reached it first in
    sample order wins.
    """
    votes: Counter[int] = Counter()
    winner = None
    for answer in answers:
        if answer is None:
            continue
        votes[answer] += 1
        if winner is None or votes[answer] > votes[winner]:
            winner = answer
    if winner is None:
        return Decision(None, {}, f"no valid answer in {len(answers)} samples")
    reason = f"{votes[winner]} of {len(answers)} votes"
    if tied := [a for a, n in votes.items() if n == votes[winner] and a != winner]:
        reason += f", before {', '.join(map(str, tied))} with as many"
    return Decision(winner, dict(votes.most_common()), reason)
