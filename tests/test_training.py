"""Deep supervision against the paper's pseudo-code written out, and what training must do."""

import json

import pytest
import torch
import torch.nn.functional as F
from conftest import make_backbone
from test_trm import random_trm

from mathllm.data.batches import IGNORED, collate, length_batches
from mathllm.data.chat import Example
from mathllm.errors import ParameterError
from mathllm.training.ema import EMA
from mathllm.training.trainer import (
    TrainConfig,
    cosine_with_warmup,
    held_out_loss,
    supervision_loss,
    train,
)
from mathllm.trm import RecursiveLM, TRMConfig


def examples(count: int, seed: int = 0) -> list[Example]:
    """Sequences that repeat their first token: learnable, and new to a random backbone."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(0, 97, (count,), generator=generator).tolist()
    return [Example([token] * (6 + i % 4), prompt=2) for i, token in enumerate(first)]


def test_the_loss_is_the_mean_over_labels():
    model = random_trm(make_backbone(), n=1, T=1, N_sup=1)
    ids, mask, labels = collate(examples(5), padding=0)
    x, rotary, attend = model.encode(ids, mask)
    y = model.refine(x, rotary, attend)
    answer, halting, right = supervision_loss(model, y, labels)
    total = bce = hits = 0.0
    count = 0
    for row in range(labels.shape[0]):
        for place in range(labels.shape[1]):
            if labels[row, place] == IGNORED:
                continue
            p = model.head(y[row, place]).softmax(-1)
            is_right = float(p.argmax() == labels[row, place])
            q = model.halting_logit(y[row, place]).sigmoid()
            total -= p[labels[row, place]].log().item()
            bce -= (is_right * q.log() + (1 - is_right) * (1 - q).log()).item()
            hits += is_right
            count += 1
    assert answer.item() == pytest.approx(total / count, rel=1e-4)
    assert halting.item() == pytest.approx(bce / count, rel=1e-4)
    assert right.item() == pytest.approx(hits / count)


def test_training_is_the_papers_pseudo_code(tmp_path):
    """Two batches, three supervision steps each, written out with autograd and AdamW."""
    data = examples(6)
    config = TrainConfig(batch_tokens=24, lr=3e-3, warmup_steps=2, clip=0.5, ema_decay=0.9)
    ours = random_trm(make_backbone(), n=2, T=2, N_sup=3).double()
    theirs = random_trm(make_backbone(), n=2, T=2, N_sup=3).double()
    train(ours, data, config, padding=0, metrics=tmp_path / "metrics.jsonl")

    plan = length_batches([len(e.tokens) for e in data], 24, seed=0)
    parameters = [p for _, p in theirs.trm_parameters()]
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.999), weight_decay=0.1)
    step, steps = 0, 3 * len(plan)
    losses = []
    for indices in plan:
        ids, mask, labels = collate([data[i] for i in indices], 0)
        x, rotary, attend = theirs.encode(ids, mask)
        y, z = torch.zeros_like(x), torch.zeros_like(x)
        for _ in range(3):
            for recursion in range(2):
                with torch.set_grad_enabled(recursion == 1):
                    for _ in range(2):
                        z = theirs.network(x + y + z, rotary, attend)
                    y = theirs.network(y + z, rotary, attend)
            loss = F.cross_entropy(theirs.head(y).flatten(0, 1), labels.flatten())
            keep = labels != IGNORED
            right = (theirs.head(y).argmax(-1) == labels)[keep].float()
            halting = theirs.halting(y.detach()).squeeze(-1)[keep]
            total = loss + 0.5 * F.binary_cross_entropy_with_logits(halting, right.double())
            gradients = torch.autograd.grad(total, parameters)
            norm = torch.sqrt(sum((g**2).sum() for g in gradients))
            for p, g in zip(parameters, gradients, strict=True):
                p.grad = g * min(1.0, 0.5 / (norm.item() + 1e-6))
            for group in optimizer.param_groups:
                group["lr"] = 3e-3 * cosine_with_warmup(step, steps, 2)
            optimizer.step()
            step += 1
            decay = min(0.9, (1 + step) / (10 + step))
            for a, p in zip(average, parameters, strict=True):
                a.copy_(decay * a + (1 - decay) * p.detach())
            losses.append(loss.item())
            y, z = y.detach(), z.detach()
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [x for row in logged[1:] for x in row["loss"]] == pytest.approx(losses, rel=1e-6)
    for (_, p), expected in zip(ours.trm_parameters(), average, strict=True):
        torch.testing.assert_close(p.detach(), expected, atol=1e-7, rtol=1e-6)


def test_the_halting_head_does_not_shape_the_answer():
    model = random_trm(make_backbone(), n=1, T=1, N_sup=1)
    ids, mask, labels = collate(examples(5), padding=0)
    x, rotary, attend = model.encode(ids, mask)
    y = model.network(x, rotary, attend)
    _, halting, _ = supervision_loss(model, y, labels)
    halting.backward()
    touched = {name for name, p in model.trm_parameters() if p.grad is not None}
    assert touched == {"halting.weight", "halting.bias"}


def test_training_lowers_the_loss_below_the_backbones(tmp_path):
    backbone = make_backbone()
    model = RecursiveLM(backbone, TRMConfig.for_backbone(backbone.config, n=1, T=2, N_sup=2))
    held_out = examples(20, seed=99)
    before = held_out_loss(model, held_out, padding=0)
    assert before[0] == pytest.approx(before[1], abs=1e-3)  # untrained, it is the backbone
    frozen = [p.clone() for p in backbone.parameters()]
    config = TrainConfig(epochs=8, batch_tokens=400, lr=3e-3, warmup_steps=5)
    train(model, examples(200), config, padding=0, metrics=tmp_path / "m.jsonl")
    trm, plain = held_out_loss(model, held_out, padding=0)
    assert plain == pytest.approx(before[1], abs=1e-5)
    assert trm < 0.5 * plain
    assert all(torch.equal(a, b) for a, b in zip(frozen, backbone.parameters(), strict=True))


def test_the_same_seed_trains_the_same_weights(tmp_path):
    def trained() -> list[torch.Tensor]:
        backbone = make_backbone()
        torch.manual_seed(0)
        model = RecursiveLM(backbone, TRMConfig.for_backbone(backbone.config, n=1, T=1, N_sup=2))
        config = TrainConfig(batch_tokens=100)
        train(model, examples(30), config, padding=0, metrics=tmp_path / "m.jsonl")
        return [p for _, p in model.trm_parameters()]

    assert all(torch.equal(a, b) for a, b in zip(trained(), trained(), strict=True))


def test_the_average_of_a_constant_is_the_constant_and_follows_a_jump():
    weight = torch.zeros(3)
    ema = EMA([weight], decay=0.5)
    ema.update()
    assert torch.equal(ema.averages[0], torch.zeros(3))
    weight.fill_(1.0)
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


def test_no_examples_are_refused(tmp_path):
    model = random_trm(make_backbone())
    with pytest.raises(ParameterError, match="no training examples"):
        train(model, [], TrainConfig(), padding=0, metrics=tmp_path / "m.jsonl")


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"lr": -1.0}, {"batch_tokens": 0}])
def test_a_wrong_setting_is_named(wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        TrainConfig(**wrong)
