"""Which precision a device computes in. Weights of the TRM stay in float32 in training."""

import torch

from mathllm.errors import ParameterError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BFLOAT16_FROM = (8, 0)  # compute capability: Ampere on; T4 is (7, 5), P100 (6, 0)


def best_precision(kind: str, capability: tuple[int, int] = (0, 0)) -> str:
    """fp32 on a CPU; on a GPU bf16 where it has it, else fp16."""
    if kind != "cuda":
        return "fp32"
    return "bf16" if capability >= BFLOAT16_FROM else "fp16"


def best_dtype(device: str | torch.device) -> torch.dtype:
    """The dtype of best_precision for a device that is there."""
    device = torch.device(device)
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    return DTYPES[best_precision(device.type, capability)]


def resolve(precision: str, device: torch.device) -> str:
    """fp32, bf16 or fp16 for a setting that may be "auto".

    Raises ParameterError for any other name.
    """
    if precision == "auto":
        capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
        return best_precision(device.type, capability)
    if precision not in DTYPES:
        raise ParameterError(f"precision is {precision!r}: it must be auto, {', '.join(DTYPES)}")
    return precision


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype for torch.autocast; None for no autocast at all."""
    dtype = DTYPES[resolve(precision, device)]
    return None if dtype is torch.float32 else dtype
