"""What a training run is, apart from its model and data."""

from dataclasses import dataclass
from typing import Literal

from mathllm.errors import ParameterError
from mathllm.wording import shown

TARGETS = ("same", "steps", "shuffled", "spread", "final")
WINDOW = 8  # supervision steps at most that a gradient goes through


def _positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not value > 0:
            raise ParameterError(f"{name} is {value}: it must be over 0")


@dataclass(frozen=True)
class TrainConfig:
    """What shapes the weights that come out; a resumed run must have the same.

    Steps are optimizer steps: for each group of micro-batches one for each supervision step, or
    one for each `window` of them. `targets` of a supervision step: the row's own labels (same),
    those of the step (steps), those of the steps before the answer in an order that is random for
    each row (shuffled), those of ⌈hops · step / steps⌉, so that a few reach the answer (spread), or
    the row's own in the last step and none before (final). With `gated` hops rise in stages
    (mathllm.training.curriculum): `forced` is how deep the first phase goes, `beyond` how many
    steps more than the hops may be taken in the second, `gate` the share of right rows from which
    on it gets harder, `patience` how many groups a stage may take, and with `answer_phase` the last
    has no labels but the answer's.
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
    window: int = 1  # supervision steps that a gradient goes through; 1: one, as in the paper
    targets: Literal["same", "steps", "shuffled", "spread", "final"] = "same"
    gated: bool = False
    forced: int = 0
    beyond: int = 3
    gate: float = 0.9
    patience: int = 2_000
    answer_phase: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _positive(self, "epochs", "batch", "gradient_accumulation", "lr", "clip")
        _positive(self, "beyond", "patience")
        if not 1 <= self.window <= WINDOW:
            raise ParameterError(f"window is {self.window}: it must be from 1 to {WINDOW}")
        if self.targets not in TARGETS:
            raise ParameterError(
                f"targets is {shown(self.targets)}: it must be one of {', '.join(TARGETS)}"
            )
        if self.targets in TARGETS[1:4] and not self.gated:
            raise ParameterError(
                f"targets is {shown(self.targets)} without gates: set gated, or targets 'same'"
            )
        if not 0 < self.gate <= 1:
            raise ParameterError(f"gate is {self.gate}: it must be over 0 and at most 1")
        if self.forced < 0:
            raise ParameterError(f"forced is {self.forced}: it must be 0 or more")


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
