"""What a fault does to a solver or a journal, and how it gets there.

Each strikes the second problem of a run, or the whole run, in a rehearsed kernel only: the
variable MATHLLM_FAULT names it. In a soak, "soak:SEED:SHARE", it is that share of all problems,
each struck by a fault drawn from its id. What was vendored knows nothing of faults: isolation.py
puts a copy of this file beside guard.py's, which calls `await_modules` at the start of each
Python process. So it needs the standard library alone until a solver is there.
"""

import ctypes
import errno
import functools
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mathllm.engines import SamplingConfig
    from mathllm.engines.base import Sample
    from mathllm.solving import Solver

LOADING = "mathllm.solving.loading"  # has the load_solver that is wrapped
JOURNAL = "mathllm.competition.kernel.journal"  # has the Journal that is wrapped
# What a rehearsal itself follows the kernel by, so that a full disk spares them.
FOLLOWED = ("start", "listening")
STRUCK = 2  # the problem that a fault strikes, counted from 1
STRUCK_FILE = "struck.txt"  # its id, for the workers after the one that it cost
LATE_SECONDS = 1.0  # after the deadline, that a slow engine comes back
HANG_SECONDS = 36_000  # beyond any session
LOOKS = 10  # of the sandbox's keeper at its kernels, that fail one after another

Prompt = Sequence[int]
Strike = Callable[["_Struck", Prompt, "SamplingConfig", int], "Sample"]


class _Struck:
    """A solver's engine that a fault can strike; `strike` is that of the problem at hand."""

    def __init__(self, solver: "Solver") -> None:
        self.engine, self.solver = solver.engine, solver
        self.strike: Strike | None = None
        self.begun = False  # whether this problem's fault has struck what it strikes once

    @property
    def max_positions(self) -> int:
        return self.engine.max_positions

    def start(self, prompt: Prompt, config: "SamplingConfig", seed: int) -> "Sample":
        if self.strike is not None:
            return self.strike(self, prompt, config, seed)
        return self.engine.start(prompt, config, seed)


def _raise(*_: Any) -> "Sample":
    raise RuntimeError("injected: the engine broke")


def _no_memory(struck: _Struck, prompt: Prompt, config: "SamplingConfig", seed: int) -> "Sample":
    """Twice in the middle of a problem."""
    import torch

    if not struck.begun:
        calls = []

        def scarce(*_: Any) -> None:
            calls.append(1)
            if len(calls) in (8, 16):
                raise torch.OutOfMemoryError("injected: out of memory")
            if len(calls) > 16:
                hook.remove()

        hook = struck.engine.model.backbone.model.register_forward_pre_hook(scarce)
        struck.begun = True
    return struck.engine.start(prompt, config, seed)


def _writes(code: str) -> Strike:
    """An engine that begins its samples with a program."""

    def strike(struck: _Struck, prompt: Prompt, config: "SamplingConfig", seed: int) -> "Sample":
        from mathllm.engines.base import Sample

        tokenizer = struck.solver.dialect.tokenizer
        if "```output" in tokenizer.decode(prompt):
            return struck.engine.start(prompt, config, seed)
        sample = Sample(config)
        tokens = tokenizer(f"```python\n{code}\n```\n```output", add_special_tokens=False)
        sample.completion.tokens += tokens["input_ids"]
        sample.completion.entropy += [0.0] * len(tokens["input_ids"])
        sample.end("stop")
        return sample

    return strike


def _slow(struck: _Struck, prompt: Prompt, config: "SamplingConfig", seed: int) -> "Sample":
    """Comes back after the deadline, with nothing."""
    time.sleep(max(0.0, (config.deadline or 0.0) - time.monotonic()) + LATE_SECONDS)
    return struck.engine.start(prompt, replace(config, deadline=0.0), seed)


def _hangs(library: type[ctypes.CDLL]) -> Strike:
    """Native code that does not come back."""
    return lambda *_: library(None).sleep(HANG_SECONDS)


def _dead_lock(*_: Any) -> "Sample":
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()
    raise AssertionError("nobody gave the lock back")


def _keeper(struck: _Struck, prompt: Prompt, config: "SamplingConfig", seed: int) -> "Sample":
    """The thread that keeps the sandbox's kernels meets an exception, while a program waits."""
    from mathllm.sandbox.kernel import Kernel

    watch, looks = Kernel.watch, []

    def broken(kernel: Kernel) -> None:
        looks.append(kernel)
        if len(looks) >= LOOKS:
            Kernel.watch = watch
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "injected: a process of an odd name")

    if not struck.begun:
        Kernel.watch, struck.begun = broken, True
    return _writes("print(6 * 7)")(struck, prompt, config, seed)


def _endless(struck: _Struck, prompt: Prompt, config: "SamplingConfig", seed: int) -> "Sample":
    """An endpoint that keeps its connections alive and never says anything that counts."""
    from mathllm.engines.remote import RemoteEngine

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):  # until the other end has had enough
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                connection.sendall(b": alive\n\n")
                time.sleep(0.05)

    def accept() -> None:
        with suppress(OSError), listener:
            while True:
                threading.Thread(target=drip, args=listener.accept()[:1], daemon=True).start()

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=accept, daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    vocabulary = struck.solver.dialect
    return RemoteEngine(url, "none", vocabulary, struck.max_positions).start(prompt, config, seed)


# By the names of faults.py.
STRIKES: dict[str, Strike] = {
    "engine": _raise,
    "memory": _no_memory,
    "tool-hang": _writes("while True:\n    pass"),
    "tool-death": _writes("import os\nos._exit(1)"),
    "hang": _hangs(ctypes.CDLL),
    "hang-locked": _hangs(ctypes.PyDLL),
    "dead-lock": _dead_lock,
    "endless": _endless,
    "keeper": _keeper,
    "slow": _slow,
}


def inject(name: str, solver: "Solver") -> None:
    """Break the solver's engine as the fault says, if it is one of the engine's."""
    choose = _soak(*name.split(":")[1:]) if name.startswith("soak:") else _second(name)
    if choose is None:
        return
    engine, solve = _Struck(solver), solver.solve

    def chosen(*arguments: Any, **named: Any) -> Any:
        engine.strike, engine.begun = choose(str(arguments[:1])), False
        return solve(*arguments, **named)

    solver.engine = engine
    solver.solve = chosen


def _second(name: str) -> Callable[[str], Strike | None] | None:
    """The fault at the second problem of a run, whatever became of the first worker."""
    strike = STRIKES.get(name)
    struck = Path(os.environ.get("MATHLLM_WORKING_DIR", "")) / STRUCK_FILE
    asked: list[str] = []

    def choose(problem: str) -> Strike | None:
        asked.append(problem)
        if len(asked) != STRUCK or struck.exists():
            return None
        struck.write_text(problem, encoding="utf-8")
        return strike

    return choose if strike else None


def _soak(seed: str, share: str) -> Callable[[str], Strike | None]:
    """A fault for some problems, which depends on nothing but the id."""

    def choose(problem: str) -> Strike | None:
        draw = random.Random(f"{seed}:{problem}")
        if draw.random() >= float(share):
            return None
        return STRIKES[draw.choice(sorted(STRIKES))]

    return choose


def _wrap_loading(fault: str, module: ModuleType) -> None:
    load = module.load_solver

    @functools.wraps(load)
    def load_and_inject(*arguments: Any, **named: Any) -> "Solver":
        solver = load(*arguments, **named)
        inject(fault, solver)
        return solver

    module.load_solver = load_and_inject


def _wrap_journal(fault: str, module: ModuleType) -> None:
    if fault != "journal":
        return
    append = module.Journal._append

    def full(journal: Any, line: bytes) -> None:
        if not line.startswith(tuple(f'{{"event": "{event}"'.encode() for event in FOLLOWED)):
            raise OSError(errno.ENOSPC, "injected: no space left on device")
        append(journal, line)

    module.Journal._append = full


WRAPPED = {LOADING: _wrap_loading, JOURNAL: _wrap_journal}


class _Wrapping(MetaPathFinder):
    """Lets a module of WRAPPED be imported, and changes it before anyone has it."""

    def __init__(self, fault: str) -> None:
        self._fault = fault

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in WRAPPED else None
        if spec is not None:
            execute, wrap = spec.loader.exec_module, WRAPPED[name]
            spec.loader.exec_module = lambda module: (execute(module), wrap(self._fault, module))
        return spec


def await_modules(fault: str) -> None:
    """Break what this process imports, if it ever does."""
    sys.meta_path.insert(0, _Wrapping(fault))
