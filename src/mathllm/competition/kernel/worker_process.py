"""The process that solves: loads what it is told to, and answers problem after problem.

Started by worker.py, which says over a pipe: the import path, what loads the solver, then
(number, id, text, seconds) for each problem and None at the end. Back come, as they happen,
("warning", text), ("silent", text), ("loaded", seconds, fault) or ("not loaded", fault), and for
each problem ("so far", number, solution), then ("solved", number, solution) or ("raised", number,
fault).
"""

import faulthandler
import logging
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

from mathllm import paths
from mathllm.children import end_with
from mathllm.competition.kernel.backbone import find_backbone
from mathllm.errors import cause_of
from mathllm.solving import EngineSettings, Solver, SolverSettings, load_solver
from mathllm.solving.loading import load_endpoint


def load_kernel_solver(
    weights: str, settings: SolverSettings, engine: EngineSettings, strict: bool
) -> Solver:
    """The solver of a kernel, from what is attached. Raises as load_solver where strict."""
    if engine.endpoint_alone:
        return load_endpoint(settings, engine, strict)
    folder = paths.locate_weights(weights)
    model = find_backbone(folder, strict)
    # Here and not above: the kernel imports this module, and never torch.
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # a notebook keeps fragments of them
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_solver(folder, settings, device, engine, strict, model)


def main() -> None:
    """Never raises: what goes wrong goes over the pipe."""
    pipe, stacks, parent = map(int, sys.argv[2:])
    sys.argv[1:] = []
    end_with(parent)
    # By a signal whatever its threads do, and where native code crashes.
    faulthandler.enable(stacks)
    faulthandler.register(signal.SIGUSR1, stacks, all_threads=True)
    kernel = _Kernel(Connection(pipe))
    logging.getLogger("mathllm").addHandler(kernel)
    sys.path += [path for path in kernel.hear() or () if path not in sys.path]
    began = time.monotonic()
    try:
        solver = pickle.loads(kernel.hear_bytes())()
    except BaseException as fault:
        kernel.say("not loaded", _told(fault))
        return
    kernel.say("loaded", round(time.monotonic() - began, 3), getattr(solver, "load_fault", None))
    while (question := kernel.hear()) is not None:
        number, *asked = question
        try:
            solution = solver.solve(
                *asked, tell=lambda so_far, number=number: kernel.say("so far", number, so_far)
            )
        # Panics of Rust packages and SystemExit are no Exceptions, and cost one problem too.
        except BaseException as fault:
            kernel.say("raised", number, _told(fault))
        else:
            kernel.say("solved", number, solution)


class _Kernel(logging.Handler):
    """The other end of the pipe, which also gets warnings. Without it this process ends."""

    def __init__(self, connection: Connection):
        super().__init__(logging.WARNING)
        self._connection = connection
        self._saying = threading.Lock()

    def say(self, *message: Any) -> None:
        """Raises what cannot be pickled; ends the process where nobody hears."""
        try:
            with self._saying:
                self._connection.send(message)
        except OSError:
            os._exit(1)

    def hear(self) -> Any:
        """The next that is said; None, and the end, where nobody is left to say it."""
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            return None

    def hear_bytes(self) -> bytes:
        """What is said unpickled."""
        return self._connection.recv_bytes()

    def emit(self, record: logging.LogRecord) -> None:
        """A warning of one of our modules, or what a record calls its event."""
        self.say(getattr(record, "event", "warning"), record.getMessage())


def _told(fault: BaseException) -> tuple[bytes | None, str, str]:
    """A fault for the pipe: pickled if it comes back whole, its words, its stack."""
    trace = "".join(traceback.format_tb(fault.__traceback__)).rstrip()
    try:
        pickled = pickle.dumps(fault)
        pickle.loads(pickled)
    except Exception:
        pickled = None
    return pickled, cause_of(fault), trace
