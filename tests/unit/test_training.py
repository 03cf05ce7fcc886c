"""Deep supervision against the paper's pseudo-code written out, and what training must do."""

from pathlib import Path

import pytest
import torch

from helpers.models import make_backbone, random_trm
from helpers.naive_training import naive_training
from helpers.training import metrics, token_set
from mathllm.errors import ParameterError, TrainingError
from mathllm.tokens.batches import IGNORED, collate, plan_batches, rank_share
from mathllm.tokens.rows import Example, TokenSet
from mathllm.training.averages import EMA, cosine_with_warmup
from mathllm.training.config import Compute, Saving, TrainConfig
from mathllm.training.held_out import held_out_loss
from mathllm.training.run import Outcome, train
from mathllm.training.supervision import head_gradient
from mathllm.trm import RecursiveLM, TRMConfig, load_checkpoint

FLOAT64 = {"rel": 1e-9, "abs": 1e-12}


def test_losses_and_gradients_of_the_head_are_those_of_every_label_on_its_own():
    model = random_trm(make_backbone(), n=1, T=1, N_sup=1, train_head=True).double()
    data = token_set(5)
    ids, mask, labels = collate([data[i] for i in range(5)], padding=0)
    x, rotary, attend = model.encode(ids, mask)
    y = model.network(x, rotary, attend).detach().requires_grad_()
    config = TrainConfig(halting_weight=0.25)
    sums, answers, gradient = head_gradient(model, y, labels, labels, config, chunk=3, scale=0.5)
    answers.backward(gradient)
    names, parameters = zip(*model.trm_parameters(), strict=True)
    ours = [y.grad, *[p.grad for p in parameters]]

    answer = halting = torch.zeros((), dtype=torch.float64)
    right = 0
    for row, place in (labels != IGNORED).nonzero().tolist():
        p = model.head(y[row, place]).softmax(-1)
        hit = float(p.argmax() == labels[row, place])
        q = model.halting_logit(y[row, place].detach()).sigmoid()
        answer = answer - p[labels[row, place]].log()
        halting = halting - (hit * q.log() + (1 - hit) * (1 - q).log())
        right += hit
    assert sums.answer_loss == pytest.approx(answer.item(), **FLOAT64)
    assert sums.halting_loss == pytest.approx(halting.item(), **FLOAT64)
    assert (sums.right, sums.labels) == (right, int((labels != IGNORED).sum()))
    theirs = torch.autograd.grad(
        0.5 * (answer + 0.25 * halting), [y, *parameters], allow_unused=True
    )
    for name, a, b in zip(["y", *names], ours, theirs, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=name)


def test_rows_are_done_when_every_label_is_right():
    model = random_trm(make_backbone(), n=1, T=1, N_sup=1)
    data = token_set(6)
    ids, mask, labels = collate([data[i] for i in range(6)], padding=0)
    x, rotary, attend = model.encode(ids, mask)
    y = model.network(x, rotary, attend).detach().requires_grad_()
    predicted = model.head(y).argmax(-1)
    for row in (1, 4):
        labels[row] = torch.where(labels[row] == IGNORED, IGNORED, predicted[row])
    keep = labels != IGNORED
    expected = [r for r in range(6) if bool((predicted == labels)[r][keep[r]].all())]
    sums, _, _ = head_gradient(model, y, labels, labels, TrainConfig(), chunk=1024, scale=1.0)
    assert sums.done == sums.right_rows == expected
    assert {1, 4} <= set(expected) < set(range(6))


@pytest.mark.parametrize("overrides", [{}, {"learn_initial_state": True}, {"train_head": True}])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_training_is_the_papers_pseudo_code(tmp_path, overrides, accumulation):
    """Losses, gradients, AdamW and averages, written out step by step in float64."""
    data = token_set(9)
    config = TrainConfig(
        batch=24,
        gradient_accumulation=accumulation,
        lr=3e-3,
        warmup_steps=2,
        clip=0.5,
        ema_decay=0.9,
    )
    ours, theirs = (
        random_trm(make_backbone(), n=2, T=2, N_sup=3, **overrides).double() for _ in range(2)
    )
    train(ours, data, config, padding=0, output=tmp_path)
    plan = plan_batches(data.lengths, 24, seed=0, epoch=0)
    groups = rank_share(plan, 0, 1, accumulation)
    assert len(groups) > 1
    losses, norms, average = naive_training(theirs, data, groups, config)
    assert [row["loss"] for row in metrics(tmp_path)] == pytest.approx(losses, **FLOAT64)
    assert [r["gradient_norm"] for r in metrics(tmp_path)] == pytest.approx(norms, **FLOAT64)
    for (name, p), expected in zip(ours.trm_parameters(), average, strict=True):
        torch.testing.assert_close(p.detach(), expected, rtol=1e-8, atol=1e-11, msg=name)


@pytest.mark.parametrize(
    "compute",
    [Compute(activation_checkpointing=True), Compute(logits_chunk=3)],
    ids=["checkpointing", "chunks"],
)
def test_how_it_is_computed_does_not_change_the_weights(tmp_path, compute):
    def trained(output: Path, how: Compute | None) -> list[torch.Tensor]:
        model = random_trm(make_backbone(), n=2, T=2, N_sup=2).double()
        train(model, token_set(9), TrainConfig(batch=24), 0, output, compute=how)
        return [p.detach() for _, p in model.trm_parameters()]

    for a, b in zip(trained(tmp_path / "a", None), trained(tmp_path / "b", compute), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_bfloat16_trains_close_to_float32(tmp_path):
    losses = {}
    for precision in ("fp32", "bf16"):
        model = random_trm(make_backbone(), n=1, T=1, N_sup=2)
        compute = Compute(precision=precision)
        train(model, token_set(40), TrainConfig(lr=1e-3), 0, tmp_path / precision, compute=compute)
        assert {p.dtype for _, p in model.trm_parameters()} == {torch.float32}
        losses[precision] = [row["loss"] for row in metrics(tmp_path / precision)]
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_training_lowers_the_loss_below_the_backbones_and_keeps_the_best(tmp_path):
    backbone = make_backbone()
    model = RecursiveLM(backbone, TRMConfig.for_backbone(backbone.config, n=1, T=2, N_sup=2))
    held_out = token_set(20, seed=99)
    before = held_out_loss(model, held_out, padding=0)
    assert before[0] == pytest.approx(before[1], abs=1e-3)  # untrained, it is the backbone
    frozen = [p.clone() for p in backbone.parameters()]
    config = TrainConfig(epochs=8, batch=400, lr=3e-3, warmup_steps=5)
    saving = Saving(evaluate_steps=10)
    outcome = train(model, token_set(200), config, 0, tmp_path, held_out, saving=saving)
    assert outcome == Outcome(outcome.steps, outcome.steps)
    trm, plain = held_out_loss(model, held_out, padding=0)
    assert plain == pytest.approx(before[1], abs=1e-5)
    assert trm < 0.5 * plain
    assert all(torch.equal(a, b) for a, b in zip(frozen, backbone.parameters(), strict=True))
    measured = [row["held_out_loss"] for row in metrics(tmp_path) if "held_out_loss" in row]
    assert len(measured) == -(-outcome.steps // 10)
    assert measured[-1] == pytest.approx(trm, rel=1e-5)
    best = load_checkpoint(backbone, tmp_path / "best")
    assert held_out_loss(best, held_out, padding=0)[0] == pytest.approx(min(measured), rel=1e-5)


def test_halted_rows_make_room_for_fresh_ones_of_like_length(tmp_path):
    """A backbone that is right already halts at once: every step brings new rows."""
    backbone = make_backbone()
    model = RecursiveLM(backbone, TRMConfig.for_backbone(backbone.config, n=1, T=1, N_sup=4))
    with torch.no_grad():  # the head is blind to all but token 5, and so are the labels
        backbone.lm_head.weight[:] = 0
        backbone.lm_head.bias = torch.nn.Parameter(torch.eye(97)[5], requires_grad=False)
    data = TokenSet.of([Example([1, 2] + [5] * (3 + i % 6), prompt=2) for i in range(60)])
    config = TrainConfig(batch=40, replace_halted=True)
    train(model, data, config, padding=0, output=tmp_path)
    rows = metrics(tmp_path)
    assert all(row["right"] == 1 for row in rows)
    for row in rows:
        assert (row["replaced"] > 0) == (row["supervision_step"] < 4), row["step"]


def test_rows_that_are_wrong_keep_their_supervision_steps(tmp_path):
    """Nothing is right on random tokens at first: replacement changes nothing."""
    results = []
    for replace_halted in (False, True):
        model = random_trm(make_backbone(), n=1, T=1, N_sup=2)
        config = TrainConfig(batch=24, lr=1e-6, replace_halted=replace_halted)
        train(model, token_set(9), config, 0, tmp_path / str(replace_halted))
        assert all(row["right"] < 0.2 for row in metrics(tmp_path / str(replace_halted)))
        results.append([p.detach() for _, p in model.trm_parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_loss_that_is_no_number_stops_before_the_weights_move(tmp_path):
    model = random_trm(make_backbone(), n=1, T=1, N_sup=2)
    good = [p.detach().clone() for _, p in model.trm_parameters()]
    backbone_weight = model.backbone.model.norm.weight
    backbone_weight.data[0] = float("nan")
    with pytest.raises(TrainingError, match=r"step 1 \(supervision step 1\), on training rows \d"):
        train(model, token_set(9), TrainConfig(batch=24), 0, tmp_path)
    now = [p.detach() for _, p in model.trm_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(good, now, strict=True))


def test_the_average_of_a_constant_is_the_constant_and_follows_a_jump():
    weight = torch.zeros(3)
    ema = EMA([weight], decay=0.5)
    ema.update()
    assert torch.equal(ema.averages[0], torch.zeros(3))
    weight.fill_(1.0)
    with ema.in_place():
        assert torch.equal(weight, torch.zeros(3))
    assert torch.equal(weight, torch.ones(3))
    for _ in range(60):
        ema.update()
    ema.apply()
    torch.testing.assert_close(weight, torch.ones(3))


def test_the_rate_warms_up_and_ends_at_zero():
    rates = [cosine_with_warmup(step, 100, 10) for step in range(101)]
    assert rates[9] == rates[10] == max(rates) == 1
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_schedule_counts_supervision_steps_accumulation_and_epochs(tmp_path):
    model = random_trm(make_backbone(), n=1, T=1, N_sup=3)
    config = TrainConfig(batch=24, gradient_accumulation=2, epochs=2, lr=1e-3, warmup_steps=1)
    data = token_set(9)
    batches = len(plan_batches(data.lengths, 24, seed=0, epoch=0))
    outcome = train(model, data, config, 0, tmp_path)
    assert outcome.steps == 2 * -(-batches // 2) * 3
    rates = [row["lr"] for row in metrics(tmp_path)]
    assert len(rates) == outcome.steps
    assert rates[0] == 1e-3
    assert rates[-1] < 0.1 * rates[0]


def test_no_rows_are_refused(tmp_path):
    with pytest.raises(ParameterError, match="no training rows"):
        train(random_trm(make_backbone()), TokenSet.of([]), TrainConfig(), 0, tmp_path)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"lr": -1.0}, {"batch": 0}])
def test_a_wrong_setting_is_named(wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        TrainConfig(**wrong)
