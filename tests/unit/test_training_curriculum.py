"""Targets by supervision step: which they are, their gradients, and how depth and hops rise."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.models import make_backbone, random_trm
from helpers.naive_training import naive_training
from helpers.training import metrics, stepped_set, token_set
from mathllm.errors import ParameterError
from mathllm.tokens.rows import Example, TokenSet
from mathllm.training import curriculum
from mathllm.training.config import Compute, TrainConfig
from mathllm.training.curriculum import Curriculum, Stage, stages_of
from mathllm.training.processes import Alone
from mathllm.training.run import train
from mathllm.training.supervision import begin, supervise

FLOAT64 = {"rel": 1e-9, "abs": 1e-12}
STEPS = TrainConfig(
    targets="steps", gated=True, batch=24, lr=3e-3, warmup_steps=2, clip=0.5, ema_decay=0.9
)


def taught(stage: str, step: int, hops: int) -> int:
    """Which step's labels a row has, 0 its own: written out anew."""
    phase = stage.split()[0]
    if phase == "all":
        return 0
    return step if phase == "forced" else step if step < hops else hops


@pytest.mark.parametrize("targets", ["same", "steps"])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_gradients_through_windows_of_steps_are_those_of_the_naive_loss(
    tmp_path, monkeypatch, targets, window
):
    """Every stage is passed, with losses, gradients, AdamW and averages in float64."""
    monkeypatch.setattr(curriculum, "LEAST_GROUPS", 2)
    monkeypatch.setattr(Curriculum, "accuracy", property(lambda self: self.group * 1.0))
    begun = []
    begin = Curriculum.begin
    monkeypatch.setattr(Curriculum, "begin", lambda self: begun.append(begin(self)) or begun[-1])
    data = stepped_set(60)
    gated = targets == "steps"
    config = replace(STEPS, targets=targets, gated=gated, window=window, forced=3 * gated)
    ours, theirs = (random_trm(make_backbone(), n=1, T=2, N_sup=5).double() for _ in range(2))
    train(ours, data, config, padding=0, output=tmp_path)
    rows = metrics(tmp_path)
    stages = {row["group"]: row["stage"] for row in rows}
    if targets == "steps":
        order = ["forced 1", "forced 2", "forced 3", "hold 1", "hold 2", "hold 3"]
        assert list(dict.fromkeys(stages.values())) == order
    passes = [sum(len(r["losses"]) for r in rows if r["group"] == g) for g in stages]
    for number, (stage, count) in enumerate(zip(stages.values(), passes, strict=True)):
        phase, _, depth = stage.partition(" ")
        hops = [data[int(i)].hops for batch in begun[number] for i in batch]
        if phase == "forced":
            assert count == int(depth)
        elif phase == "hold":
            assert max(hops) <= int(depth) < count <= 5
        else:
            assert count == 5
    losses, norms, average = naive_training(
        theirs,
        data,
        begun,
        config,
        passes,
        lambda group, step, row: taught(stages[group], step, data[row].hops),
    )
    assert [row["loss"] for row in rows] == pytest.approx(losses, **FLOAT64)
    assert [row["gradient_norm"] for row in rows] == pytest.approx(norms, **FLOAT64)
    for (name, p), expected in zip(ours.trm_parameters(), average, strict=True):
        torch.testing.assert_close(p.detach(), expected, rtol=1e-8, atol=1e-11, msg=name)


@pytest.mark.parametrize(
    ("targets", "stage", "expected"),
    [
        ("steps", "forced 4", [1, 2, 3, 4]),
        ("steps", "hold 4", [1, 2, 2, 2]),
        ("steps", "answer", [-1, 0, 0, 0]),
        ("same", "hold 4", [0, 0, 0, 0]),
        ("final", "hold 4", [-1, -1, -1, 0]),
        ("spread", "hold 4", [1, 1, 2, 2]),
        ("shuffled", "hold 4", [1, 2, 2, 2]),  # one step before the answer has one order
    ],
)
def test_what_a_step_is_taught_in_each_phase(targets, stage, expected):
    data = stepped_set(40, hops=4)
    order = course(data, targets=targets, forced=4 * (targets == "steps"), answer_phase=True)
    while str(order.stage) != stage:
        played(order, 1.0)
    (row, *_) = (n for n, example in enumerate(data) if example.hops == 2)
    order.passes = 4
    assert [order.targets([row], [age])[0] for age in range(4)] == expected


def test_shuffled_steps_are_the_same_ones_in_an_order_of_each_rows_own():
    data = stepped_set(60, hops=4, depth=4)
    order = course(data, targets="shuffled")
    while order.stage.depth < 4:
        played(order, 1.0)
    rows = [n for n, example in enumerate(data) if example.hops == 4]
    orders = [[order.targets([row], [age])[0] for age in range(5)] for row in rows]
    assert all(sorted(taught[:3]) == [1, 2, 3] and taught[3:] == [4, 4] for taught in orders)
    assert len({tuple(taught) for taught in orders}) > 3
    assert orders == [[order.targets([row], [age])[0] for age in range(5)] for row in rows]


def test_the_answer_alone_has_no_labels_before_its_hops():
    data, model = stepped_set(12), random_trm(make_backbone(), n=1, T=1, N_sup=4)
    batch = begin(model, data, range(12), padding=0)
    order = course(data, answer_phase=True)
    while order.stage.phase != "answer":
        played(order, 1.0)
    sums = supervise(
        model, data, batch, 0, STEPS, Compute(), None, 1.0, steps=4, targets=order.targets
    )
    for step, found in enumerate(sums, start=1):
        labels = [len(row.labels()) if row.hops <= step else 0 for row in data]
        assert found.labels == sum(labels)
        assert set(found.done) <= {place for place, count in enumerate(labels) if count}
    gradients = [p.grad for _, p in model.trm_parameters()]
    assert all(bool(g.isfinite().all()) for g in gradients if g is not None)


def course(data: TokenSet, **changes) -> Curriculum:
    config = replace(STEPS, **({"gate": 0.5, "patience": 30} | changes))
    return Curriculum(data, config, 6, Alone(torch.device("cpu")))


def played(order: Curriculum, share: float) -> str:
    """One group, of whose rows such a share was right."""
    rows = [int(i) for batch in order.begin() for i in batch]
    order.passed = order.passes
    count = len(order.judged(rows, [order.passes] * len(rows)))
    return order.end(share * count, count)


def test_a_gate_opens_by_the_moving_share_of_right_rows_and_not_by_the_clock():
    order = course(stepped_set(60), forced=2)
    said = [played(order, 0.4) for _ in range(curriculum.LEAST_GROUPS + 5)]
    assert not any(said)
    assert order.stage == Stage("forced", 1)
    while not (said := played(order, 0.9)):
        assert order.accuracy < 0.5
    assert said.startswith("forced 1 is learned: ")
    assert said.endswith("now forced 2")
    assert order.accuracy == 0
    seen = set()
    while order.stage != Stage("hold", 3):
        played(order, 1.0)
        seen.add(str(order.stage))
    assert seen == {"forced 2", "hold 1", "hold 2", "hold 3"}
    assert not any(played(order, 1.0) for _ in range(40))  # the last has no gate


def test_the_hold_gate_looks_at_the_longest_rows_alone():
    order = course(stepped_set(60))
    while order.stage.depth < 3:
        played(order, 1.0)
    rows = list(range(60))
    judged = order.judged(rows, [order.passes] * 59 + [1])
    assert {order._data[rows[place]].hops for place in judged} == {3}
    assert 59 not in judged  # it came later and had fewer steps


def test_patience_ends_a_stage_that_is_not_learned():
    order = course(stepped_set(60), forced=3)
    said = [played(order, 0.1) for _ in range(30)]
    assert said[:-1] == [""] * 29
    assert "forced 1 was not learned in 30 groups: 10.0% right, the gate is 50.0%" in said[-1]
    assert said[-1].endswith("now hold 1")
    # Every row has its turn, though none before it was learned; the last stage has no gate.
    said = [played(order, 0.1) for _ in range(100)]
    assert "hold 1 was not learned in 30 groups" in said[29]
    assert said[29].endswith("now hold 2")
    assert [n for n, text in enumerate(said) if text] == [29, 59]
    assert order.stage == Stage("hold", 3)


def test_rows_without_labels_by_step_go_along_and_no_gate_looks_at_them():
    data = TokenSet.of([*stepped_set(30), *token_set(12)])
    order = course(data, forced=2)
    for stage in order.stages:
        while order.stage != stage:
            played(order, 1.0)
        order.begin()
        assert set(range(30, 42)) <= set(order.eligible.tolist())
        assert not {*range(30, 42)} & {*order.judged(range(42), [order.passes] * 42)}
        for step in range(1, 6):
            (taught,) = order.targets([35], [step - 1])
            assert list(data[35].labels(taught)) == list(data[35].labels())


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("groups", [*range(0, 40, 8), *range(60, 90)])
def test_a_state_that_went_through_json_goes_on_alike(groups, within):
    """Also from the middle of a group, and of the last before the rows begin anew."""
    data = stepped_set(60)
    first = course(data, forced=2)
    for _ in range(groups):
        played(first, 0.8)
    if within:
        first.begin()
    second = course(data, forced=2)
    second.load(json.loads(json.dumps(first.state())))
    if within:
        assert first.end(3, 4) == second.end(3, 4)
    for _ in range(30):
        ours, theirs = first.begin(), second.begin()
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert first.passes == second.passes
        assert first.end(3, 4) == second.end(3, 4)
    assert first.state() == second.state()


def without(data: TokenSet, hops: int) -> TokenSet:
    return TokenSet.of([row for row in data if row.hops != hops])


@pytest.mark.parametrize(
    ("data", "changes", "named"),
    [
        (token_set(9), {}, "none of 9 training rows has labels by step"),
        (stepped_set(60, hops=7, depth=7), {}, "asks for 7 hops and N_sup is 6"),
        (stepped_set(60), {"forced": 5}, "labels for at most 4 steps in a row"),
        (stepped_set(60), {"forced": 1, "targets": "final"}, "it must be at most 0"),
        (stepped_set(60, depth=9), {"forced": 7}, "it must be at most 6"),
        (without(stepped_set(60), 2), {}, "no training row has 2 hops, and some have 3"),
    ],
)
def test_rows_that_allow_no_curriculum_are_refused_by_name(data, changes, named):
    with pytest.raises(ParameterError, match=named):
        stages_of(data, replace(STEPS, **changes), 6)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"window": 0}, {"window": 9}, {"gate": 0.0}, {"forced": -1}, {"beyond": 0}),
        *({"targets": "all"}, {"targets": "steps"}, {"targets": "shuffled"}, {"targets": "spread"}),
    ],
)
def test_a_wrong_setting_is_named(wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        TrainConfig(**wrong)


def test_rows_keep_their_labels_by_step_in_a_set():
    rows = [
        Example([5, 6, 7, 8], 2, np.array([[1, 2], [7, 8], [3, 4]]), 2),
        Example([9, 9, 9], 1),
        Example([5, 6, 1], 2, np.array([[1]]), 1),
    ]
    data = TokenSet.of(rows)
    for ours, given in zip(data, rows, strict=True):
        assert list(ours.tokens) == list(given.tokens)
        assert ours.hops == given.hops
        assert [list(ours.labels(n)) for n in range(5)] == [list(given.labels(n)) for n in range(5)]
    assert list(data[0].labels(7)) == [3, 4]
    assert TokenSet.of(rows[:2]).key != TokenSet.of([Example([5, 6, 7, 8], 2), rows[1]]).key
