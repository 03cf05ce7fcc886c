"""Which precision a device gets, and backbones in 8 and 4 bits."""

from importlib.util import find_spec

import pytest
import torch
from conftest import ROOT

from mathllm.data.arithmetic import generate
from mathllm.data.chat import load_tokenizer, prompt_ids
from mathllm.errors import ParameterError
from mathllm.training.precision import autocast_dtype, best_precision
from mathllm.trm import RecursiveLM, TRMConfig, backbone, load_backbone

BACKBONE = ROOT / "assets" / "tiny" / "backbone"


@pytest.mark.parametrize(
    ("kind", "capability", "expected"),
    [
        ("cpu", (0, 0), "fp32"),
        ("cuda", (6, 0), "fp16"),  # P100
        ("cuda", (7, 5), "fp16"),  # T4
        ("cuda", (8, 0), "bf16"),  # A100
        ("cuda", (8, 9), "bf16"),  # L4
        ("cuda", (9, 0), "bf16"),  # H100
    ],
)
def test_the_device_decides(kind, capability, expected):
    assert best_precision(kind, capability) == expected


def test_a_named_precision_is_taken_and_an_unknown_one_refused():
    cpu = torch.device("cpu")
    assert autocast_dtype("auto", cpu) is None
    assert autocast_dtype("bf16", cpu) is torch.bfloat16
    assert autocast_dtype("fp16", cpu) is torch.float16
    with pytest.raises(ParameterError, match="precision is 'half': it must be auto, fp32"):
        autocast_dtype("half", cpu)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize(("bits", "agree"), [("int8", 0.97), ("nf4", 0.7)])
def test_a_quantised_backbone_is_smaller_and_nearly_the_same(bits, agree):
    plain, small = load_backbone(BACKBONE), load_backbone(BACKBONE, quantised=bits)
    size = [sum(p.numel() * p.element_size() for p in m.parameters()) for m in (plain, small)]
    assert size[1] < 0.6 * size[0]
    tokenizer = load_tokenizer(BACKBONE)
    rows = generate("test", 10, seed=0)
    right = total = 0
    for problem in rows["problem"] + rows["solution"]:
        ids = torch.tensor([prompt_ids(tokenizer, problem)])
        trm = TRMConfig.for_backbone(plain.config, n=1, T=1, N_sup=1)
        a, b = (RecursiveLM(m, trm).logits(ids).argmax(-1) for m in (plain, small))
        right += int((a == b).sum())
        total += ids.numel()
    assert right / total > agree


def test_without_bitsandbytes_the_message_says_so(monkeypatch):
    monkeypatch.setattr(backbone, "find_spec", lambda _: None)
    with pytest.raises(ParameterError, match="'nf4' needs bitsandbytes: pip install"):
        load_backbone(BACKBONE, quantised="nf4")
