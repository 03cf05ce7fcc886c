"""What the trainer computes in. Weights of the TRM stay in float32 whatever it is."""

import torch

from mathllm.errors import ParameterError
from mathllm.trm.precision import DTYPES, best_precision


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
