"""Faults on purpose, so that a rehearsal shows what each one costs.

Each strikes the second problem of a run, or the whole run, in a rehearsed kernel only: the
variable MATHLLM_FAULT names it. What was vendored knows nothing of faults: isolation.py puts a
copy of this file beside guard.py's, which calls `await_solver` at the start of each Python
process. So it needs the standard library alone until a solver is there.
"""

import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mathllm.engines import Completion, Engine, SamplingConfig
    from mathllm.solving import Solver

VARIABLE = "MATHLLM_FAULT"
LOADING = "mathllm.solving.loading"  # has the load_solver that is wrapped
STRUCK = 2  # the problem that a fault strikes, counted from 1
LATE_SECONDS = 1.0  # after the deadline, that a slow engine comes back

Completions = list[list["Completion"]]
Prompts = Sequence[Sequence[int]]
Seeds = Sequence[Sequence[int]]
Strike = Callable[["_Struck", Prompts, Sequence["SamplingConfig"], Seeds], Completions]


@dataclass(frozen=True)
class Fault:
    """A fault by name. `parameters` are the kernel's for this run, `strike` breaks its engine."""

    name: str
    what: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    strike: Strike | None = None


class _Struck:
    """A solver's engine that a fault can strike."""

    def __init__(self, engine: "Engine", solver: "Solver", strike: Strike) -> None:
        self.engine, self.tokenizer, self._strike = engine, solver.tokenizer, strike
        self.problem = 0
        self.calls = 0  # of this problem

    @property
    def max_positions(self) -> int:
        return self.engine.max_positions

    def generate(
        self, prompts: Prompts, configs: Sequence["SamplingConfig"], seeds: Seeds
    ) -> Completions:
        self.calls += 1
        if self.problem == STRUCK:
            return self._strike(self, prompts, configs, seeds)
        return self.engine.generate(prompts, configs, seeds)


def _raise(*_: Any) -> Completions:
    raise RuntimeError("injected: the engine broke")


def _no_memory(
    struck: _Struck, prompts: Prompts, configs: Sequence["SamplingConfig"], seeds: Seeds
) -> Completions:
    """Twice in the middle of a batch."""
    import torch

    calls = []

    def scarce(*_: Any) -> None:
        calls.append(1)
        if len(calls) in (8, 16):
            raise torch.OutOfMemoryError("injected: out of memory")

    hook = struck.engine.model.backbone.model.register_forward_pre_hook(scarce)
    try:
        return struck.engine.generate(prompts, configs, seeds)
    finally:
        hook.remove()


def _writes(code: str) -> Strike:
    """An engine that begins its samples with a program."""

    def strike(
        struck: _Struck, prompts: Prompts, configs: Sequence["SamplingConfig"], seeds: Seeds
    ) -> Completions:
        from mathllm.engines import Completion

        if struck.calls > 1:
            return struck.engine.generate(prompts, configs, seeds)
        text = f"```python\n{code}\n```\n```output"
        tokens = struck.tokenizer(text, add_special_tokens=False)["input_ids"]
        zeros = [0.0] * len(tokens)
        return [
            [Completion([*tokens], zeros, zeros, [], "stop") for _ in range(config.n)]
            for config in configs
        ]

    return strike


def _slow(
    struck: _Struck, prompts: Prompts, configs: Sequence["SamplingConfig"], seeds: Seeds
) -> Completions:
    """Comes back after the deadline, with nothing."""
    deadline = max(config.deadline or 0.0 for config in configs)
    time.sleep(max(0.0, deadline - time.monotonic()) + LATE_SECONDS)
    late = [replace(config, deadline=0.0) for config in configs]
    return struck.engine.generate(prompts, late, seeds)


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


def inject(name: str, solver: "Solver") -> None:
    """Break the solver's engine as the fault says, if it is one of the engine's."""
    strike = FAULTS[name].strike
    if strike is None:
        return
    engine = _Struck(solver.engine, solver, strike)
    solve = solver.solve

    def counted(*arguments: Any, **named: Any) -> Any:
        engine.problem += 1
        engine.calls = 0
        return solve(*arguments, **named)

    solver.engine = engine
    solver.solve = counted


class _Wrapping(MetaPathFinder):
    """Lets the module LOADING be imported, and wraps its load_solver before anyone has it."""

    def __init__(self, fault: str) -> None:
        self._fault = fault

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == LOADING else None
        if spec is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (execute(module), self._wrap(module))
        return spec

    def _wrap(self, module: ModuleType) -> None:
        load = module.load_solver

        @functools.wraps(load)
        def load_and_inject(*arguments: Any, **named: Any) -> "Solver":
            solver = load(*arguments, **named)
            inject(self._fault, solver)
            return solver

        module.load_solver = load_and_inject


def await_solver(fault: str) -> None:
    """Break the solver that this process loads, if it ever loads one."""
    sys.meta_path.insert(0, _Wrapping(fault))
