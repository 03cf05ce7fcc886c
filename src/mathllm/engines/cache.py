"""Keys and values of every layer, in one block allocated beforehand, and attention over them.

A store has one for each layer that attends: the backbone's layers, or the recursion's
L · (n + 1) · T · N_sup virtual ones (a token attends, in each place of the three loops, to
what the same place computed for earlier tokens). A row of a layer has one column a token.
Which columns count is the window's word alone, so a rollback is a number that gets smaller.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache


@dataclass
class Window:
    """The columns that a pass over S tokens in each of B rows fills, and what they see.

    `columns` [B, S]; `positions` [B, S], without padding; `places` [B · S], the columns in
    the order of memory; `visible` [B, 1, S, width], true where a token may attend.
    """

    columns: Tensor
    positions: Tensor
    places: Tensor
    visible: Tensor

    def bias(self, dtype: torch.dtype, queries_per_key: int = 1) -> Tensor:
        """0 where a token may attend and −∞ elsewhere, [B, 1, queries_per_key · S, width]."""
        bias = torch.zeros(self.visible.shape, dtype=dtype, device=self.visible.device)
        bias.masked_fill_(~self.visible, -torch.inf)
        return bias.repeat(1, 1, queries_per_key, 1)


def window(columns: Tensor, pad: Tensor, width: int, capacity: int) -> Window:
    """The window of `columns` [B, S] in rows that begin with `pad` [B] columns of padding.

    A token sees itself and earlier tokens of its row. Padding sees itself, since a softmax
    over nothing is not a number. `capacity` is how many columns a row has in memory.
    """
    seen = torch.arange(width, device=columns.device)
    own = columns[:, None, :, None]  # [B, 1, S, 1]
    visible = (seen <= own) & ((seen >= pad[:, None, None, None]) | (seen == own))
    row = torch.arange(len(columns), device=columns.device)[:, None]
    places = (row * capacity + columns).flatten()
    return Window(columns, (columns - pad[:, None]).clamp(min=0), places, visible)


class Store:
    """Keys and values, each [layers, rows, width, G, D] with G key-value heads of size D."""

    def __init__(
        self,
        layers: int,
        rows: int,
        width: int,
        heads: int,
        head_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (layers, rows, width, heads, head_size)
        # Zeros: what was never written has weight 0 in a softmax, and must not be NaN.
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)

    def write(self, layer: int, places: Tensor, k: Tensor, v: Tensor) -> None:
        """k and v [B, G, S, D] of one layer to the places [B · S] of a window."""
        for whole, new in ((self.keys, k), (self.values, v)):
            whole[layer].flatten(0, 1).index_copy_(0, places, new.transpose(1, 2).flatten(0, 1))

    def read(self, layer: int, rows: int, width: int) -> tuple[Tensor, Tensor]:
        """Keys and values [rows, G, width, D] of one layer, as views."""
        keys, values = self.keys[layer, :rows, :width], self.values[layer, :rows, :width]
        return keys.transpose(1, 2), values.transpose(1, 2)

    def copy_row(self, source: int, target: int, width: int) -> None:
        """The first `width` columns of one row over those of another."""
        for whole in (self.keys, self.values):
            whole[:, target, :width] = whole[:, source, :width]

    def clear(self, row: int, start: int) -> None:
        """Zeros in a row's columns from `start` on: what another row left may be no numbers."""
        for whole in (self.keys, self.values):
            whole[:, row, start:] = 0

    def repeat_layers(self, source: slice, times: int, places: Tensor) -> None:
        """At these places, what the layers `source` hold goes to the `times` spans after them."""
        span = source.stop - source.start
        for whole in (self.keys, self.values):
            flat = whole.flatten(1, 2)
            kept = flat[source].index_select(1, places)
            for number in range(1, times + 1):
                later = slice(source.start + number * span, source.stop + number * span)
                flat[later].index_copy_(1, places, kept)


class BackboneCache(Cache):
    """A store as transformers' layers want it: written at a window, read back whole."""

    def __init__(self, store: Store) -> None:
        super().__init__(layers=[])
        self.store = store

    def at(self, places: Tensor, rows: int, width: int) -> "BackboneCache":
        """Itself, for the next pass: written at `places`, the first `width` columns read."""
        self._places, self._rows, self._width = places, rows, width
        return self

    def update(self, k: Tensor, v: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Stores k and v [B, G, S, D] of a layer; gives keys and values [B, G, width, D]."""
        self.store.write(layer, self._places, k, v)
        return self.store.read(layer, self._rows, self._width)

    def get_seq_length(self, *_: Any) -> int:
        """Columns that are read."""
        return self._width


def grouped_attention(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Attention of q [B, H, S, D] over keys and values [B, G, width, D], without repeating them.

    The H/G query heads of a key-value head become further queries of it: `bias` is
    [B, 1, H/G · S, width]. Gives [B, H, S, D].
    """
    grouped = q.reshape(len(q), keys.shape[1], -1, q.shape[-1])  # [B, G, H/G · S, D]
    return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=bias).reshape(q.shape)


def cached_attention(
    store: Store, places: Tensor, bias: Tensor, first: int, tokens: Tensor | None = None
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """An `Attend` of mathllm.trm.block that takes the layers from `first` on, one a call.

    `places` and `bias` as a window has them, bias for grouped queries. With `tokens` [A],
    only those of the window's B · S tokens are there, as one row: q [1, H, A, D]. They are
    put in their places for the attention alone.
    """
    layer = first
    rows, width, count = bias.shape[0], bias.shape[-1], len(places)
    own = places if tokens is None else places[tokens]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        nonlocal layer
        store.write(layer, own, k, v)
        keys, values = store.read(layer, rows, width)
        layer += 1
        if tokens is None:
            return grouped_attention(q, keys, values, bias)
        dense = q.new_zeros(count, *q.shape[1::2])  # [B · S, H, D]
        dense.index_copy_(0, tokens, q[0].transpose(0, 1))
        dense = dense.unflatten(0, (rows, -1)).transpose(1, 2)
        mixed = grouped_attention(dense, keys, values, bias)
        return mixed.transpose(1, 2).flatten(0, 1)[tokens].transpose(0, 1)[None]

    return attend
