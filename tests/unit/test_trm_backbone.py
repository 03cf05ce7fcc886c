"""A backbone in the precision that was asked for, and what is said when it cannot be had."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.models import make_backbone
from helpers.paths import ROOT
from mathllm.data.arithmetic import generate
from mathllm.data.chat import load_tokenizer, prompt_ids
from mathllm.errors import ParameterError, WeightsError
from mathllm.training.memory import estimate
from mathllm.trm import RecursiveLM, TRMConfig, backbone, load_backbone
from mathllm.trm.backbone import check_quantisable, read_backbone_config

TINY = ROOT / "assets" / "tiny" / "backbone"
quantising = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A random backbone on disk, in float32."""
    make_backbone().save_pretrained(tmp_path / "backbone")
    return tmp_path / "backbone"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_come_frozen_in_the_dtype_asked_for(folder, dtype):
    loaded = load_backbone(folder, dtype=dtype)
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not loaded.training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_trm_over_a_16_bit_backbone_is_trained_in_float32(folder, dtype):
    loaded = load_backbone(folder, dtype=dtype)
    model = RecursiveLM(loaded, TRMConfig.for_backbone(loaded.config, n=1, T=1, N_sup=1))
    assert {p.dtype for _, p in model.trm_parameters()} == {torch.float32}
    assert model.encode(torch.ones(1, 4, dtype=torch.long)).x.dtype is torch.float32


@quantising
@pytest.mark.parametrize(("bits", "agree"), [("int8", 0.97), ("nf4", 0.7)])
def test_a_quantised_backbone_is_nearly_the_same(bits, agree):
    plain, small = load_backbone(TINY), load_backbone(TINY, quantised=bits)
    tokenizer = load_tokenizer(TINY)
    rows = generate("test", 10, seed=0)
    right = total = 0
    for problem in rows["problem"] + rows["solution"]:
        ids = torch.tensor([prompt_ids(tokenizer, problem)])
        trm = TRMConfig.for_backbone(plain.config, n=1, T=1, N_sup=1)
        a, b = (RecursiveLM(m, trm).logits(ids).argmax(-1) for m in (plain, small))
        right += int((a == b).sum())
        total += ids.numel()
    assert right / total > agree


def stored_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights, with the scales that quantised ones are read with."""
    size = 0
    for p in model.parameters():
        size += p.numel() * p.element_size()
        if (state := getattr(p, "quant_state", None)) is not None:
            size += state.absmax.numel() * state.absmax.element_size()
    return size


@quantising
@pytest.mark.parametrize("bits", ["int8", "nf4"])
def test_a_quantised_backbone_has_the_bytes_that_were_estimated(bits):
    loaded = load_backbone(TINY, dtype=torch.bfloat16, quantised=bits)
    said = estimate(loaded.config, TRMConfig.for_backbone(loaded.config), 1024, 1, bits)
    assert said.resident["backbone's weights"] == pytest.approx(stored_bytes(loaded), rel=0.05)


@quantising
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layers_are_multiplied_in_the_dtype_asked_for_and_the_head_stays_in_it(dtype):
    loaded = load_backbone(TINY, dtype=dtype, quantised="nf4")
    layers = [m for m in loaded.model.layers.modules() if isinstance(m, nn.Linear)]
    assert {layer.compute_dtype for layer in layers} == {dtype}
    assert {layer.weight.dtype for layer in layers} == {torch.uint8}
    assert loaded.lm_head.weight.dtype is loaded.model.embed_tokens.weight.dtype is dtype


@pytest.mark.parametrize("missing", ["bitsandbytes", "accelerate"])
def test_a_library_that_is_missing_is_named(monkeypatch, missing):
    for name in ("bitsandbytes", "accelerate"):
        monkeypatch.setattr(backbone, f"is_{name}_available", lambda there=name != missing: there)
    with pytest.raises(ParameterError, match=f"'nf4' needs {missing}, which is missing"):
        load_backbone(TINY, quantised="nf4")


def test_16_bits_need_no_other_library(monkeypatch, folder):
    for name in ("bitsandbytes", "accelerate"):
        monkeypatch.setattr(backbone, f"is_{name}_available", lambda: False)
    assert load_backbone(folder, dtype=torch.bfloat16).dtype is torch.bfloat16


def test_a_gpu_that_is_too_old_is_refused_with_what_it_can_do(monkeypatch):
    for name in ("bitsandbytes", "accelerate"):
        monkeypatch.setattr(backbone, f"is_{name}_available", lambda: True)
    p100, t4, h100 = (6, 0), (7, 5), (9, 0)
    with pytest.raises(ParameterError, match=r"'int8' .* 7\.5, this one has 6\.0: use nf4 or fp16"):
        check_quantisable("int8", p100)
    with pytest.raises(ParameterError, match=r"'nf4' .* 6\.0, this one has 5\.2: use fp16"):
        check_quantisable("nf4", (5, 2))
    for bits, capability in (("nf4", p100), ("int8", t4), ("nf4", t4), ("int8", h100)):
        check_quantisable(bits, capability)


def test_bits_that_there_are_not_are_refused():
    with pytest.raises(ParameterError, match="'int4': quantised it must be int8 or nf4"):
        load_backbone(TINY, quantised="int4")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("bits", [None, "nf4"])
def test_a_gpu_that_is_not_there_is_said(bits):
    with pytest.raises(ParameterError, match="device is 'cuda:0' and torch sees no GPU here"):
        load_backbone(TINY, device="cuda:0", quantised=bits)


def test_the_shape_is_read_without_weights(folder):
    (folder / "model.safetensors").unlink()
    assert read_backbone_config(folder).hidden_size == 64
    (folder / "config.json").write_text('{"model_type": "no such model"}')
    with pytest.raises(WeightsError, match="cannot be loaded as a causal LM"):
        read_backbone_config(folder)
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        read_backbone_config(folder)
