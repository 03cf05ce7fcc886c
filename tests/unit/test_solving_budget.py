import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mathllm.errors import ParameterError
from mathllm.solving.budget import RESERVE_SHARE, Budget


class Clock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def started(total, margin, problems, **options):
    clock = Clock()
    budget = Budget(total, margin, problems, clock=clock, **options)
    budget.start()
    return budget, clock


def test_the_time_less_the_margin_is_shared_evenly():
    budget, _ = started(110, 10, 50)
    assert budget.allowance() == pytest.approx(2)


def test_surplus_is_handed_on():
    budget, clock = started(110, 10, 5)
    clock.now += 4  # of 20
    budget.finish()
    assert budget.allowance() == pytest.approx(96 / 4)


def test_a_problem_that_overran_is_paid_for_by_the_rest():
    budget, clock = started(110, 10, 5)
    clock.now += 60
    budget.finish()
    assert budget.allowance() == pytest.approx(40 / 4)


def test_the_clock_starts_once():
    budget, clock = started(110, 10, 5)
    clock.now += 50
    budget.start()
    assert budget.left_seconds == pytest.approx(50)


def test_asking_for_an_allowance_starts_the_clock():
    clock = Clock()
    budget = Budget(110, 10, 5, clock=clock)
    clock.now += 1000
    assert budget.allowance() == pytest.approx(20)


def test_waiting_counts_as_used():
    budget, clock = started(110, 10, 5)
    clock.now += 25
    assert budget.used_share == pytest.approx(0.25)


def test_nothing_is_used_before_the_start():
    assert Budget(110, 10, 5).used_share == 0


def test_more_problems_than_expected_get_the_floor_from_the_margin():
    budget, clock = started(110, 60, 1, floor_seconds=2)
    clock.now += 50
    budget.finish()
    for _ in range(5):
        assert budget.allowance() == pytest.approx(2)
        clock.now += 2
        budget.finish()


def test_more_problems_than_expected_get_a_tenth_of_a_surplus():
    budget, clock = started(110, 10, 1)
    clock.now += 20
    budget.finish()
    assert budget.allowance() == pytest.approx(8)


def test_after_the_very_end_the_allowance_is_zero():
    budget, clock = started(110, 10, 5)
    clock.now += 111
    assert budget.allowance() == 0


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0, 0, 5), "total_seconds"),
        ((10, 10, 5), "margin_seconds"),
        ((10, -1, 5), "margin_seconds"),
        ((math.nan, 0, 5), "total_seconds"),
        ((math.inf, 0, 5), "total_seconds"),
        ((10, math.nan, 5), "margin_seconds"),
        ((10, 1, 0), "expected_problems"),
        ((10, 1, 5, Clock(), -1), "floor_seconds"),
        ((10, 1, 5, Clock(), math.nan), "floor_seconds"),
        ((10, 1, 5, Clock(), 0, 0), "ceiling_seconds"),
        ((10, 1, 5, Clock(), 0, math.nan), "ceiling_seconds"),
        ((10, 1, 5, Clock(), 2, 1), "ceiling_seconds is 1: .* floor_seconds \\(2\\)"),
    ],
)
def test_impossible_times_are_refused_by_name(arguments, name):
    with pytest.raises(ParameterError, match=name):
        Budget(*arguments)


def test_no_problem_gets_more_than_the_ceiling_and_the_rest_is_handed_on():
    budget, clock = started(110, 10, 5, ceiling_seconds=22)
    assert budget.allowance() == pytest.approx(20)
    clock.now += 4
    budget.finish()
    assert budget.allowance() == 22  # of 24
    budget.finish()
    assert budget.allowance() == 22


def test_the_ceiling_holds_beyond_the_expected_problems_too():
    budget, _ = started(110, 10, 1, ceiling_seconds=5)
    budget.finish()
    assert budget.allowance() == 5


def test_problems_that_come_late_get_the_floor_while_it_lasts():
    """After 90 of 100 s were lost four problems would have 2.5 s each."""
    budget, clock = started(200, 100, 5, floor_seconds=5)
    clock.now += 90
    budget.finish()
    allowed = []
    for _ in range(4):
        allowed.append(budget.allowance())
        clock.now += allowed[-1]
        budget.finish()
    assert allowed == pytest.approx([5, 5, 5, 4.5])  # a tenth of 60, 55, 50, 45 at most


def test_the_second_half_of_the_margin_is_not_handed_out():
    budget, clock = started(200, 100, 5, floor_seconds=6)
    clock.now += 150
    assert budget.allowance() == 0


def test_fewer_problems_than_expected_leave_their_share():
    budget, clock = started(110, 10, 50)
    for _ in range(30):
        clock.now += budget.allowance()
        budget.finish()
    assert budget.used_share == pytest.approx(30 / 50)


TIMES = st.floats(1, 20_000)
SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=120)


@given(TIMES, st.floats(0, 0.9), st.integers(1, 60), SHARES)
def test_problems_within_their_allowances_never_reach_the_margin(total, margin, expected, used):
    """Without a floor, which is what may come out of it."""
    budget, clock = started(total, margin * total, expected, floor_seconds=0)
    allowed = 0.0
    for share in used[:expected]:
        allowance = budget.allowance()
        assert allowance >= 0
        allowed += share * allowance
        clock.now += share * allowance
        budget.finish()
    assert allowed <= total * (1 - margin) * (1 + 1e-6)


@given(TIMES, st.floats(0, 0.9), st.integers(1, 60))
def test_problems_that_use_all_their_allowances_use_all_the_time(total, margin, expected):
    budget, clock = started(total, margin * total, expected, floor_seconds=0)
    for _ in range(expected):
        clock.now += budget.allowance()
        budget.finish()
    assert budget.used_share == pytest.approx(1, rel=1e-6)


@given(TIMES, st.floats(0, 0.9), st.integers(1, 10), SHARES)
def test_however_many_problems_come_none_is_late(total, margin, expected, used):
    budget, clock = started(total, margin * total, expected)
    for share in used:
        clock.now += share * budget.allowance()
        budget.finish()
    assert budget.elapsed_seconds <= total * (1 + 1e-6)


SECONDS = st.floats(0, 500)


@given(TIMES, st.floats(0, 0.9), st.integers(1, 60), SECONDS, st.floats(0, 1), st.data())
def test_lags_of_half_the_margin_make_no_run_late(total, margin, expected, floor, lags, data):
    """Any number of problems, any use of the allowances, any way to spread the lags."""
    reserve = RESERVE_SHARE * margin * total
    budget, clock = started(total, margin * total, expected, floor_seconds=floor)
    used = data.draw(SHARES)
    parts = data.draw(st.lists(st.floats(0, 1), min_size=len(used), max_size=len(used)))
    whole = sum(parts) or 1
    for share, part in zip(used, parts, strict=True):
        allowance = budget.allowance()
        assert allowance >= 0
        clock.now += share * allowance + part / whole * lags * reserve
        budget.finish()
    assert budget.elapsed_seconds <= total * (1 + 1e-6)


@given(TIMES, st.floats(0, 0.9), st.integers(1, 60), SECONDS, st.floats(1, 500), SHARES)
def test_allowances_stay_between_floor_and_ceiling(total, margin, expected, floor, above, used):
    ceiling = floor + above
    budget, clock = started(
        total, margin * total, expected, floor_seconds=floor, ceiling_seconds=ceiling
    )
    for share in used:
        unreserved = budget.left_seconds + (1 - RESERVE_SHARE) * margin * total
        allowance = budget.allowance()
        assert min(floor, 0.1 * max(0, unreserved)) <= allowance * (1 + 1e-9)
        assert allowance <= ceiling
        clock.now += share * allowance * 1.1
        budget.finish()


@given(TIMES, st.integers(2, 60), st.floats(0, 1))
def test_what_a_problem_leaves_goes_to_those_after_it(total, expected, share):
    budget, clock = started(total, 0, expected, floor_seconds=0)
    even = budget.allowance()
    clock.now += share * even
    budget.finish()
    surplus = (1 - share) * even / (expected - 1)
    assert budget.allowance() == pytest.approx(even + surplus, rel=1e-6)


def test_with_a_base_the_first_may_take_what_leaves_the_base_for_the_others():
    clock = Clock()
    budget = Budget(1000, 0, 5, clock, ceiling_seconds=600, base_seconds=100)
    assert budget.allowance() == 600  # the ceiling: 1000 less 4 bases
    clock.now += 450
    budget.finish()
    assert budget.allowance() == 550 - 3 * 100
    clock.now += 250
    budget.finish()
    assert [budget.allowance() for _ in range(2)] == [100, 100]  # the base, and what it leaves


def test_a_base_that_is_more_than_the_even_share_is_that_share():
    clock = Clock()
    budget = Budget(100, 0, 10, clock, base_seconds=1000)
    assert budget.allowance() == pytest.approx(10)


def test_after_the_quota_of_hard_problems_shares_are_even():
    clock = Clock()
    budget = Budget(1000, 0, 10, clock, base_seconds=50, hard_problems=1)
    assert budget.allowance() == 1000 - 9 * 50
    clock.now += 20  # no hard one
    budget.finish()
    assert budget.allowance() == 980 - 8 * 50
    clock.now += 200
    budget.finish()
    assert budget.allowance() == pytest.approx(780 / 8)


@given(
    st.integers(1, 60),
    st.floats(0, 1000),
    st.none() | st.integers(0, 20),
    st.lists(st.floats(0, 1), min_size=60, max_size=60),
)
def test_no_base_and_no_quota_makes_a_run_late(expected, base, hard, shares):
    budget, clock = started(18_000, 900, expected, base_seconds=base, hard_problems=hard)
    begin = clock.now
    for share in shares:
        clock.now += share * budget.allowance()
        budget.finish()
    assert clock.now - begin <= 18_000


@pytest.mark.parametrize(
    "wrong", [{"base_seconds": -1.0}, {"base_seconds": math.nan}, {"hard_problems": 3}]
)
def test_a_base_or_a_quota_that_cannot_be_is_refused_by_name(wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        Budget(1000, 0, 5, **wrong)
