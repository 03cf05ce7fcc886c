"""What a training run needs of memory, from shapes alone, before any weight is loaded.

Knows where tensors live and how long. Knows nothing of devices or of what is in use there.
"""

from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
from transformers import AutoModelForCausalLM

from mathllm.errors import ParameterError
from mathllm.trm import RecursiveLM, TRMConfig
from mathllm.trm.backbone import QUANTISED

GIB = 2**30
# Bytes a weight of the backbone's layers; embeddings and head stay in 16 bits at least.
WEIGHT_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "nf4": 0.5 + 4 / 64}
RESERVE = 0.06  # of the device's memory: CUDA's context and what its allocator rounds up


@dataclass(frozen=True)
class Memory:
    """Bytes by component. `host` is for the states that wait on the CPU."""

    device: dict[str, int]
    host: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes on the device at the peak of a step."""
        return sum(self.device.values())

    def table(self) -> pl.DataFrame:
        """Rows (component, where, GiB), the largest first."""
        rows = [(name, "device", size / GIB) for name, size in self.device.items()]
        rows += [(name, "host", size / GIB) for name, size in self.host.items()]
        return pl.DataFrame(rows, schema=["component", "where", "GiB"], orient="row").sort(
            "GiB", descending=True
        )


def parameter_rows(backbone: Any, trm: TRMConfig) -> list[tuple[str, int, bool]]:
    """`RecursiveLM.parameter_table` of these two configs, without their weights."""
    with torch.device("meta"):
        return RecursiveLM(AutoModelForCausalLM.from_config(backbone), trm).parameter_table()


def layer_activations(trm: TRMConfig, element: int) -> int:
    """Bytes a token that one layer of f keeps for its backward pass.

    `element`: bytes of a number in a matrix product. Kept are the inputs of the products,
    what attention and SwiGLU multiply, and in float32 the inputs of the norms.
    """
    products = trm.hidden_size + 4 * trm.intermediate_size
    norms = trm.hidden_size
    if trm.mixer == "attention":
        queries = trm.num_heads * trm.head_size
        keys = trm.num_key_value_heads * trm.head_size
        products += trm.hidden_size + 2 * queries + 2 * keys
        norms += trm.hidden_size
    return products * element + 4 * norms


def estimate(
    backbone: Any,
    trm: TRMConfig,
    batch: int,
    gradient_accumulation: int = 1,
    backbone_precision: str = "bf16",
    precision: str = "bf16",
    logits_chunk: int = 1024,
    activation_checkpointing: bool = False,
) -> Memory:
    """Memory of a training step at its peak; `batch` in tokens, padding counted.

    `backbone` is the backbone's config. Approximate: checked against what torch really
    keeps to 15 % (tests/test_memory.py), on a CPU.
    """
    rows = {name: count for name, count, _ in parameter_rows(backbone, trm)}
    plain = rows.pop("backbone")
    trainable = sum(rows.values())
    outer = backbone.vocab_size * backbone.hidden_size
    outer *= 1 if backbone.tie_word_embeddings else 2
    element = 4 if precision == "fp32" else 2
    outer_bytes = WEIGHT_BYTES["bf16"] if backbone_precision in QUANTISED else 0
    outer_bytes = max(outer_bytes, WEIGHT_BYTES[backbone_precision])
    weights = (plain - outer) * WEIGHT_BYTES[backbone_precision] + outer * outer_bytes
    state = batch * trm.hidden_size * 4  # x, y or z of a micro-batch
    layers = trm.layers * (trm.n + 1)
    kept = layers * batch * layer_activations(trm, element)
    if activation_checkpointing:  # inputs of each f, and the inside of one
        kept = (trm.n + 1) * state + trm.layers * batch * layer_activations(trm, element)
    return Memory(
        device={
            "backbone's weights": int(weights),
            "TRM's weights, gradients and moments": 16 * trainable,
            "their average": 4 * trainable,
            "backbone's activations": 2 * batch * (2 * backbone.intermediate_size),
            "x, y, z": 3 * state,
            "activations of the recursion": kept,
            "logits of a chunk, thrice": 3 * 4 * logits_chunk * trm.vocab_size,
        },
        host={"x, y, z that wait": 3 * state * gradient_accumulation},
    )


def check_fits(memory: Memory, available: int) -> str:
    """A line that says how much of `available` bytes is needed.

    Raises ParameterError when it is too much, with the largest parts and what to change.
    """
    usable = available * (1 - RESERVE)
    said = f"needs {memory.total / GIB:.1f} GiB of {usable / GIB:.1f} GiB that can be used"
    if memory.total <= usable:
        return said
    mends = {
        "activations of the recursion": "lower batch, or set activation_checkpointing",
        "backbone's weights": "set backbone_precision to int8 or nf4",
        "logits of a chunk, thrice": "lower logits_chunk",
        "TRM's weights, gradients and moments": "set layers to 1, or keep freeze_lm_head",
    }
    largest = sorted(mends, key=lambda name: -memory.device[name])[:3]
    parts = [f"{memory.device[name] / GIB:.1f} GiB {name} ({mends[name]})" for name in largest]
    raise ParameterError(f"this training {said}: {'; '.join(parts)}")
