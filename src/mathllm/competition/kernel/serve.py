"""The kernel: a server for the competition's gateway, from its start to its end."""

import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mathllm import children, paths
from mathllm.competition.kernel import install, integrity
from mathllm.competition.kernel.backbone import find_served
from mathllm.competition.kernel.endpoint_server import EndpointServer
from mathllm.competition.kernel.journal import NAME, Journal, is_unfinished, warnings_to
from mathllm.competition.kernel.package import Server, make_server
from mathllm.competition.kernel.submission import Submission
from mathllm.competition.kernel.worker import Load
from mathllm.competition.kernel.worker_process import load_kernel_solver
from mathllm.engines.base import EngineError
from mathllm.errors import EvaluationPackageError, UserError, cause_of
from mathllm.settings import CURRENT
from mathllm.solving import Budget, EngineSettings, SolverSettings, records

__all__ = ["Submission", "serve"]

STARTS = 3  # of the endpoint's server, until it generates, in a rerun

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
    with (integrity.stamp), "" if it was not. In a commit run the first fault is raised as it
    is; in a rerun only what keeps the server from listening (PortError), or the early end of
    our gateway (GatewayGoneError).
    """
    rerun = paths.is_rerun()
    test_file = None if rerun else paths.find_competition_file(CURRENT.test_file)
    path = paths.working_dir() / NAME
    restarted = rerun and is_unfinished(path, CURRENT.cpu_hours)
    journal = Journal(path, restarted, strict=not rerun)
    journal.write(
        "start",
        pid=os.getpid(),
        package=str(Path(__file__).parents[2]),
        rerun=rerun,
        bundle=bundle.partition(" ")[0],
    )
    with warnings_to(journal):
        engine = _placed(engine or EngineSettings(), rerun)
        with _survived(rerun):
            integrity.check(bundle)
        submission = Submission(
            lambda: _prepare(weights, settings, engine, server, submission),
            budget,
            journal,
            rerun,
            attempts=records.AttemptsFile(
                paths.working_dir() / records.NAME,
                _rules(settings, budget, engine),
                resume=restarted,
            ),
            suspect=lambda: server.suspect(),
        )
        log = paths.working_dir()
        server = EndpointServer(engine, log, submission.tell, lambda: budget.left_seconds)
        try:
            _run(submission, test_file)
        finally:
            submission.end()
            server.close()
    return submission


def _placed(engine: EngineSettings, rerun: bool) -> EngineSettings:
    """With the folder of the endpoint's model. Where that is not attached, a commit run ends; a
    rerun listens all the same, and has the TRM."""
    try:
        return find_served(engine)
    except UserError as fault:
        if not rerun:
            raise
        _log.warning("%s; the TRM answers", fault)
        return EngineSettings(tool_kernels=engine.tool_kernels, cuda_graphs=engine.cuda_graphs)


def _rules(settings: SolverSettings, budget: Budget, engine: EngineSettings) -> records.Rules:
    """What is written with the attempts, for whoever plays them again."""
    names = ("n_samples", "parallel", "voting", "agreement", "lead")
    times = ("total_seconds", "margin_seconds", "expected_problems", "base_seconds")
    return records.Rules(
        sessions=engine.tool_kernels,
        ceiling_seconds=_finite(budget.ceiling_seconds),
        hard_problems=_finite(budget.hard_problems),
        **{name: getattr(settings, name) for name in names},
        **{name: getattr(budget, name) for name in times},
    )


def _finite(limit: float) -> Any:
    return None if math.isinf(limit) else limit


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
    made = make_server(_endpoint(submission), submission.rerun)
    server = made.server
    port = server.start() if made.ours else getattr(server, "port", None)
    journal.write("listening", package=made.package, version=made.version, port=port)
    print(f"listening by {made.package}, version {made.version} of the evaluation API")
    submission.start()
    try:
        if test_file is not None:
            # Ours would say a line for each answer too.
            quiet = {"report": lambda _: None} if made.ours else {}
            server.run_local_gateway((str(test_file),), **quiet)
            cause = "the gateway is done"
        else:
            cause = server.serve().value if made.ours else _until_sigterm(server.serve)
    except Exception as error:
        fault = submission.fault or _misnamed(error, made) or error
        submission.close(cause_of(fault))
        if fault is error:
            raise
        raise fault from None
    submission.close(cause)


def _endpoint(submission: Submission) -> Callable[..., Any]:
    """The function that the gateway calls, by its name.

    A plain one: version 0.9.0 of the competition's package takes no bound method, no partial
    and no callable object.
    """

    def predict(*columns: Any, **named: Any) -> Any:
        return submission.predict(*columns, **named)

    predict.__name__ = CURRENT.endpoint
    return predict


def _misnamed(error: Exception, made: Server) -> EvaluationPackageError | None:
    """What to mend where a gateway, ours or theirs, calls an endpoint that is not served."""
    kind = getattr(error, "error_type", None) or getattr(error, "kind", None)
    if getattr(kind, "name", "") != "SERVER_MISSING_ENDPOINT":
        return None
    return EvaluationPackageError(
        f"{CURRENT.package} {made.version} calls another endpoint than {CURRENT.endpoint!r}: "
        f"correct the endpoint of {CURRENT.slug} in settings.py"
    )


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


def _prepare(
    weights: str,
    settings: SolverSettings,
    engine: EngineSettings,
    server: EndpointServer,
    submission: Submission,
) -> Load:
    """What a killed kernel left is removed, what the image lacks installed, the endpoint's
    server started. Returns what loads the solver then, in the worker."""
    rerun = submission.rerun
    ended, folders = children.remove_leftovers()
    if ended or folders:
        submission.tell("leftovers", ended=ended, removed=folders)
    with _survived(rerun):
        if (dataset := paths.find_dataset(paths.WHEELS_SLUG)) is not None:
            submission.tell("wheels", **install.install(dataset))
    if engine.server:
        try:
            server.start(STARTS if rerun else 1)
        except EngineError as fault:
            if not rerun:
                raise
            without = "nothing else answers" if engine.endpoint_alone else "the TRM answers"
            submission.tell("fault", cause=f"loading: {fault}; {without}")
            if not engine.endpoint_alone:
                engine = replace(engine, server="", endpoint="")
    return partial(load_kernel_solver, weights, settings, engine, not rerun)
