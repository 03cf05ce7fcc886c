"""Examples to batches of like length under a token budget.

Knows token ids and lengths. Knows neither text nor models.
"""

import random
from collections.abc import Iterator, Sequence

import torch

from mathllm.data.chat import Example

IGNORED = -100  # the label that cross_entropy skips


def length_batches(
    lengths: Sequence[int], token_budget: int, seed: int, max_rows: int | None = None
) -> list[list[int]]:
    """Indices in batches whose padded size rows × longest is at most `token_budget`.

    Rows of like length stand together; order of rows of one length and of batches is
    shuffled by `seed`. A row longer than the budget makes a batch of its own.
    """
    rng = random.Random(seed)
    order = list(range(len(lengths)))
    rng.shuffle(order)
    order.sort(key=lengths.__getitem__)  # stable: ties keep the shuffled order
    batches: list[list[int]] = []
    current: list[int] = []
    for index in order:  # ascending, so the newest row is the longest
        full = max_rows is not None and len(current) >= max_rows
        if current and (full or (len(current) + 1) * lengths[index] > token_budget):
            batches.append(current)
            current = []
        current.append(index)
    if current:
        batches.append(current)
    rng.shuffle(batches)
    return batches


def collate(examples: Sequence[Example], padding: int) -> tuple[torch.Tensor, ...]:
    """input_ids, attention_mask, labels, all [B, S], padded on the right.

    labels[b, t] is the token that position t must predict (input_ids[b, t + 1]), or
    IGNORED where that token is prompt or padding.
    """
    longest = max(len(e.tokens) for e in examples)
    input_ids = torch.full((len(examples), longest), padding)
    attention_mask = torch.zeros((len(examples), longest), dtype=torch.long)
    labels = torch.full((len(examples), longest), IGNORED)
    for row, example in enumerate(examples):
        tokens = torch.tensor(example.tokens)
        input_ids[row, : len(tokens)] = tokens
        attention_mask[row, : len(tokens)] = 1
        labels[row, example.prompt - 1 : len(tokens) - 1] = tokens[example.prompt :]
    return input_ids, attention_mask, labels


def batches_of(
    examples: Sequence[Example],
    token_budget: int,
    padding: int,
    seed: int,
    max_rows: int | None = None,
) -> Iterator[tuple[torch.Tensor, ...]]:
    """`collate` over `length_batches`, once through the examples."""
    for indices in length_batches([len(e.tokens) for e in examples], token_budget, seed, max_rows):
        yield collate([examples[i] for i in indices], padding)
