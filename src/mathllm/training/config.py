"""What a training run is, apart from its model and data."""

from dataclasses import dataclass
from typing import Literal

from mathllm.errors import ParameterError


def _positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not value > 0:
            raise ParameterError(f"{name} is {value}: it must be over 0")


@dataclass(frozen=True)
class TrainConfig:
    """What shapes the weights that come out; a resumed run must have the same.

    Steps are optimizer steps: N_sup for each group of micro-batches.
    """

    epochs: int = 1
    batch: int = 8_000  # tokens a micro-batch, padding counted
    gradient_accumulation: int = 1  # micro-batches a step, on each process
    lr: float = 1e-4
    warmup_steps: int = 40
    beta2: float = 0.999  # long: on a backbone that is mostly right, gradients come in bursts
    weight_decay: float = 0.1
    clip: float = 1.0
    ema_decay: float = 0.999
    halting_weight: float = 0.5  # of the halting head's loss, as the paper's code weighs it
    replace_halted: bool = False  # rows that are all right make room for fresh ones
    seed: int = 0

    def __post_init__(self) -> None:
        _positive(self, "epochs", "batch", "gradient_accumulation", "lr", "clip")


@dataclass(frozen=True)
class Compute:
    """How the numbers are computed: speed and memory, the same weights within rounding."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    # The frozen backbone's own; auto: as above. int8 and nf4 are more than rounding.
    backbone_precision: Literal["auto", "fp32", "bf16", "fp16", "int8", "nf4"] = "auto"
    logits_chunk: int = 1024  # label positions whose logits exist at once
    activation_checkpointing: bool = False  # recompute each f in the backward pass
    compile: bool = False  # torch.compile of f, mode "default"

    def __post_init__(self) -> None:
        _positive(self, "logits_chunk")


@dataclass(frozen=True)
class Saving:
    """When a run writes its state, and where it looks for one.

    resume: "auto" goes on from the newest whole checkpoint of its own folder, if there is
    one; "never" starts, in a folder without checkpoints; a folder's name starts from the
    newest one there and writes to its own. time_limit, minutes from the start of training
    (0: none): the run saves and ends before it.
    """

    resume: str = "auto"
    every_minutes: float = 15.0
    keep: int = 2  # newest checkpoints kept
    evaluate_steps: int = 0  # steps between held-out losses; 0: none on the way
    time_limit: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "keep")
