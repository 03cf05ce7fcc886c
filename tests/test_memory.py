"""The memory estimate against what torch keeps, and the tables of the real sizes."""

from dataclasses import replace

import pytest
import torch
from conftest import SHAPES, make_backbone
from transformers import Qwen2Config

from mathllm.errors import ParameterError
from mathllm.training.config import Compute
from mathllm.training.memory import GIB, check_fits, estimate, layer_activations, parameter_rows
from mathllm.training.microbatch import recursed
from mathllm.trm import RecursiveLM, TRMConfig
from mathllm.trm.recursion import latent_recursion

# Qwen2.5-Math's config.json on the Hugging Face hub, the numbers that shape it.
QWEN = {
    "1.5B": Qwen2Config(
        vocab_size=151_936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    ),
    "7B": Qwen2Config(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("train_head", [False, True])
def test_the_table_from_configs_is_the_models_own(shape, train_head):
    backbone = make_backbone(**SHAPES[shape])
    config = TRMConfig.for_backbone(backbone.config, train_head=train_head)
    model = RecursiveLM(backbone, config)
    assert parameter_rows(backbone.config, config) == model.parameter_table()


@pytest.mark.parametrize(
    ("size", "backbone", "network", "head"),
    [("1.5B", 1543.7e6, 48.8e6, 233e6), ("7B", 7615.6e6, 268e6, 545e6)],
)
def test_the_real_sizes_have_the_parameters_that_are_published(size, backbone, network, head):
    config = TRMConfig.for_backbone(QWEN[size], train_head=True)
    rows = {name: count for name, count, _ in parameter_rows(QWEN[size], config)}
    assert rows["backbone"] == pytest.approx(backbone, rel=1e-3)
    assert rows["recursion network f"] == pytest.approx(network, rel=5e-3)
    assert rows["norm and lm_head"] == pytest.approx(head, rel=5e-3)


def kept_bytes(model: RecursiveLM, dtype: torch.dtype | None, checkpointing: bool) -> int:
    """Bytes that autograd keeps in one latent recursion, weights and tables left out."""
    ids = torch.randint(0, 97, (4, 32))
    x, rotary, attend = model.encode(ids)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    own |= {part.untyped_storage().data_ptr() for part in rotary}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        # Rows × tokens, flat or not; what else there is are cast copies of weights.
        if storage.data_ptr() not in own and tensor.shape[0] in (4, 4 * 32):
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    compute = Compute(activation_checkpointing=checkpointing)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype, enabled=dtype is not None),
    ):
        f = recursed(model, rotary, attend, compute)
        y, z = latent_recursion(f, x, x, x, model.config.n)
    assert y.requires_grad  # it lives, and with it all that was kept
    assert z.requires_grad
    return sum(seen.values())


def test_checkpointing_keeps_the_inputs_of_each_f_alone():
    backbone = make_backbone()
    config = TRMConfig.for_backbone(backbone.config, n=3, T=2, N_sup=1)
    kept = kept_bytes(RecursiveLM(backbone, config), None, checkpointing=True)
    assert kept == pytest.approx((config.n + 1) * 4 * 32 * config.hidden_size * 4, rel=0.3)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("mixer", ["attention", "none"])
@pytest.mark.parametrize("groups", [1, 4])
def test_activations_are_what_autograd_keeps(dtype, mixer, groups):
    backbone = make_backbone(num_key_value_heads=groups)
    config = TRMConfig.for_backbone(backbone.config, n=3, T=2, N_sup=1, mixer=mixer)
    kept = kept_bytes(RecursiveLM(backbone, config), dtype, checkpointing=False)
    element = 4 if dtype is None else 2
    expected = config.layers * (config.n + 1) * 4 * 32 * layer_activations(config, element)
    assert expected == pytest.approx(kept, rel=0.15)


def test_what_can_be_changed_lowers_the_estimate():
    config = TRMConfig.for_backbone(QWEN["7B"])

    def total(**settings: object) -> int:
        return estimate(QWEN["7B"], config, **({"batch": 8_000} | settings)).total

    for better in (
        {"batch": 4_000},
        {"activation_checkpointing": True},
        {"backbone_precision": "int8"},
        {"backbone_precision": "nf4"},
        {"logits_chunk": 128},
    ):
        assert total(**better) < total(), better
    assert total(backbone_precision="nf4") < total(backbone_precision="int8")
    one = estimate(QWEN["7B"], config, 8_000)
    four = estimate(QWEN["7B"], config, 8_000, gradient_accumulation=4)
    assert four.total == one.total
    assert sum(four.host.values()) == 4 * sum(one.host.values())


def test_7b_in_16_bits_does_not_fit_a_t4_and_the_message_says_what_to_change():
    t4 = int(14.6 * GIB)
    config = TRMConfig.for_backbone(QWEN["7B"], n=2, T=1)
    with pytest.raises(ParameterError, match=r"needs 2\d\.\d GiB of 13\.7 GiB") as fault:
        check_fits(estimate(QWEN["7B"], config, 2_000, precision="fp16"), t4)
    assert "14.2 GiB backbone's weights (set backbone_precision to int8 or nf4)" in str(fault.value)
    small = estimate(
        QWEN["7B"],
        replace(config, layers=1),
        1_000,
        precision="fp16",
        backbone_precision="nf4",
        activation_checkpointing=True,
        logits_chunk=256,
    )
    assert check_fits(small, t4).startswith("needs ")
    table = small.table()
    assert table["GiB"].sum() * GIB == pytest.approx(small.total + sum(small.host.values()))
