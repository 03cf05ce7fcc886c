"""One optimizer step of deep supervision, and the state that goes from step to step.

Deep supervision has one optimizer step for each supervision step (arXiv 2510.04871, figure 3).
A group of micro-batches goes through N_sup supervision steps together. Each step adds the
gradients of all micro-batches up, over all processes, and then moves the weights once.
"""

import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mathllm.errors import ParameterError, TrainingError
from mathllm.tokens.batches import plan_batches
from mathllm.tokens.rows import TokenSet
from mathllm.training.averages import EMA, cosine_with_warmup
from mathllm.training.config import Compute, TrainConfig
from mathllm.training.curriculum import Curriculum
from mathllm.training.held_out import loss_sums
from mathllm.training.processes import Processes
from mathllm.training.supervision import MicroBatch, begin, labels_of, replace, supervise
from mathllm.trm import RecursiveLM
from mathllm.trm.backbone import autocast_dtype


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
        self.curriculum = Curriculum(data, config, model.config.N_sup, processes)
        self.step = 0
        self.micro_batches: list[MicroBatch] = []
        self.group_steps = -(-model.config.N_sup // config.window)
        self.steps = config.epochs * self.curriculum.groups * self.group_steps

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

    @property
    def over(self) -> bool:
        """Whether the last step is done."""
        return self.curriculum.over

    @property
    def under_way(self) -> bool:
        """Whether rows are in the middle of their supervision steps."""
        return self.curriculum.passed < self.curriculum.passes

    @property
    def place(self) -> int:
        """How far the run is, of `steps`; optimizer steps, where all groups have N_sup steps."""
        order = self.curriculum
        part = order.passed * self.group_steps // order.passes if self.under_way else 0
        return order.group * self.group_steps + part

    def advance(self) -> dict[str, Any]:
        """One optimizer step; returns its row of the metrics.

        Raises TrainingError, before the weights move, when the loss is no number.
        """
        began, order = time.perf_counter(), self.curriculum
        if not self.under_way:
            rows = order.begin()
            self.micro_batches = [begin(self.model, self.data, r, self.padding) for r in rows]
        group, epoch, stage, first = order.group, order.epoch, str(order.stage), order.passed + 1
        count = min(self.config.window, order.passes - order.passed)
        labels = self._total([float(sum(labels_of(self.data, b) for b in self.micro_batches))])[0]
        scale = self.scaler.get_scale() / labels / count
        done = []
        # Of each supervision step: answer loss, halting loss, right labels, labels.
        sums = np.zeros((count, 4))
        sizes = np.zeros(4)  # tokens, places; rows that the gate looks at, right ones among them
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
                count,
                order.targets,
            )
            sums += [[s.answer_loss, s.halting_loss, s.right, s.labels] for s in got]
            judged = order.judged(batch.rows, batch.ages)
            right_rows = len(set(judged) & set(got[-1].right_rows))
            tokens, places = self.data.lengths[batch.rows].sum(), batch.x.shape[:2].numel()
            sizes += [tokens, places, len(judged), right_rows]
            done.append(got[-1].done)
        totals = self._total([*sums.ravel().tolist(), *sizes.tolist()])
        tokens, places, judged, right_rows = totals[-4:]
        sums = np.reshape(totals[:-4], sums.shape)
        if not np.isfinite(sums).all():
            raise TrainingError(self._no_number(first))
        norm = self._move()
        self.step += 1
        order.passed += count
        replaced, said = 0, ""
        if not self.under_way:
            said = order.end(right_rows, judged)
        elif self.config.replace_halted:
            replaced = self._replace(done)
        seconds = time.perf_counter() - began
        taught = np.maximum(sums[:, 3], 1)
        losses, halting, right = (sums[:, :3] / taught[:, None]).T.tolist()
        return {
            "step": self.step,
            "epoch": epoch,
            "group": group,
            "supervision_step": first,
            "loss": sum(losses) / count,
            "halting_loss": sum(halting) / count,
            "right": sum(right) / count,
            "gradient_norm": norm,
            "lr": self.optimizer.param_groups[0]["lr"],
            "replaced": replaced,
            "label_share": labels / places,
            "seconds": seconds,
            "labels_per_second": labels * count / seconds,
            "tokens_per_second": tokens * count / seconds,
            "stage": stage,
            "accuracy": order.accuracy,
            "losses": losses,
            "said": said,
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
                self.place, self.steps, self.config.warmup_steps
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
            rows = self.curriculum.eligible
            replace(self.model, self.data, rows, batch, places, self.padding, seed)
        return sum(map(len, done))

    def _total(self, values: list[float]) -> list[float]:
        """Sums over all processes."""
        if self.processes.num_processes == 1:
            return values
        on_device = torch.tensor(values, dtype=torch.float64, device=self.processes.device)
        return self.processes.reduce(on_device, "sum").tolist()

    def _no_number(self, first: int) -> str:
        rows = [row for batch in self.micro_batches for row in batch.rows]
        return (
            f"the loss is no number in step {self.step + 1} (supervision step {first}), "
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
        return {
            "averages": self.ema.updates,
            "scaler": self.scaler.state_dict(),
            "curriculum": self.curriculum.state(),
        }

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
        self.curriculum.load(rest["curriculum"])

    def held_out_loss(self, held_out: TokenSet) -> tuple[float, float]:
        """Of the averaged weights and of the backbone, shared out over the processes."""
        batches = plan_batches(held_out.lengths, self.config.batch, seed=0, epoch=0)
        mine = batches[self.processes.process_index :: self.processes.num_processes]
        with self.ema.in_place():
            sums = loss_sums(self.model, held_out, mine, self.padding, self.compute.logits_chunk)
        ours, theirs, count = self._total(sums.tolist())
        return ours / count, theirs / count
