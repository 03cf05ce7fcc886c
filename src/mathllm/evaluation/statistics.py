"""How sure a figure is: intervals, paired comparison, pass@k, and how alike errors are.

Shares are from 0 to 1, intervals of 95 % unless told.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from mathllm.errors import ParameterError

LEVEL = 0.95
RESAMPLES = 2000
_AT_ONCE = 1 << 22  # indices of resampled problems that exist at once


@dataclass(frozen=True)
class Interval:
    """An estimate and what it may be."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Interval":
        return Interval(self.value * factor, self.low * factor, self.high * factor)


def wilson(right: int, asked: int, level: float = LEVEL) -> Interval:
    """Share of right answers with Wilson's score interval (JASA 22, 1927).

    Unlike the textbook's interval it is right for few problems, and has a width where all or
    none are right.
    """
    if not 0 <= right <= asked or asked < 1:
        raise ParameterError(f"{right} right of {asked} asked: give 0…asked, and at least 1")
    bounds = binomtest(right, asked).proportion_ci(level, method="wilson")
    return Interval(right / asked, float(bounds.low), float(bounds.high))


def bootstrap(
    sums: Sequence[float] | np.ndarray,
    counts: Sequence[float] | np.ndarray | None = None,
    level: float = LEVEL,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Σ sums / Σ counts over problems [P], with percentiles over resampled problems.

    Samples of one problem are alike, so problems are drawn, with all their samples (Efron's
    percentile interval over clusters). `counts` is 1 each by default: then it is a mean.
    Shares that are all 0 or all 1 have no spread to resample: they get Wilson's interval
    for as many problems.
    """
    sums = np.asarray(sums, dtype=float)
    counts = np.ones_like(sums) if counts is None else np.asarray(counts, dtype=float)
    if not len(sums):
        raise ParameterError("no problems to resample: give at least one")
    value = float(sums.sum() / counts.sum())
    if value in (0.0, 1.0) and np.all((sums == 0) | (sums == counts)):
        return wilson(len(sums) if value else 0, len(sums), level)
    rng = np.random.default_rng(seed)
    shares, size = [], max(1, _AT_ONCE // len(sums))
    for start in range(0, resamples, size):
        drawn = rng.integers(0, len(sums), (min(size, resamples - start), len(sums)))
        shares.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(shares), [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that k of the samples, drawn without replacement, hold a right one.

    1 − C(n − c, k) / C(n, k) in its product form, which never overflows (Chen et al.,
    arXiv 2107.03374): unbiased for k new samples.
    """
    if not (1 <= k <= samples and 0 <= right <= samples):
        raise ParameterError(
            f"k is {k}, with {right} right of {samples} samples: k must be 1…samples"
        )
    if samples - right < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - right + 1, samples + 1))


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided p of McNemar's exact test (Psychometrika 12, 1947): could as uneven a split of
    the differing pairs be luck? Binomial with 1/2; 1 where no pair differs."""
    if min(wins, losses) < 0:
        raise ParameterError(f"{wins} wins and {losses} losses: give at least 0 each")
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


@dataclass(frozen=True)
class Paired:
    """Two engines on the same problems: right by both, by the second only (`wins`), by the
    first only (`losses`), by neither. `difference` is the second's share less the first's."""

    both: int
    wins: int
    losses: int
    neither: int
    p: float
    difference: Interval


def paired(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Paired:
    """The comparison of right answers [P] of two engines, in the order of the problems."""
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if first.shape != second.shape or not len(first):
        raise ParameterError(
            f"{first.size} and {second.size} problems: give two engines' answers to the same ones"
        )
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    wins, losses = int((~first & second).sum()), int((first & ~second).sum())
    gain = bootstrap(second.astype(float) - first.astype(float), seed=seed)
    if not wins + losses:  # nothing differs, so nothing can be resampled
        bound = wilson(0, len(first)).high
        gain = Interval(0.0, -bound, bound)
    return Paired(both, wins, losses, neither, mcnemar(wins, losses), gain)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number, in their order (Holm, Scand. J. Stat. 6, 1979): below
    0.05 they are significant though all were looked at."""
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = least
    return corrected


def pairs_told(scores: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each problem's samples [P, n] the pairs of a right and a wrong one, and in how many the
    right one has the higher score, ties as half: [P] each, the latter first.

    The sums' quotient is the AUROC within a problem (Hanley and McNeil, Radiology 143, 1982): 0.5
    where the score says nothing.
    """
    scores, right = np.asarray(scores, dtype=float), np.asarray(right, dtype=bool)
    mixed = right[:, :, None] & ~right[:, None, :]
    order = np.sign(scores[:, :, None] - scores[:, None, :])
    return ((1 + order) / 2 * mixed).sum(axis=(1, 2)), mixed.sum(axis=(1, 2))


def phi(first: np.ndarray, second: np.ndarray) -> float | None:
    """Correlation of two columns [P] of right and wrong; None where one of them is constant."""
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if not (np.ptp(first) and np.ptp(second)):
        return None
    return float(np.corrcoef(first, second)[0, 1])


def mean_phi(right: np.ndarray) -> float | None:
    """Mean of phi over all pairs of samples of right [P, n], None where none varies."""
    n = right.shape[1]
    pairs = [phi(right[:, i], right[:, j]) for i in range(n) for j in range(i + 1, n)]
    known = [value for value in pairs if value is not None]
    return sum(known) / len(known) if known else None


def error_correlation(right: np.ndarray) -> float | None:
    """Intraclass correlation ρ of right [P, n]: how alike samples of one problem are.

    One-way ANOVA (Shrout and Fleiss 1979, ICC(1)): (B − W) / (B + (n − 1)·W) with the mean
    squares B between problems and W within. 0: as if every sample had a problem of its own;
    1: all samples of a problem fail together. None for one problem, one sample, or where
    everything is right, or wrong.
    """
    problems, n = right.shape
    values = np.asarray(right, dtype=float)
    if problems < 2 or n < 2 or not np.ptp(values):
        return None
    means = values.mean(axis=1, keepdims=True)
    between = n * float(((means - values.mean()) ** 2).sum()) / (problems - 1)
    within = float(((values - means) ** 2).sum()) / (problems * (n - 1))
    return (between - within) / (between + (n - 1) * within)


def effective_votes(samples: int, correlation: float) -> float:
    """n / (1 + (n − 1)·ρ): how many independent samples tell as much (Kish's design effect).

    A correlation below 0, which small sets give by chance, counts as 0.
    """
    return samples / (1 + (samples - 1) * max(0.0, correlation))
