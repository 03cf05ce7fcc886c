"""Decoding as its definition says it, everything from scratch for every token."""

import random

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.models import make_backbone, random_trm
from mathllm.trm import RecursiveLM
from mathllm.trm.recursion import deep_recursion


def greedy(model: RecursiveLM, prompt: list[int], limit: int, stop: frozenset = frozenset()):
    """Tokens by the reference."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + limit:
        tokens.append(int(model.logits(torch.tensor([tokens]))[0, -1].argmax()))
        if tokens[-1] in stop:
            break
    return tokens[len(prompt) :]


@torch.no_grad()
def halting_logits(
    model: RecursiveLM, tokens: list[int], first: int, threshold: float
) -> tuple[Tensor, Tensor]:
    """Logits [S, V] and supervision steps [S] where tokens from `first` on may halt.

    A halted token keeps y and z, and in every later step shows the keys and values of the
    same place in its last step.
    """
    config = model.config
    x, rotary, _ = model.encode(torch.tensor([tokens]))
    y, z = model.initial(x)
    halted = torch.zeros(len(tokens), dtype=torch.bool)
    used = torch.full((len(tokens),), config.N_sup)
    before: list = []
    for step in range(config.N_sup):
        now: list = []

        def attend(q, k, v, now=now, before=before, halted=halted):
            if before:
                old_k, old_v = before[len(now)]
                k = torch.where(halted[:, None], old_k, k)
                v = torch.where(halted[:, None], old_v, v)
            now.append((k, v))
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

        new_y, new_z = deep_recursion(model.f(rotary, attend), x, y, z, config.n, config.T)
        y = torch.where(halted[:, None], y, new_y)
        z = torch.where(halted[:, None], z, new_z)
        before = now
        if step < config.N_sup - 1:
            sure = model.halting_logit(y)[0].sigmoid() >= threshold
            new = sure & ~halted & (torch.arange(len(tokens)) >= first)
            used[new] = step + 1
            halted = halted | new
    return model.head(y)[0], used


def greedy_halting(
    model: RecursiveLM, prompt: list[int], limit: int, threshold: float
) -> tuple[list[int], int]:
    """Tokens and supervision steps over all of them, with halting."""
    tokens, steps = list(prompt), 0
    for _ in range(limit):
        logits, used = halting_logits(model, tokens, len(prompt) - 1, threshold)
        tokens.append(int(logits[-1].argmax()))
        steps += int(used[-1])
    return tokens[len(prompt) :], steps


def random_model(draw: random.Random, **overrides: object) -> RecursiveLM:
    """A model of random shape that agrees with its backbone never, sometimes or mostly."""
    heads = draw.choice([2, 4])
    backbone = make_backbone(
        seed=draw.randrange(1000),
        vocab_size=draw.choice([29, 97]),
        hidden_size=heads * draw.choice([8, 16]),
        num_attention_heads=heads,
        num_key_value_heads=draw.choice([1, 2]),
        num_hidden_layers=draw.choice([1, 2]),
        tie_word_embeddings=draw.random() < 0.5,
    )
    recursion = {
        "n": draw.randint(1, 3),
        "T": draw.randint(1, 3),
        "N_sup": draw.randint(1, 3),
        "layers": draw.randint(1, 2),
        "mixer": draw.choice(["attention", "attention", "none"]),
    }
    std = draw.choice([0.02, 0.05, 0.1])
    return random_trm(backbone, draw.randrange(1000), std, **(recursion | overrides))


def random_lengths(draw: random.Random, most: int = 5):
    """A DraftLength.choose that says anything that the room allows."""
    return lambda self, room: draw.randint(0, min(most, room - 1, max(self.choices)))
