"""Solvers for a kernel's worker, each made by a function that its process can import."""

import ctypes
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from functools import partial

from mathllm.solving import Attempt, Solution

SECONDS = 3600


def hang_without_the_lock():
    """Native code that has let go of the interpreter's lock."""
    ctypes.CDLL(None).sleep(SECONDS)


def hang_with_the_lock():
    """Native code that holds it: no other thread of Python's runs any more."""
    ctypes.PyDLL(None).sleep(SECONDS)


def spin():
    """Python code that never ends."""
    while True:
        pass


def wait_for_a_dead_lock():
    """A lock that nobody gives back."""
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def ignore_everything():
    """A hang that no signal but one ends."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(SECONDS)


def stop():
    """Stopped by a signal, so that nothing runs, no handler either."""
    os.kill(os.getpid(), signal.SIGSTOP)


def crash():
    """As native code that reads where it may not."""
    ctypes.string_at(1)


def abort():
    """As a failed check in native code."""
    os.abort()


def leave():
    """Ends the process without a word."""
    os._exit(3)


HANGS = {
    f.__name__: f
    for f in (
        hang_without_the_lock,
        hang_with_the_lock,
        spin,
        wait_for_a_dead_lock,
        ignore_everything,
        stop,
    )
}
DEATHS = {f.__name__: f for f in (crash, abort, leave)}


class Panic(BaseException):
    """As the panics of packages in Rust: no Exception."""


class OddError(Exception):
    """One that does not come back from a pickle."""

    def __init__(self, a, b):
        super().__init__(a)
        self.b = b


class Solver:
    """Answers with the problem's length. A problem that is the name of something above does
    that; "tell" before it says first that the answer would be 7."""

    load_fault = None

    def solve(self, problem_id, problem, seconds, tell=lambda _: None):
        first, _, rest = problem.partition(" ")
        if first == "tell":
            tell(solution(problem_id, 7))
            return self.solve(problem_id, rest, seconds, tell)
        if first == "hung":
            return replace(solution(problem_id, 5), hung=True)
        if first == "pid":
            return solution(problem_id, os.getpid() % 100_000)
        if first == "raise":
            raise {"odd": OddError(1, 2), "panic": Panic("in Rust"), "exit": SystemExit(1)}[rest]
        if first == "late":
            time.sleep(seconds + 0.5)
        if do := (HANGS | DEATHS).get(first):
            do()
        return solution(problem_id, len(problem))


def solution(problem_id, answer):
    """One sample's."""
    attempts = [Attempt("text", answer, 30, "stop", 0.1)]
    return Solution(problem_id, answer, {answer: 1}, "1 of 1 votes", attempts, 0.5)


def load():
    """Loads at once."""
    return Solver()


def load_with_a_child(path):
    """Starts a process that would outlive this one, and says which."""
    import subprocess

    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    path.write_text(str(child.pid))
    return Solver()


def fail():
    """Cannot load."""
    raise ValueError("no weights in x")


def do_first_times(folder, what, times):
    """Does `what` instead of loading, so many times in all."""
    count = len(list(folder.iterdir()))
    (folder / str(count)).touch()
    if count < times:
        (HANGS | DEATHS)[what]()
    return Solver()


def first_times(folder, what, times):
    """Such a loader."""
    return partial(do_first_times, folder, what, times)


def do_at_second(folder, what):
    """Does `what` instead of loading, the second time alone."""
    count = len(list(folder.iterdir()))
    (folder / str(count)).touch()
    if count == 1:
        (HANGS | DEATHS)[what]()
    return Solver()


def once_more(folder, what):
    """Such a loader."""
    return partial(do_at_second, folder, what)
