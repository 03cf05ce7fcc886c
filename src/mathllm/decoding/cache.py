"""Keys and values of every virtual layer of the recursion, exact.

In each supervision step, recursion, latent update and layer, a token attends to the keys
and values that the same place computed for earlier tokens. So there is one slot a place,
L · (n + 1) · T · N_sup of them, visited in the order in which the recursion calls them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mathllm.trm import TRMConfig


class RecursionCache:
    """Preallocated keys and values, [slots, B, G, width, D], filled column by column."""

    def __init__(
        self, config: TRMConfig, rows: int, width: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        slots = config.effective_depth if config.mixer == "attention" else 0
        shape = (slots, rows, config.num_key_value_heads, width, config.head_size)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.valid = torch.zeros(rows, width, dtype=torch.bool, device=device)
        self.length = 0  # columns filled
        self._columns = slice(0, 0)
        self._mask = torch.empty(0)
        self._slot = 0

    def open(self, valid: Tensor) -> None:
        """Take the next S columns, tokens where `valid` [B, S], before the recursion runs."""
        size = valid.shape[1]
        self._columns = slice(self.length, self.length + size)
        self.valid[:, self._columns] = valid
        self.length += size
        self._slot = 0
        own = torch.ones(size, self.length, dtype=torch.bool, device=valid.device)
        causal = own.tril(diagonal=self.length - size)
        itself = causal.triu(diagonal=self.length - size)  # for padding, as in the reference
        self._mask = (causal & self.valid[:, None, None, : self.length]) | itself

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """An `Attend` of mathllm.trm.block: stores k and v in the next slot, then attends."""
        self.keys[self._slot, :, :, self._columns] = k
        self.values[self._slot, :, :, self._columns] = v
        keys = self.keys[self._slot, :, :, : self.length]
        values = self.values[self._slot, :, :, : self.length]
        self._slot += 1
        return F.scaled_dot_product_attention(
            q, keys, values, attn_mask=self._mask, enable_gqa=q.shape[1] != k.shape[1]
        )

    def select(self, rows: Tensor) -> None:
        """Keep the rows named by index, in that order; an index may come more than once."""
        self.keys = self.keys.index_select(1, rows)
        self.values = self.values.index_select(1, rows)
        self.valid = self.valid.index_select(0, rows)
