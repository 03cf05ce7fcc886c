"""CUDA graphs: a pass is recorded once for each shape and then replayed as a whole.

Decoding one token is thousands of small kernels, and launching them from Python takes longer
than they run. What is recorded must have static shapes and addresses and never ask the
device for a value: functions of tensors, over caches that stay where they are.
"""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]
WARM_UP = 3  # runs before recording, in which libraries allocate what they keep


def record(function: Function, inputs: tuple[Tensor, ...], pool: object) -> tuple:
    """A function that replays `function` on what `inputs` then hold, and its outputs.

    PyTorch's notes on CUDA graphs ask for the warm-up on a side stream.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            function(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        outputs = function(*inputs)
    return graph.replay, outputs


class Graphs:
    """Functions as graphs, one for each tag and shape of their inputs, recorded when first met.

    A function takes tensors, then the tag as keywords, and may write to tensors of its own,
    always at the same addresses. It is given at each call and not kept: its owner, which
    holds these graphs and large caches, would else be freed only by the garbage collector.
    """

    def __init__(self) -> None:
        self._recorded: dict[Hashable, tuple] = {}
        self._pool = torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None

    def __len__(self) -> int:
        return len(self._recorded)

    def __call__(self, function: Function, *tensors: Tensor, **tag: int) -> tuple[Tensor, ...]:
        """The function's tensors; they are the caller's to keep."""
        key = (function.__name__, *tag.items(), *(tensor.shape for tensor in tensors))
        if key not in self._recorded:
            inputs = tuple(tensor.clone() for tensor in tensors)
            replay, outputs = record(lambda *i: function(*i, **tag), inputs, self._pool)
            self._recorded[key] = (inputs, replay, outputs)
        inputs, replay, outputs = self._recorded[key]
        for static, tensor in zip(inputs, tensors, strict=True):
            static.copy_(tensor)
        replay()
        return tuple(output.clone() for output in outputs)
