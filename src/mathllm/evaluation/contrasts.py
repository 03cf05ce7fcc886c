"""Two ways of training against each other: several seeds, the same problems in each."""

from dataclasses import dataclass

import numpy as np

from mathllm.errors import ParameterError
from mathllm.evaluation.statistics import LEVEL, RESAMPLES, Interval, mcnemar

_PROBLEMS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Contrast:
    """Wins and losses are problems that only the first, or only the second, has right.

    `p_values`: McNemar's exact test of each seed; `pooled`: of all seeds' wins and losses together,
    which takes them for independent. `difference`: share of right answers of the first less the
    second's, with an interval over seeds and problems.
    """

    wins: list[int]
    losses: list[int]
    p_values: list[float]
    pooled: float
    difference: Interval


def contrast(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Contrast:
    """Of whether problems were right, bool [seeds, problems] each.

    Raises ParameterError for other shapes, and for no seed or problem.
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if first.shape != second.shape or first.ndim != 2 or not first.size:
        raise ParameterError(
            f"right answers are {list(first.shape)} and {list(second.shape)}: give two tables of "
            "as many seeds and problems, at least 1 each"
        )
    wins, losses = ((a & ~b).sum(axis=1) for a, b in ((first, second), (second, first)))
    return Contrast(
        wins.tolist(),
        losses.tolist(),
        [mcnemar(int(w), int(n)) for w, n in zip(wins, losses, strict=True)],
        mcnemar(int(wins.sum()), int(losses.sum())),
        two_way_bootstrap(first.astype(float) - second.astype(float), seed),
    )


def two_way_bootstrap(
    values: np.ndarray, seed: int = 0, level: float = LEVEL, resamples: int = RESAMPLES
) -> Interval:
    """The mean of values [seeds, problems], with percentiles where seeds and problems are both
    drawn anew, each on its own (Owen's pigeonhole bootstrap, Annals of Applied Statistics 1, 2007):
    seeds of one arm share the problems, problems of one seed share the weights.
    """
    values = np.asarray(values, dtype=float)
    seeds, problems = values.shape
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    at_once = max(1, _PROBLEMS_AT_ONCE // problems)
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        # Drawing with replacement, as how often each seed and each problem is in the draw.
        rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count)
        columns = rng.multinomial(problems, np.full(problems, 1 / problems), size=count)
        means[start : start + count] = np.einsum("rs,sp,rp->r", rows, values, columns)
    means /= seeds * problems
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))
