"""Rows that are generated together: as tensors, and in groups that fit into memory."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from mathllm.engines.memory import out_of_memory
from mathllm.engines.requests import Row
from mathllm.engines.sampling import Rules, random_numbers

log = logging.getLogger(__name__)


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
        return max(row.limit - len(row.completion.tokens) for row in self.rows)

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


def in_groups(
    rows: list[Row],
    size: int,
    run: Callable[[list[Row], int], None],
    release: Callable[[], None] = lambda: None,
) -> None:
    """Run every row, at most `size` together; `run` gets a group and how many rows wait.

    Where memory runs out, `release` is called and the rows that have not ended go on in
    halves, from the tokens they have; a single row that does not fit ends.
    """
    groups = [rows[start : start + size] for start in range(0, len(rows), size)]
    while groups:
        group = groups.pop(0)
        try:
            run(group, sum(map(len, groups)))
        except Exception as fault:
            if not out_of_memory(fault):
                raise
            # Not in this block: the traceback holds on to what filled the memory.
            cause = " ".join(str(fault).split())[:200]
        else:
            continue
        release()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        left = [row for row in group if not row.done]
        if len(left) == 1 and len(group) == 1:
            left[0].completion.finish_reason = "memory"
            log.warning("out of memory with one row, which ends: %s", cause)
            continue
        half = max(1, len(left) // 2)
        log.warning(
            "out of memory with %d rows, going on with %d at a time: %s", len(group), half, cause
        )
        groups[:0] = [left[start : start + half] for start in range(0, len(left), half)]
