"""Which precision a device gets."""

import pytest
import torch

from mathllm.errors import ParameterError
from mathllm.trm.backbone import autocast_dtype, best_precision


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
