"""Rows in the middle of deep supervision: their states, and supervision steps over them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mathllm.tokens.batches import IGNORED, collate
from mathllm.tokens.rows import TokenSet
from mathllm.training.config import Compute, TrainConfig
from mathllm.trm import RecursiveLM
from mathllm.trm.model import Encoded
from mathllm.trm.recursion import F as Recursed

LIKE = 16  # replacements are drawn from this many times as many rows of nearest length


@dataclass
class MicroBatch:
    """Rows of a token set, padded on the right to S, after `ages` supervision steps each.

    x, y, z [B, S, D] wait on the CPU between supervision steps.
    """

    rows: list[int]
    ages: list[int]
    x: Tensor
    y: Tensor
    z: Tensor


@dataclass
class Sums:
    """Over the label tokens of a supervision step: losses in nats, tokens that were right.

    `right_rows`: places of rows whose labels were all right. `done`: of those whose own were.
    """

    answer_loss: float
    halting_loss: float
    right: float
    labels: int
    right_rows: list[int]
    done: list[int]


def begin(model: RecursiveLM, data: TokenSet, rows: Sequence[int], padding: int) -> MicroBatch:
    """The rows before their first supervision step: x from the backbone, y and z initial."""
    device = model.halting.weight.device
    input_ids, attention_mask, _ = collate([data[i] for i in rows], padding)
    x = model.encode(input_ids.to(device), attention_mask.to(device)).x
    y, z = (state.detach().cpu().clone() for state in model.initial(x))
    return MicroBatch([int(i) for i in rows], [0] * len(rows), x.cpu(), y, z)


def labels_of(data: TokenSet, batch: MicroBatch) -> int:
    """Label tokens of the rows."""
    return int((data.lengths[batch.rows] - data.prompts[batch.rows]).sum())


def head_gradient(
    model: RecursiveLM,
    y: Tensor,
    labels: Tensor,
    own: Tensor,
    config: TrainConfig,
    chunk: int,
    scale: float,
) -> tuple[Sums, Tensor, Tensor]:
    """Losses of y [B, S, D] against labels [B, S] of a step, the rows' `own` [B, S] beside them.

    Gives also the states y [labels, D] that the losses look at, and their gradient, times
    `scale`; the head's own gradients are added up here. The head sees label positions only,
    `chunk` at a time, each chunk's backward pass right after its forward: one chunk of logits
    [chunk, V] is all that ever exists. The halting head learns whether the argmax token is the
    row's own, by binary cross-entropy. It reads y without shaping it: on a backbone that is
    nearly always right its gradient, through f, is the larger one by far and spoils the answers.
    """
    keep = labels != IGNORED
    answers, targets, final = y[keep], labels[keep], own[keep]  # [labels, D], [labels], [labels]
    leaf = answers.detach().requires_grad_()
    leaf.grad = torch.zeros_like(leaf)
    totals = torch.zeros(2, device=y.device, dtype=torch.promote_types(y.dtype, torch.float32))
    guesses = torch.empty_like(targets)
    for part in torch.arange(len(targets), device=y.device).split(chunk):
        logits = model.head(leaf[part])
        logits = logits.to(totals.dtype)  # 16 bits are too few
        guesses[part] = logits.argmax(dim=-1)
        answer_loss = F.cross_entropy(logits, targets[part], reduction="sum")
        halting_loss = F.binary_cross_entropy_with_logits(
            model.halting_logit(leaf.detach()[part]).to(totals.dtype),
            (guesses[part] == final[part]).to(totals.dtype),
            reduction="sum",
        )
        ((answer_loss + config.halting_weight * halting_loss) * scale).backward()
        totals += torch.stack([answer_loss.detach(), halting_loss.detach()])
    row, rows = keep.nonzero()[:, 0], len(labels)
    right = guesses == targets
    sums = Sums(
        *totals.tolist(),
        right=right.sum().item(),
        labels=len(targets),
        right_rows=whole_rows(row, right, rows),
        done=whole_rows(row, guesses == final, rows),
    )
    return sums, answers, leaf.grad


def whole_rows(row: Tensor, right: Tensor, rows: int) -> list[int]:
    """Of `rows` rows those that have tokens, `row` [tokens], and all of them `right` [tokens]."""
    count, wrong = torch.zeros(2, rows, device=row.device)
    count.index_add_(0, row, torch.ones_like(right, dtype=count.dtype))
    wrong.index_add_(0, row, (~right).to(wrong.dtype))
    return ((wrong == 0) & (count > 0)).nonzero()[:, 0].tolist()


def recursed(model: RecursiveLM, encoded: Encoded, step: int, compute: Compute) -> Recursed:
    """f; with activation checkpointing its inside is recomputed in the backward pass."""
    f = model.f(encoded.rotary, encoded.attend, step)
    if not compute.activation_checkpointing:
        return f
    return lambda h: checkpoint(f, h, use_reentrant=False) if torch.is_grad_enabled() else f(h)


def supervise(
    model: RecursiveLM,
    data: TokenSet,
    batch: MicroBatch,
    padding: int,
    config: TrainConfig,
    compute: Compute,
    autocast: torch.dtype | None,
    scale: float,
    steps: int = 1,
    targets: Callable[[Sequence[int], Sequence[int]], list[int]] = lambda rows, _: [0] * len(rows),
) -> list[Sums]:
    """`steps` supervision steps over the rows, with gradient through all of them.

    `targets` says which step's labels the rows have after so many steps. Gradients are added
    up, y and z go on detached.
    """
    device = model.halting.weight.device
    examples = [data[i] for i in batch.rows]
    input_ids, attention_mask, own = (part.to(device) for part in collate(examples, padding))
    x, y, z = (state.to(device) for state in (batch.x, batch.y, batch.z))
    fresh = torch.tensor([age == 0 for age in batch.ages], device=device)[:, None, None]
    full_gradient = model.config.learn_initial_state and 0 in batch.ages
    if full_gradient:
        y, z = (
            torch.where(fresh, start, state)
            for start, state in zip(model.initial(x), (y, z), strict=True)
        )
    # The gradient passes from step to step only where it goes through all T recursions.
    whole = full_gradient or config.window > 1
    found, ends, gradients = [], [], []
    with torch.autocast(device.type, autocast, enabled=autocast is not None):
        encoded = model.context(x, input_ids, attention_mask)
        for _ in range(steps):
            taught = targets(batch.rows, batch.ages)
            labels = collate(examples, padding, taught)[2].to(device) if any(taught) else own
            f = recursed(model, encoded, min(batch.ages) + 1, compute)
            y, z = model.step(f, encoded.x, y, z, whole)
            seen = model.readout(y, encoded)
            sums, answers, gradient = head_gradient(
                model, seen, labels, own, config, compute.logits_chunk, scale
            )
            found.append(sums)
            ends.append(answers)
            gradients.append(gradient)
            batch.ages = [age + 1 for age in batch.ages]
        torch.autograd.backward(ends, gradients)
    batch.y, batch.z = y.detach().cpu(), z.detach().cpu()
    return found


def replace(
    model: RecursiveLM,
    data: TokenSet,
    by_length: np.ndarray,
    batch: MicroBatch,
    done: Sequence[int],
    padding: int,
    seed: Sequence[int],
) -> None:
    """Fresh rows of like length, none longer than S, in the places `done`.

    `by_length` holds the rows to draw from in ascending order of length. A fresh row is an
    extra draw, random in `seed` alone: it keeps its own turn in the epoch, so that nothing
    has to be remembered. It gets the supervision steps that its micro-batch has left.
    """
    width = batch.x.shape[1]
    end = int(np.searchsorted(data.lengths[by_length], width, side="right"))
    near = by_length[max(0, end - LIKE * len(batch.rows)) : end]
    free = np.setdiff1d(near, batch.rows)
    count = min(len(done), len(free))
    if not count:
        return
    drawn = np.random.default_rng(seed).choice(free, size=count, replace=False)
    new = begin(model, data, drawn.tolist(), padding)
    for place, row in zip(done, range(count), strict=False):
        batch.rows[place], batch.ages[place] = new.rows[row], 0
        for old, state in ((batch.x, new.x), (batch.y, new.y), (batch.z, new.z)):
            old[place] = 0
            old[place, : state.shape[1]] = state[row]
    longest = int(data.lengths[batch.rows].max())
    batch.x, batch.y, batch.z = (t[:, :longest] for t in (batch.x, batch.y, batch.z))
