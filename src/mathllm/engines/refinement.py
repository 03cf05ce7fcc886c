"""The recursion over cached columns: N_sup supervision steps, or fewer where tokens halt."""

import torch
from torch import Tensor

from mathllm.engines.cache import Store, Window, cached_attention
from mathllm.engines.graphs import Graphs
from mathllm.trm import RecursiveLM
from mathllm.trm.recursion import deep_recursion


def layers_per_step(model: RecursiveLM) -> int:
    """Layers of one supervision step that keep keys and values: L · (n + 1) · T, or none."""
    config = model.config
    return config.layers * (config.n + 1) * config.T if config.mixer == "attention" else 0


class Refinement:
    """Refines the tokens of a window, through all supervision steps or until they halt.

    After each supervision step, tokens that may halt and whose halting probability has
    reached `threshold` freeze: their y and z stay, and so do their keys and values, which
    every later step finds where its own would be. The others go on alone; or, with `graphs`,
    which want the same shapes always, all are computed until the last has frozen, and what
    frozen tokens would write goes to a column that nothing reads, the last one of a row.
    """

    def __init__(
        self,
        model: RecursiveLM,
        store: Store,
        steps: int,
        threshold: float | None,
        graphs: Graphs | None,
    ) -> None:
        self.model = model
        self.store = store
        self.steps = steps
        self.threshold = threshold
        self._layers = layers_per_step(model)
        self._queries_per_key = model.config.num_heads // model.config.num_key_value_heads
        self._graphs = graphs

    def __call__(
        self, x: Tensor, window: Window, may_halt: Tensor | None, live: int, replay: bool = True
    ) -> tuple[Tensor, Tensor]:
        """x [B, S, D] -> y [B, S, D], and supervision steps [B, S].

        `may_halt` [B, S]; None: no token may. Only the first `live` rows are waited for.
        `replay` False: a shape that does not come again, so no graph is recorded for it.
        """
        cos, sin = self.model.rotary(x, window.positions)
        bias = window.bias(x.dtype, self._queries_per_key)
        if may_halt is None or self.threshold is None or self.steps == 1:
            inputs = (x, cos, sin, bias, window.places)
            if self._graphs is not None and replay:
                (y,) = self._graphs(self._all_steps, *inputs)
            else:
                (y,) = self._all_steps(*inputs)
            return y, torch.full(x.shape[:2], self.steps, device=x.device)
        if self._graphs is not None and replay:
            return self._in_place(x, cos, sin, bias, window.places, may_halt, live)
        return self._compacted(x, cos, sin, bias, window.places, may_halt)

    def _all_steps(
        self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, places: Tensor
    ) -> tuple[Tensor]:
        y, z = self.model.initial(x)
        for step in range(self.steps):
            y, z = self._step(x, y, z, cos, sin, bias, places, step=step)
        return (y,)

    def _step(
        self,
        x: Tensor,
        y: Tensor,
        z: Tensor,
        cos: Tensor,
        sin: Tensor,
        bias: Tensor,
        places: Tensor,
        step: int,
        tokens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One supervision step: y and z after a deep recursion."""
        config = self.model.config
        attend = cached_attention(self.store, places, bias, step * self._layers, tokens)
        return deep_recursion(self.model.f((cos, sin), attend), x, y, z, config.n, config.T)

    def _sure(self, y: Tensor) -> Tensor:
        """Which of the states y [B, S, D] are taken for right, [B · S]."""
        return self.model.halting_logit(y).flatten().sigmoid() >= self.threshold

    def _freeze(self, step: int, places: Tensor) -> None:
        """What `step` stored at these places is what every later step finds there."""
        done = slice(step * self._layers, (step + 1) * self._layers)
        self.store.repeat_layers(done, self.steps - 1 - step, places)

    def _compacted(
        self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, places: Tensor, may_halt: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens that go on are computed alone."""
        shape = x.shape
        y, z = self.model.initial(x)
        result = torch.empty_like(x).flatten(0, 1)  # [B · S, D]
        used = torch.full((len(result),), self.steps, device=x.device)
        going = torch.arange(len(result), device=x.device)  # of the B · S tokens
        subset: Tensor | None = None  # `going`, once some have halted
        for step in range(self.steps):
            y, z = self._step(x, y, z, cos, sin, bias, places, step, subset)
            result[going] = y.flatten(0, 1)
            if step == self.steps - 1:
                break
            halts = self._sure(y) & may_halt.flatten()[going]
            keep = (~halts).nonzero()[:, 0]
            if len(keep) == len(going):
                continue
            used[going[halts]] = step + 1
            self._freeze(step, places[going[halts]])
            going = subset = going[keep]
            if not len(going):
                break
            x, y, z, cos, sin = (t.flatten(0, 1)[keep][None] for t in (x, y, z, cos, sin))
        return result.view(shape), used.view(shape[:2])

    def _in_place(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        bias: Tensor,
        places: Tensor,
        may_halt: Tensor,
        live: int,
    ) -> tuple[Tensor, Tensor]:
        """Every token is computed until all have halted."""
        y, z = self.model.initial(x)
        going = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        going[live:] = False
        going = going.flatten()
        used = torch.full((len(places),), self.steps, device=x.device)
        capacity = self.store.keys.shape[2]
        aside = places // capacity * capacity + capacity - 1
        for step in range(self.steps):
            written = torch.where(going, places, aside)
            new = self._graphs(self._step, x, y, z, cos, sin, bias, written, step=step)
            keep = going.view(*x.shape[:2], 1)
            y, z = (torch.where(keep, t, old) for t, old in zip(new, (y, z), strict=True))
            if step == self.steps - 1:
                break
            halts = self._sure(y) & may_halt.flatten() & going
            used[halts] = step + 1
            self._freeze(step, places[halts])
            going = going & ~halts
            if not going.any():
                break
        return y, used.view(x.shape[:2])
