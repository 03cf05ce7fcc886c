"""The kernel: a server for the competition's gateway, from its start to its end.

Knows which server to use, what to load, and how a run ends. Knows nothing of how a problem
becomes an answer (submission.py), or of the wire.
"""

import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mathllm import paths
from mathllm.answers import sympy_process
from mathllm.competition.kernel import backbone, install, integrity
from mathllm.competition.kernel.journal import NAME, Journal, is_unfinished, warnings_to
from mathllm.competition.kernel.submission import Submission, cause_of
from mathllm.competition.protocol.server import InferenceServer
from mathllm.competition.rehearsal import faults
from mathllm.settings import CURRENT
from mathllm.solving import Budget, EngineSettings, Solver, SolverSettings, load_solver

__all__ = ["Submission", "serve"]

_log = logging.getLogger(__name__)


def serve(
    weights: str,
    settings: SolverSettings,
    budget: Budget,
    engine: EngineSettings | None = None,
    bundle: str = "",
) -> Submission:
    """Serve until the end in a rerun; play the gateway over test.csv in a commit run.

    `weights` is as paths.locate_weights takes it, `bundle` what the notebook was vendored
    with (attached.stamp), "" if it was not. In a commit run the first fault is raised as it
    is; in a rerun only what keeps the server from listening (PortError), or the early end of
    our gateway (GatewayGoneError).
    """
    rerun = paths.is_rerun()
    test_file = None if rerun else paths.find_competition_file(CURRENT.test_file)
    path = paths.working_dir() / NAME
    journal = Journal(path, restarted=rerun and is_unfinished(path, CURRENT.cpu_hours))
    journal.write(
        "start",
        pid=os.getpid(),
        package=str(Path(__file__).parents[2]),
        rerun=rerun,
        bundle=bundle.partition(" ")[0],
    )
    with warnings_to(journal):
        with _survived(rerun):
            integrity.check(bundle)
        submission = Submission(
            lambda: _load_solver(weights, settings, engine, journal, strict=not rerun),
            budget,
            journal,
            rerun,
        )
        _run(submission, test_file)
    return submission


@contextmanager
def _survived(rerun: bool) -> Iterator[None]:
    """In a rerun, what is wrong with the bundle is a warning: it can be mended no more."""
    try:
        yield
    except Exception as fault:
        if not rerun:
            raise
        _log.warning("%s", cause_of(fault))


def _run(submission: Submission, test_file: Path | None) -> None:
    """From listening to the end; `test_file` is a commit run's, None in a rerun."""
    journal = submission.journal
    endpoint = _endpoint(submission)
    server = _competitions_server(endpoint, submission.rerun) or InferenceServer(endpoint)
    ours = isinstance(server, InferenceServer)
    port = server.start() if ours else None
    journal.write("listening", package="mathllm" if ours else CURRENT.package, port=port)
    print(f"listening{f' on port {port}' if ours else ''}, the weights are being loaded")
    submission.start()
    try:
        if test_file is not None:
            # Ours would say a line for each answer too.
            quiet = {"report": lambda _: None} if ours else {}
            server.run_local_gateway((str(test_file),), **quiet)
            cause = "the gateway is done"
        else:
            cause = server.serve().value if ours else _until_sigterm(server.serve)
    except Exception as error:
        submission.close(cause_of(submission.fault or error))
        if submission.fault is not None:
            raise submission.fault from None
        raise
    submission.close(cause)


def _endpoint(submission: Submission) -> Callable[..., Any]:
    """The function that the gateway calls, by its name.

    A plain one: version 0.9 of the competition's package takes no bound method, no partial
    and no callable object.
    """

    def predict(*columns: Any) -> Any:
        return submission.predict(*columns)

    return predict


def _competitions_server(endpoint: Callable[..., Any], rerun: bool) -> Any:
    """The competition's own server, where its files are at hand and can be imported.

    Raises what importing raised in a commit run; in a rerun ours takes its place, since both
    speak the same protocol.
    """
    folder = paths.find_real_package()
    if folder is None:
        return None
    # Its modules import each other from both folders.
    sys.path += [str(folder), str(folder / CURRENT.package)]
    try:
        module = importlib.import_module(CURRENT.server_module)
        return getattr(module, CURRENT.server_class)(endpoint)
    except Exception as error:
        if not rerun:
            raise
        print(f"{CURRENT.package} cannot be used, ours stands in: {cause_of(error)}")
        return None


class _Terminated(BaseException):
    """SIGTERM arrived. Not an Exception, so that nothing on the way swallows it."""


def _until_sigterm(wait: Callable[[], None]) -> str:
    """Call `wait`; the competition's own server would wait for ever. Returns why it ended."""

    def end(*_: Any) -> None:
        raise _Terminated

    main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, end) if main else None
    try:
        wait()
    except _Terminated:
        return "ended by SIGTERM"
    finally:
        if main:
            signal.signal(signal.SIGTERM, previous)
    return "the server ended"


def _install_packages(journal: Journal) -> None:
    """What the image lacks, from the wheels' dataset if there is one."""
    if (dataset := paths.find_dataset(paths.WHEELS_SLUG)) is not None:
        journal.write("wheels", **install.install(dataset))


def _load_solver(
    weights: str,
    settings: SolverSettings,
    engine: EngineSettings | None,
    journal: Journal,
    strict: bool,
) -> Solver:
    with _survived(not strict):
        _install_packages(journal)
    folder = paths.locate_weights(weights)
    model = backbone.find_backbone(folder, strict)
    # Here and not above: the kernel listens before torch is imported.
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()  # a notebook keeps fragments of them
    device = "cuda" if torch.cuda.is_available() else "cpu"
    log = paths.working_dir()
    solver = load_solver(folder, settings, device, engine, strict, log, model)
    journal.write("mathematics", package=sympy_process.origin())
    if fault := os.environ.get(faults.VARIABLE):  # a rehearsal's, never set on Kaggle
        faults.inject(fault, solver)
    return solver
