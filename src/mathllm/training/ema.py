"""Exponential moving average of the trained weights (arXiv 2510.04871, section 4.7)."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class EMA:
    """Averages `parameters`; `applied` puts the averages in their place for a while."""

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

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averages stand in the model while the context lasts."""
        trained = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.averages)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, trained)
