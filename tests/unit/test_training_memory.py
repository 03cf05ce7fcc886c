"""The memory estimate against what torch allocates, and the tables of the real sizes."""

from itertools import accumulate

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2Config

from helpers.models import SHAPES, make_backbone
from mathllm.errors import ParameterError
from mathllm.tokens.rows import Example, TokenSet
from mathllm.training.config import Compute, TrainConfig
from mathllm.training.memory import (
    GIB,
    check_fits,
    estimate,
    layer_activations,
    mend,
    parameter_rows,
)
from mathllm.training.processes import Alone
from mathllm.training.supervision import recursed
from mathllm.training.trainer import Trainer
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
    encoded = model.encode(ids)
    x, rotary, _ = encoded
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
        f = recursed(model, encoded, 1, compute)
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


def peak_bytes(model: RecursiveLM, compute: Compute, batch: int, window: int = 1) -> int:
    """The most that torch held at once in two optimizer steps of two micro-batches each."""
    vocab, rows, length = model.config.vocab_size, 4, batch // 4
    ids = torch.randint(1, vocab, (2 * rows, length)).tolist()
    data = TokenSet.of([Example(row, length // 4) for row in ids])
    config = TrainConfig(batch=batch, gradient_accumulation=2, window=window)
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        trainer = Trainer(model, data, 0, config, compute, Alone(torch.device("cpu")))
        assert trainer.curriculum.groups == 1
        for _ in range(2):
            trainer.advance()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    moves = (e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return held + max(accumulate(moves))


WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_key_value_heads": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "trm", "compute"),
    [
        ({}, {}, {}),
        ({}, {}, {"precision": "bf16"}),
        ({}, {"learn_initial_state": True, "n": 2}, {}),
        ({}, {"n": 4}, {"activation_checkpointing": True, "precision": "bf16"}),
        ({"vocab_size": 8_000}, {"n": 1, "train_head": True}, {"precision": "bf16"}),
        ({"vocab_size": 8_000}, {"n": 1}, {"logits_chunk": 256}),
        ({"intermediate_size": 12_000}, {"n": 1, "layers": 1}, {}),
    ],
    ids=str,
)
def test_the_estimate_is_what_whole_steps_take(backbone, trm, compute):
    model = make_backbone(**({**WIDE, "vocab_size": 500} | backbone))
    config = TRMConfig.for_backbone(model.config, **({"n": 3, "T": 2, "N_sup": 2} | trm))
    settings = {"precision": "fp32", "logits_chunk": 64} | compute
    seen = peak_bytes(RecursiveLM(model, config), Compute(**settings), batch=512)
    said = estimate(model.config, config, 512, 2, "fp32", **settings)
    # On a CPU the micro-batch at work has its states but once, the other one's wait.
    assert said.total + said.total_host // 2 == pytest.approx(seen, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(("T", "window"), [(1, 2), (2, 3)])
def test_the_estimate_counts_the_steps_of_a_window(T, window):
    model = make_backbone(**(WIDE | {"vocab_size": 500}))
    config = TRMConfig.for_backbone(model.config, n=1, T=T, N_sup=2 * window)
    compute = Compute(precision="fp32", logits_chunk=64)
    seen = peak_bytes(RecursiveLM(model, config), compute, 512, window)
    said = estimate(model.config, config, 512, 2, "fp32", "fp32", 64, window=window)
    assert said.total + said.total_host // 2 == pytest.approx(seen, rel=0.15)


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
    assert four.total_host == 4 * one.total_host == 4 * 3 * 8_000 * 3584 * 4


@pytest.mark.parametrize(
    ("precision", "gib"),
    [("bf16", 14.19), ("int8", 8.11), ("nf4", 5.45)],  # 6.53 G in layers, 1.09 G outside
)
def test_7b_backbone_has_its_bytes(precision, gib):
    said = estimate(QWEN["7B"], TRMConfig.for_backbone(QWEN["7B"]), 1024, 1, precision)
    assert said.resident["backbone's weights"] / GIB == pytest.approx(gib, rel=5e-3)


T4 = int(14.6 * GIB)


def test_7b_does_not_fit_a_t4_and_the_changes_that_are_named_make_it_fit():
    said = estimate(QWEN["7B"], TRMConfig.for_backbone(QWEN["7B"]), 8_000, 1, "fp16", "fp16")
    usable = r"needs 39\.\d GiB of 13\.7 GiB on the device"
    with pytest.raises(ParameterError, match=usable) as fault:
        check_fits(said, T4)
    assert "14.2 GiB backbone's weights" in str(fault.value)
    changes, after = mend(said, 0.94 * T4)
    assert all(change in str(fault.value) for change in changes)
    assert {"activation_checkpointing=True", "backbone_precision='nf4'"} <= set(changes)
    now = after.settings
    again = estimate(
        QWEN["7B"],
        now.trm,
        now.batch,
        1,
        now.backbone_precision,
        now.precision,
        now.logits_chunk,
        now.activation_checkpointing,
    )
    assert again == after
    needed = f"needs {after.total / GIB:.1f} GiB of 13.7 GiB"
    assert check_fits(again, T4) == needed


def test_a_little_too_much_is_mended_by_what_leaves_the_weights_the_same():
    said = estimate(QWEN["1.5B"], TRMConfig.for_backbone(QWEN["1.5B"]), 8_000)
    assert mend(said, said.total - 1)[0] == ["logits_chunk=512"]
    assert mend(said, said.total)[0] == []


def test_the_head_is_frozen_before_giving_up():
    said = estimate(QWEN["7B"], TRMConfig.for_backbone(QWEN["7B"], train_head=True), 8_000)
    changes, after = mend(said, 14 * GIB)
    assert "freeze_lm_head=True" in changes
    assert after.total <= 14 * GIB
    assert "freeze_lm_head=True" not in mend(said, 30 * GIB)[0]
    with pytest.raises(ParameterError, match=r"even with .* take a larger GPU or a smaller"):
        check_fits(said, 4 * GIB)


def test_the_window_is_shortened_once_the_batch_cannot_be():
    said = estimate(QWEN["1.5B"], TRMConfig.for_backbone(QWEN["1.5B"]), 32_000, window=8)
    assert not any("window" in change for change in mend(said, 10 * GIB)[0])
    changes, after = mend(said, 5 * GIB)
    assert "window=4" in changes
    assert after.settings.window == 4
    assert after.total <= 5 * GIB


def test_states_that_wait_must_fit_the_host():
    said = estimate(QWEN["7B"], TRMConfig.for_backbone(QWEN["7B"]), 8_000, 64)
    with pytest.raises(ParameterError, match=r"need 20\.5 GiB of 16\.0 GiB on the host: lower"):
        check_fits(said, 80 * GIB, host=16 * GIB)
    assert check_fits(said, 80 * GIB, host=32 * GIB) == check_fits(said, 80 * GIB)


@pytest.mark.parametrize(
    ("setting", "value"), [("precision", "nf4"), ("backbone_precision", "int4")]
)
def test_a_precision_that_there_is_not_is_refused(setting, value):
    with pytest.raises(ParameterError, match=f"^{setting} is '{value}': it must be one of fp32"):
        estimate(QWEN["7B"], TRMConfig.for_backbone(QWEN["7B"]), 1024, **{setting: value})
