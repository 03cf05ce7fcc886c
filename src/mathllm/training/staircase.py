"""Which rows are right after each supervision step, by how many hops they ask for."""

from itertools import chain

import numpy as np
import torch

from mathllm.tokens.batches import IGNORED, collate, plan_batches
from mathllm.tokens.rows import TokenSet
from mathllm.training.supervision import whole_rows
from mathllm.trm import RecursiveLM


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
        keep = labels != IGNORED
        row, targets = keep.nonzero()[:, 0], labels[keep]
        encoded = model.encode(input_ids, attention_mask)
        # The head on x is the backbone itself.
        for step, y in enumerate(chain([encoded.x], model.states(encoded, steps))):
            seen = y[keep]
            hit = model.head(seen).argmax(dim=-1) == targets
            right[rows[whole_rows(row, hit, len(rows))], step] = True
            if step:
                says = model.halting_logit(seen) > 0
                sure[rows[whole_rows(row, says, len(rows))], step] = True
    return right, sure


def by_hops(right: np.ndarray, hops: np.ndarray) -> dict[int, list[float]]:
    """Share of right rows after each step, for each number of hops."""
    return {int(k): right[hops == k].mean(axis=0).tolist() for k in np.unique(hops[hops > 0])}
