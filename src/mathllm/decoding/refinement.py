"""The recursion over cached columns: N_sup supervision steps, or fewer where tokens halt.

Knows the three loops and the store. Knows nothing of rows, drafts or sampling.
"""

import torch
from torch import Tensor

from mathllm.decoding.cache import Store, Window, cached_attention
from mathllm.trm import RecursiveLM
from mathllm.trm.recursion import deep_recursion


class Refinement:
    """Refines the tokens of a window, through all supervision steps or until they halt.

    After each supervision step, tokens that may halt and whose halting probability has
    reached `threshold` freeze: their y and z stay, and so do their keys and values, which
    every later step finds where its own would be. The others go on alone.
    """

    def __init__(
        self, model: RecursiveLM, store: Store, steps: int, threshold: float | None
    ) -> None:
        self.model = model
        self.store = store
        self.steps = steps
        self.threshold = threshold
        self._slots = slots_per_step(model)
        self._queries_per_key = model.config.num_heads // model.config.num_key_value_heads

    def __call__(
        self, x: Tensor, window: Window, may_halt: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """x [B, S, D] -> y [B, S, D], and supervision steps [B, S], None for all of them.

        `may_halt` [B, S]; None: no token may.
        """
        model = self.model
        rotary = model.rotary(x, window.positions)
        bias = window.bias(x.dtype, self._queries_per_key)
        y, z = model.initial(x)
        if may_halt is not None and self.threshold is not None and self.steps > 1:
            return self._until_halted(x, y, z, rotary, bias, window, may_halt)
        for step in range(self.steps):
            y, z = self._step(step, x, y, z, rotary, bias, window)
        return y, None

    def _step(
        self,
        step: int,
        x: Tensor,
        y: Tensor,
        z: Tensor,
        rotary: tuple[Tensor, Tensor],
        bias: Tensor,
        window: Window,
        tokens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One supervision step: y and z after a deep recursion."""
        config = self.model.config
        attend = cached_attention(self.store, window, bias, step * self._slots, tokens)
        return deep_recursion(self.model.f(rotary, attend), x, y, z, config.n, config.T)

    def _until_halted(
        self,
        x: Tensor,
        y: Tensor,
        z: Tensor,
        rotary: tuple[Tensor, Tensor],
        bias: Tensor,
        window: Window,
        may_halt: Tensor,
    ) -> tuple[Tensor, Tensor]:
        shape = x.shape
        result = torch.empty_like(x).flatten(0, 1)  # [B · S, D]
        used = torch.full((len(result),), self.steps, device=x.device)
        going = torch.arange(len(result), device=x.device)  # of the B · S tokens
        subset: Tensor | None = None  # `going`, once some have halted
        for step in range(self.steps):
            y, z = self._step(step, x, y, z, rotary, bias, window, subset)
            result[going] = y.flatten(0, 1)
            if step == self.steps - 1:
                break
            sure = self.model.halting_logit(y).flatten().sigmoid() >= self.threshold
            halts = sure & may_halt.flatten()[going]
            keep = (~halts).nonzero()[:, 0]
            if len(keep) == len(going):
                continue
            frozen = going[halts]
            used[frozen] = step + 1
            done = slice(step * self._slots, (step + 1) * self._slots)
            self.store.repeat_slots(done, self.steps - 1 - step, window.places[frozen])
            going = subset = going[keep]
            if not len(going):
                break
            x, y, z, *rotary = (_only(t, keep) for t in (x, y, z, *rotary))
        return result.view(shape), used.view(shape[:2])


def _only(states: Tensor, tokens: Tensor) -> Tensor:
    """[B, S, D] -> [1, A, D], the tokens named by their number among B · S."""
    return states.flatten(0, 1)[tokens][None]


def slots_per_step(model: RecursiveLM) -> int:
    """Layers of one supervision step that keep keys and values: L · (n + 1) · T, or none."""
    config = model.config
    return config.layers * (config.n + 1) * config.T if config.mixer == "attention" else 0
