"""Linear layers with weights laid out for oneDNN, for decoding on a CPU.

Decoding multiplies a handful of rows at a time, and there torch's usual float32 product
leaves most of a core idle: with 9 rows, 512 to 3072, on 2 cores it took 445 µs and oneDNN
with its own layout 148 (docs/BENCHMARKS.md). Same numbers to float32's rounding. The
operators are those that torch's own compiler calls after freezing a model.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn

from mathllm.environment import free_memory

ROWS = 16  # rows for which oneDNN chooses the layout; it serves any other number
LEAST_OUTPUTS = 16  # a narrower layer gains nothing


class PackedLinear(nn.Module):
    """A linear layer's copy for inference: [..., in] -> [..., out]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self.bias = linear.bias

    def forward(self, h: Tensor) -> Tensor:
        """h [..., in] -> [..., out]."""
        return torch.ops.mkldnn._linear_pointwise(h, self.packed, self.bias, "none", [], "")


def packable(module: nn.Module) -> list[nn.Linear]:
    """The linear layers that gain from packing: wide, plain, float32, on a CPU that has it."""
    if not torch.backends.mkldnn.is_available():
        return []
    return [
        part
        for part in module.modules()
        if type(part) is nn.Linear
        and part.weight.dtype == torch.float32
        and part.weight.device.type == "cpu"
        and part.out_features >= LEAST_OUTPUTS
    ]


def packed(module: nn.Module) -> nn.Module:
    """A copy with packed linear layers, everything else shared; `module` itself where none gains.

    The weights are those of the moment. Packing takes as much memory again as the layers
    have; where that is more than half of what is free, nothing is packed.
    """
    chosen = {id(part) for part in packable(module)}
    size = sum(p.weight.numel() * p.weight.itemsize for p in packable(module))
    if not chosen or size > free_memory() / 2:
        return module
    names = [name for name, part in module.named_modules() if id(part) in chosen]
    tensors = (*module.parameters(), *module.buffers())
    copy = deepcopy(module, {id(tensor): tensor for tensor in tensors})
    for name in names:
        copy.set_submodule(name, PackedLinear(module.get_submodule(name)))
    return copy
