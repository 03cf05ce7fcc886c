"""Batches of like length: every row once, within the budget, the same wherever they are made."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mathllm.tokens.batches import IGNORED, batches_of, collate, plan_batches, rank_share
from mathllm.tokens.rows import Example

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=80)


def test_labels_are_the_next_tokens_of_the_answer_alone():
    examples = [Example([1, 2, 3, 4, 5], prompt=3), Example(np.array([6, 7]), prompt=1)]
    ids, mask, labels = collate(examples, padding=0)
    assert ids.tolist() == [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    i = IGNORED
    assert labels.tolist() == [[i, i, 4, 5, i], [7, i, i, i, i]]
    assert {t.dtype for t in (ids, mask, labels)} == {torch.int64}


@given(LENGTHS, st.integers(1, 200), st.integers(0, 5), st.none() | st.integers(1, 7))
def test_batches_hold_every_row_once_within_the_budget(lengths, budget, seed, max_rows):
    batches = plan_batches(lengths, budget, seed, epoch=2, max_rows=max_rows)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        size = len(batch) * max(lengths[i] for i in batch)
        assert size <= budget or len(batch) == 1
        assert max_rows is None or len(batch) <= max_rows
    again = plan_batches(lengths, budget, seed, epoch=2, max_rows=max_rows)
    assert [b.tolist() for b in again] == [b.tolist() for b in batches]


def test_every_epoch_and_seed_has_an_order_of_its_own():
    lengths = [10 + i % 7 for i in range(200)]
    orders = {
        tuple(np.concatenate(plan_batches(lengths, 60, seed, epoch)).tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_no_rows_have_no_batches():
    assert plan_batches([], 100, seed=0) == []


@given(LENGTHS, st.integers(1, 4), st.integers(1, 4))
def test_processes_and_accumulation_can_be_exchanged(lengths, world, accumulation):
    plan = plan_batches(lengths, 100, seed=0)
    alone = rank_share(plan, 0, 1, world * accumulation)
    together = [rank_share(plan, rank, world, accumulation) for rank in range(world)]
    assert {len(share) for share in together} == {len(alone)}
    for group, expected in enumerate(alone):
        joined = [batch.tolist() for share in together for batch in share[group]]
        assert joined == [batch.tolist() for batch in expected]
    seen = {i for group in alone for batch in group for i in batch.tolist()}
    assert seen == set(range(len(lengths)))


@pytest.mark.parametrize("rows", [1, 200])
def test_like_lengths_waste_little_padding(rows):
    examples = [Example([1] * n, 1) for n in range(2, 2 + rows)]
    total = padded = 0
    for ids, mask, _ in batches_of(examples, 2_000, padding=0, seed=0):
        total += int(mask.sum())
        padded += ids.numel()
    assert total / padded > 0.9
    assert total == sum(len(e.tokens) for e in examples)
