"""The network: identity at the start, gradients, masks, the loops, sizes of real models."""

import math

import pytest
import torch
from torch import Tensor, nn
from transformers import Qwen2Config

from helpers.models import make_backbone, random_trm
from mathllm.errors import ParameterError, WeightsError
from mathllm.training.config import TrainConfig
from mathllm.training.supervision import head_gradient
from mathllm.trm import RecursiveLM, TRMConfig
from mathllm.trm.block import Network
from mathllm.trm.model import positions
from mathllm.trm.recursion import deep_recursion, deep_supervision, latent_recursion


def left_padded(backbone: nn.Module) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, backbone.config.vocab_size, (3, 19), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    mask[2, :1] = 0
    return ids, mask


@pytest.mark.parametrize(("n", "T", "N_sup"), [(1, 1, 1), (6, 3, 16), (2, 2, 5)])
def test_an_untrained_trm_is_its_backbone(backbone, n, T, N_sup):
    model = RecursiveLM(backbone, TRMConfig.for_backbone(backbone.config, n=n, T=T, N_sup=N_sup))
    ids, mask = left_padded(backbone)
    ours = model.logits(ids, mask)
    theirs = backbone(ids, attention_mask=mask, position_ids=positions(mask)).logits
    real = mask.bool()
    assert (ours - theirs)[real].abs().max() < 1e-3
    assert torch.equal(ours.argmax(-1)[real], theirs.argmax(-1)[real])


def test_an_untrained_trm_without_mixer_is_its_backbone(backbone):
    model = RecursiveLM(backbone, TRMConfig.for_backbone(backbone.config, mixer="none"))
    ids, _ = left_padded(backbone)
    assert (model.logits(ids) - backbone(ids).logits).abs().max() < 1e-3


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"mixer": "none"},
        {"train_head": True},
        {"learn_initial_state": True, "T": 3},
        {"layers": 1, "N_sup": 1},
    ],
    ids=str,
)
def test_every_trainable_tensor_gets_a_gradient_by_the_second_step(backbone, overrides):
    config = TRMConfig.for_backbone(backbone.config, **({"n": 2, "T": 2, "N_sup": 2} | overrides))
    model = RecursiveLM(backbone, config).train()
    parameters = dict(model.trm_parameters())
    optimizer = torch.optim.SGD(parameters.values(), lr=0.5)
    ids, mask = left_padded(backbone)
    labels = torch.where(mask.bool(), ids.roll(-1, dims=1), -100)
    touched: set[str] = set()
    for _ in range(2):
        x, rotary, attend = model.encode(ids, mask)
        y, _ = deep_recursion(
            model.f(rotary, attend),
            x,
            *model.initial(x),
            config.n,
            config.T,
            full_gradient=config.learn_initial_state,
        )
        _, answers, gradient = head_gradient(model, y, labels, labels, TrainConfig(), 1024, 1.0)
        answers.backward(gradient)
        touched |= {k for k, p in parameters.items() if p.grad is not None and p.grad.any()}
        optimizer.step()
        optimizer.zero_grad()
    assert touched == set(parameters)
    assert all(p.grad is None for p in backbone.parameters())


def test_declared_parameters_are_what_the_table_counts(backbone):
    model = RecursiveLM(backbone, TRMConfig.for_backbone(backbone.config, train_head=True))
    rows = model.parameter_table()
    trainable = sum(count for _, count, flag in rows if flag)
    assert trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(c for _, c, _ in rows) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("hidden", "heads", "groups", "millions"), [(1536, 12, 2, 48.8), (3584, 28, 4, 268.0)]
)
def test_real_sizes_have_the_parameters_of_the_design(hidden, heads, groups, millions):
    config = Qwen2Config(
        hidden_size=hidden, num_attention_heads=heads, num_key_value_heads=groups, vocab_size=8
    )
    trm = TRMConfig.for_backbone(config)
    assert trm.head_size == 128
    assert trm.effective_depth == 672
    with torch.device("meta"):
        network = Network(trm)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == pytest.approx(
        millions, abs=0.5
    )


def test_padding_on_either_side_changes_nothing(backbone):
    model = random_trm(backbone, n=2, T=2, N_sup=2)
    ids = torch.randint(0, 97, (1, 9), generator=torch.Generator().manual_seed(2))
    alone = model.logits(ids)
    padding = torch.full((1, 5), 3)
    mask = torch.cat([torch.ones_like(ids), torch.zeros_like(padding)], dim=1)
    right = model.logits(torch.cat([ids, padding], dim=1), mask)[:, :9]
    left = model.logits(torch.cat([padding, ids], dim=1), mask.flip(1))[:, 5:]
    torch.testing.assert_close(right, alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(left, alone, atol=1e-4, rtol=1e-4)


def test_no_token_sees_a_later_one(backbone):
    model = random_trm(backbone, n=2, T=1, N_sup=2)
    ids = torch.randint(0, 97, (2, 12), generator=torch.Generator().manual_seed(3))
    changed = ids.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % 97
    before, after = model.logits(ids), model.logits(changed)
    torch.testing.assert_close(before[:, :8], after[:, :8], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before[:, 8:], after[:, 8:], atol=1e-2)


class Counter:
    """A linear f that counts its calls and knows which of them carried gradient."""

    def __init__(self) -> None:
        self.weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        self.graded: list[bool] = []

    def __call__(self, h: Tensor) -> Tensor:
        self.graded.append(torch.is_grad_enabled())
        return self.weight * h


def by_hand(w: float, x: float, n: int, T: int, N_sup: int) -> float:
    """The paper's pseudo-code on plain numbers."""
    y = z = 0.0
    for _ in range(N_sup):
        for _ in range(T):
            for _ in range(n):
                z = w * (x + y + z)
            y = w * (y + z)
    return y


@pytest.mark.parametrize(("n", "T", "N_sup"), [(1, 1, 1), (6, 3, 4), (2, 5, 3)])
def test_the_loops_are_the_papers(n, T, N_sup):
    f, x = Counter(), torch.tensor([[[2.0]]], dtype=torch.float64)
    zero = torch.zeros_like(x)
    *_, (y, _) = deep_supervision(f, x, zero, zero, n, T, N_sup)
    assert y.item() == pytest.approx(by_hand(0.3, 2.0, n, T, N_sup), rel=1e-12)
    one_step = [False] * (n + 1) * (T - 1) + [True] * (n + 1)
    assert f.graded == one_step * N_sup


def test_gradient_flows_through_the_last_recursion_only():
    f, x = Counter(), torch.tensor([[[2.0]]], dtype=torch.float64)
    zero = torch.zeros_like(x)
    y, _ = deep_recursion(f, x, zero, zero, n=2, T=3)
    (ours,) = torch.autograd.grad(y.sum(), f.weight)
    with torch.no_grad():
        start = zero, zero
        for _ in range(2):
            start = latent_recursion(f, x, *start, n=2)

    def last(w: float) -> float:
        y, z = (state.item() for state in start)
        for _ in range(2):
            z = w * (2.0 + y + z)
        return w * (y + z)

    step = 1e-6
    assert ours.item() == pytest.approx((last(0.3 + step) - last(0.3 - step)) / (2 * step))


def test_the_halting_head_starts_at_not_yet(backbone):
    model = RecursiveLM(backbone, TRMConfig.for_backbone(backbone.config))
    y = torch.randn(4, backbone.config.hidden_size)
    assert model.halting_logit(y).sigmoid().max().item() == pytest.approx(1 / (1 + math.e**5))


def test_scaled_rope_is_the_backbones_own():
    backbone = make_backbone(
        rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}
    )
    model = RecursiveLM(backbone, TRMConfig.for_backbone(backbone.config))
    ids, mask = left_padded(backbone)
    _, (cos, _), _ = model.encode(ids, mask)
    size = backbone.config.hidden_size // 4
    angle = 18 / 4.0 / 500.0 ** (2 / size)  # last position of row 1, second frequency
    assert cos[1, -1, 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"n": 0}, "n is 0"),
        ({"T": 1.5}, "T is 1.5"),
        ({"mixer": "conv"}, "conv"),
        ({"m": 1}, "'m'"),
    ],
)
def test_a_wrong_setting_is_named(backbone, overrides, named):
    with pytest.raises(ParameterError, match=named):
        TRMConfig.for_backbone(backbone.config, **overrides)


def test_a_backbone_of_another_size_is_refused(backbone):
    config = TRMConfig.for_backbone(backbone.config)
    with pytest.raises(WeightsError, match="hidden_size"):
        RecursiveLM(make_backbone(hidden_size=32), config)
