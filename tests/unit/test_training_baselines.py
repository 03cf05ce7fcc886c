"""Arms of the experiment: what they are before training, and that all of them is trained."""

from dataclasses import replace

import pytest
import torch

from helpers.models import make_backbone
from helpers.training import stepped_set
from mathllm.errors import ParameterError
from mathllm.tokens.batches import collate
from mathllm.training.baselines import ARMS, CopiedLoop, LowRank, Untied, build
from mathllm.training.config import Compute, TrainConfig
from mathllm.training.processes import Alone
from mathllm.training.supervision import begin, supervise
from mathllm.training.trainer import Trainer
from mathllm.trm import RecursiveLM

STEPS = TrainConfig(targets="steps", gated=True, window=3, lr=1e-3, warmup_steps=1)


def model_of(arm: str, steps: int = 4) -> RecursiveLM:
    torch.manual_seed(0)
    return build(arm, make_backbone(num_hidden_layers=4), {"n": 1, "T": 1, "N_sup": steps})


def logits(model: RecursiveLM, steps: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Of the bare backbone, and of the arm after each step."""
    ids, mask, _ = collate(list(stepped_set(5)), padding=0)
    with torch.no_grad():
        plain = make_backbone(num_hidden_layers=4)(input_ids=ids, attention_mask=mask).logits
        encoded = model.encode(ids, mask)
        return plain, [model.head(y) for y in model.states(encoded, steps)]


@pytest.mark.parametrize("arm", ["paper", "single", "untied", "low_rank"])
def test_untrained_the_arm_is_its_backbone_after_every_step(arm):
    plain, found = logits(model_of(arm), 3)
    for one in found:
        torch.testing.assert_close(one[:, :4], plain[:, :4], rtol=1e-4, atol=1e-4)


def test_a_loop_in_the_middle_begins_as_its_backbone_and_goes_through_its_layers_again():
    model = model_of("middle")
    plain, (first, second) = logits(model, 2)
    torch.testing.assert_close(first[:, :4], plain[:, :4], rtol=1e-4, atol=1e-4)
    ids, mask, _ = collate(list(stepped_set(5)), padding=0)
    twice = make_backbone(num_hidden_layers=4)
    layers = twice.model.layers
    with torch.no_grad():
        h = model.backbone.model.embed_tokens(ids)
        rotary = model.context(h, ids, mask).rotary
        for layer in [layers[0], *layers[1:3], *layers[1:3], layers[3]]:
            h = layer(h, attention_mask=None, position_embeddings=rotary)
        expected = twice.lm_head(twice.model.norm(h))
    torch.testing.assert_close(second[:, :4], expected[:, :4], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arm", ARMS)
def test_a_curriculum_trains_every_parameter_of_an_arm_and_none_of_the_backbone(arm):
    model, data = model_of(arm), stepped_set(30)
    frozen = [p.clone() for p in model.backbone.parameters()]
    before = [p.detach().clone() for _, p in model.trm_parameters()]
    trainer = Trainer(
        model, data, 0, replace(STEPS, beyond=1), Compute(), Alone(torch.device("cpu"))
    )
    for _ in range(6):
        trainer.advance()
    moved = [
        name
        for (name, p), old in zip(model.trm_parameters(), before, strict=True)
        if not torch.equal(p, old)
    ]
    untouched = {name for name, _ in model.trm_parameters()} - set(moved)
    later = {name for name in untouched if arm == "untied" and int(name.split(".")[1]) > 1}
    assert untouched == later  # two steps of one hop reach two of the networks
    assert all(torch.equal(a, b) for a, b in zip(frozen, model.backbone.parameters(), strict=True))


def test_an_untied_step_has_a_network_of_its_own_and_the_last_goes_on():
    model, data = model_of("untied", steps=2), stepped_set(4)
    assert isinstance(model, Untied)
    batch = begin(model, data, range(4), padding=0)
    supervise(model, data, batch, 0, replace(STEPS, window=1), Compute(), None, 1.0, steps=1)
    seen = [any(p.grad is not None for p in network.parameters()) for network in model.network]
    assert seen == [True, False]
    supervise(model, data, batch, 0, replace(STEPS, window=2), Compute(), None, 1.0, steps=2)
    assert all(p.grad is not None for p in model.network.parameters())


def test_low_rank_adapts_every_linear_layer_by_as_few_parameters_as_it_says():
    backbone = make_backbone(num_hidden_layers=4)
    model = build("low_rank", backbone, {"N_sup": 1}, rank=3)
    assert isinstance(model, LowRank)
    linear = [m for m in backbone.model.layers.modules() if type(m) is torch.nn.Linear]
    expected = sum(3 * (m.in_features + m.out_features) for m in linear)
    assert sum(p.numel() for p in model.network.parameters()) == expected


@pytest.mark.parametrize(
    ("copied", "enter", "leave"), [(range(0, 5), 4, 4), (range(2, 2), 4, 4), (range(2), 3, 2)]
)
def test_layers_that_are_not_there_are_named(copied, enter, leave):
    backbone = make_backbone(num_hidden_layers=4)
    config = build("paper", backbone, {}).config
    with pytest.raises(ParameterError, match="the backbone has 4"):
        CopiedLoop(backbone, config, copied, enter, leave)


def test_an_unknown_arm_is_named():
    with pytest.raises(ParameterError, match="arm is 'lora': it must be one of paper, single"):
        build("lora", make_backbone(), {})
