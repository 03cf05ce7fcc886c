"""Rows that are generated together, as tensors."""

import torch
from torch import Tensor

from mathllm.engines.requests import Row
from mathllm.engines.sampling import Rules, random_numbers


class PromptBatch:
    """Rows that are generated together, and what a pass needs of them on the device."""

    def __init__(self, rows: list[Row], device: torch.device) -> None:
        self.rows = rows
        self.rules = Rules([row.config for row in rows], device)
        self._device = device
        most = max(row.limit for row in rows)
        random = torch.zeros(len(rows), most, 3, dtype=torch.float64)
        for place, row in enumerate(rows):
            if row.random is None:
                row.random = random_numbers(row.seed, row.limit)
            random[place, : row.limit] = row.random
        self._random = random.to(device)

    @property
    def last(self) -> Tensor:
        """Each row's last token [B], which no cache holds yet."""
        return torch.tensor([row.sequence[-1] for row in self.rows], device=self._device)

    @property
    def room(self) -> int:
        """Tokens that some row may still have."""
        return max(row.room for row in self.rows)

    def uniform(self, count: int) -> Tensor:
        """Random numbers [B, count, 3] of the next tokens; past a row's limit, any."""
        emitted = torch.tensor([len(row.completion.tokens) for row in self.rows])
        at = emitted[:, None] + torch.arange(count)
        at = at.clamp(max=self._random.shape[1] - 1).to(self._device)
        return self._random.gather(1, at[..., None].expand(-1, -1, 3))

    def seen(self, vocabulary: int) -> Tensor | None:
        """Which tokens [B, V] each row holds, where a repetition penalty asks for it."""
        if not self.rules.penalised:
            return None
        seen = torch.zeros(len(self.rows), vocabulary, dtype=torch.bool)
        for place, row in enumerate(self.rows):
            seen[place, row.sequence] = True
        return seen.to(self._device)
