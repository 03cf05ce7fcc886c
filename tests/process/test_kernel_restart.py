"""A kernel that is started again in the middle of a rerun."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import polars as pl
import psutil
import pytest

from helpers.in_thread import InThread
from helpers.paths import ROOT
from helpers.played import MODEL, command
from helpers.ports import free_ports
from mathllm import children
from mathllm.competition.kernel.journal import Journal, is_unfinished, read_journal
from mathllm.competition.kernel.submission import Submission
from mathllm.competition.protocol.client import Client
from mathllm.competition.rehearsal import played_server
from mathllm.engines.server import is_ready
from mathllm.solving import Attempt, Budget, Solution


class Counting:
    """Answers with how often it was asked."""

    def __init__(self, fault: Exception | None = None):
        self.asked = []
        self.fault = fault

    def solve(self, problem_id, problem, seconds):
        self.asked.append((problem_id, problem, seconds))
        if self.fault is not None:
            raise self.fault
        attempts = [Attempt("text", len(self.asked), 30, "stop", 0.1)]
        faults = ["RuntimeError: once; trying 2 samples"]
        return Solution(
            problem_id, len(self.asked), {len(self.asked): 1}, "1 of 1 votes", attempts, 0.5, faults
        )


KERNEL = """
import json, sys
from mathllm.competition.kernel.serve import serve
from mathllm.solving import Budget, EngineSettings, SolverSettings

serve(
    sys.argv[1],
    SolverSettings(n_samples=2, max_new_tokens=60),
    Budget(3600, 60, 50),
    EngineSettings(**json.loads(sys.argv[2])),
)
"""
WEIGHTS = ROOT / "assets" / "tiny"


def start_kernel(folder: Path, **engine) -> tuple[subprocess.Popen, int]:
    """The real kernel in a rerun, as a process, and the port it listens on."""
    environment = os.environ | {
        "KAGGLE_IS_COMPETITION_RERUN": "1",
        "MATHLLM_WORKING_DIR": str(folder),
        "MATHLLM_INPUT_ROOT": str(folder / "input"),
    }
    command = [sys.executable, "-c", KERNEL, str(WEIGHTS), json.dumps(engine)]
    kernel = subprocess.Popen(command, env=environment)
    while True:
        assert kernel.poll() is None
        # Its own word is in the journal, which may be what cannot be written.
        ports = psutil.Process(kernel.pid).net_connections("tcp")
        if listening := [port.laddr.port for port in ports if port.status == "LISTEN"]:
            return kernel, listening[0]
        time.sleep(0.1)


def send(client: Client, id_: str) -> int:
    reply = client.send("predict", pl.Series("id", [id_]), pl.Series("problem", [ASKED[id_]]))
    return reply["answer"][0]


def kill(kernel: subprocess.Popen) -> None:
    kernel.send_signal(signal.SIGKILL)
    kernel.wait()


def started_by(kernel: subprocess.Popen) -> list[psutil.Process]:
    """Its children and theirs, wherever they are now."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            mark = process.environ().get(children.OWNER, "")
            if process.status() != "zombie" and mark.startswith(f"{kernel.pid}-"):
                found.append(process)
    return found


def wait_for(condition, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


ASKED = {"a": "Compute $12+5$.", "b": "What is $7-3$?", "c": "Compute $6+6$."}


@pytest.mark.slow
def test_a_kernel_that_is_killed_and_started_again_goes_on(tmp_path):
    kernel, port = start_kernel(tmp_path)
    client = Client(ports=[port])
    before = [send(client, "a"), send(client, "b")]
    client.close()
    kill(kernel)
    assert wait_for(lambda: not started_by(kernel), 5)
    kernel, port = start_kernel(tmp_path)
    try:
        client = Client(ports=[port])
        assert [send(client, "a"), send(client, "b")] == before == [17, 4]
        assert send(client, "c") == 12
        client.close()
    finally:
        kill(kernel)
    events = read_journal(tmp_path / "journal.jsonl")
    assert [e["event"] for e in events].count("start") == 2
    assert [e["id"] for e in events if e["event"] == "again"] == ["a", "b"]
    assert [e["id"] for e in events if e["event"] == "answer"] == ["a", "b", "c"]


@pytest.mark.slow
def test_the_endpoints_server_is_started_again_and_ends_with_a_kernel_that_is_killed(tmp_path):
    (port,) = free_ports(1)
    engine = {
        "endpoint": f"http://127.0.0.1:{port}/v1",
        "endpoint_model": MODEL,
        "server": command(port),
    }

    def servers(kernel):
        mine = [p for p in started_by(kernel) if played_server.__file__ in p.cmdline()]
        return [p for p in mine if "children.py" not in " ".join(p.cmdline())]

    kernel, own = start_kernel(tmp_path, **engine)
    client = Client(ports=[own])
    assert send(client, "a") == 17
    (first,) = servers(kernel)
    first.kill()
    assert send(client, "b") == 4  # by the spare engine, if the server is not yet back
    assert wait_for(lambda: is_ready(engine["endpoint"]))
    assert [p.pid for p in servers(kernel)] != [first.pid]
    client.close()
    kill(kernel)
    assert wait_for(lambda: not started_by(kernel), 15)
    # The port is free: the next kernel's server is its own.
    kernel, own = start_kernel(tmp_path, **engine)
    client = Client(ports=[own])
    try:
        assert send(client, "c") == 12
        assert len(servers(kernel)) == 1
    finally:
        client.close()
        kill(kernel)
    assert wait_for(lambda: not started_by(kernel), 15)
    events = read_journal(tmp_path / "journal.jsonl")
    faults = [e["cause"] for e in events if e["event"] == "fault"]
    assert faults
    assert all("status 137" in cause and "started again" in cause for cause in faults)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_disk_that_is_full_from_the_start_costs_no_answer(tmp_path):
    (tmp_path / "journal.jsonl").symlink_to("/dev/full")
    kernel, port = start_kernel(tmp_path)
    client = Client(ports=[port])
    try:
        assert [send(client, id_) for id_ in ASKED] == [17, 4, 12]
        kernel.send_signal(signal.SIGTERM)
        assert kernel.wait(30) == 0
    finally:
        client.close()
        kill(kernel)


def submission(path: Path, solver: Counting, restarted: bool, budget: Budget | None = None):
    journal = Journal(path, restarted, strict=False)
    journal.write("start", pid=1, package="", rerun=True)
    budget = budget or Budget(3600, 60, 50)
    made = Submission(lambda: lambda: solver, budget, journal, True, lambda _: None, InThread)
    made.start()
    return made


def ask(made: Submission, id_: str, problem: str) -> int:
    return made.predict(pl.Series([id_]), pl.Series([problem]))["answer"][0]


def test_what_was_answered_is_not_solved_again(tmp_path):
    path = tmp_path / "journal.jsonl"
    first = Counting()
    killed = submission(path, first, restarted=False)
    assert [ask(killed, "a", "one?"), ask(killed, "b", "two?")] == [1, 2]
    with path.open("a") as file:
        file.write('{"event": "ans')  # the process was killed while it wrote
    assert is_unfinished(path, 5)
    second = Counting()
    again = submission(path, second, restarted=True)
    assert [ask(again, "a", "one?"), ask(again, "b", "two?")] == [1, 2]
    assert second.asked == []
    assert ask(again, "c", "three?") == 1
    assert [e["id"] for e in read_journal(path) if e["event"] == "again"] == ["a", "b"]
    assert again.summary()["id"].to_list() == ["a", "b", "c"]


def test_the_same_id_with_another_text_is_another_problem(tmp_path):
    made = submission(tmp_path / "journal.jsonl", solver := Counting(), restarted=False)
    assert [ask(made, "a", "one?"), ask(made, "a", "other?"), ask(made, "a", "one?")] == [1, 2, 1]
    assert len(solver.asked) == 2


def test_an_answer_that_stood_in_is_tried_again(tmp_path):
    path = tmp_path / "journal.jsonl"
    assert ask(submission(path, Counting(ValueError("wrong")), False), "a", "one?") == 0
    assert ask(submission(path, Counting(), restarted=True), "a", "one?") == 1


def test_the_clock_goes_on_from_the_first_start(tmp_path):
    path = tmp_path / "journal.jsonl"
    early = {"event": "start", "time": time.time() - 1000, "pid": 1, "package": "", "rerun": True}
    path.write_text(json.dumps(early) + "\n")
    budget = Budget(3600, 60, 50)
    submission(path, Counting(), True, budget)
    assert budget.elapsed_seconds == pytest.approx(1000, abs=30)
    assert budget.left_seconds == pytest.approx(2540, abs=30)


def test_the_clock_of_a_journal_without_its_first_line_goes_on_from_the_next(tmp_path):
    path = tmp_path / "journal.jsonl"
    now = time.time()
    loaded = {"event": "loaded", "time": now - 1000, "seconds": 3.0}
    start = {"event": "start", "time": now - 10, "pid": 1}  # of the second process
    path.write_text('{"event": "sta\n' + "".join(json.dumps(e) + "\n" for e in (loaded, start)))
    budget = Budget(3600, 60, 50)
    submission(path, Counting(), True, budget)
    assert budget.elapsed_seconds == pytest.approx(1000, abs=30)


def test_problems_that_were_answered_have_had_their_share(tmp_path):
    path = tmp_path / "journal.jsonl"
    killed = submission(path, Counting(), restarted=False)
    for number in range(10):
        ask(killed, str(number), "?")
    budget = Budget(3600, 60, 50)
    again = submission(path, Counting(), True, budget)
    assert budget.finished == 10
    ask(again, "3", "?")
    assert budget.finished == 10
    ask(again, "new", "?")
    assert budget.finished == 11


def test_only_a_run_that_was_cut_off_lately_goes_on(tmp_path):
    path = tmp_path / "journal.jsonl"
    assert not is_unfinished(path, 5)
    made = submission(path, Counting(), restarted=False)
    assert is_unfinished(path, 5)
    made.close("done")
    assert not is_unfinished(path, 5)
    old = {"event": "start", "time": time.time() - 6 * 3600, "pid": 1, "package": "", "rerun": True}
    path.write_text(json.dumps(old) + "\n")
    assert not is_unfinished(path, 5)


def test_what_failed_on_the_way_is_in_journal_and_summary(tmp_path):
    path = tmp_path / "journal.jsonl"
    made = submission(path, Counting(), restarted=False)
    ask(made, "a", "one?")
    (entry,) = [e for e in read_journal(path) if e["event"] == "answer"]
    assert entry["faults"] == ["RuntimeError: once; trying 2 samples"]
    assert entry["fault"] is None
    assert made.summary()["fault"].to_list() == ["RuntimeError: once; trying 2 samples"]
