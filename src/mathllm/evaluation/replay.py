"""Rules to stop, to vote and to share time, played over attempts that were drawn before.

A rule is played on each problem as the solver's race would have it, so two rules are compared on
the same attempts, problem by problem, and most of the luck of a draw falls out of the difference.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import NoneType
from typing import Any, get_args

import numpy as np

from mathllm.errors import ParameterError
from mathllm.evaluation.drawn import Problem
from mathllm.evaluation.statistics import Interval, Paired, holm, paired, wilson
from mathllm.settings import CURRENT
from mathllm.solving.race import play
from mathllm.solving.records import Rules
from mathllm.solving.solution import FALLBACK_ANSWER, SolverSettings
from mathllm.solving.voting import WEIGHTS, Ballot, vote
from mathllm.wording import shown

SURE = 0.05  # p below which a difference is called more than luck, after Holm's correction
# Rules of time, which say nothing where time is no limit.
TIMED = frozenset(
    ("margin_seconds", "expected_problems", "base_seconds", "ceiling_seconds", "hard_problems")
)
RESAMPLED = 200  # times that a problem's attempts are drawn again for the score of several runs


@dataclass(frozen=True)
class Outcome:
    """A rule's run over problems: for each the answer [P] submitted, whether it is right (False
    where the truth is unknown), seconds, attempts begun, and whether it asked for more than was
    drawn (`cut`). `limits` are the seconds that each had."""

    name: str
    answers: list[int]
    right: np.ndarray
    seconds: list[float]
    begun: list[int]
    cut: int
    limits: list[float]


@dataclass(frozen=True)
class Compared:
    """A rule beside the first one. `p` is McNemar's, corrected for so many rules (Holm 1979);
    `points` what a submission of CURRENT.problems problems like these may expect in all runs."""

    outcome: Outcome
    share: Interval
    against: Paired | None
    p: float | None
    points: float

    @property
    def is_luck(self) -> bool:
        """Whether the difference from the first rule may be."""
        return self.p is None or self.p >= SURE

    def line(self) -> dict[str, str]:
        """A row of a table for people."""
        done, gain = self.outcome, self.against
        count = len(done.answers)
        difference = "" if gain is None else _percent(gain.difference, sign="+")
        return {
            "rule": done.name,
            "right": f"{int(done.right.sum())}/{count}",
            "%": _percent(self.share),
            "gain": difference,
            "p": "" if self.p is None else f"{self.p:.2g}" + (" luck" if self.is_luck else ""),
            "attempts": f"{sum(done.begun) / count:.1f}",
            "seconds": f"{sum(done.seconds) / count:.1f}",
            "points": f"{self.points:.1f}",
        }


def _percent(interval: Interval, sign: str = "") -> str:
    value, low, high = (
        f"{100 * x:{sign}.1f}" for x in (interval.value, interval.low, interval.high)
    )
    return f"{value} ({low} … {high})"


def figures(compared: Compared) -> dict[str, Any]:
    """All that was found of a rule, as JSON takes it."""
    done, gain = compared.outcome, compared.against
    found = {
        "rule": done.name,
        "right": int(done.right.sum()),
        "problems": len(done.answers),
        "share": vars(compared.share),
        "points": compared.points,
        "seconds": sum(done.seconds),
        "attempts": sum(done.begun),
        "cut": done.cut,
    }
    if gain is not None:
        found |= {"wins": gain.wins, "losses": gain.losses, "p": gain.p, "p_holm": compared.p}
        found |= {"difference": vars(gain.difference)}
    return found


def notes(compared: Sequence[Compared]) -> list[str]:
    """What a reader of the table must know: its terms, and what it cannot say."""
    first, *others = compared
    lines = [
        f"gain: points of 100 more than {first.outcome.name!r} on the same problems, 95 % "
        "interval; p: McNemar's exact test, corrected for the number of rules (Holm); luck: "
        f"p ≥ {SURE}",
        f"attempts and seconds: of a problem; points: expected of {CURRENT.problems} in "
        f"{CURRENT.runs} runs, attempts drawn again",
    ]
    if others and all(one.is_luck for one in others):
        lines.append(f"no difference from {first.outcome.name!r} is more than luck can make")
    if cut := [one.outcome for one in others if one.outcome.cut]:
        worst = max(cut, key=lambda outcome: outcome.cut)
        lines.append(
            f"{worst.name!r} wants more than was drawn in {worst.cut} problems, {len(cut)} rules "
            "do in some: their attempts were cancelled or late. Draw all of them, by an "
            "evaluation, to compare these"
        )
    return lines


def play_rule(name: str, problems: Sequence[Problem], rules: Rules) -> Outcome:
    """Answers, times and costs of a rule; with `total_seconds` the run's time is shared, too."""
    settings = rules.solver()
    answers, seconds, begun, limits, cut = [], [], [], [], 0
    # Time passes by what the problems took.
    budget = rules.budget(lambda: sum(seconds))
    for problem in problems:
        limit = math.inf if budget is None else budget.allowance()
        limits.append(limit)
        played = play(problem.drawn[: rules.n_samples], settings, rules.at_once, limit)
        answers.append(_submitted(played.ballots, settings))
        seconds.append(played.seconds)
        begun.append(played.begun)
        cut += played.cut
        if budget is not None:
            budget.finish()
    right = np.array([a == p.truth for a, p in zip(answers, problems, strict=True)], dtype=bool)
    return Outcome(name, answers, right, seconds, begun, cut, limits)


def compare(
    problems: Sequence[Problem], rules: Mapping[str, Rules], seed: int = 0
) -> list[Compared]:
    """Each rule beside the first, on the problems whose answers are known.

    Raises ParameterError where none is, and for a rule that cannot be played.
    """
    known = [problem for problem in problems if problem.truth is not None]
    if not known:
        raise ParameterError("no problem has a known answer: give a truth")
    outcomes = [play_rule(name, known, rule) for name, rule in rules.items()]
    first, *others = outcomes
    against = [paired(first.right, other.right, seed) for other in others]
    corrected = holm([one.p for one in against])
    points = [
        _points(known, rule, done.limits, seed)
        for rule, done in zip(rules.values(), outcomes, strict=True)
    ]
    return [
        Compared(outcome, wilson(int(outcome.right.sum()), len(known)), pair, p, expected)
        for outcome, pair, p, expected in zip(
            outcomes, [None, *against], [None, *corrected], points, strict=True
        )
    ]


def _points(problems: Sequence[Problem], rules: Rules, limits: Sequence[float], seed: int) -> float:
    """Expected points of CURRENT.problems problems over the competition's runs.

    A problem's chance q of being answered rightly is that of the rule, within the seconds that the
    problem had, over its attempts drawn again with replacement; r runs give
    Σ C(r, j)·q^j·(1 − q)^(r − j)·points[j].
    """
    rng = np.random.default_rng(seed)
    runs, total = CURRENT.runs, 0.0
    for problem, limit in zip(problems, limits, strict=True):
        q = _chance(problem, rules, limit, rng)
        total += sum(
            math.comb(runs, j) * q**j * (1 - q) ** (runs - j) * CURRENT.points[j]
            for j in range(runs + 1)
        )
    return CURRENT.problems * total / len(problems)


def _chance(problem: Problem, rules: Rules, limit: float, rng: np.random.Generator) -> float:
    """That a rule answers a problem rightly in time, over attempts drawn again."""
    drawn, settings = problem.drawn, rules.solver()
    endless = math.isinf(limit)
    if endless and len({one.ballot.answer for one in drawn}) == 1:
        return float(_submitted([drawn[0].ballot], settings) == problem.truth)
    hits, early = 0, settings.agreement or settings.lead or not endless
    size = (RESAMPLED, min(rules.n_samples, len(drawn)))
    for places in rng.integers(0, len(drawn), size):
        again = [drawn[place] for place in places]
        # To stop once the leader cannot be caught changes no answer: all of them may vote.
        all_ = [one.ballot for one in again]
        ballots = play(again, settings, rules.at_once, limit).ballots if early else all_
        hits += _submitted(ballots, settings) == problem.truth
    return hits / RESAMPLED


def _submitted(ballots: Sequence[Ballot], settings: SolverSettings) -> int:
    answer = vote(ballots, settings.voting).answer
    return FALLBACK_ANSWER if answer is None else answer


def parse_rule(text: str, own: Rules) -> Rules:
    """`own` with some values of "name=value name=value", as "voting=entropy lead=3".

    Raises ParameterError, naming what can be given.
    """
    kinds = {field.name: get_args(field.type) or (field.type,) for field in fields(Rules)}
    changed: dict[str, object] = {}
    for part in text.split():
        name, sign, value = part.partition("=")
        if not sign or name not in kinds:
            raise ParameterError(
                f"rule {shown(text)} has {shown(part)}: give NAME=VALUE, of {', '.join(kinds)}"
            )
        changed[name] = _value(text, name, value, kinds[name])
    try:
        rules = replace(own, **changed)
        timed = sorted(changed.keys() & TIMED)
        if timed and rules.total_seconds is None:
            raise ParameterError(f"{timed[0]} shares total_seconds, which is none: give it, too")
        return rules
    except ParameterError as fault:
        raise ParameterError(f"rule {shown(text)}: {fault}") from None


def _value(rule: str, name: str, value: str, kinds: Sequence[type]) -> object:
    if str in kinds:
        return value
    if value == "none" and NoneType in kinds:
        return None
    kind, wanted = (int, "an integer") if int in kinds else (float, "a number")
    try:
        return kind(value)
    except ValueError:
        raise ParameterError(
            f"rule {shown(rule)}: {name} is {shown(value)}, give {wanted}"
        ) from None


def usual_rules(own: Rules, problems: Sequence[Problem]) -> dict[str, Rules]:
    """The run's own first, then each way to vote over all attempts, and each with a margin."""
    rules = {f"as drawn ({own.voting})": own}
    every = replace(own, agreement=0, lead=0.0)
    drawn = [one.ballot for problem in problems for one in problem.drawn]
    unknown = {
        "confidence": all(ballot.confidence is None for ballot in drawn),
        "entropy": not any(ballot.mean_entropy for ballot in drawn),
        "tail_entropy": not any(ballot.tail_entropy for ballot in drawn),
        "group_entropy": not any(ballot.group_entropy for ballot in drawn),
    }
    unknown["combined"] = unknown["entropy"] and unknown["confidence"]
    for method in WEIGHTS:
        if not unknown.get(method):
            rules[method] = replace(every, voting=method)
            rules[f"{method}, lead 2"] = replace(every, voting=method, lead=2.0)
    rules["majority, 4 agree"] = replace(every, voting="majority", agreement=4)
    return {name: rule for name, rule in rules.items() if rule != own or name.startswith("as")}
