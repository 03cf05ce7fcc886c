"""Rows to train on, and the log that a run leaves."""

import json
from pathlib import Path

import torch

from mathllm.tokens.rows import Example, TokenSet


def token_set(count: int, seed: int = 0) -> TokenSet:
    """Sequences that repeat their first token: learnable, and new to a random backbone."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(0, 97, (count,), generator=generator).tolist()
    return TokenSet.of([Example([t] * (6 + i % 4), prompt=2) for i, t in enumerate(first)])


def metrics(output: Path) -> list[dict]:
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines][1:]
