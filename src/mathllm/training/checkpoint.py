"""When a run's checkpoints are written, which are kept, and which one a run goes on from."""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm.auto import tqdm

from mathllm.errors import CheckpointError
from mathllm.training import state
from mathllm.training.config import Saving
from mathllm.training.supervision import MicroBatch

if TYPE_CHECKING:
    from mathllm.training.trainer import Trainer


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
        self.folder = Path(output) / state.FOLDER
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
        resume, own = self.saving.resume, state.checkpoint_folders(self.folder)
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
            source = source / state.FOLDER if (source / state.FOLDER).is_dir() else source
            if not state.checkpoint_folders(source):
                raise CheckpointError(
                    f"resume: {source} has no checkpoints; give a run's output_dir, 'auto' or "
                    "'never'"
                )
        found, faults = state.newest_whole(source)
        for fault in faults:
            tqdm.write(f"skipped a checkpoint: {fault}")
        if found is None:
            return 0
        state.check_same_run(found, self.trainer.settings)
        self.lowest = found.rest["lowest"] if found.rest["lowest"] is not None else math.inf
        self.trainer.load(found.step, found.tensors, found.rest)
        saved = [found.micro_batch(index) for index in self._places()]
        self.trainer.micro_batches = [_micro_batch(tensors) for tensors in saved if tensors]
        tqdm.write(f"going on from {found.folder}: step {found.step:,} of {self.trainer.steps:,}")
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
        staging = state.staging_folder(self.folder, trainer.step)
        main = trainer.processes.is_main_process
        if main:
            state.prune(self.folder, self.saving.keep)
            staging.mkdir(parents=True)
        trainer.processes.wait_for_everyone()
        if trainer.step % trainer.model.config.N_sup:  # between groups nothing is under way
            for index, batch in zip(self._places(), trainer.micro_batches, strict=True):
                state.write_tensors(staging, state.micro_batch_name(index), _tensors(batch))
        if main:
            state.write_tensors(staging, "state", trainer.tensors())
        trainer.processes.wait_for_everyone()
        if main:
            rest = trainer.rest() | {
                "metrics_bytes": metrics_bytes,
                "lowest": self.lowest if math.isfinite(self.lowest) else None,
            }
            state.publish(staging, trainer.step, trainer.settings, rest)
            state.prune(self.folder, self.saving.keep)
        trainer.processes.wait_for_everyone()
        self.saved_at = time.monotonic()
