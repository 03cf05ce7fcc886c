import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.paths import ROOT
from mathllm.errors import ParameterError
from mathllm.solving.budget import RESERVE_SHARE, Budget, next_wave


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


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ((0, 16, 4), 4),
        ((4, 16, 4), 4),
        ((8, 16, 4), 8),
        ((12, 16, 4), 4),
        ((16, 16, 4), 0),
        ((0, 2, 4), 2),
        ((0, 16, 4, None, None, 100.0), 4),  # nothing measured yet
        ((0, 16, 4, 100.0, 1000.0, None), 4),  # no limit
        ((0, 16, 4, 100.0, 1000.0, 100.0), 4),
        ((0, 16, 4, 100.0, 1000.0, 29.0), 2),
        ((0, 16, 4, 100.0, 1000.0, 5.0), 1),  # may be short
        ((0, 16, 4, 0.0, 1000.0, 5.0), 1),
        ((0, 16, 4, 100.0, 1000.0, 0.0), 0),
        ((0, 16, 4, 100.0, 1000.0, -3.0), 0),
        ((0, 16, 4, 1e300, 1e-300, math.inf), 4),
    ],
)
def test_the_next_wave(arguments, size):
    assert next_wave(*arguments) == size


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((-1, 16, 4), "drawn"),
        ((0, 0, 4), "n_samples"),
        ((0, 16, 0), "first"),
        ((0, 16, 4, -1.0), "tokens_per_second"),
        ((0, 16, 4, math.nan), "tokens_per_second"),
        ((0, 16, 4, 1.0, 0.0), "usual_tokens"),
        ((0, 16, 4, 1.0, math.nan), "usual_tokens"),
        ((0, 16, 4, 1.0, 1.0, math.nan), "seconds"),
    ],
)
def test_impossible_waves_are_refused_by_name(arguments, name):
    with pytest.raises(ParameterError, match=name):
        next_wave(*arguments)


COUNTS = st.integers(1, 100)


@given(COUNTS, COUNTS, st.none() | st.floats(0, 1e5), st.none() | st.floats(1, 1e5), SECONDS)
def test_waves_draw_all_samples_while_there_is_time(n_samples, first, rate, usual, seconds):
    drawn = waves = 0
    while size := next_wave(drawn, n_samples, first, rate, usual, seconds):
        assert size <= max(first, drawn)
        if rate is not None and usual is not None and size > 1:
            assert size * usual <= seconds * rate * (1 + 1e-9)  # they end before the deadline
        drawn += size
        waves += 1
    assert drawn == (n_samples if seconds > 0 else 0)
    assert waves >= (seconds > 0)


@pytest.mark.process
def test_simulated_runs_are_never_late_and_use_their_time(tmp_path):
    script = ROOT / "benchmarks" / "budget.py"
    out = tmp_path / "budget.json"
    subprocess.run([sys.executable, script, "--runs", "20", "--out", out], check=True, timeout=120)
    for scenario in json.loads(out.read_text())["scenarios"]:
        ours = scenario["policies"]["budget"]
        assert ours["late_runs"] == 0, scenario["name"]
        if scenario["all_time_wanted"]:
            assert min(ours["used"].values()) >= 0.97, scenario["name"]
