"""Contrasts over seeds and problems, against enumeration and repeated draws."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from mathllm.errors import ParameterError
from mathllm.evaluation.contrasts import contrast, two_way_bootstrap
from mathllm.evaluation.statistics import holm


def test_wins_and_losses_are_counted_by_seed_and_pooled():
    first = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=bool)
    second = np.array([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0]], dtype=bool)
    found = contrast(first, second)
    assert (found.wins, found.losses) == ([2, 5], [1, 0])
    assert found.p_values == pytest.approx([1.0, 2 * 0.5**5])
    assert found.pooled == pytest.approx(binomtest(7, 8).pvalue)
    assert found.difference.value == pytest.approx(0.6)


def test_the_bootstrap_is_what_drawing_every_pair_of_rows_and_columns_gives():
    values = np.array([[1.0, 0.0, 2.0], [3.0, -1.0, 0.5]])
    means = [
        values[np.ix_(rows, columns)].mean()
        for rows in product(range(2), repeat=2)
        for columns in product(range(3), repeat=3)
    ]
    expected = np.quantile(means, [0.1, 0.9])
    found = two_way_bootstrap(values, level=0.8, resamples=20_000)
    assert found.value == pytest.approx(values.mean())
    assert [found.low, found.high] == pytest.approx(expected, abs=0.06)


def test_its_interval_holds_the_truth_where_seeds_and_problems_both_vary():
    """400 experiments of 12 seeds and 60 problems: 95 % of the intervals, or a little more, since
    drawing both anew counts the noise of single pairs more than once."""
    rng = np.random.default_rng(1)
    held = 0
    for draw in range(400):
        table = 0.3 + 0.1 * rng.normal(size=(12, 1)) + 0.2 * rng.normal(size=(1, 60))
        found = two_way_bootstrap(table + 0.3 * rng.normal(size=(12, 60)), seed=draw, resamples=400)
        held += found.low <= 0.3 <= found.high
    assert 0.90 <= held / 400 <= 0.99


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(values):
    adjusted = holm(values)
    assert len(adjusted) == len(values)
    for alpha in (0.01, 0.05, 0.2, 0.9):
        rejected = set()
        for place, (name, value) in enumerate(sorted(enumerate(values), key=lambda item: item[1])):
            if value * (len(values) - place) > alpha:
                break
            rejected.add(name)
        assert {name for name, value in enumerate(adjusted) if value <= alpha} == rejected


def test_holm_of_three_values_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@pytest.mark.parametrize("shapes", [((2, 3), (3, 2)), ((3,), (3,)), ((0, 3), (0, 3))])
def test_tables_that_do_not_belong_together_are_refused(shapes):
    with pytest.raises(ParameterError, match="as many seeds and problems"):
        contrast(*(np.zeros(shape, dtype=bool) for shape in shapes))
