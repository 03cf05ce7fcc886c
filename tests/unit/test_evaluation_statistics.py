"""Intervals, pass@k, maj@k, McNemar, error correlation and expected points, each against a
closed form or the definition written out."""

import math
from itertools import combinations, product

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mathllm.errors import ParameterError
from mathllm.evaluation import statistics as ours
from mathllm.evaluation import votes
from mathllm.evaluation.votes import NONE, RIGHT, Samples
from mathllm.solving import vote


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=8))
def test_pairs_told_apart_are_those_counted_one_by_one(samples):
    scores, right = zip(*samples, strict=True)
    pairs = [(s, w) for s, a in samples if a for w, b in samples if not b]
    told = sum(1.0 if s > w else 0.5 if s == w else 0.0 for s, w in pairs)
    assert [part.item() for part in ours.pairs_told([scores], [right])] == [told, len(pairs)]


ANSWERS = st.lists(st.integers(NONE, 3), min_size=1, max_size=7)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_bounds_are_as_far_from_the_share_as_their_own_error_allows(counts):
    """The definition: the q for which |p − q| = z·√(q(1 − q) / n), around p."""
    right, asked = counts
    found, z = ours.wilson(right, asked), 1.959963984540054
    for bound in (found.low, found.high):
        allowed = z * math.sqrt(bound * (1 - bound) / asked)
        assert abs(found.value - bound) == pytest.approx(allowed, abs=1e-9)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert (found.low == 0, found.high == 1) == (right == 0, right == asked)
    assert found.low < found.high


def test_wilsons_interval_of_none_has_a_closed_form():
    for level, z in ((0.95, 1.959963984540054), (0.9, 1.6448536269514722)):
        found = ours.wilson(0, 7, level)
        assert (found.low, found.high) == (0, pytest.approx(z * z / (7 + z * z)))


def test_wilson_of_nothing_is_refused():
    for right, asked in ((0, 0), (3, 2), (-1, 5)):
        with pytest.raises(ParameterError, match="at least 1"):
            ours.wilson(right, asked)


def test_bootstrap_of_single_answers_is_about_wilsons():
    values = np.array([1.0] * 120 + [0.0] * 80)
    found, expected = ours.bootstrap(values), ours.wilson(120, 200)
    assert found.value == 0.6
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.015)


def test_bootstrap_covers_the_truth_where_samples_of_a_problem_are_alike():
    """200 experiments of 60 problems with 8 samples that all agree: as sure as 60 answers."""
    rng = np.random.default_rng(0)
    covered = naive = 0
    for seed in range(200):
        right = rng.random(60) < 0.3
        found = ours.bootstrap(8.0 * right, np.full(60, 8.0), seed=seed, resamples=400)
        covered += found.low <= 0.3 <= found.high
        samples = ours.wilson(8 * right.sum(), 480)  # as if samples were problems
        naive += samples.low <= 0.3 <= samples.high
    assert covered >= 180
    assert naive < 140


def test_bootstrap_weighs_problems_by_their_counts_and_repeats_itself():
    found = ours.bootstrap([1, 0], [1, 3], seed=3)
    assert found.value == 0.25
    assert (found.low, found.high) == (0.0, 1.0)
    assert ours.bootstrap([0.2, 0.7, 0.4], seed=3) == ours.bootstrap([0.2, 0.7, 0.4], seed=3)
    assert ours.bootstrap([4, 4], [4, 4]) == ours.wilson(2, 2)  # nothing to resample
    with pytest.raises(ParameterError, match="no problems"):
        ours.bootstrap([])


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_pass_at_k_counts_the_subsets_with_a_right_sample(counts):
    n, c = counts
    samples = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        subsets = list(combinations(samples, k))
        expected = sum(map(any, subsets)) / len(subsets)
        assert ours.pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_stays_a_number_for_many_samples():
    expected = 1 - math.exp(
        sum(math.log(1 - 5000 / i) for i in range(100_000 - 3 + 1, 100_000 + 1))
    )
    assert ours.pass_at_k(100_000, 3, 5000) == pytest.approx(expected)
    for n, c, k in ((4, 1, 0), (4, 1, 5), (4, 5, 1)):
        with pytest.raises(ParameterError, match="k must be"):
            ours.pass_at_k(n, c, k)


@given(st.integers(0, 7), st.integers(0, 7))
def test_mcnemar_counts_the_splits_that_are_as_uneven(wins, losses):
    pairs = wins + losses
    splits = [abs(2 * sum(split) - pairs) for split in product((0, 1), repeat=pairs)]
    expected = sum(uneven >= abs(wins - losses) for uneven in splits) / len(splits)
    assert ours.mcnemar(wins, losses) == pytest.approx(expected)


def test_mcnemar_of_many_pairs_is_the_binomial_tail():
    for wins, losses in ((0, 60), (17, 40), (560, 500), (9000, 9300)):
        pairs, fewer = wins + losses, min(wins, losses)
        tail = ways = 1
        for i in range(fewer):
            ways = ways * (pairs - i) // (i + 1)  # math.comb(pairs, i + 1)
            tail += ways
        expected = 2 * (tail << 200) // 2**pairs / 2**200  # in whole numbers: no rounding
        assert ours.mcnemar(wins, losses) == pytest.approx(expected)
        assert ours.mcnemar(losses, wins) == pytest.approx(expected)
    with pytest.raises(ParameterError, match="at least 0"):
        ours.mcnemar(-1, 2)


def test_paired_counts_the_four_cases():
    first = np.array([1, 1, 0, 0, 0, 1], dtype=bool)
    second = np.array([1, 0, 1, 1, 0, 1], dtype=bool)
    found = ours.paired(first, second)
    assert (found.both, found.wins, found.losses, found.neither) == (2, 2, 1, 1)
    assert found.p == 1.0
    assert found.difference.value == pytest.approx(1 / 6)
    same = ours.paired(first, first)
    assert (same.p, same.difference.value) == (1.0, 0.0)
    assert same.difference.low < 0 < same.difference.high
    with pytest.raises(ParameterError, match="same ones"):
        ours.paired(first, second[:3])


def test_phi_is_pearsons_and_none_of_a_constant():
    first, second = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 1, 1])
    # Of a 2 × 2 table: (2·1 − 1·1) / √(3·2·3·2).
    assert ours.phi(first, second) == pytest.approx(1 / 6)
    assert ours.phi(first, np.ones(5)) is None
    assert ours.mean_phi(np.stack([first, second, np.ones(5)], axis=1)) == pytest.approx(
        ours.phi(first, second)
    )


def test_error_correlation_finds_the_one_that_samples_were_drawn_with():
    """Each problem's chance is drawn from a Beta(a, b): samples then correlate by 1/(a+b+1)."""
    rng = np.random.default_rng(1)
    for a, b in ((1.0, 1.0), (4.0, 5.0)):
        chance = rng.beta(a, b, 4000)[:, None]
        right = rng.random((4000, 8)) < chance
        assert ours.error_correlation(right) == pytest.approx(1 / (a + b + 1), abs=0.02)
        assert ours.mean_phi(right) == pytest.approx(1 / (a + b + 1), abs=0.02)


def test_error_correlation_at_its_ends():
    same = np.repeat([[True], [False], [True]], 4, axis=1)
    assert ours.error_correlation(same) == pytest.approx(1.0)
    opposed = np.array([[True, False], [False, True]])
    assert ours.error_correlation(opposed) == pytest.approx(-1.0)
    for nothing in (np.ones((3, 2), bool), same[:, :1], same[:1]):
        assert ours.error_correlation(nothing) is None


def test_effective_votes():
    assert ours.effective_votes(16, 0.0) == 16
    assert ours.effective_votes(16, 1.0) == 1
    assert ours.effective_votes(16, 0.2) == pytest.approx(4.0)
    assert ours.effective_votes(16, -0.05) == 16  # chance, not more votes than there are


# votes


@given(st.lists(ANSWERS, min_size=1, max_size=5).filter(lambda r: len({*map(len, r)}) == 1))
def test_winners_are_those_of_vote(ballots):
    expected = [vote([None if a == NONE else a for a in row]).answer for row in ballots]
    found = votes.winners(np.array(ballots))
    assert [None if a == NONE else a for a in found.tolist()] == expected


def naive_majority(answers, k):
    subsets = list(combinations(answers, k))
    won = [vote([None if a == NONE else a for a in subset]).answer for subset in subsets]
    return sum(answer == RIGHT for answer in won) / len(subsets)


@given(ANSWERS)
def test_majority_at_k_lets_every_subset_vote(answers):
    rng = np.random.default_rng(0)
    for k in range(1, len(answers) + 1):
        share, error = votes.majority_at_k(np.array(answers), k, rng)
        assert share == pytest.approx(naive_majority(answers, k))
        assert error == 0
        passed = ours.pass_at_k(len(answers), answers.count(RIGHT), k)
        assert share <= passed + 1e-12  # a vote needs a right sample


def test_drawn_subsets_are_within_their_stated_error(monkeypatch):
    answers = np.array([0, 1, 0, 2, 1, 0, 3, 0, 1, 1])
    exact = naive_majority(answers.tolist(), 5)
    monkeypatch.setattr(votes, "ENUMERATED", 0)
    off = []
    for seed in range(60):
        share, error = votes.majority_at_k(answers, 5, np.random.default_rng(seed), drawn=500)
        assert error == pytest.approx(math.sqrt(share * (1 - share) / 500))
        off.append((share - exact) / error)
    assert abs(np.mean(off)) < 0.5  # unbiased: three standard errors of 60
    assert 0.7 < np.std(off) < 1.3
    for k in (0, 11):
        with pytest.raises(ParameterError, match=r"1…10"):
            votes.majority_at_k(answers, k, np.random.default_rng(0))


def rows_of(table, n):
    """Rows of results from {id: [(answer, right), …]}."""
    return pl.DataFrame(
        [
            {"id": ident, "sample": i, "answer": answer, "right": right}
            for i in range(n)
            for ident, samples in table.items()
            for answer, right in [samples[i]]
        ],
        schema={"id": pl.String, "sample": pl.Int64, "answer": pl.String, "right": pl.Boolean},
    )


TABLE = {
    "b": [("3", False), ("1/2", True), (r"\frac12", True), (None, False)],
    "a": [(r"\frac{1}{3}", False), (r"\frac13", False), ("7", True), (None, False)],
    "c": [(None, False)] * 4,
}


def test_right_answers_are_one_however_written_and_wrong_ones_by_their_latex():
    samples = Samples.of(rows_of(TABLE, 4))
    assert samples.ids == ["b", "a", "c"]
    assert samples.answers.tolist() == [[1, 0, 0, NONE], [1, 1, 0, NONE], [NONE] * 4]
    assert samples.right.sum() == 3


def test_voted_has_a_row_for_each_problem():
    won = votes.voted(rows_of(TABLE, 4).sample(fraction=1, shuffle=True, seed=1))
    found = {row["id"]: (row["answer"], row["right"], row["sample"]) for row in won.to_dicts()}
    assert found["b"] == ("1/2", True, 1)
    assert found["a"] == (r"\frac{1}{3}", False, 0)
    assert found["c"][:2] == (None, False)


def test_samples_that_do_not_fit_together_are_refused():
    rows = rows_of(TABLE, 4)
    with pytest.raises(ParameterError, match="problem a has samples"):
        Samples.of(rows.filter((pl.col("id") != "a") | (pl.col("sample") < 2)))
    with pytest.raises(ParameterError, match="no samples"):
        Samples.of(rows.clear())


def test_the_voting_curve_is_the_mean_over_problems():
    rng = np.random.default_rng(5)
    answers = rng.integers(-1, 3, (12, 6))
    curve = votes.voting_curve(Samples([str(i) for i in range(12)], answers))
    assert curve["k"].to_list() == [1, 2, 4, 6]
    for row in curve.iter_rows(named=True):
        majority = [naive_majority(a.tolist(), row["k"]) for a in answers]
        passed = [ours.pass_at_k(6, int((a == RIGHT).sum()), row["k"]) for a in answers]
        assert row["majority"] == pytest.approx(np.mean(majority))
        assert row["pass"] == pytest.approx(np.mean(passed))
        assert row["loss"] == pytest.approx(row["pass"] - row["majority"])
        assert row["majority_low"] <= row["majority"] <= row["majority_high"]
        assert row["pass_low"] <= row["pass"] <= row["pass_high"]
        assert row["error"] == 0
    assert curve["pass"].is_sorted()
    assert curve["loss"][0] == pytest.approx(0)


def naive_chance(answers, size):
    """That a vote over `size` samples, drawn with replacement, is right: all draws counted."""
    draws = list(product(answers, repeat=size))
    won = [vote([None if a == NONE else a for a in draw]).answer for draw in draws]
    return sum(answer == RIGHT for answer in won) / len(draws)


@pytest.mark.slow
def test_expected_points_are_those_of_all_votes():
    answers = np.array([[0, 0, 1], [0, 1, 2], [1, 1, NONE], [0, 0, 0]])
    samples = Samples(list("abcd"), answers)
    chances = [naive_chance(row.tolist(), 3) for row in answers]
    linear = votes.expected_score(samples, (0, 0.5, 1), 50, drawn=40_000)
    assert linear.expected.value == pytest.approx(50 * np.mean(chances), abs=0.3)
    both = votes.expected_score(samples, (0, 0, 1), 50, drawn=40_000)
    assert both.expected.value == pytest.approx(50 * np.mean(np.square(chances)), abs=0.3)
    assert linear.expected.low <= linear.expected.value <= linear.expected.high
    assert linear.one.low < linear.expected.value < linear.one.high
    assert "of 50 points expected" in str(linear)
    one = votes.expected_score(samples, (0, 0.5, 1), 50, votes=1, drawn=40_000)
    assert one.expected.value == pytest.approx(50 * (answers == RIGHT).mean(), abs=0.3)


def test_all_right_earns_all_points_but_is_not_sure_of_them():
    samples = Samples(["a", "b"], np.zeros((2, 1), int))
    score = votes.expected_score(samples, (0, 0.5, 1), 50)
    assert score.expected.value == score.expected.high == 50
    assert score.expected.low < 30  # two problems say little
    assert score.one.low <= score.expected.low  # and a single submission is no surer
    assert score.one.high == 50
