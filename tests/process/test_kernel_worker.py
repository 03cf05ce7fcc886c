"""The kernel's worker process: whatever hangs or dies in it costs one problem, in time."""

import os
import signal
import subprocess
import sys
import time

import polars as pl
import pytest

from helpers import worker_solvers
from helpers.paths import TESTS
from mathllm.children import start_time
from mathllm.competition.kernel import worker as worker_module
from mathllm.competition.kernel.journal import Journal, read_journal
from mathllm.competition.kernel.submission import Submission
from mathllm.competition.kernel.worker import Worker, WorkerError
from mathllm.solving import Budget

SECONDS = 0.5  # that a problem gets here
SLACK = 1.0


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(worker_module, "SLACK_SECONDS", SLACK)


class Told(list):
    """What the worker tells."""

    def __call__(self, event, **values):
        self.append({"event": event, **values})

    def of(self, event):
        return [entry for entry in self if entry["event"] == event]


@pytest.fixture
def made():
    """Makes workers, and ends them."""
    workers = []

    def make(load=worker_solvers.load, strict=False):
        told = Told()
        worker = Worker(lambda: load, told, strict)
        workers.append(worker)
        worker.wait_until_loaded()
        return worker, told

    yield make
    for worker in workers:
        worker.close()


def is_alive(pid: int) -> bool:
    return start_time(pid) is not None


def ended_within(seconds: float, *pids: int) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(is_alive, pids))


def test_problems_are_solved_in_another_process(made):
    worker, told = made()
    assert worker.solve("a", "abc", SECONDS).answer == 3
    pid = worker.solve("b", "pid", SECONDS).answer
    assert pid == told.of("worker")[0]["pid"] % 100_000 != os.getpid()
    assert [entry["event"] for entry in told] == ["worker", "loaded"]


@pytest.mark.slow
@pytest.mark.parametrize("name", worker_solvers.HANGS)
def test_a_hang_is_ended_in_time_with_its_stack_and_the_next_problem_is_solved(made, name):
    worker, told = made()
    began = time.monotonic()
    with pytest.raises(WorkerError, match="hung") as caught:
        worker.solve("a", name, SECONDS)
    assert time.monotonic() - began < SECONDS + SLACK + worker_module.STACK_SECONDS + 1
    if name not in ("ignore_everything", "stop"):  # these two hear no signal
        assert f"in {name}" in caught.value.stack
        assert f"in {name}" in told.of("fault")[0]["stack"]
    assert ended_within(1, told.of("worker")[0]["pid"])
    worker.wait_until_loaded()
    assert worker.solve("b", "abcd", SECONDS).answer == 4
    assert len(told.of("worker")) == 2


def test_a_worker_in_which_samples_go_on_is_replaced_behind_its_answer(made):
    worker, told = made()
    assert worker.solve("a", "hung", SECONDS).answer == 5
    assert "samples do not end" in told.of("fault")[0]["cause"]
    assert ended_within(1, told.of("worker")[0]["pid"])
    worker.wait_until_loaded()
    assert worker.solve("b", "abcd", SECONDS).answer == 4
    assert len(told.of("worker")) == 2


def test_in_a_commit_run_samples_that_go_on_are_a_fault(made):
    worker, _ = made(strict=True)
    with pytest.raises(WorkerError, match="samples do not end"):
        worker.solve("a", "hung", SECONDS)


@pytest.mark.parametrize("name", worker_solvers.DEATHS)
def test_a_death_is_seen_at_once(made, name):
    worker, _ = made()
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"SIGSEGV|SIGABRT|exit status 3") as caught:
        worker.solve("a", name, 60.0)
    assert time.monotonic() - began < 20
    if name != "leave":
        assert f"in {name}" in caught.value.stack
    worker.wait_until_loaded()
    assert worker.solve("b", "abcd", SECONDS).answer == 4


@pytest.mark.parametrize("name", ["hang_with_the_lock", "leave"])
def test_what_was_found_before_a_hang_or_a_death_is_kept(made, name):
    worker, _ = made()
    with pytest.raises(WorkerError) as caught:
        worker.solve("a", f"tell {name}", SECONDS)
    assert caught.value.so_far.answer == 7


def test_a_reply_within_the_slack_is_taken(made):
    worker, told = made()
    assert worker.solve("a", "late", SECONDS).answer == 4
    assert not told.of("fault")


@pytest.mark.parametrize(
    ("problem", "kind", "words"),
    [
        ("raise odd", RuntimeError, "OddError"),
        ("raise panic", worker_solvers.Panic, "in Rust"),
        ("raise exit", SystemExit, "1"),
    ],
)
def test_what_is_raised_there_is_raised_here_with_its_stack(made, problem, kind, words):
    worker, _ = made()
    with pytest.raises(kind, match=words) as caught:
        worker.solve("a", problem, SECONDS)
    assert "worker_solvers.py" in "".join(caught.value.__notes__)
    assert worker.solve("b", "abcd", SECONDS).answer == 4


def test_a_worker_that_dies_between_problems_costs_none(made):
    worker, told = made()
    os.kill(told.of("worker")[0]["pid"], signal.SIGKILL)
    assert ended_within(5, told.of("worker")[0]["pid"])
    time.sleep(0.2)
    worker.wait_until_loaded()
    assert worker.solve("b", "abcd", SECONDS).answer == 4
    assert "SIGKILL" in told.of("fault")[0]["cause"]


def test_a_loading_that_dies_is_tried_again_three_times_at_most(made, tmp_path):
    for folder in ("twice", "always"):
        (tmp_path / folder).mkdir()
    worker, told = made(worker_solvers.first_times(tmp_path / "twice", "leave", 2))
    assert worker.solve("b", "abcd", SECONDS).answer == 4
    assert len(told.of("worker")) == 3
    with pytest.raises(WorkerError, match="exit status 3"):
        made(worker_solvers.first_times(tmp_path / "always", "leave", 9))
    assert len(list((tmp_path / "always").iterdir())) == 3


@pytest.mark.slow
def test_a_loading_that_hangs_is_ended_and_tried_again(made, tmp_path, monkeypatch):
    monkeypatch.setattr(worker_module, "LOAD_SECONDS", 3.0)
    worker, told = made(worker_solvers.first_times(tmp_path, "hang_with_the_lock", 1))
    assert worker.solve("b", "abcd", SECONDS).answer == 4
    assert "in hang_with_the_lock" in told.of("fault")[0]["stack"]


@pytest.mark.slow
def test_a_loading_that_hangs_after_one_that_did_not_is_waited_for_by_what_that_took(
    made, tmp_path, monkeypatch
):
    monkeypatch.setattr(worker_module, "RELOAD_SECONDS", 3.0)
    monkeypatch.setattr(worker_module, "RELOAD_TIMES", 0.0)
    worker, told = made(worker_solvers.once_more(tmp_path, "hang_with_the_lock"))
    with pytest.raises(WorkerError):
        worker.solve("a", "leave", SECONDS)
    worker.wait_until_loaded()
    assert worker.solve("b", "abcd", SECONDS).answer == 4
    assert told.of("fault")[1]["cause"] == "the worker ended: loading took over 3 s"


def test_in_a_commit_run_a_loading_is_not_tried_again(made, tmp_path):
    with pytest.raises(WorkerError, match="exit status 3"):
        made(worker_solvers.first_times(tmp_path, "leave", 1), strict=True)


def test_a_loading_that_raises_is_said_once_and_raised_for_every_problem():
    told = Told()
    worker = Worker(lambda: worker_solvers.fail, told, strict=False)
    for _ in range(2):
        with pytest.raises(ValueError, match="no weights in x"):
            worker.wait_until_loaded()
    assert [entry["cause"] for entry in told.of("fault")] == [
        "loading: ValueError: no weights in x"
    ]


def test_a_fault_before_loading_is_raised_too():
    def prepare():
        raise SystemExit("not even begun")

    worker = Worker(prepare, Told(), strict=False)
    with pytest.raises(SystemExit, match="not even begun"):
        worker.wait_until_loaded()


@pytest.mark.parametrize("strict", [True, False])
def test_a_file_that_is_missing_before_loading_is_said_as_it_is(strict):
    def prepare():
        raise FileNotFoundError(2, "No such file", "wheels/requirements.txt")

    told = Told()
    worker = Worker(prepare, told, strict)
    with pytest.raises(FileNotFoundError, match=r"wheels/requirements\.txt"):
        worker.wait_until_loaded()
    assert "wheels/requirements.txt" in told.of("fault")[0]["cause"]


def test_a_process_that_cannot_be_started_is_tried_again(made, monkeypatch):
    popen, refused = worker_module.subprocess.Popen, []

    def scarce(*arguments, **named):
        if len(refused) < 2:
            refused.append(1)
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return popen(*arguments, **named)

    monkeypatch.setattr(worker_module.subprocess, "Popen", scarce)
    worker, told = made()
    assert worker.solve("a", "abc", SECONDS).answer == 3
    assert [f["cause"].partition("Error")[0] for f in told.of("fault")] == [
        "the worker ended: BlockingIO"
    ] * 2


def test_a_word_that_cannot_be_read_costs_the_process_and_no_more(made, monkeypatch):
    worker, _ = made()
    recv = worker_module.Connection.recv

    def odd(connection):
        recv(connection)
        raise AttributeError("no such class here")

    with monkeypatch.context() as patch:
        patch.setattr(worker_module.Connection, "recv", odd)
        # Its thread waits in the old one already: the first word is heard, the next is not.
        worker.solve("a", "abc", SECONDS)
        with pytest.raises(WorkerError, match="no such class here"):
            worker.solve("b", "abc", SECONDS)
    worker.wait_until_loaded()
    assert worker.solve("c", "abcd", SECONDS).answer == 4


def test_closing_ends_the_process_and_leaves_none(made):
    worker, told = made()
    worker.close()
    assert ended_within(0.5, told.of("worker")[0]["pid"])
    worker.close()


KERNEL = """
import sys, time
sys.path.insert(0, sys.argv[1])
from helpers import worker_solvers
from mathllm.competition.kernel.worker import Worker

def tell(event, **values):
    if event == "worker":
        print(values["pid"], flush=True)

worker = Worker(lambda: worker_solvers.load, tell, False)
worker.wait_until_loaded()
print("loaded", flush=True)
worker.solve("a", sys.argv[2], 3600)
"""


@pytest.mark.parametrize("problem", ["hang_without_the_lock", "hang_with_the_lock", "stop"])
def test_a_worker_ends_with_a_kernel_that_is_killed(problem):
    command = [sys.executable, "-c", KERNEL, str(TESTS), problem]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as kernel:
        pid = int(kernel.stdout.readline())
        assert kernel.stdout.readline() == "loaded\n"
        time.sleep(0.5)
        assert is_alive(pid)
        kernel.kill()
    assert ended_within(2, pid)


def submission(folder, rerun=True):
    journal = Journal(folder / "journal.jsonl", strict=not rerun)
    budget = Budget(100.0, 0.0, 100, floor_seconds=SECONDS)
    made = Submission(lambda: worker_solvers.load, budget, journal, rerun, lambda _: None)
    made.start()
    return made


@pytest.mark.slow
def test_twelve_problems_of_which_one_hangs_are_twelve_rows(tmp_path):
    kernel = submission(tmp_path)
    texts = ["abc"] * 12
    texts[3], texts[7] = "hang_with_the_lock", "tell hang_without_the_lock"
    answers = [
        kernel.predict(pl.Series([f"p{i}"]), pl.Series([text]))["answer"][0]
        for i, text in enumerate(texts)
    ]
    kernel.end()
    assert answers == [3, 3, 3, 0, 3, 3, 3, 7, 3, 3, 3, 3]
    entries = [e for e in read_journal(kernel.journal.path) if e["event"] == "answer"]
    assert "hung" in entries[3]["fault"]
    assert "hung" in entries[7]["faults"][0]


@pytest.mark.slow
def test_a_hang_ends_a_commit_run_with_the_stack(tmp_path):
    kernel = submission(tmp_path, rerun=False)
    with pytest.raises(WorkerError, match="hung") as caught:
        kernel.predict(pl.Series(["a"]), pl.Series(["hang_with_the_lock"]))
    kernel.end()
    assert "in hang_with_the_lock" in "".join(caught.value.__notes__)
