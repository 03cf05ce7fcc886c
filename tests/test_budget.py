import pytest
from hypothesis import given
from hypothesis import strategies as st

from mathllm.errors import ParameterError
from mathllm.solving import Budget


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
        ((10, 1, 0), "expected_problems"),
    ],
)
def test_impossible_times_are_refused_by_name(arguments, name):
    with pytest.raises(ParameterError, match=name):
        Budget(*arguments)


TIMES = st.floats(1, 20_000)
SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=120)


@given(TIMES, st.floats(0, 0.9), st.integers(1, 60), SHARES)
def test_problems_within_their_allowances_never_reach_the_margin(total, margin, expected, used):
    budget, clock = started(total, margin * total, expected)
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
    budget, clock = started(total, margin * total, expected)
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
