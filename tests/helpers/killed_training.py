"""A small run that saves after every step, in a process of its own that tests may kill."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from helpers.models import make_backbone, random_trm
from helpers.training import stepped_set, token_set
from mathllm.training.config import Saving, TrainConfig
from mathllm.training.run import train

CONFIG = TrainConfig(
    batch=60, gradient_accumulation=2, epochs=6, lr=1e-3, warmup_steps=3, replace_halted=True
)

# Nothing is learned, so that both phases go on by patience.
CURRICULUM = replace(
    CONFIG, targets="steps", gated=True, forced=2, window=2, patience=5, lr=1e-6, epochs=8
)


def run(output: Path, every_minutes: float = 0.0, config: TrainConfig = CONFIG) -> list:
    """Train, from the last checkpoint where there is one; the weights at the end."""
    torch.set_num_threads(1)
    model = random_trm(make_backbone(), n=1, T=2, N_sup=4)
    train(
        model,
        stepped_set(30) if config.gated else token_set(30),
        config,
        padding=0,
        output=output,
        held_out=token_set(5, seed=1),
        saving=Saving(every_minutes=every_minutes, evaluate_steps=7),
    )
    return [p.detach() for _, p in model.trm_parameters()]


if __name__ == "__main__":
    run(Path(sys.argv[1]))
