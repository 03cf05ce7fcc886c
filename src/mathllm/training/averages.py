"""What follows the weights from step to step: their moving averages, and the learning rate."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class EMA:
    """Moving averages of `parameters` (arXiv 2510.04871, section 4.7).

    `apply` puts the averages in their place.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self.parameters = list(parameters)
        self.averages = [p.detach().clone() for p in self.parameters]
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """averages ← d · averages + (1 − d) · parameters.

        d rises to `decay` as (1 + t) / (10 + t): a short run would else end at its start.
        """
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the averages in the parameters' place, for good."""
        torch._foreach_copy_(self.parameters, self.averages)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averages in the parameters' place while the context lasts."""
        trained = [p.detach().clone() for p in self.parameters]
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, trained)


def cosine_with_warmup(step: int, steps: int, warmup: int) -> float:
    """Factor of the peak rate: linear to 1 over `warmup`, then half a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))
