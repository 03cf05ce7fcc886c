from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mathllm.solving import vote

ANSWERS = st.lists(st.none() | st.integers(0, 5))


def test_the_majority_wins_and_is_counted():
    decision = vote([3, 7, None, 7])
    assert (decision.answer, decision.votes) == (7, {7: 2, 3: 1})
    assert decision.reason == "2 of 4 votes"


def test_of_tied_answers_the_first_to_reach_the_count_wins():
    decision = vote([1, 2, 2, 1])
    assert decision.answer == 2
    assert "1 with as many" in decision.reason


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


@given(ANSWERS)
def test_no_answer_has_more_votes_than_the_winner(answers):
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
