"""Rows to batches of like length under a token budget."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from mathllm.tokens.rows import IGNORED, Example

NO_LABEL = -1  # in place of a supervision step


def plan_batches(
    lengths: Sequence[int] | np.ndarray,
    token_budget: int,
    seed: int,
    epoch: int = 0,
    max_rows: int | None = None,
) -> list[np.ndarray]:
    """Row indices in batches whose padded size rows × longest is at most `token_budget`.

    Rows of like length stand together; the order of rows of one length and of batches is
    random in (seed, epoch) alone, so that a run goes on at any batch by planning again. A
    row longer than the budget makes a batch of its own.
    """
    lengths = np.asarray(lengths)
    rng = np.random.default_rng((seed, epoch))
    shuffled = rng.permutation(len(lengths))
    order = shuffled[np.argsort(lengths[shuffled], kind="stable")]  # ties stay shuffled
    ascending = lengths[order].tolist()
    starts = [0] if ascending else []
    for place, length in enumerate(ascending):  # ascending, so the newest row is the longest
        rows = place - starts[-1]
        full = max_rows is not None and rows >= max_rows
        if rows and (full or (rows + 1) * length > token_budget):
            starts.append(place)
    batches = np.split(order, starts[1:]) if starts else []
    return [batches[i] for i in rng.permutation(len(batches))]


def rank_share(
    plan: Sequence[np.ndarray], rank: int, world: int, accumulation: int
) -> list[list[np.ndarray]]:
    """The micro-batches of process `rank` of `world`, `accumulation` of them a group.

    Group g is plan[g · world · accumulation : (g + 1) · world · accumulation], whoever
    computes it: processes and accumulation can be exchanged. Every process needs as many
    micro-batches as the others, or they would wait for ever, so the last group is filled
    up with batches from the plan's beginning.
    """
    size = world * accumulation
    groups = -(-len(plan) // size)
    first = rank * accumulation
    return [
        [plan[(group * size + first + i) % len(plan)] for i in range(accumulation)]
        for group in range(groups)
    ]


def collate(
    examples: Sequence[Example], padding: int, steps: Sequence[int] | None = None
) -> tuple[torch.Tensor, ...]:
    """input_ids, attention_mask, labels, all [B, S], padded on the right.

    labels[b, t] is the token that position t must predict (input_ids[b, t + 1]), or
    IGNORED where that token is prompt or padding; with `steps`, one a row, what supervision
    step steps[b] has in its place, or no label at all for NO_LABEL.
    """
    longest = max(len(e.tokens) for e in examples)
    shape = (len(examples), longest)
    input_ids = np.full(shape, padding, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    labels = np.full(shape, IGNORED, dtype=np.int64)
    for row, example in enumerate(examples):
        length = len(example.tokens)
        input_ids[row, :length] = example.tokens
        attention_mask[row, :length] = 1
        step = 0 if steps is None else steps[row]
        if step != NO_LABEL:
            labels[row, example.prompt - 1 : length - 1] = example.labels(step)
    return tuple(torch.from_numpy(part) for part in (input_ids, attention_mask, labels))


def batches_of(
    examples: Sequence[Example],
    token_budget: int,
    padding: int,
    seed: int,
    max_rows: int | None = None,
) -> Iterator[tuple[torch.Tensor, ...]]:
    """`collate` over `plan_batches`, once through the examples."""
    lengths = [len(e.tokens) for e in examples]
    for rows in plan_batches(lengths, token_budget, seed, max_rows=max_rows):
        yield collate([examples[i] for i in rows], padding)
