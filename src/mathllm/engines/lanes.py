"""Rows in flight: where each stands in the caches, and passes of both networks over them.

A lane is a row of the stores. Prompts that are filled together lie right-aligned, padded on the
left; from there on each lane keeps its own count of filled columns. A pass writes behind that
count. `advance` moves it over what was accepted; the rest is overwritten by the next pass, which
is all there is to a rollback. Lanes leave and join between passes.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mathllm.engines.cache import BackboneCache, Store, Window, window
from mathllm.engines.graphs import Graphs
from mathllm.engines.refinement import Refinement, layers_per_step
from mathllm.trm import RecursiveLM
from mathllm.trm.backbone import run_backbone

PREFILL_TOKENS = 2048  # in one pass: bounds the masks and activations of long prompts
WIDTH_STEP = 256  # columns: with graphs, the width that is read grows in such steps


class Lanes:
    """Caches for `rows` rows of `width` columns, of which the first `live` are in use.

    `steps` supervision steps; 0: the backbone alone, without the recursion's caches. With
    `graphs`, passes have few different shapes: the number of lanes that run is a power of two, so
    that idle ones run along, and the width that is read grows in steps.
    """

    def __init__(
        self,
        model: RecursiveLM,
        rows: int,
        width: int,
        steps: int,
        threshold: float | None,
        graphs: bool = False,
    ) -> None:
        self.model = model
        self.rows = rows
        self.width = width
        self._steps, self._threshold = steps, threshold
        config, weight = model.config, model.halting.weight
        # One column more, for what is written in vain.
        sizes = (rows, width + 1, config.num_key_value_heads, config.head_size, weight.device)
        layers = model.backbone.config.num_hidden_layers
        self._backbone = BackboneCache(Store(layers, *sizes, model.backbone.dtype))
        self._recursion = Store(layers_per_step(model) * steps, *sizes, weight.dtype)
        self._graphs = Graphs() if graphs else None
        self._refine = Refinement(model, self._recursion, steps, threshold, self._graphs)
        self._pad = torch.zeros(rows, dtype=torch.long, device=weight.device)
        self._filled = torch.zeros_like(self._pad)
        self._prompt_ends = torch.zeros_like(self._pad)  # the column of a prompt's last token
        self._columns = [0] * rows  # what _filled holds, known without asking the device
        self.live = rows

    @property
    def bytes(self) -> int:
        """What the caches take."""
        return sum(store.keys.nbytes + store.values.nbytes for store in self._stores)

    @property
    def recorded(self) -> int:
        """Graphs so far. A pass that records one takes long, and says nothing of the next."""
        return 0 if self._graphs is None else len(self._graphs)

    def reset(self, live: int) -> None:
        """As new, for `live` rows: zeros, so that nothing of an earlier run is left."""
        for store in self._stores:
            store.keys.zero_()
            store.values.zero_()
        self.live = 0
        self._clear_idle()
        self.live = live

    def _clear_idle(self) -> None:
        """Lanes that only run along begin at column 0 again."""
        for values in (self._pad, self._filled, self._prompt_ends):
            values[self.live :] = 0
        self._columns[self.live :] = [0] * (self.rows - self.live)

    @property
    def _running(self) -> int:
        """Lanes that a pass computes."""
        if self._graphs is None:
            return self.live
        return min(self.rows, 1 << (self.live - 1).bit_length())

    def prefill(
        self,
        prompts: list[list[int]],
        ends: list[int],
        lanes: list[int],
        go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        """Fill the caches with token ids; lane r continues prompt lanes[r], which is ≤ r.

        Tokens from place ends[p] of prompt p on were generated, and may halt. `go_on` is
        asked before each pass, and False leaves the rest undone.
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
            if not go_on():
                break
            chunk = tokens[:, start : start + size]
            columns = self.window(chunk.shape[1], replay=False)
            h, _ = self.feed(chunk, columns, replay=False)
            if self._steps:
                self.refine(h, columns, may_halt=generated, replay=False)
            self.advance([chunk.shape[1]] * self.live)
        # Last first, so that none is overwritten before it was copied.
        for target in reversed(range(count)):
            if (source := lanes[target]) != target:
                self._move(source, target)
        self.live = count

    @property
    def _stores(self) -> tuple[Store, Store]:
        return self._backbone.store, self._recursion

    def _move(self, source: int, target: int) -> None:
        for store in self._stores:
            store.copy_row(source, target, self._columns[source])
            store.clear(target, self._columns[source])
        for values in (self._pad, self._filled, self._prompt_ends):
            values[target] = values[source].clone()
        self._columns[target] = self._columns[source]

    def like(self, rows: int, width: int, graphs: bool = False) -> "Lanes":
        """Such lanes of so many rows and columns, all of them in use and empty."""
        return Lanes(self.model, rows, width, self._steps, self._threshold, graphs)

    def grown(self, rows: int, width: int) -> "Lanes":
        """Such lanes with room for more, in the same state; graphs are recorded anew."""
        lanes = self.like(rows, width, self._graphs is not None)
        for mine, new in zip(self._stores, lanes._stores, strict=True):
            count = max(self._columns[: self.live], default=0)
            new.keys[:, : self.live, :count] = mine.keys[:, : self.live, :count]
            new.values[:, : self.live, :count] = mine.values[:, : self.live, :count]
        for values in ("_pad", "_filled", "_prompt_ends"):
            getattr(lanes, values)[: self.live] = getattr(self, values)[: self.live]
        lanes._columns[: self.live] = self._columns[: self.live]
        lanes.live = self.live
        return lanes

    def join(self, other: "Lanes", lane: int, prompt: int) -> None:
        """One more lane, the last: the first `prompt` tokens of a lane of `other`, or of these."""
        target, self.live = self.live, self.live + 1
        pad = int(other._pad[lane])
        for mine, theirs in zip(self._stores, other._stores, strict=True):
            mine.keys[:, target, :prompt] = theirs.keys[:, lane, pad : pad + prompt]
            mine.values[:, target, :prompt] = theirs.values[:, lane, pad : pad + prompt]
            mine.clear(target, prompt)
        self._pad[target] = 0
        self._filled[target] = prompt
        self._prompt_ends[target] = other._prompt_ends[lane] - pad
        self._columns[target] = prompt

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
        self._clear_idle()
        return order

    def window(self, size: int, offset: int = 0, replay: bool = True) -> Window:
        """The next `size` columns of each lane, `offset` behind what is filled."""
        rows = self._running if replay else self.live
        steps = torch.arange(offset, offset + size, device=self._pad.device)
        columns = self._filled[:rows, None] + steps
        read = max(self._columns[:rows]) + offset + size
        if self._graphs is not None and replay:
            read = min(self.width, -(-read // WIDTH_STEP) * WIDTH_STEP)
        return window(columns, self._pad[:rows], read, self.width + 1)

    def feed(self, tokens: Tensor, columns: Window, replay: bool = True) -> tuple[Tensor, Tensor]:
        """Tokens [B, S] of the live lanes through the backbone.

        Gives h before the final norm, of every lane that runs, and after it, of the live ones.
        """
        idle = len(columns.columns) - len(tokens)
        tokens = F.pad(tokens, (0, 0, 0, idle))
        bias = columns.bias(self.model.backbone.dtype)
        inputs = (tokens, bias, columns.positions, columns.places)
        if self._graphs is not None and replay:
            h, normed = self._graphs(self._feed, *inputs)
        else:
            h, normed = self._feed(*inputs)
        return h, normed[: self.live]

    def _feed(
        self, tokens: Tensor, bias: Tensor, positions: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor]:
        return run_backbone(
            self.model.backbone,
            input_ids=tokens,
            attention_mask=bias,
            position_ids=positions,
            past_key_values=self._backbone.at(places, bias.shape[0], bias.shape[-1]),
            use_cache=True,
        )

    def refine(
        self, h: Tensor, columns: Window, may_halt: bool = True, replay: bool = True
    ) -> tuple[Tensor, Tensor]:
        """h of every lane that runs -> y [B, S, D] and supervision steps [B, S] of the live ones.

        Prompts never halt.
        """
        x = self.model.normalise(h)
        eligible = columns.columns >= self._prompt_ends[: len(h), None] if may_halt else None
        y, used = self._refine(x, columns, eligible, self.live, replay)
        return y[: self.live], used[: self.live]

    def advance(self, counts: list[int]) -> None:
        """Each live lane has so many columns more."""
        self._filled[: self.live] += torch.tensor(counts, device=self._filled.device)
        self._columns[: self.live] = [
            columns + count for columns, count in zip(self._columns, counts, strict=False)
        ]
