"""Checkpoints of a training run, whole or not at all: when they are written, what is in them,
which are kept, and which one a run goes on from.

    checkpoints/step-00000120/   state.json         step, settings, sums of the other files
                                 state.safetensors  weights, averages, moments, random states
                                 micro-0003.safetensors   rows in the middle of their steps
"""

import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from mathllm.errors import CheckpointError
from mathllm.files import digest, read_json, sync
from mathllm.training.config import Saving
from mathllm.training.supervision import MicroBatch
from mathllm.wording import brief, shown

if TYPE_CHECKING:
    from mathllm.training.trainer import Trainer

FORMAT = 2
FOLDER = "checkpoints"
DESCRIPTION = "state.json"


@dataclass
class State:
    """What a checkpoint says. `tensors` are the shared ones; micro-batches load apart."""

    folder: Path
    step: int
    settings: dict[str, Any]
    rest: dict[str, Any]
    tensors: dict[str, Tensor]

    def micro_batch(self, index: int) -> dict[str, Tensor] | None:
        """Tensors of the micro-batch of this place in the group; None between two groups."""
        path = self.folder / f"{micro_batch_name(index)}.safetensors"
        return load_file(path) if path.is_file() else None


def micro_batch_name(index: int) -> str:
    """For `write_tensors`: the micro-batch of this place in the group."""
    return f"micro-{index:04d}"


def staging_folder(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of `step` is put together; every process knows the name."""
    return checkpoints / f".step-{step:08d}"


def write_tensors(staging: Path, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Write `name`.safetensors into a staging folder.

    Raises CheckpointError when the disk is full or refuses; older checkpoints stay whole.
    """
    needed = sum(t.numel() * t.element_size() for t in tensors.values())
    path = staging / f"{name}.safetensors"
    try:
        save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, path)
        sync(path)
    except Exception as fault:  # safetensors wraps the system's error in its own
        raise _cannot_save(staging, needed, fault) from fault


def _cannot_save(staging: Path, needed: int, fault: Exception) -> CheckpointError:
    folder = staging.parent
    shutil.rmtree(staging, ignore_errors=True)
    free = shutil.disk_usage(folder).free
    return CheckpointError(
        f"{folder}: a checkpoint of {needed / 1e6:,.0f} MB was not written ({fault}); "
        f"{free / 1e6:,.0f} MB are free there.\n"
        "the checkpoints written before are whole: make room and run again with resume='auto'"
    )


def publish(staging: Path, step: int, settings: dict[str, Any], rest: dict[str, Any]) -> Path:
    """Describe what lies in `staging`, and make it the checkpoint of `step` in one rename."""
    sums = {p.name: digest(p) for p in sorted(staging.glob("*.safetensors"))}
    description = {"format": FORMAT, "step": step, "settings": settings, "sums": sums, **rest}
    final = staging.with_name(staging.name.removeprefix("."))
    path = staging / DESCRIPTION
    try:
        path.write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        sync(path)
        sync(staging)
        if final.exists():  # the same step again, after a resumption from an older one
            shutil.rmtree(final)
        staging.rename(final)
        sync(final.parent)
    except OSError as fault:
        raise _cannot_save(staging, path.stat().st_size if path.exists() else 0, fault) from fault
    return final


def checkpoint_folders(checkpoints: Path) -> list[Path]:
    """Published checkpoints, newest first; whether they are whole is not looked at."""
    return sorted(checkpoints.glob("step-*"), reverse=True)


def prune(checkpoints: Path, keep: int) -> None:
    """Remove all but the newest `keep`, and what a killed run left half-written."""
    for folder in [*checkpoint_folders(checkpoints)[keep:], *checkpoints.glob(".step-*")]:
        shutil.rmtree(folder, ignore_errors=True)


def read_state(folder: Path) -> State:
    """Read one checkpoint. Raises CheckpointError when it is damaged."""
    try:
        description = read_json(folder / DESCRIPTION)
        version = description.pop("format")
        if version != FORMAT:
            raise CheckpointError(
                f"{folder} has format {version}, this version reads {FORMAT}: go on with the "
                "version of mathllm that wrote it"
            )
        for name, expected in description.pop("sums").items():
            if Path(name).name != name or digest(folder / name) != expected:
                raise CheckpointError(f"{folder / brief(name)} is not the file that was saved")
        step, settings = description.pop("step"), description.pop("settings")
        return State(folder, step, settings, description, load_file(folder / "state.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        raise CheckpointError(f"{folder} cannot be read: {brief(fault, 200)}") from fault


def newest_whole(checkpoints: Path) -> tuple[State | None, list[str]]:
    """The newest checkpoint that is whole, and what was wrong with the newer ones.

    Raises CheckpointError when there are checkpoints and none is whole.
    """
    faults: list[str] = []
    folders = checkpoint_folders(checkpoints)
    for folder in folders:
        try:
            return read_state(folder), faults
        except CheckpointError as fault:
            faults.append(str(fault))
    if folders:
        raise CheckpointError(
            f"no checkpoint in {checkpoints} is whole ({faults[0]}): remove the folder to "
            "start again, or copy the checkpoints again"
        )
    return None, faults


def check_same_run(state: State, settings: dict[str, Any]) -> None:
    """Raise CheckpointError unless the checkpoint was made with the same settings."""
    for name in sorted(set(settings) | set(state.settings)):
        theirs, ours = state.settings.get(name), settings.get(name)
        if theirs != ours:
            raise CheckpointError(
                f"{state.folder} was trained with {name} {shown(theirs)}, this run has "
                f"{shown(ours)}: set it back to go on, or give another output_dir to train anew"
            )


def _tensors(batch: MicroBatch) -> dict[str, torch.Tensor]:
    rows, ages = torch.tensor(batch.rows), torch.tensor(batch.ages)
    return {"rows": rows, "ages": ages, "x": batch.x, "y": batch.y, "z": batch.z}


def _micro_batch(tensors: dict[str, torch.Tensor]) -> MicroBatch:
    rows, ages = tensors["rows"].tolist(), tensors["ages"].tolist()
    return MicroBatch(rows, ages, tensors["x"], tensors["y"], tensors["z"])


class Checkpoints:
    """The checkpoints of one run, in output/checkpoints."""

    def __init__(self, trainer: "Trainer", output: Path, saving: Saving) -> None:
        self.trainer, self.saving = trainer, saving
        self.folder = Path(output) / FOLDER
        self.saved_at = time.monotonic()
        self.lowest = math.inf  # held-out loss

    def is_best(self, loss: float) -> bool:
        """Whether no held-out loss of this run was as low before."""
        best = loss < self.lowest
        self.lowest = min(self.lowest, loss)
        return best

    def resume(self) -> int:
        """Put the trainer where the last checkpoint left it; the metrics' length there.

        Raises CheckpointError when the folder holds another run, or one that this run was
        not told to go on with, or nothing that is whole.
        """
        resume, own = self.saving.resume, checkpoint_folders(self.folder)
        if resume == "auto":
            source = self.folder
        elif own:
            raise CheckpointError(
                f"{self.folder} holds a run already: go on with it by resume='auto', or give "
                "another output_dir"
            )
        elif resume == "never":
            return 0
        else:
            source = Path(resume)
            source = source / FOLDER if (source / FOLDER).is_dir() else source
            if not checkpoint_folders(source):
                raise CheckpointError(
                    f"resume: {source} has no checkpoints; give a run's output_dir, 'auto' or "
                    "'never'"
                )
        found, faults = newest_whole(source)
        for fault in faults:
            tqdm.write(f"skipped a checkpoint: {fault}")
        if found is None:
            return 0
        check_same_run(found, self.trainer.settings)
        self.lowest = found.rest["lowest"] if found.rest["lowest"] is not None else math.inf
        self.trainer.load(found.step, found.tensors, found.rest)
        saved = [found.micro_batch(index) for index in self._places()]
        self.trainer.micro_batches = [_micro_batch(tensors) for tensors in saved if tensors]
        tqdm.write(
            f"going on from {found.folder}: step {found.step:,}, "
            f"{self.trainer.place / self.trainer.steps:.0%} of the run"
        )
        return found.rest["metrics_bytes"] if source == self.folder else 0

    def _places(self) -> range:
        """Places in the group of this process's micro-batches."""
        count = self.trainer.config.gradient_accumulation
        first = self.trainer.processes.process_index * count
        return range(first, first + count)

    def save(self, metrics_bytes: int, now: bool) -> None:
        """Write a checkpoint when one is due, or `now`."""
        trainer = self.trainer
        due = time.monotonic() - self.saved_at >= 60 * self.saving.every_minutes
        if not (now or trainer.stop_all("due" if due else "")):
            return
        staging = staging_folder(self.folder, trainer.step)
        main = trainer.processes.is_main_process
        if main:
            prune(self.folder, self.saving.keep)
            staging.mkdir(parents=True)
        trainer.processes.wait_for_everyone()
        if trainer.under_way:
            for index, batch in zip(self._places(), trainer.micro_batches, strict=True):
                write_tensors(staging, micro_batch_name(index), _tensors(batch))
        if main:
            write_tensors(staging, "state", trainer.tensors())
        trainer.processes.wait_for_everyone()
        if main:
            rest = trainer.rest() | {
                "metrics_bytes": metrics_bytes,
                "lowest": self.lowest if math.isfinite(self.lowest) else None,
            }
            publish(staging, trainer.step, trainer.settings, rest)
            prune(self.folder, self.saving.keep)
        trainer.processes.wait_for_everyone()
        self.saved_at = time.monotonic()
