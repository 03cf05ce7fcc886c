"""Which rows are right after each supervision step, by how many hops they ask for."""

from collections.abc import Iterator

import numpy as np
import torch

from mathllm.tokens.batches import IGNORED, collate, plan_batches
from mathllm.tokens.rows import TokenSet
from mathllm.trm import RecursiveLM
from mathllm.trm.recursion import deep_supervision


@torch.no_grad()
def right_by_step(
    model: RecursiveLM, data: TokenSet, padding: int, steps: int, batch: int = 8_000
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each row's own labels are all right, and whether the halting head says they are.

    Both bool [rows, steps + 1]; place 0 is the backbone, which says nothing. Labels are forced:
    a token is right if it is the argmax behind the row's true tokens. `batch` is in tokens.
    """
    right = np.zeros((len(data), steps + 1), dtype=bool)
    sure = np.zeros_like(right)
    device = model.halting.weight.device
    for rows in plan_batches(data.lengths, batch, seed=0):
        tensors = collate([data[int(i)] for i in rows], padding)
        input_ids, attention_mask, labels = (tensor.to(device) for tensor in tensors)
        ignored = labels == IGNORED
        for step, y in enumerate(_states(model, input_ids, attention_mask, steps)):
            hit = torch.stack([model.head(one).argmax(dim=-1) for one in y]) == labels
            right[rows, step] = (hit | ignored).all(dim=-1).cpu().numpy()
            if step:
                says = model.halting_logit(y) > 0
                sure[rows, step] = (says | ignored).all(dim=-1).cpu().numpy()
    return right, sure


def _states(
    model: RecursiveLM, input_ids: torch.Tensor, attention_mask: torch.Tensor, steps: int
) -> Iterator[torch.Tensor]:
    x, rotary, attend = model.encode(input_ids, attention_mask)
    yield x  # the head on x is the backbone itself
    config, f = model.config, model.f(rotary, attend)
    for y, _ in deep_supervision(f, x, *model.initial(x), config.n, config.T, steps):
        yield y


def by_hops(right: np.ndarray, hops: np.ndarray) -> dict[int, list[float]]:
    """Share of right rows after each step, for each number of hops."""
    return {int(k): right[hops == k].mean(axis=0).tolist() for k in np.unique(hops)}
