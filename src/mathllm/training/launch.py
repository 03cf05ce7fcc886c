"""A training run from its description: in this process, or in several under accelerate.

    accelerate launch --num_processes 2 -m mathllm.training RUN.json

trains what the notebook wrote to output_dir/run.json, on one node or on more (`accelerate
config` knows the machines; all of them must see the folders that RUN.json names).
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from mathllm.data.chat import load_tokenizer, padding_id
from mathllm.data.token_store import open_tokens
from mathllm.environment import free_memory
from mathllm.errors import ParameterError, TrainingError
from mathllm.files import read_json
from mathllm.training.config import Compute, Saving, TrainConfig
from mathllm.training.memory import check_fits, estimate, parameter_rows
from mathllm.training.run import Outcome, train
from mathllm.trm import RecursiveLM, TRMConfig, load_backbone, save_checkpoint
from mathllm.trm.backbone import DTYPES, QUANTISED, read_backbone_config, resolve
from mathllm.wording import brief

DESCRIPTION = "run.json"


@dataclass(frozen=True)
class TrainingRun:
    """Folders are paths: `weights` has backbone/, `data` and `held_out` hold token sets.

    `trm` overrides TRMConfig.for_backbone's settings. An empty `held_out` measures none.
    """

    weights: str
    data: str
    output: str
    held_out: str = ""
    trm: dict[str, Any] = field(default_factory=dict)
    config: TrainConfig = field(default_factory=TrainConfig)
    compute: Compute = field(default_factory=Compute)
    saving: Saving = field(default_factory=Saving)


def write_run(run: TrainingRun) -> Path:
    """Write output/run.json; returns its path."""
    path = Path(run.output) / DESCRIPTION
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(run), indent=2) + "\n", encoding="utf-8")
    return path


def read_run(path: Path) -> TrainingRun:
    """Read a run's description. Raises ParameterError when it is none."""
    try:
        fields = read_json(Path(path))
        return TrainingRun(
            **fields
            | {
                "config": TrainConfig(**fields["config"]),
                "compute": Compute(**fields["compute"]),
                "saving": Saving(**fields["saving"]),
            }
        )
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ParameterError(
            f"{path} is no description of a run ({brief(fault)}): the train notebook writes one to "
            f"output_dir/{DESCRIPTION}"
        ) from fault


def available_memory(device: torch.device) -> int:
    """Bytes that a run may take: all of a GPU's, what is free of the machine's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return free_memory()


def load_for_training(
    run: TrainingRun, device: torch.device, local_processes: int, show: Callable[[str], None]
) -> RecursiveLM:
    """The untrained TRM over its backbone; first `show` says what it takes.

    `local_processes` share this machine's memory.

    Raises ParameterError, before any weight is loaded, when it does not fit the device.
    """
    source, compute = Path(run.weights) / "backbone", run.compute
    shape = read_backbone_config(source)
    trm = TRMConfig.for_backbone(shape, **run.trm)
    precision = resolve(compute.precision, device)
    frozen = precision if compute.backbone_precision == "auto" else compute.backbone_precision
    for name, count, trainable in parameter_rows(shape, trm):
        show(f"{count:>15,}  {name}, {'trained' if trainable else 'frozen'}")
    memory = estimate(
        shape,
        trm,
        run.config.batch,
        run.config.gradient_accumulation,
        frozen,
        precision,
        compute.logits_chunk,
        compute.activation_checkpointing,
        run.config.window,
    )
    show(f"effective depth {trm.effective_depth} layers, {precision}, backbone {frozen}")
    # On a CPU the states that wait share the memory with all the rest.
    free = free_memory() // local_processes
    host = free if device.type == "cuda" else None
    show(f"memory: {check_fits(memory, available_memory(device), host)}")
    quantised = frozen if frozen in QUANTISED else None
    dtype = DTYPES[precision if quantised else frozen]
    backbone = load_backbone(source, str(device), dtype, quantised)
    torch.manual_seed(run.config.seed)
    return RecursiveLM(backbone, trm)


def run_training(run: TrainingRun) -> Outcome:
    """Train as described, in this process, and write output/trm."""
    accelerator = Accelerator()
    output = Path(run.output)
    show = print if accelerator.is_main_process else lambda _: None
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    model = load_for_training(run, accelerator.device, here, show)
    outcome = train(
        model,
        open_tokens(Path(run.data)),
        run.config,
        padding_id(load_tokenizer(Path(run.weights) / "backbone")),
        output,
        open_tokens(Path(run.held_out)) if run.held_out else None,
        run.compute,
        run.saving,
        accelerator,
    )
    if accelerator.is_main_process:
        save_checkpoint(model, output / "trm")
    accelerator.wait_for_everyone()
    return outcome


def launch(run: TrainingRun, processes: int = 1) -> None:
    """Train in this process, or in `processes` of them, a GPU each where there are any.

    The notebook starts them as separate programs, as a cluster does: a notebook that has
    touched CUDA cannot be forked. Raises TrainingError when one of them fails.
    """
    path = write_run(run)
    if processes <= 1:
        outcome = run_training(run)
        if outcome.reason:
            print(
                f"stopped by {outcome.reason} after step {outcome.step:,} of {outcome.steps:,}: "
                "run again with the same parameters to go on"
            )
        return
    # torchrun, which is what `accelerate launch` starts on GPUs; on CPUs it would want MPI.
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}
    finished = subprocess.run(
        [sys.executable, *command, "-m", "mathllm.training", str(path)],
        env=os.environ | environment,
        check=False,
    )
    if finished.returncode:
        raise TrainingError(
            f"training in {processes} processes ended with status {finished.returncode}: its "
            f"messages stand above; resume='auto' goes on from the last checkpoint"
        )
