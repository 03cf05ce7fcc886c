"""What a training run needs of memory, from shapes alone, before any weight is loaded."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from mathllm.errors import ParameterError
from mathllm.trm import RecursiveLM, TRMConfig
from mathllm.trm.backbone import QUANTISED
from mathllm.wording import shown

GIB = 2**30
FLOAT32 = 4  # bytes
# Bytes a weight of the backbone's layers. int8 has a scale for each row, nf4 one for each 64
# weights (2305.14314, without double quantisation); embeddings and head stay as they compute.
WEIGHT_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "nf4": 0.5 + 4 / 64}
RESERVE = 0.06  # of the device's memory: CUDA's context and what its allocator rounds up
LEAST_BATCH = 1024  # tokens; a smaller one is not proposed, since a row must fit
LEAST_CHUNK = 128  # label positions


@dataclass(frozen=True)
class Settings:
    """The arguments of `estimate`; `rows` are the parameters that the configs come to."""

    backbone: Any
    trm: TRMConfig
    rows: dict[str, int]
    batch: int
    gradient_accumulation: int
    backbone_precision: str
    precision: str
    logits_chunk: int
    activation_checkpointing: bool
    window: int


@dataclass(frozen=True)
class Memory:
    """Bytes by component; `resident` all the time, each of `phases` only in its turn.

    `host` is for the states that wait on the CPU. `settings` are what was asked for.
    """

    settings: Settings
    resident: dict[str, int]
    phases: dict[str, dict[str, int]]
    host: dict[str, int]

    @property
    def parts(self) -> dict[str, int]:
        """Bytes on the device at the peak of a step, by component."""
        return self.resident | max(self.phases.values(), key=lambda parts: sum(parts.values()))

    @property
    def total(self) -> int:
        """Bytes on the device at the peak of a step."""
        return sum(self.parts.values())

    @property
    def total_host(self) -> int:
        """Bytes of the states that wait on the CPU."""
        return sum(self.host.values())


def parameter_rows(backbone: Any, trm: TRMConfig) -> list[tuple[str, int, bool]]:
    """`RecursiveLM.parameter_table` of these two configs, without their weights."""
    with torch.device("meta"):
        return RecursiveLM(
            AutoModelForCausalLM.from_config(backbone, trust_remote_code=False), trm
        ).parameter_table()


def layer_activations(trm: TRMConfig, element: int) -> int:
    """Bytes a token that one layer of f keeps for its backward pass.

    `element`: bytes of a number in a matrix product. Kept are the inputs of the products,
    what attention and SwiGLU multiply, and in float32 the inputs of the norms. Autocast
    copies an input once for each product that reads it.
    """
    readers = {"attention": 3, "swiglu": 2} if element < FLOAT32 else {"attention": 1, "swiglu": 1}
    products = readers["swiglu"] * trm.hidden_size + 4 * trm.intermediate_size
    norms = trm.hidden_size
    if trm.mixer == "attention":
        queries = trm.num_heads * trm.head_size
        keys = trm.num_key_value_heads * trm.head_size
        products += readers["attention"] * trm.hidden_size + 2 * queries + 2 * keys
        norms += trm.hidden_size
    return products * element + FLOAT32 * norms


def _weights(s: Settings) -> int:
    """Bytes of the frozen backbone."""
    outer = s.backbone.vocab_size * s.backbone.hidden_size
    outer *= 1 if s.backbone.tie_word_embeddings else 2
    inner = s.rows["backbone"] - outer
    bits = WEIGHT_BYTES[s.backbone_precision]
    of_outer = WEIGHT_BYTES[s.precision] if s.backbone_precision in QUANTISED else bits
    return int(inner * bits + outer * of_outer)


def _encoding(s: Settings) -> dict[str, int]:
    """The backbone's forward pass: of its widest layer, gate, up and product at once."""
    in_16_bits = "fp32" not in (s.backbone_precision, s.precision)
    element = 2 if in_16_bits or s.backbone_precision in ("bf16", "fp16") else FLOAT32
    width = 3 * s.backbone.intermediate_size + 4 * s.backbone.hidden_size
    parts = {"backbone's widest layer": s.batch * width * element}
    if s.backbone_precision in QUANTISED:  # one matrix at a time is unpacked to be used
        largest = s.backbone.intermediate_size * s.backbone.hidden_size
        parts["backbone's matrix, unpacked"] = largest * element
    return parts


def _recursion(s: Settings) -> dict[str, int]:
    """A window of supervision steps: everything the backward pass needs, and a chunk of logits."""
    trm, element = s.trm, FLOAT32 if s.precision == "fp32" else 2
    state = s.batch * trm.hidden_size * FLOAT32
    layer = s.batch * layer_activations(trm, element)
    # An initial state that is learnt needs gradient through all T recursions at first, and steps
    # that one gradient goes through need it always.
    whole = trm.learn_initial_state or s.window > 1
    calls = (trm.n + 1) * (trm.T if whole else 1) * s.window
    kept = calls * trm.layers * layer
    if s.activation_checkpointing:  # inputs of each f, and the inside of one
        kept = calls * state + trm.layers * layer
    chunk = min(s.logits_chunk, s.batch) * trm.vocab_size
    head = s.rows.get("norm and lm_head", 0)
    copies = 0 if element == FLOAT32 else element * (s.rows["recursion network f"] + head)
    parts = {
        "x, y, z and their gradients": 8 * state,
        "activations of the recursion": kept,
        # Logits, their softmax, and the gradients of both; in 16 bits once more.
        "a chunk of logits": chunk * (4 * FLOAT32 + (element if element < FLOAT32 else 0)),
        "16-bit copies of weights": copies,
        "a gradient of the head before it is added": head * (FLOAT32 + element) if head else 0,
    }
    return {name: size for name, size in parts.items() if size}


def _memory(s: Settings) -> Memory:
    trainable = sum(count for name, count in s.rows.items() if name != "backbone")
    state = s.batch * s.trm.hidden_size * FLOAT32
    return Memory(
        settings=s,
        resident={
            "backbone's weights": _weights(s),
            "TRM's weights": FLOAT32 * trainable,
            "TRM's gradients": FLOAT32 * trainable,
            "AdamW's moments": 2 * FLOAT32 * trainable,
            "averaged weights": FLOAT32 * trainable,
        },
        phases={
            "encoding": _encoding(s),
            "recursion": _recursion(s),
            # torch's AdamW on a GPU takes the roots of all second moments at once.
            "optimizer step": {"AdamW's denominators": FLOAT32 * trainable},
        },
        host={"x, y, z that wait": 3 * state * s.gradient_accumulation},
    )


def estimate(
    backbone: Any,
    trm: TRMConfig,
    batch: int,
    gradient_accumulation: int = 1,
    backbone_precision: str = "bf16",
    precision: str = "bf16",
    logits_chunk: int = 1024,
    activation_checkpointing: bool = False,
    window: int = 1,
) -> Memory:
    """Memory of a training step of `window` supervision steps; `batch` in tokens with padding.

    `backbone` is the backbone's config. Approximate: within 15 % of what torch allocates in
    whole steps on a CPU (tests/unit/test_training_memory.py). Attention is taken to be fused:
    without such a kernel torch keeps scores [rows, heads, S, S] besides. Raises ParameterError
    for a precision that there is not.
    """
    for name, value in {"backbone_precision": backbone_precision, "precision": precision}.items():
        known = [p for p in WEIGHT_BYTES if name == "backbone_precision" or p not in QUANTISED]
        if value not in known:
            raise ParameterError(f"{name} is {shown(value)}: it must be one of {', '.join(known)}")
    rows = {name: count for name, count, _ in parameter_rows(backbone, trm)}
    return _memory(
        Settings(
            backbone,
            trm,
            rows,
            batch,
            gradient_accumulation,
            backbone_precision,
            precision,
            logits_chunk,
            activation_checkpointing,
            window,
        )
    )


def _changes(s: Settings) -> Iterator[tuple[str, Settings]]:
    """Settings that could lower the device's peak, by what a user would write.

    Those come first that leave the trained weights the same, then what costs least. A shorter
    window and the head's freezing are another training: only once the batch cannot get smaller.
    """
    if s.logits_chunk >= 2 * LEAST_CHUNK:
        yield f"logits_chunk={s.logits_chunk // 2}", replace(s, logits_chunk=s.logits_chunk // 2)
    if not s.activation_checkpointing:
        yield "activation_checkpointing=True", replace(s, activation_checkpointing=True)
    if s.batch >= 2 * LEAST_BATCH:
        yield f"batch={s.batch // 2}", replace(s, batch=s.batch // 2)
    for bits in ("fp16" if s.precision == "fp16" else "bf16", "int8", "nf4"):
        yield f"backbone_precision='{bits}'", replace(s, backbone_precision=bits)
    if s.batch >= 2 * LEAST_BATCH:
        return
    if s.window > 1:
        yield f"window={s.window // 2}", replace(s, window=s.window // 2)
    if s.trm.train_head:
        rows = {name: count for name, count in s.rows.items() if name != "norm and lm_head"}
        yield "freeze_lm_head=True", replace(s, rows=rows, trm=replace(s.trm, train_head=False))


def mend(memory: Memory, usable: float) -> tuple[list[str], Memory]:
    """Changes that bring the device's peak under `usable` bytes, and what is needed then.

    The largest saving first, until one more change is enough: then the mildest that is.
    What is needed is still too much when no change is left.
    """
    changes: dict[str, str] = {}
    while memory.total > usable:
        tried = [(_memory(settings), said) for said, settings in _changes(memory.settings)]
        enough = (one for one in tried if one[0].total <= usable)
        largest = min(tried, default=(memory, ""), key=lambda one: one[0].total)
        better = next(enough, largest)
        if better[0].total >= memory.total:
            break
        memory, said = better
        changes[said.split("=")[0]] = said  # a second change of a setting takes the first's place
    return list(changes.values()), memory


def check_fits(memory: Memory, available: int, host: int | None = None) -> str:
    """A line that says how much of `available` bytes of the device is needed.

    `host`: bytes that the states waiting on the CPU may take. Raises ParameterError when
    either is too little, with the numbers and the settings to change.
    """
    usable = available * (1 - RESERVE)
    said = f"needs {memory.total / GIB:.1f} GiB of {usable / GIB:.1f} GiB"
    if memory.total > usable:
        changes, after = mend(memory, usable)
        largest = sorted(memory.parts.items(), key=lambda part: -part[1])[:3]
        parts = ", ".join(f"{size / GIB:.1f} GiB {name}" for name, size in largest)
        if after.total <= usable:
            way = f"it fits in {after.total / GIB:.1f} GiB with {', '.join(changes)}"
        else:
            way = (
                f"even with {', '.join(changes)} it needs {after.total / GIB:.1f} GiB: take a "
                "larger GPU or a smaller backbone"
            )
        raise ParameterError(f"this training {said} on the device ({parts}); {way}")
    if host is not None and memory.total_host > host:
        raise ParameterError(
            f"the states that wait between steps need {memory.total_host / GIB:.1f} GiB of "
            f"{host / GIB:.1f} GiB on the host: lower gradient_accumulation or batch"
        )
    return said
