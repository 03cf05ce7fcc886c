"""One run of a rehearsal: its processes, started, watched and ended.

commit run   papermill runs submission.ipynb, and the notebook plays its own gateway
rerun        papermill runs it as the kernel, which serves; the gateway is a process of
             its own on the same loopback; when it is done, the kernel gets SIGTERM
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mathllm.competition.kernel.journal import NAME, read_journal, votes_text
from mathllm.competition.kernel.package import VERSION_VARIABLE, find_module
from mathllm.competition.protocol.channel import LOCAL_HOST
from mathllm.competition.protocol.gateway import RESULT_FILE
from mathllm.competition.protocol.submission_file import read_submission
from mathllm.competition.rehearsal import faults
from mathllm.competition.rehearsal.isolation import Isolation
from mathllm.competition.rehearsal.kaggle_folders import KaggleFolders, session_environment
from mathllm.competition.rehearsal.processes import Process, RunError, started, terminate
from mathllm.competition.rehearsal.scorecard import PlayedRun
from mathllm.errors import ProblemFileError
from mathllm.parameters import parse_parameters, read_declarations
from mathllm.settings import CURRENT

REAL_GATEWAY = Path(__file__).with_name("real_gateway.py")
POLL_SECONDS = 0.1
NOTICE_SECONDS = 10  # for a kernel to end by itself once its gateway has failed
CONNECTION = "connection"  # the fault that stands between gateway and kernel


@dataclass(frozen=True)
class Play:
    """What every run of one rehearsal shares. `problems` are their ids, `source` the package.

    `package` is the version of the evaluation package that ours plays where the competition's
    own is not at hand. `parameters` are the kernel's own for these runs, in place of those that
    the notebook was `vendored` with; `fault` is one of faults.FAULTS to inject; `wheels` is the
    dataset whose packages the kernel has to install, if there is one.
    """

    folders: KaggleFolders
    isolation: Isolation
    notebook: Path
    source: Path
    problems: list[str]
    seed: int | None
    say: Callable[[str], None]
    package: str = CURRENT.package_version
    parameters: Mapping[str, str] = field(default_factory=dict)
    fault: str | None = None
    wheels: str = ""
    vendored: Mapping[str, Any] = field(default_factory=dict)


class Follower:
    """Reads a kernel's journal as it grows and tells the user what happened."""

    def __init__(self, play: Play, run: PlayedRun, journal: Path):
        self._play, self._run, self._journal = play, run, journal
        self._seen = 0
        self._started = time.time()
        self.pid: int | None = None
        self.port: int | None = None

    def poll(self) -> None:
        events = read_journal(self._journal)
        for event in events[self._seen :]:
            self._handle(event)
        self._seen = len(events)

    def _handle(self, event: dict[str, Any]) -> None:
        say = self._play.say
        match event["event"]:
            case "start":
                self.pid = event["pid"]
                self._run.package = event["package"]
            case "listening":
                self._run.listening_seconds = event["time"] - self._started
                self.port = event["port"]
                by = f"{event['package']}, version {event['version']} of the evaluation API"
                say(f"  listening after {self._run.listening_seconds:.1f} s ({by})")
            case "wheels":
                if event["installed"]:
                    say(f"  installed from wheels: {', '.join(event['installed'])}")
            case "loaded":
                say(f"  solver loaded in {event['seconds']:.1f} s")
            case "fault" | "warning":
                say(f"  {event['event']}: {event['cause']}")
            case "answer":
                self._run.answers[str(event["id"])] = event
                self._run.budget_used = event["budget_used"]
                count = f"{len(self._run.answers)}/{len(self._play.problems)}"
                outcome = event["fault"] or f"{votes_text(event)} votes"
                say(
                    f"  {count:>7}  {event['id']}  answer {event['answer']:<5}  {outcome}  "
                    f"{event['seconds']:.1f} s"
                )


def commit_run(play: Play, run: PlayedRun) -> None:
    """The notebook by itself. Raises RunError."""
    with _kernel(play, run, rerun=False) as (kernel, follower):
        _wait(follower, lambda: kernel.ended)
        if kernel.status:
            raise kernel.failed(f"ended ({kernel.status})")
    _check(play, run, run.folder / "kernel")


def rerun(play: Play, run: PlayedRun) -> None:
    """Kernel and gateway as two processes. Raises RunError."""
    with _kernel(play, run, rerun=True) as (kernel, follower):
        # The gateway waits for the kernel's own start, so that the figure is the kernel's alone.
        deadline = time.monotonic() + CURRENT.startup_seconds
        _wait(
            follower,
            lambda: run.listening_seconds or kernel.ended or time.monotonic() > deadline,
        )
        if run.listening_seconds is None:
            raise kernel.failed("is not listening")
        with _flaky(play, run, follower.port) as port, _gateway(play, run, port) as gateway:
            _wait(follower, lambda: gateway.ended or kernel.ended)
            if not gateway.ended:
                raise kernel.failed(f"ended ({kernel.status}) before the gateway was done")
        told = _result(run.folder / "gateway")  # Kaggle's own gateway ends well whatever happens
        if gateway.status or told:
            # Either may have ended the other, and papermill is the last to notice.
            with suppress(subprocess.TimeoutExpired):
                kernel.popen.wait(NOTICE_SECONDS)
            how = f"ended ({gateway.status or 'in vain'}){told}"
            raise RunError(f"{gateway.failed(how)}\n{kernel.last_lines()}")
        terminate(kernel.popen, follower.pid)
        follower.poll()
        if kernel.status:
            raise kernel.failed(f"ended ({kernel.status}) on SIGTERM")
    _check(play, run, run.folder / "gateway")


@contextmanager
def _kernel(play: Play, run: PlayedRun, rerun: bool) -> Iterator[tuple[Process, Follower]]:
    """The notebook under papermill, ended when the context is left."""
    working = run.folder / "kernel"
    working.mkdir()
    parameters = dict(play.parameters)
    if play.seed is not None:
        parameters["seed"] = str(play.seed)
    given = parse_parameters(parameters.items(), read_declarations(play.notebook))
    # Kaggle names no kernel and gives no parameters. Where ours are given, papermill writes the
    # vendored cell anew. As YAML, which JSON is: it would take a text such as "7" for a number.
    values = ["-y", json.dumps({**play.vendored, **given})] if given else []
    command = [
        *(sys.executable, "-m", "papermill", *values),
        *("--log-output", "--no-progress-bar", "--cwd", str(working)),
        *(str(play.notebook), str(run.notebook)),
    ]
    environment = session_environment(play.folders, working, rerun)
    environment[VERSION_VARIABLE] = play.package
    if play.fault is not None:
        environment[faults.VARIABLE] = play.fault
    follower = Follower(play, run, working / NAME)
    before = play.folders.input_state()
    with started(play.isolation, run.folder, "kernel", command, environment) as kernel:
        try:
            yield kernel, follower
        finally:
            terminate(kernel.popen, follower.pid)
    if changed := before.items() ^ play.folders.input_state().items():
        raise RunError(
            f"{min(path for path, _ in changed)} was changed by the run, and Kaggle's input is "
            "read-only: write to the working folder"
        )


@contextmanager
def _gateway(play: Play, run: PlayedRun, port: int | None) -> Iterator[Process]:
    """The gateway, ended when the context is left: the competition's own where it is at hand.

    It finds the kernel by itself, under its host name of a rerun, as on Kaggle; but outside
    of a namespace that name is unknown, and other kernels may listen on this machine, so that
    there it is told the `port`.
    """
    working = run.folder / "gateway"
    working.mkdir()
    alone = play.isolation.mode == "namespace" and play.fault != CONNECTION
    told = [str(port)] if port and not alone else []
    competition = play.folders.test_file.parent
    if (competition / CURRENT.package).is_dir():
        module = find_module(competition, CURRENT.gateway_module)
        command = [sys.executable, str(REAL_GATEWAY), str(competition), module]
        command += [CURRENT.gateway_class, str(play.folders.test_file), *told]
    else:
        command = [sys.executable, "-m", "mathllm.competition.protocol.gateway"]
        command += ["--problems", str(play.folders.test_file), "--output-dir", str(working)]
        command += ["--package", play.package]
        # The order is another every time, as on Kaggle; with a seed it can be had again.
        command += [] if play.seed is None else ["--seed", str(play.seed + run.number)]
        command += ["--host", LOCAL_HOST, "--ports", *told] if told else []
    environment = session_environment(play.folders, working, rerun=True)
    environment["PYTHONPATH"] = str(play.source)
    with started(play.isolation, run.folder, "gateway", command, environment) as gateway:
        try:
            yield gateway
        finally:
            terminate(gateway.popen)


@contextmanager
def _flaky(play: Play, run: PlayedRun, port: int | None) -> Iterator[int | None]:
    """The port that the gateway is told: the kernel's, or one whose connections are cut."""
    if play.fault != CONNECTION:
        yield port
        return
    (run.folder / "proxy").mkdir()
    port_file = run.folder / "proxy" / "port"
    command = [
        sys.executable,
        "-m",
        "mathllm.competition.rehearsal.flaky_proxy",
        str(port),
        str(port_file),
    ]
    environment = session_environment(play.folders, run.folder / "proxy", rerun=True)
    environment["PYTHONPATH"] = str(play.source)
    with started(play.isolation, run.folder, "proxy", command, environment) as proxy:
        try:
            while not port_file.exists():
                if proxy.ended:
                    raise proxy.failed(f"ended ({proxy.status})")
                time.sleep(POLL_SECONDS)
            yield int(port_file.read_text(encoding="utf-8"))
        finally:
            terminate(proxy.popen)


def _wait(follower: Follower, done: Callable[[], bool]) -> None:
    while not done():
        follower.poll()
        time.sleep(POLL_SECONDS)
    follower.poll()


def _check(play: Play, run: PlayedRun, working: Path) -> None:
    """The run used the vendored package, and its submission has every problem once."""
    inside = Path(run.package or "/").resolve()
    if not inside.is_relative_to(play.folders.input_root.resolve()):
        raise RunError(f"mathllm came from {inside}, not from what was vendored")
    events = {event["event"] for event in read_journal(run.folder / "kernel" / NAME)}
    if play.wheels and "wheels" not in events:
        raise RunError(f"the kernel did not find the dataset of wheels, {play.wheels}")
    path = working / CURRENT.submission_file
    if not path.is_file():
        raise RunError(f"no {CURRENT.submission_file} was written{_result(working)}")
    run.submission = path
    try:
        run.submitted = read_submission(path)
    except ProblemFileError as fault:
        raise RunError(str(fault)) from fault
    if sorted(run.submitted) != sorted(play.problems):
        rows = len(run.submitted)
        raise RunError(f"{CURRENT.submission_file} has {rows} rows, not one for each problem")


def _result(working: Path) -> str:
    """What the gateway's result.json says went wrong, if there is one."""
    path = working / RESULT_FILE
    if not path.is_file():
        return ""
    result = json.loads(path.read_text(encoding="utf-8"))
    if result["Succeeded"]:
        return ""
    return f": {result.get('ErrorName')} {result.get('ErrorDetails')}"
