"""Rows to train on, and the log that a run leaves."""

import json
from pathlib import Path

import numpy as np
import torch

from mathllm.tokens.rows import Example, TokenSet


def token_set(count: int, seed: int = 0) -> TokenSet:
    """Sequences that repeat their first token: learnable, and new to a random backbone."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(0, 97, (count,), generator=generator).tolist()
    return TokenSet.of([Example([t] * (6 + i % 4), prompt=2) for i, t in enumerate(first)])


def stepped_set(count: int, hops: int = 3, depth: int = 4, seed: int = 0) -> TokenSet:
    """Rows of 1 to `hops` hops with labels for `depth` steps: tokens that count up."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(0, 80, (count,), generator=generator).tolist()
    rows = []
    for i, t in enumerate(first):
        size, k = 2 + i % 3, 1 + i % hops
        steps = np.array([[t + step] * size for step in range(1, depth + 1)], dtype=np.int32)
        rows.append(Example([t, 90 + k, *[t + k] * size], prompt=2, steps=steps, hops=k))
    return TokenSet.of(rows)


def metrics(output: Path) -> list[dict]:
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines][1:]
