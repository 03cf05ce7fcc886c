from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mathllm.errors import ParameterError
from mathllm.solving.voting import FLOOR, RIVAL_SHARE, WEIGHTS, Ballot, decided, vote

ANSWERS = st.lists(st.none() | st.integers(0, 5))
METHODS = st.sampled_from(list(WEIGHTS))
ENTROPIES = st.floats(0, 12)
BALLOT = st.builds(
    Ballot, st.none() | st.integers(0, 3), ENTROPIES, ENTROPIES, st.none() | st.floats(0, 1)
)
BALLOTS = st.lists(BALLOT, max_size=12)


def test_the_majority_wins_and_is_counted():
    decision = vote([3, 7, None, 7])
    assert (decision.answer, decision.votes) == (7, {7: 2, 3: 1})
    assert decision.reason == "2 of 4 votes"


def test_of_tied_answers_the_first_to_reach_the_count_wins():
    decision = vote([1, 2, 2, 1])
    assert decision.answer == 2
    assert "1 with as many" in decision.reason


def test_the_winner_stands_first_among_as_many_votes():
    assert list(vote([3, 1, 2, 2, 1]).votes) == [2, 1, 3]


def test_single_votes_tie_in_sample_order():
    assert vote([None, 9, 4, 6]).answer == 9


def test_without_a_valid_vote_there_is_no_answer():
    decision = vote([None, None])
    assert (decision.answer, decision.votes) == (None, {})
    assert decision.reason == "no valid answer in 2 samples"


def test_no_samples_give_no_answer():
    assert vote([]).answer is None


def test_zero_is_a_vote_like_any_other():
    assert vote([0, None, 0, 5]).answer == 0


def test_the_reason_tells_of_samples_that_were_not_drawn():
    assert vote([4, 4, 4], total=8).reason == "3 of 3 votes, 5 of 8 not drawn"
    assert vote([None], total=2).reason == "no valid answer in 1 samples, 1 of 2 not drawn"


SURE, UNSURE = Ballot(1, 0.1, 2.0, 0.9), Ballot(2, 1.0, 0.1, 0.5)


@pytest.mark.parametrize(
    ("method", "answer", "votes"),
    [
        ("majority", 2, {2: 2, 1: 1}),
        ("entropy", 2, {2: 2 * 0.526, 1: 0.929}),
        ("tail_entropy", 2, {2: 2 * 0.929, 1: 0.352}),
        ("confidence", 2, {2: 2 * 0.625, 1: 0.925}),
        ("combined", 2, {2: 2 * 0.673, 1: 0.671}),
    ],
)
def test_the_methods_weigh_as_their_formulas_say(method, answer, votes):
    decision = vote([SURE, UNSURE, UNSURE], method)
    assert decision.answer == answer
    assert decision.votes == votes


def test_a_sure_sample_outvotes_two_unsure_ones():
    ballots = [Ballot(1, 5.0), Ballot(1, 5.0), Ballot(2, 0.05)]
    assert vote(ballots).answer == 1
    decision = vote(ballots, "entropy")
    assert decision.answer == 2
    assert decision.reason == "1 of 3 votes, weight 0.963 of 1.473 by entropy"


@pytest.mark.parametrize("method", WEIGHTS)
@pytest.mark.parametrize("place", range(5))
def test_the_surest_sample_never_outvotes_four(method, place):
    ballots = [Ballot(2, 1e9, 1e9, 0)] * 4
    ballots.insert(place, Ballot(1, 0, 0, 1))
    assert vote(ballots, method).answer == 2


def test_unknown_confidence_counts_for_all_alike():
    ballots = [Ballot(1), Ballot(2), Ballot(2)]
    assert vote(ballots, "confidence").answer == 2
    low, high = Ballot(1, confidence=0.4), Ballot(1, confidence=0.6)
    unknown = WEIGHTS["confidence"](Ballot(1))
    assert WEIGHTS["confidence"](low) < unknown < WEIGHTS["confidence"](high)


def test_entropy_a_rounding_below_zero_counts_as_zero():
    assert vote([Ballot(1, -1e-7)], "entropy").votes == {1: 1}


@pytest.mark.parametrize(
    ("mistake", "name"),
    [
        (lambda: Ballot(1, mean_entropy=-0.5), "mean_entropy"),
        (lambda: Ballot(1, mean_entropy=float("nan")), "mean_entropy"),
        (lambda: Ballot(1, tail_entropy=-1), "tail_entropy"),
        (lambda: Ballot(1, confidence=1.2), "confidence"),
        (lambda: Ballot(1, confidence=float("nan")), "confidence"),
        (lambda: vote([1], "plurality"), "method is 'plurality'.*tail_entropy"),
        (lambda: vote([], "plurality"), "method"),
        (lambda: vote([1, 2], total=1), "total"),
        (lambda: decided([1], 4, "plurality"), "method"),
        (lambda: decided([1, 2], 1), "total"),
        (lambda: decided([], 0), "total"),
        (lambda: decided([1], 4, agreement=-1), "agreement"),
    ],
)
def test_values_out_of_their_range_are_refused_by_name(mistake, name):
    with pytest.raises(ParameterError, match=name):
        mistake()


@given(ANSWERS)
def test_the_majority_is_a_count(answers):
    counts = Counter(a for a in answers if a is not None)
    decision = vote(answers)
    assert decision.votes == counts
    assert (decision.answer is None) == (not counts)
    assert not counts or counts[decision.answer] == max(counts.values())


@given(ANSWERS)
def test_a_shorter_run_with_the_same_winner_count_decides_alike(answers):
    """The winner already wins at the moment it reaches its count."""
    decision = vote(answers)
    for length in range(len(answers)):
        early = vote(answers[:length])
        if decision.answer is not None and max(early.votes.values(), default=0) == max(
            decision.votes.values()
        ):
            assert early.answer == decision.answer


@given(BALLOTS, METHODS, st.randoms(use_true_random=False))
def test_the_weights_do_not_depend_on_the_order(ballots, method, random):
    decision = vote(ballots, method)
    mixed = vote(random.sample(ballots, len(ballots)), method)
    assert mixed.votes == decision.votes
    if list(decision.votes.values()).count(max(decision.votes.values(), default=0)) == 1:
        assert mixed.answer == decision.answer


@given(BALLOTS, METHODS)
def test_no_answer_outweighs_the_winner_which_stands_first(ballots, method):
    decision = vote(ballots, method)
    weights = list(decision.votes.values())
    assert weights == sorted(weights, reverse=True)
    assert next(iter(decision.votes), None) == decision.answer


@given(BALLOT, METHODS)
def test_every_weight_is_within_the_bounds(ballot, method):
    assert FLOOR <= WEIGHTS[method](ballot) <= 1


@given(ANSWERS, METHODS)
def test_plain_answers_are_voted_on_by_count_whatever_the_method(answers, method):
    assert vote(answers, method).answer == vote(answers).answer


@pytest.mark.parametrize(
    ("answers", "total", "agreement", "reason"),
    [
        ([], 4, 0, None),
        ([None, None], 4, 2, None),
        ([None, None], 2, 0, "all 2 samples are drawn"),
        ([7, 7], 5, 0, None),
        ([7, 7, 7], 5, 0, "7 cannot be caught, 2 to come"),
        ([7, 7], 4, 0, None),  # whose a tie is depends on who comes when
        ([7, 7], 3, 0, "7 cannot be caught, 1 to come"),
        ([7, 7, 3], 4, 0, None),
        ([7, 3, 3], 5, 0, None),
        ([7, 7, 7], 16, 4, None),
        ([7, 7, 7, 7], 16, 4, "4 agree on 7"),
        ([7, 3, 7, None, 7, 7], 16, 4, "4 agree on 7"),
        ([7, 3, 7, 3, 7, 7], 16, 4, None),
        ([7, 3, 7, 3, 7, 7, 7, 7, 7, 7], 32, 4, "8 agree on 7"),
        ([9], 16, 1, "1 agree on 9"),
    ],
)
def test_when_to_stop(answers, total, agreement, reason):
    assert decided(answers, total, agreement=agreement) == reason


def test_an_agreement_is_one_of_weight_too():
    sure, unsure = Ballot(3, 0.0), Ballot(7, 3.0)
    ballots = [sure, *[unsure] * 4]
    assert decided(ballots, 16, "majority", agreement=4)
    assert decided(ballots, 16, "entropy", agreement=4) is None


@given(st.lists(st.sampled_from([None, 1, 2, 3]), max_size=6), st.integers(0, 4))
def test_majority_is_decided_exactly_when_no_continuation_changes_it(answers, to_come):
    """A tie may be anybody's: samples end in any order."""
    total = max(1, len(answers) + to_come)
    to_come = total - len(answers)
    leader = vote(answers).answer
    ends = [Counter([*answers, *more]) for more in product([None, 1, 2, 3, 4], repeat=to_come)]
    rivals = {1, 2, 3, 4} - {leader}
    sure = all(count[leader] > count[rival] for count in ends for rival in rivals)
    stopped = decided(answers, total)
    if to_come == 0:
        assert stopped
    else:
        assert bool(stopped) == (leader is not None and sure)


@given(st.lists(BALLOT, max_size=8), METHODS, st.lists(BALLOT, max_size=5), st.integers(0, 10))
def test_a_decided_leader_cannot_be_caught_by_any_weight(ballots, method, rest, more):
    total = max(1, len(ballots) + len(rest) + more)
    if decided(ballots, total, method) and total > len(ballots):
        leader = vote(ballots, method).answer
        assert vote([*ballots, *rest], method).answer == leader
        assert vote([*rest, *ballots], method).answer == leader
        for rival in range(5):
            strongest = [Ballot(rival, 0, 0, 1)] * (total - len(ballots))
            assert vote([*ballots, *strongest], method).answer == leader
            assert vote([*strongest, *ballots], method).answer == leader


@given(st.lists(BALLOT, max_size=8), METHODS, st.floats(0.5, 6))
def test_a_lead_is_one_of_weight(ballots, method, lead):
    said = decided(ballots, 100, method, lead=lead)
    leader, rival, *_ = [*vote(ballots, method).votes.values(), 0, 0]
    assert bool(said) == (leader > 0 and leader - rival >= lead - 1e-9)


@given(BALLOTS, METHODS, st.integers(1, 5))
def test_an_agreement_leaves_no_strong_rival(ballots, method, agreement):
    if "agree" in (decided(ballots, 100, method, agreement) or ""):
        leader, *rivals = vote(ballots, method).votes.values()
        assert max(rivals, default=0) <= RIVAL_SHARE * leader
        answers = [ballot.answer for ballot in ballots]
        assert answers.count(vote(ballots, method).answer) >= agreement
