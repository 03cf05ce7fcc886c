"""One optimizer step of deep supervision, and the state that goes from step to step.

Deep supervision has one optimizer step for each supervision step (arXiv 2510.04871, figure 3).
A group of micro-batches goes through N_sup supervision steps together. Each step adds the
gradients of all micro-batches up, over all processes, and then moves the weights once.
"""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mathllm.errors import ParameterError, TrainingError
from mathllm.tokens.batches import plan_batches, rank_share
from mathllm.tokens.rows import TokenSet
from mathllm.training.config import Compute, TrainConfig
from mathllm.training.held_out import loss_sums
from mathllm.training.processes import Processes
from mathllm.training.supervision import MicroBatch, begin, labels_of, replace, supervise
from mathllm.trm import RecursiveLM
from mathllm.trm.backbone import autocast_dtype


class EMA:
    """Moving averages of `parameters` (arXiv 2510.04871, section 4.7).

    `apply` puts the averages in their place.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self.parameters = list(parameters)
        self.averages = [p.detach().clone() for p in self.parameters]
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """averages ← d · averages + (1 − d) · parameters.

        d rises to `decay` as (1 + t) / (10 + t): a short run would else end at its start.
        """
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the averages in the parameters' place, for good."""
        torch._foreach_copy_(self.parameters, self.averages)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averages in the parameters' place while the context lasts."""
        trained = [p.detach().clone() for p in self.parameters]
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, trained)


def cosine_with_warmup(step: int, steps: int, warmup: int) -> float:
    """Factor of the peak rate: linear to 1 over `warmup`, then half a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


class Trainer:
    """A run in progress: what changes from step to step, and the step itself."""

    def __init__(
        self,
        model: RecursiveLM,
        data: TokenSet,
        padding: int,
        config: TrainConfig,
        compute: Compute,
        processes: Processes,
    ) -> None:
        if not len(data):
            raise ParameterError("no training rows: loosen the filters or raise num_samples")
        self.model, self.data, self.padding = model, data, padding
        self.config, self.compute, self.processes = config, compute, processes
        self.names = [name for name, _ in model.trm_parameters()]
        self.parameters = [p for _, p in model.trm_parameters()]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.lr,
            betas=(0.9, config.beta2),
            weight_decay=config.weight_decay,
        )
        self.autocast = autocast_dtype(compute.precision, processes.device)
        self.scaler = torch.amp.GradScaler(
            processes.device.type, enabled=self.autocast is torch.float16
        )
        self.ema = EMA(self.parameters, config.ema_decay)
        self.by_length = np.argsort(data.lengths, kind="stable")
        self.step = 0
        self.micro_batches: list[MicroBatch] = []
        self._epoch = -1
        self._share: list[list[np.ndarray]] = []
        self.groups = len(self.share(0))
        self.steps = config.epochs * self.groups * model.config.N_sup

    @property
    def settings(self) -> dict[str, Any]:
        """What a resumed run must have in common with this one, as JSON gives it back."""
        train = asdict(self.config)
        accumulation = train.pop("gradient_accumulation")
        return {
            **train,
            **asdict(self.model.config),
            "micro-batches in a step": accumulation * self.processes.num_processes,
            "data": self.data.key,
        }

    def share(self, epoch: int) -> list[list[np.ndarray]]:
        """This process's micro-batches of the epoch, group by group."""
        if epoch != self._epoch:
            plan = plan_batches(self.data.lengths, self.config.batch, self.config.seed, epoch)
            self._share = rank_share(
                plan,
                self.processes.process_index,
                self.processes.num_processes,
                self.config.gradient_accumulation,
            )
            self._epoch = epoch
        return self._share

    def advance(self) -> dict[str, Any]:
        """One optimizer step; returns its row of the metrics.

        Raises TrainingError, before the weights move, when the loss is no number.
        """
        began = time.perf_counter()
        group, supervision = divmod(self.step, self.model.config.N_sup)
        epoch, place = divmod(group, self.groups)
        if supervision == 0:
            rows = self.share(epoch)[place]
            self.micro_batches = [begin(self.model, self.data, r, self.padding) for r in rows]
        labels = self._total([float(sum(labels_of(self.data, b) for b in self.micro_batches))])[0]
        scale = self.scaler.get_scale() / labels
        done = []
        sums = np.zeros(5)  # answer loss, halting loss, right labels, tokens, places
        for batch in self.micro_batches:
            got = supervise(
                self.model,
                self.data,
                batch,
                self.padding,
                self.config,
                self.compute,
                self.autocast,
                scale,
            )
            tokens = self.data.lengths[batch.rows].sum()
            places = batch.x.shape[0] * batch.x.shape[1]
            sums += [got.answer_loss, got.halting_loss, got.right, tokens, places]
            done.append(got.done)
        answer, halting, right, tokens, places = self._total(sums.tolist())
        if not math.isfinite(answer + halting):
            raise TrainingError(self._no_number(supervision))
        norm = self._move()
        self.step += 1
        replaced = 0
        if self.config.replace_halted and self.step % self.model.config.N_sup:
            replaced = self._replace(done)
        seconds = time.perf_counter() - began
        return {
            "step": self.step,
            "epoch": epoch,
            "group": group,
            "supervision_step": supervision + 1,
            "loss": answer / labels,
            "halting_loss": halting / labels,
            "right": right / labels,
            "gradient_norm": norm,
            "lr": self.optimizer.param_groups[0]["lr"],
            "replaced": replaced,
            "label_share": labels / places,
            "labels_per_second": labels / seconds,
            "tokens_per_second": tokens / seconds,
        }

    def _move(self) -> float:
        """Sum the gradients over processes, clip, move the weights; the gradient's norm."""
        for parameter in self.parameters:
            if parameter.grad is None:  # as y_init's after the first supervision step
                parameter.grad = torch.zeros_like(parameter)
            if self.processes.num_processes > 1:
                parameter.grad = self.processes.reduce(parameter.grad, "sum")
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * cosine_with_warmup(
                self.step, self.steps, self.config.warmup_steps
            )
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.scaler.get_scale() >= before:  # else the step was skipped: float16 overflowed
            self.ema.update()
        return norm.item()

    def _replace(self, done: list[list[int]]) -> int:
        first = self.processes.process_index * self.config.gradient_accumulation
        for index, (batch, places) in enumerate(zip(self.micro_batches, done, strict=True)):
            seed = (self.config.seed, self.step, first + index)
            replace(self.model, self.data, self.by_length, batch, places, self.padding, seed)
        return sum(map(len, done))

    def _total(self, values: list[float]) -> list[float]:
        """Sums over all processes."""
        if self.processes.num_processes == 1:
            return values
        on_device = torch.tensor(values, dtype=torch.float64, device=self.processes.device)
        return self.processes.reduce(on_device, "sum").tolist()

    def _no_number(self, supervision: int) -> str:
        rows = [row for batch in self.micro_batches for row in batch.rows]
        return (
            f"the loss is no number in step {self.step + 1} (supervision step {supervision + 1}), "
            f"on training rows {', '.join(map(str, rows[:8]))}{' …' if len(rows) > 8 else ''} of "
            f"{len(self.data):,}\nthe weights before it are in the last checkpoint: lower lr "
            f"({self.config.lr}), or use precision 'bf16' or 'fp32'"
        )

    def stop_all(self, reason: str) -> str:
        """The reason to stop, agreed on by all processes: one that stops, stops them all."""
        if self._total([1.0 if reason else 0.0])[0] and not reason:
            return "another process was stopped"
        return reason

    def tensors(self) -> dict[str, Tensor]:
        """Everything that moves and is the same in all processes, by name."""
        saved = {"random": torch.get_rng_state()}
        if self.processes.device.type == "cuda":
            saved["random.cuda"] = torch.cuda.get_rng_state()
        for name, parameter, average in zip(
            self.names, self.parameters, self.ema.averages, strict=True
        ):
            saved[f"weight.{name}"] = parameter
            saved[f"average.{name}"] = average
            for key, value in self.optimizer.state[parameter].items():
                saved[f"{key}.{name}"] = value
        return saved

    def rest(self) -> dict[str, Any]:
        """What is no tensor, as JSON."""
        return {"averages": self.ema.updates, "scaler": self.scaler.state_dict()}

    @torch.no_grad()
    def load(self, step: int, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
        """Put a state back that `tensors` and `rest` gave."""
        for name, parameter, average in zip(
            self.names, self.parameters, self.ema.averages, strict=True
        ):
            parameter.copy_(tensors[f"weight.{name}"])
            average.copy_(tensors[f"average.{name}"])
            moments = ("step", "exp_avg", "exp_avg_sq")
            if f"step.{name}" in tensors:
                self.optimizer.state[parameter] = {
                    key: tensors[f"{key}.{name}"].to("cpu" if key == "step" else parameter.device)
                    for key in moments
                }
        torch.set_rng_state(tensors["random"])
        if "random.cuda" in tensors and self.processes.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"])
        self.step = step
        self.ema.updates = rest["averages"]
        self.scaler.load_state_dict(rest["scaler"])

    def held_out_loss(self, held_out: TokenSet) -> tuple[float, float]:
        """Of the averaged weights and of the backbone, shared out over the processes."""
        batches = plan_batches(held_out.lengths, self.config.batch, seed=0, epoch=0)
        mine = batches[self.processes.process_index :: self.processes.num_processes]
        with self.ema.in_place():
            sums = loss_sums(self.model, held_out, mine, self.padding, self.compute.logits_chunk)
        ours, theirs, count = self._total(sums.tolist())
        return ours / count, theirs / count
