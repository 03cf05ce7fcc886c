"""Faults on purpose, so that a rehearsal shows what each one costs.

Each strikes the second problem of a run, or the whole run, in a rehearsed kernel only: the
variable MATHLLM_FAULT names it. Knows how to break a solver. Knows nothing of how a run is
played or judged.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mathllm.solving import Solver

if TYPE_CHECKING:
    from mathllm.engines import Completion

VARIABLE = "MATHLLM_FAULT"
STRUCK = 2  # the problem that a fault strikes, counted from 1
LATE_SECONDS = 1.0  # after the deadline, that a slow engine comes back

Generate = Callable[..., list[list["Completion"]]]


@dataclass(frozen=True)
class Fault:
    """A fault by name. `parameters` are the kernel's for this run, `strike` breaks its engine."""

    name: str
    what: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    strike: Callable[["_Struck", tuple, dict], Any] | None = None


class _Struck:
    """An engine that a fault can strike; everything else is the engine's own."""

    def __init__(self, engine: Any, solver: Solver, fault: Fault) -> None:
        self._engine, self._solver, self._fault = engine, solver, fault
        self.problem = 0
        self.calls = 0  # of this problem

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @property
    def tokenizer(self) -> Any:
        return self._solver.tokenizer

    def generate(self, *arguments: Any, **named: Any) -> list[list["Completion"]]:
        self.calls += 1
        if self.problem == STRUCK:
            return self._fault.strike(self, arguments, named)
        return self._engine.generate(*arguments, **named)

    def whole(self, arguments: tuple, named: dict) -> list[list["Completion"]]:
        """What the engine says unharmed."""
        return self._engine.generate(*arguments, **named)


def _raise(*_: Any) -> Any:
    raise RuntimeError("injected: the engine broke")


def _no_memory(struck: _Struck, arguments: tuple, named: dict) -> Any:
    """Twice in the middle of a batch."""
    import torch

    from mathllm.engines.lanes import Lanes

    feed, calls = Lanes.feed, []

    def scarce(lanes: Lanes, *given: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) in (8, 16):
            raise torch.OutOfMemoryError("injected: out of memory")
        return feed(lanes, *given, **options)

    Lanes.feed = scarce
    try:
        return struck.whole(arguments, named)
    finally:
        Lanes.feed = feed


def _writes(code: str) -> Callable[[_Struck, tuple, dict], Any]:
    """An engine that begins its samples with a program."""

    def strike(struck: _Struck, arguments: tuple, named: dict) -> Any:
        from mathllm.engines import Completion

        if struck.calls > 1:
            return struck.whole(arguments, named)
        text = f"```python\n{code}\n```\n```output"
        tokens = struck.tokenizer(text, add_special_tokens=False)["input_ids"]
        zeros = [0.0] * len(tokens)
        return [
            [Completion([*tokens], zeros, zeros, [], "stop") for _ in range(config.n)]
            for config in arguments[1]
        ]

    return strike


def _slow(struck: _Struck, arguments: tuple, named: dict) -> Any:
    """Comes back after the deadline, with nothing."""
    prompts, configs = arguments
    deadline = max(c.deadline or 0.0 for c in configs)
    time.sleep(max(0.0, deadline - time.monotonic()) + LATE_SECONDS)
    return struck.whole((prompts, [replace(c, deadline=0.0) for c in configs]), named)


# Twelve problems in four minutes: one that eats its share can be waited for.
_SHORT = {"hours": "0.07", "margin_minutes": "0.5", "expected_problems": "12"}
_TOOLS = {"tool_kernels": "4"}

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("engine", "the engine raises an exception at every call", strike=_raise),
        Fault("memory", "memory runs out twice in the middle of a batch", strike=_no_memory),
        Fault(
            "tool-hang",
            "every program of a problem runs for ever",
            _TOOLS,
            _writes("while True:\n    pass"),
        ),
        Fault(
            "tool-death",
            "every program of a problem kills its kernel",
            _TOOLS,
            _writes("import os\nos._exit(1)"),
        ),
        Fault("slow", "a problem eats its time and comes back late", _SHORT, _slow),
        Fault("weights", "the TRM's weight file is cut in half"),
        Fault("connection", "the gateway's connection ends after every reply"),
        Fault(
            "clock",
            "five hours pass in a minute, and problems want more than they get",
            {
                "hours": "0.0167",
                "margin_minutes": "0.05",
                "expected_problems": "12",
                "n_samples": "96",
                "wave": "16",
                "voting": "majority",
                "temperature": "1.5",
            },
        ),
    )
}


def inject(name: str, solver: Solver) -> None:
    """Break the solver's engine as the fault says, if it is one of the engine's."""
    fault = FAULTS[name]
    if fault.strike is None:
        return
    engine = _Struck(solver.engine, solver, fault)
    solve = solver.solve

    def counted(*arguments: Any, **named: Any) -> Any:
        engine.problem += 1
        engine.calls = 0
        return solve(*arguments, **named)

    solver.engine = engine
    solver.solve = counted
