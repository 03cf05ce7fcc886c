"""What a person sees of a run: a bar, and a metrics file of JSON lines."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psutil
import torch
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from mathllm.training.trainer import Trainer


def memory(device: torch.device) -> int:
    """Bytes in use: the peak on a GPU, those of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss


class Progress:
    """Writes a row a step and moves the bar; in processes other than the first, nothing.

    The file is cut to `offset` bytes first: rows after the checkpoint that a run goes on
    from are written again.
    """

    def __init__(self, path: Path, trainer: "Trainer", offset: int) -> None:
        self.path, self.trainer, self.offset = path, trainer, offset
        self.main = trainer.processes.is_main_process
        self.losses: list[float] = []

    def __enter__(self) -> "Progress":
        trainer = self.trainer
        self.bar = tqdm(
            total=trainer.steps,
            initial=trainer.place,
            desc="training",
            unit="step",
            disable=not self.main,
        )
        if self.main:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("ab")
            self.file.truncate(self.offset)
            self.file.seek(0, os.SEEK_END)
            if not self.offset:
                self._write({"settings": trainer.settings})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()
        if self.main:
            self.file.close()

    def _write(self, row: dict[str, Any]) -> None:
        self.file.write((json.dumps(row) + "\n").encode())
        self.file.flush()
        self.offset = self.file.tell()

    def show(self, row: dict[str, Any]) -> None:
        """One step is done."""
        row["memory"] = memory(self.trainer.processes.device)
        if row["supervision_step"] == 1:
            self.losses = []
        self.losses += row["losses"]
        if row["said"] and self.main:
            tqdm.write(row["said"])
        if self.main:
            self._write(row)
        self.bar.update(self.trainer.place - self.bar.n)
        self.bar.set_postfix_str(
            f"{self._stage(row)}loss {self.losses[0]:.3f} → {self.losses[-1]:.3f}, "
            f"{row['right']:.1%} right, "
            f"{row['tokens_per_second']:,.0f} tokens/s ({row['label_share']:.0%} labels), "
            f"{row['memory'] / 2**30:.1f} GiB",
            refresh=False,
        )

    def _stage(self, row: dict[str, Any]) -> str:
        """Where a curriculum stands: its stage, and how far its gate is from opening."""
        if row["stage"] == "all":
            return ""
        gate = self.trainer.config.gate
        return f"{row['stage']}, {row['accuracy']:.1%} of {gate:.0%} rows right, "
