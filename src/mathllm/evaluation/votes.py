"""What votes over samples are worth: maj@k, pass@k, and points in a competition."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl

from mathllm.answers.sympy_process import normal_text
from mathllm.errors import ParameterError
from mathllm.evaluation.statistics import LEVEL, Interval, bootstrap, pass_at_k
from mathllm.solving.race import Drawn, play
from mathllm.solving.solution import SolverSettings
from mathllm.solving.voting import WEIGHTS, Ballot, vote
from mathllm.wording import shown

RIGHT, NONE = 0, -1  # the right answer's number, and that of a sample without an answer
ENUMERATED = 4000  # subsets of a problem's samples, up to which all of them vote
DRAWN = 2000  # subsets, or resampled votes, that are drawn where they are not enumerated


@dataclass(frozen=True)
class Samples:
    """n samples for each of P problems. `answers` [P, n] numbers a problem's answers: RIGHT,
    NONE, and 1, 2, … for the wrong ones as they come.

    Samples that were graded right are one answer, however they are written; wrong ones are
    the same where their LaTeX is but for spaces and sizes.
    """

    ids: list[str]
    answers: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """[P, n], bool."""
        return self.answers == RIGHT

    @property
    def n(self) -> int:
        return self.answers.shape[1]

    @classmethod
    def of(cls, rows: pl.DataFrame) -> "Samples":
        """From rows with id, sample, answer and right, in the order in which ids come.

        Raises ParameterError without rows, and where problems have different samples.
        """
        if rows.is_empty():
            raise ParameterError("no samples: evaluate at least one problem")
        groups = ordered(rows).group_by("id", maintain_order=True).agg("sample", "answer", "right")
        for ident, samples in groups.select("id", "sample").iter_rows():
            if samples != groups["sample"][0].to_list():
                raise ParameterError(
                    f"problem {ident} has samples {samples}, the first one "
                    f"{groups['sample'][0].to_list()}: evaluate the same number for each"
                )
        answers = [_numbered(*group) for group in groups.select("answer", "right").iter_rows()]
        return cls(groups["id"].to_list(), np.array(answers))


def ordered(rows: pl.DataFrame) -> pl.DataFrame:
    """Problems as they come, the samples of each side by side and in order."""
    places = rows.select("id").unique(maintain_order=True).with_row_index("place")
    return rows.join(places, on="id").sort("place", "sample").drop("place")


def _numbered(answers: Sequence[str | None], right: Sequence[bool]) -> list[int]:
    wrong: dict[str, int] = {}
    numbers = []
    for answer, is_right in zip(answers, right, strict=True):
        if is_right:
            numbers.append(RIGHT)
        elif answer is None:
            numbers.append(NONE)
        else:
            numbers.append(wrong.setdefault(normal_text(answer), len(wrong) + 1))
    return numbers


def winners(ballots: np.ndarray) -> np.ndarray:
    """The answer that wins each row of ballots [M, k], [M]; NONE where no sample has one.

    The rule is `mathllm.solving.voting.vote`'s, over all rows at once: most votes win, and of
    tied answers the one that had as many first.
    """
    rows = np.arange(len(ballots))
    votes = np.zeros((len(ballots), int(ballots.max(initial=0)) + 1), dtype=np.int32)
    most = np.zeros(len(ballots), dtype=np.int32)
    leader = np.full(len(ballots), NONE)
    for column in ballots.T:
        given = column != NONE
        votes[rows[given], column[given]] += 1
        now = np.where(given, votes[rows, column], 0)
        leader = np.where(now > most, column, leader)
        most = np.maximum(most, now)
    return leader


def methods(rows: pl.DataFrame) -> list[str]:
    """The solver's ways to vote for which the rows have what they weigh by."""
    without = set()
    for name, by in (("tail_entropy", ("combined",)), ("group_entropy", ())):
        unknown = pl.col(name).is_null() & (pl.col("tokens") > 0)
        without |= {name, *by} if rows.select(unknown.any()).item() else set()
    return [method for method in WEIGHTS if method not in without]


def submitted(rows: pl.DataFrame, settings: SolverSettings, sessions: int = 0) -> np.ndarray:
    """The number [P] of the answer that the solver submits of each problem, NONE for none.

    From these samples, by the settings' rules to stop and to vote, where time is no limit and
    every sample is as fast as the others; `sessions` are those of its tools. Raises
    ParameterError where the vote weighs by what the rows were written without.
    """
    columns = ("entropy", "tail_entropy", "confidence", "group_entropy")
    answers = Samples.of(rows).answers
    if settings.voting not in methods(rows):
        raise ParameterError(
            f"voting is {shown(settings.voting)}, and the samples were written without what it "
            "weighs by: evaluate them again (resume False), or vote by another method"
        )
    ballots = [
        Ballot(
            None if answer == NONE else int(answer), mean or 0.0, tail or 0.0, sure, group or 0.0
        )
        for answer, (mean, tail, sure, group) in zip(
            answers.flat, ordered(rows).select(columns).iter_rows(), strict=True
        )
    ]
    n, won = answers.shape[1], []
    at_once = min(settings.parallel or n, sessions or n)
    tokens = ordered(rows)["tokens"].to_list()
    for start in range(0, len(ballots), n):
        own = slice(start, start + n)
        drawn = [Drawn(*pair) for pair in zip(ballots[own], tokens[own], strict=True)]
        answer = vote(play(drawn, settings, at_once).ballots, settings.voting).answer
        won.append(NONE if answer is None else answer)
    return np.array(won)


def voted(
    rows: pl.DataFrame, settings: SolverSettings | None = None, sessions: int = 0
) -> pl.DataFrame:
    """One row for each problem, with the vote's `answer` and `right`; the rest is that of the
    first sample that gave this answer. With `settings` it is what is `submitted`, without
    them the majority of all samples."""
    samples = Samples.of(rows)
    won = winners(samples.answers) if settings is None else submitted(rows, settings, sessions)
    first = (samples.answers == won[:, None]).argmax(axis=1)
    chosen = ordered(rows)[np.arange(len(won)) * samples.n + first]
    answer = pl.when(pl.Series(won != NONE)).then("answer")
    return chosen.with_columns(answer, right=pl.Series(won == RIGHT))


def majority_at_k(
    answers: np.ndarray, k: int, rng: np.random.Generator, drawn: int = DRAWN
) -> tuple[float, float]:
    """Chance that a vote over k of the samples [n] is right, and the standard error of that.

    All subsets of k vote, in sample order, if there are at most ENUMERATED (error 0), else
    `drawn` random ones.
    """
    n = len(answers)
    if not 1 <= k <= n:
        raise ParameterError(f"k is {k}: give 1…{n}, the number of samples")
    if (answers == answers[0]).all():
        return float(answers[0] == RIGHT), 0.0
    if math.comb(n, k) <= ENUMERATED:
        subsets = np.array(list(combinations(range(n), k)))
        return float((winners(answers[subsets]) == RIGHT).mean()), 0.0
    subsets = np.sort(rng.random((drawn, n)).argsort(axis=1)[:, :k], axis=1)
    share = float((winners(answers[subsets]) == RIGHT).mean())
    return share, math.sqrt(share * (1 - share) / drawn)


def voting_curve(
    samples: Samples, sizes: Sequence[int] = (), seed: int = 0, level: float = LEVEL
) -> pl.DataFrame:
    """pass@k and maj@k of votes over k samples, with intervals over problems.

    Columns: k, problems, pass, pass_low, pass_high, majority, majority_low, majority_high,
    loss (pass less majority: what a better choice among the samples could still win), error
    (standard error of `majority` from drawing subsets, 0 where all were counted). `sizes` are
    powers of two and n by default.
    """
    rng = np.random.default_rng(seed)
    n = samples.n
    sizes = sizes or sorted({*(1 << i for i in range(n.bit_length())), n})
    rows = []
    for k in sizes:
        votes = [majority_at_k(row, k, rng) for row in samples.answers]
        passed = [pass_at_k(n, int(c), k) for c in samples.right.sum(axis=1)]
        found = bootstrap(passed, level=level, seed=seed)
        won = bootstrap([share for share, _ in votes], level=level, seed=seed)
        error = math.sqrt(sum(e * e for _, e in votes)) / len(votes)
        rows.append(
            {
                "k": k,
                "problems": len(votes),
                **{"pass": found.value, "pass_low": found.low, "pass_high": found.high},
                **{"majority": won.value, "majority_low": won.low, "majority_high": won.high},
                "loss": found.value - won.value,
                "error": error,
            }
        )
    return pl.DataFrame(rows)


@dataclass(frozen=True)
class Score:
    """Points that a submission may expect, out of `problems`.

    `expected` has the interval that the evaluated problems leave. `one` is where a single
    submission will lie, whose problems and votes are drawn as well.
    """

    problems: int
    votes: int
    expected: Interval
    one: Interval

    def __str__(self) -> str:
        e, o = self.expected, self.one
        return (
            f"{e.value:.1f} of {self.problems} points expected ({e.low:.1f}–{e.high:.1f}), one "
            f"submission between {o.low:.1f} and {o.high:.1f}, with {self.votes} "
            f"vote{'' if self.votes == 1 else 's'} a problem"
        )


def expected_score(
    samples: Samples,
    points: Sequence[float],
    problems: int,
    votes: int = 0,
    seed: int = 0,
    drawn: int = DRAWN,
    level: float = LEVEL,
) -> Score:
    """Points for so many problems like these, `points[j]` where j of the runs are right.

    The chance q that a vote over `votes` samples (0: as many as there are) is right is
    estimated for each problem by resampling its samples with replacement. The runs' votes
    are drawn apart, so a problem expects Σ C(r, j)·q^j·(1 − q)^(r − j)·points[j] over r
    runs. Runs with one seed and time enough give the same answers: then the spread of a
    single submission is wider, and for points that grow evenly the expectation is the same.
    """
    rng = np.random.default_rng(seed)
    votes, runs = votes or samples.n, len(points) - 1
    chances = np.array(
        [
            (winners(row[rng.integers(0, samples.n, (drawn, votes))]) == RIGHT).mean()
            for row in samples.answers
        ]
    )
    hits = np.arange(runs + 1)
    ways = np.array([math.comb(runs, j) for j in hits])
    q = chances[:, None]
    expected = (ways * q**hits * (1 - q) ** (runs - hits)) @ np.asarray(points, dtype=float)
    whole = bootstrap(expected, level=level, seed=seed).scaled(problems)
    scores = []
    for _ in range(drawn):  # other problems than those evaluated, and votes of their own
        ours = rng.integers(0, len(chances), len(chances))
        theirs = ours[rng.integers(0, len(ours), problems)]
        scores.append(np.asarray(points)[rng.binomial(runs, chances[theirs])].sum())
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    # Where all chances are 0 or 1 nothing is left to draw, and the expectation is surer.
    one = Interval(whole.value, min(float(low), whole.low), max(float(high), whole.high))
    return Score(problems, votes, whole, one)
