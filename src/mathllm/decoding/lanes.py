"""Rows in flight: where each stands in the caches, and passes of both networks over them.

A lane is a row of the stores. Prompts lie right-aligned, padded on the left, so that all
lanes begin to generate in the same column; from there on each lane keeps its own count of
filled columns. A pass writes behind that count. `advance` moves it over what was accepted;
the rest is overwritten by the next pass, which is all there is to a rollback.
"""

import torch
from torch import Tensor

from mathllm.decoding.cache import BackboneCache, Store, Window, window
from mathllm.decoding.refinement import Refinement, slots_per_step
from mathllm.trm import RecursiveLM
from mathllm.trm.backbone import run_backbone

PREFILL_TOKENS = 2048  # in one pass: bounds the masks and activations of long prompts


class Lanes:
    """Caches for `rows` rows of `width` columns, of which the first `live` are in use."""

    def __init__(
        self, model: RecursiveLM, rows: int, width: int, steps: int, threshold: float | None
    ) -> None:
        self.model = model
        self.width = width
        self.live = rows
        config, weight = model.config, model.halting.weight
        sizes = (rows, width, config.num_key_value_heads, config.head_size, weight.device)
        layers = model.backbone.config.num_hidden_layers
        self._backbone = BackboneCache(Store(layers, *sizes, model.backbone.dtype))
        self._recursion = Store(slots_per_step(model) * steps, *sizes, weight.dtype)
        self._refine = Refinement(model, self._recursion, steps, threshold)
        self._pad = torch.zeros(rows, dtype=torch.long, device=weight.device)
        self._filled = torch.zeros_like(self._pad)
        self._prompt_ends = torch.zeros_like(self._pad)  # columns before the last of the prompt
        self._columns = [0] * rows  # what _filled holds, known without asking the device

    def prefill(self, prompts: list[list[int]], ends: list[int], lanes: list[int]) -> None:
        """Fill the caches with token ids; lane r continues prompt lanes[r], which is ≤ r.

        Tokens from place ends[p] of prompt p on were generated, and may halt.
        """
        device = self._pad.device
        longest = max(map(len, prompts))
        tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        tokens = tokens.to(device)
        count, self.live = self.live, len(prompts)
        self._pad[: self.live] = torch.tensor([longest - len(p) for p in prompts], device=device)
        self._prompt_ends[: self.live] = self._pad[: self.live] + torch.tensor(ends, device=device)
        generated = any(len(p) > end for p, end in zip(prompts, ends, strict=True))
        size = max(1, PREFILL_TOKENS // len(prompts))
        for start in range(0, longest, size):
            chunk = tokens[:, start : start + size]
            columns = self.window(chunk.shape[1])
            h, _ = self.feed(chunk, columns)
            self.refine(h, columns, may_halt=generated)
            self.advance([chunk.shape[1]] * self.live)
        self._spread(lanes, count)

    def _spread(self, lanes: list[int], count: int) -> None:
        """Copy prefilled lanes to those that continue them, last first: none is lost unread."""
        for target in reversed(range(count)):
            if (source := lanes[target]) != target:
                self._move(source, target)
        self.live = count

    def _move(self, source: int, target: int) -> None:
        for store in (self._backbone.store, self._recursion):
            store.copy_row(source, target, self._columns[source])
        for values in (self._pad, self._filled, self._prompt_ends):
            values[target] = values[source].clone()
        self._columns[target] = self._columns[source]

    def keep(self, places: list[int]) -> list[int]:
        """Go on with the lanes at these places only; gives them in their new order.

        Places that become free are taken by the last lanes, so that few are copied.
        """
        count = len(places)
        late = [place for place in places if place >= count]
        order = list(range(count))
        for hole in sorted(set(range(count)) - set(places)):
            order[hole] = late.pop()
            self._move(order[hole], hole)
        self.live = count
        return order

    def window(self, size: int, offset: int = 0) -> Window:
        """The next `size` columns of each live lane, `offset` behind what is filled."""
        steps = torch.arange(offset, offset + size, device=self._pad.device)
        columns = self._filled[: self.live, None] + steps
        read = max(self._columns[: self.live]) + offset + size
        return window(columns, self._pad[: self.live], read, self.width)

    def feed(self, tokens: Tensor, columns: Window) -> tuple[Tensor, Tensor]:
        """Tokens [B, S] through the backbone: h [B, S, D] before and after its final norm."""
        self._backbone.window = columns
        return run_backbone(
            self.model.backbone,
            input_ids=tokens,
            attention_mask=columns.bias(self.model.backbone.dtype),
            position_ids=columns.positions,
            past_key_values=self._backbone,
            use_cache=True,
        )

    def refine(self, h: Tensor, columns: Window, may_halt: bool = True) -> tuple[Tensor, Tensor]:
        """h [B, S, D] -> y [B, S, D] and supervision steps [B, S]. Prompts never halt."""
        x = self.model.normalise(h)
        eligible = columns.columns >= self._prompt_ends[: self.live, None] if may_halt else None
        y, used = self._refine(x, columns, eligible)
        if used is None:
            used = torch.full(x.shape[:2], self._refine.steps, device=x.device)
        return y, used

    def advance(self, counts: list[int]) -> None:
        """Each live lane has so many columns more."""
        self._filled[: self.live] += torch.tensor(counts, device=self._filled.device)
        self._columns[: self.live] = [
            columns + count for columns, count in zip(self._columns, counts, strict=False)
        ]
