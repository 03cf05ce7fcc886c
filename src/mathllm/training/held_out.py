"""Held-out loss of a TRM and of its own backbone."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from mathllm.tokens.batches import IGNORED, collate, plan_batches
from mathllm.tokens.rows import TokenSet
from mathllm.trm import RecursiveLM


@torch.no_grad()
def loss_sums(
    model: RecursiveLM, data: TokenSet, batches: Sequence[Sequence[int]], padding: int, chunk: int
) -> torch.Tensor:
    """[3], float64: summed loss of the TRM, of its backbone on the same tokens, label tokens."""
    device = model.halting.weight.device
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    for rows in batches:
        batch = collate([data[int(i)] for i in rows], padding)
        input_ids, attention_mask, labels = (tensor.to(device) for tensor in batch)
        keep = labels != IGNORED
        targets = labels[keep]
        x, rotary, attend = model.encode(input_ids, attention_mask)
        y = model.refine(x, rotary, attend)
        for which, state in enumerate((y, x)):  # the head on x is the backbone itself
            for part, target in zip(state[keep].split(chunk), targets.split(chunk), strict=True):
                sums[which] += F.cross_entropy(model.head(part).float(), target, reduction="sum")
        sums[2] += len(targets)
    return sums


def held_out_loss(
    model: RecursiveLM, data: TokenSet, padding: int, batch: int = 8_000, chunk: int = 1024
) -> tuple[float, float]:
    """Mean loss in nats a label token: of the TRM, and of its backbone on the same tokens.

    `batch` is in tokens, `chunk` in label positions whose logits exist at once.
    """
    ours, theirs, count = loss_sums(
        model, data, plan_batches(data.lengths, batch, seed=0, epoch=0), padding, chunk
    ).tolist()
    return ours / count, theirs / count
