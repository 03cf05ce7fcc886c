"""Deep supervision: one optimizer step for each supervision step (arXiv 2510.04871, figure 3)."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from mathllm.data.batches import IGNORED, collate, length_batches
from mathllm.data.chat import Example
from mathllm.errors import ParameterError
from mathllm.training.ema import EMA
from mathllm.trm import RecursiveLM
from mathllm.trm.recursion import deep_supervision


@dataclass(frozen=True)
class TrainConfig:
    """`batch_tokens` counts padding; warm-up is in optimizer steps, N_sup of them a batch."""

    epochs: int = 1
    batch_tokens: int = 8_000
    lr: float = 1e-4
    warmup_steps: int = 40
    beta2: float = 0.999  # long: on a backbone that is mostly right, gradients come in bursts
    weight_decay: float = 0.1
    clip: float = 1.0
    ema_decay: float = 0.999
    halting_weight: float = 0.5  # of the halting head's loss, as the paper's code weighs it
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_tokens", "lr", "clip"):
            if getattr(self, name) <= 0:
                raise ParameterError(f"{name} is {getattr(self, name)}: it must be over 0")


def supervision_loss(
    model: RecursiveLM, y: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Answer loss, halting loss and share of right tokens, each a mean over label tokens.

    y [B, S, D], labels [B, S] with IGNORED elsewhere; logits are taken where labels are.
    The halting head learns whether the argmax token is right, by binary cross-entropy. It
    reads y without shaping it: on a backbone that is nearly always right its gradient,
    through f, is the larger one by far and spoils the answers.
    """
    keep = labels != IGNORED
    answers = y[keep]  # [labels, D]
    targets = labels[keep]
    logits = model.head(answers)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # 16 bits are too few
    right = (logits.argmax(dim=-1) == targets).to(logits.dtype)
    answer_loss = F.cross_entropy(logits, targets)
    halting_loss = F.binary_cross_entropy_with_logits(
        model.halting_logit(answers.detach()).to(logits.dtype), right
    )
    return answer_loss, halting_loss, right.mean()


def cosine_with_warmup(step: int, steps: int, warmup: int) -> float:
    """Factor of the peak rate: linear to 1 over `warmup`, then half a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def train(
    model: RecursiveLM,
    examples: Sequence[Example],
    config: TrainConfig,
    padding: int,
    metrics: Path,
) -> RecursiveLM:
    """Train the TRM in place; it ends with its averaged weights.

    Writes one JSON line a batch to `metrics`: the losses by supervision step in nats a
    label token, the share of right tokens, label tokens a second. Raises ParameterError
    without examples.
    """
    if not examples:
        raise ParameterError("no training examples: loosen the filters or raise num_samples")
    torch.manual_seed(config.seed)
    device = model.halting.weight.device
    lengths = [len(e.tokens) for e in examples]
    plan = [
        batch
        for epoch in range(config.epochs)
        for batch in length_batches(lengths, config.batch_tokens, config.seed + epoch)
    ]
    parameters = [p for _, p in model.trm_parameters()]
    steps = len(plan) * model.config.N_sup
    optimizer = torch.optim.AdamW(
        parameters, lr=config.lr, betas=(0.9, config.beta2), weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: cosine_with_warmup(step, steps, config.warmup_steps)
    )
    ema = EMA(parameters, config.ema_decay)
    model.train()
    metrics.parent.mkdir(parents=True, exist_ok=True)
    with metrics.open("w", encoding="utf-8") as log:
        log.write(json.dumps({"train": asdict(config), "trm": asdict(model.config)}) + "\n")
        for number, indices in enumerate(bar := tqdm(plan, desc="training", unit="batch"), 1):
            began = time.perf_counter()
            batch = collate([examples[i] for i in indices], padding)
            input_ids, attention_mask, labels = (tensor.to(device) for tensor in batch)
            x, rotary, attend = model.encode(input_ids, attention_mask)
            losses = []
            for y, _ in deep_supervision(
                model.f(rotary, attend),
                x,
                *model.initial(x),
                model.config.n,
                model.config.T,
                model.config.N_sup,
                model.config.learn_initial_state,
            ):
                answer_loss, halting_loss, right = supervision_loss(model, y, labels)
                (answer_loss + config.halting_weight * halting_loss).backward()
                norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                ema.update()
                losses.append(answer_loss.item())
            count = int((labels != IGNORED).sum())
            row = {
                "batch": number,
                "loss": losses,
                "halting_loss": halting_loss.item(),
                "right": right.item(),
                "gradient_norm": norm.item(),
                "labels_per_second": count / (time.perf_counter() - began),
            }
            log.write(json.dumps(row) + "\n")
            log.flush()
            bar.set_postfix(
                loss=" → ".join(f"{losses[i]:.3f}" for i in (0, -1)), right=f"{row['right']:.1%}"
            )
    ema.apply()
    return model.eval()


@torch.no_grad()
def held_out_loss(
    model: RecursiveLM, examples: Sequence[Example], padding: int, batch_tokens: int = 8_000
) -> tuple[float, float]:
    """Mean loss in nats a label token: of the TRM, and of its backbone on the same tokens."""
    totals, count = [0.0, 0.0], 0
    for indices in length_batches([len(e.tokens) for e in examples], batch_tokens, seed=0):
        batch = collate([examples[i] for i in indices], padding)
        input_ids, attention_mask, labels = (t.to(model.halting.weight.device) for t in batch)
        keep = labels != IGNORED
        x, rotary, attend = model.encode(input_ids, attention_mask)
        y = model.refine(x, rotary, attend)
        for which, state in enumerate((y, x)):  # the head on x is the backbone itself
            logits = model.head(state[keep]).float()
            totals[which] += F.cross_entropy(logits, labels[keep], reduction="sum").item()
        count += int(keep.sum())
    return totals[0] / count, totals[1] / count
