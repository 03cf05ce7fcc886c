"""How much memory decoding takes, known before any of it is taken."""

from dataclasses import dataclass

import torch

from mathllm.environment import free_memory
from mathllm.errors import MemoryLimitError
from mathllm.trm import RecursiveLM

SHARE = 0.9  # of the memory that is free; the rest is for what no plan counts


def available_bytes(device: torch.device) -> int:
    """What decoding may take: of the GPU, or of the host for a CPU."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int((free + unused) * SHARE)
    return int(free_memory() * SHARE)


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a row of `width` tokens takes, and the rows that fit of those `wanted`."""

    width: int
    recursion: int
    backbone: int
    logits: int
    available: int
    wanted: int

    @property
    def row(self) -> int:
        """Bytes of a row in all."""
        return self.recursion + self.backbone + self.logits

    @property
    def rows(self) -> int:
        """Rows that are decoded together. Raises MemoryLimitError where not even one fits."""
        fits = self.available // self.row
        if not fits:
            raise MemoryLimitError(
                f"one row of {self.width:,} tokens needs {_size(self.row)} and "
                f"{_size(self.available)} are free: lower max_new_tokens, shorten the prompt, or "
                "use fewer supervision steps"
            )
        return min(self.wanted, fits)

    def __str__(self) -> str:
        return (
            f"{self.width:,} tokens a row: {_size(self.recursion)} recursion, "
            f"{_size(self.backbone)} backbone, {_size(self.logits)} logits; "
            f"{self.wanted} rows need {_size(self.row * self.wanted)} of {_size(self.available)}"
        )


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"


def plan(
    model: RecursiveLM, layers: int, width: int, wanted: int, passes: int, available: int
) -> MemoryPlan:
    """The plan for rows of `width` columns and passes over at most `passes` tokens a row.

    `layers` are the recursion's virtual ones, which keep keys and values.
    """
    config = model.config
    # Keys and values of one token in one layer.
    pair = 2 * config.num_key_value_heads * config.head_size
    backbone = model.backbone.config.num_hidden_layers * model.backbone.dtype.itemsize
    # For each token of a pass the logits of both networks or what came of them; some
    # temporaries in 64 bits for one token at a time.
    logits = config.vocab_size * (passes * 2 * 4 + 4 * 8)
    return MemoryPlan(
        width=width,
        recursion=width * pair * layers * model.halting.weight.itemsize,
        backbone=width * pair * backbone,
        logits=logits,
        available=available,
        wanted=wanted,
    )


def out_of_memory(fault: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on the host."""
    # Of the host; of CUDA outside of torch's own allocator, as for a graph; of cuBLAS.
    said = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(fault, torch.OutOfMemoryError | MemoryError) or (
        isinstance(fault, RuntimeError) and any(text in str(fault) for text in said)
    )
