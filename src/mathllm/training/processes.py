"""The processes that train together, as the trainer sees them.

accelerate's `Accelerator` is one of these as it is; `Alone` is a single process that needs
no accelerate.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Processes(Protocol):
    """Which of how many processes this one is, its device, and what they do together."""

    @property
    def device(self) -> torch.device: ...
    @property
    def process_index(self) -> int: ...
    @property
    def num_processes(self) -> int: ...
    @property
    def is_main_process(self) -> bool: ...

    def reduce(self, tensor: Tensor, reduction: str = "sum") -> Tensor:
        """The tensors of all processes, summed."""
        ...

    def wait_for_everyone(self) -> None:
        """Return once every process has come here."""
        ...


@dataclass(frozen=True)
class Alone:
    """One process, on one device."""

    device: torch.device
    process_index: int = 0
    num_processes: int = 1
    is_main_process: bool = True

    def reduce(self, tensor: Tensor, reduction: str = "sum") -> Tensor:  # noqa: ARG002
        """The tensor itself."""
        return tensor

    def wait_for_everyone(self) -> None:
        """There is nobody else."""
