"""A training run from its first step, or its last checkpoint, to its end: its last step, a time
limit, Ctrl-C or SIGTERM."""

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

import torch

from mathllm.tokens.rows import TokenSet
from mathllm.training.checkpoint import Checkpoints
from mathllm.training.config import Compute, Saving, TrainConfig
from mathllm.training.processes import Alone, Processes
from mathllm.training.progress import Progress
from mathllm.training.trainer import Trainer
from mathllm.trm import RecursiveLM, save_checkpoint


class Stopping:
    """Says between two steps whether to stop now; signals wait until the step is done.

    `seconds` is the limit from now on, 0 for none. It is met ahead of time: by twice the
    longest stretch between two calls of `lap`, so that saving still fits. A second
    Ctrl-C stops at once, as KeyboardInterrupt. Handlers are set in the main thread only,
    and put back at the end.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.limit = clock() + seconds if seconds > 0 else None
        self.lapped = clock()
        self.longest = 0.0
        self.signal: int | None = None
        self._old: dict[int, object] = {}

    def __enter__(self) -> "Stopping":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._received)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _received(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def lap(self) -> None:
        """A stretch of work is done: a step, and what was saved or measured since the last."""
        now = self.clock()
        self.longest = max(self.longest, now - self.lapped)
        self.lapped = now

    @property
    def reason(self) -> str:
        """Why to stop now; empty: go on."""
        if self.signal is not None:
            return signal.Signals(self.signal).name
        if self.limit is not None and self.clock() + 2 * self.longest >= self.limit:
            return "time limit"
        return ""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: how far it was, of `steps`, and why, if before the last."""

    step: int
    steps: int
    reason: str = ""


def train(
    model: RecursiveLM,
    data: TokenSet,
    config: TrainConfig,
    padding: int,
    output: Path,
    held_out: TokenSet | None = None,
    compute: Compute | None = None,
    saving: Saving | None = None,
    processes: Processes | None = None,
) -> Outcome:
    """Train the TRM in place, from the start or from a checkpoint; it ends with its averages.

    Writes output/metrics.jsonl, a line a step (losses in nats a label token),
    output/checkpoints, and with held-out rows output/best: the averaged weights of the
    lowest held-out loss seen. Time limit, Ctrl-C and SIGTERM end it after the step in
    progress, with everything saved. Raises ParameterError without rows, CheckpointError for
    checkpoints that are damaged, of another run, or not to be written, and TrainingError
    when the loss is no number.
    """
    compute, saving = compute or Compute(), saving or Saving()
    processes = processes or Alone(model.halting.weight.device)
    torch.manual_seed(config.seed)
    if compute.compile:
        model.network.compile(dynamic=True)
    trainer = Trainer(model, data, padding, config, compute, processes)
    checkpoints = Checkpoints(trainer, output, saving)
    model.train()
    reason = ""
    with Stopping(60 * saving.time_limit) as stopping:
        offset = checkpoints.resume()
        with Progress(output / "metrics.jsonl", trainer, offset) as progress:
            while not (trainer.over or reason):
                row = trainer.advance()
                last = trainer.over
                if held_out is not None and (last or _due(trainer, saving)):
                    measured = trainer.held_out_loss(held_out)
                    row["held_out_loss"], row["backbone_loss"] = measured
                    if checkpoints.is_best(measured[0]) and processes.is_main_process:
                        with trainer.ema.in_place():
                            save_checkpoint(model, output / "best")
                progress.show(row)
                stopping.lap()
                reason = trainer.stop_all(stopping.reason)
                checkpoints.save(progress.offset, now=bool(reason) or last)
    trainer.ema.apply()
    model.eval()
    return Outcome(trainer.place, trainer.steps, "" if trainer.over else reason)


def _due(trainer: Trainer, saving: Saving) -> bool:
    return bool(saving.evaluate_steps) and trainer.step % saving.evaluate_steps == 0
