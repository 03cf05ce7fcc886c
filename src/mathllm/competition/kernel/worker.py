"""The process that solves, as the kernel sees it: started, asked, and replaced when it hangs.

An engine may hang in native code, with the interpreter's lock or without it, crash, or be
killed for its memory. None of that reaches the kernel, whose own thread waits for a pipe and
for no longer than a problem may take. The other end is worker_process.py's.
"""

import logging
import os
import pickle
import queue
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from mathllm import children
from mathllm.errors import cause_of
from mathllm.solving import Solution, Solver

SLACK_SECONDS = 5.0  # after a problem's deadline, before the worker counts as hanging
LOAD_SECONDS = 1800.0  # for a solver to load; a large model's server takes minutes
# Once it was loaded, for it to load again: these, and so many times what it took.
RELOAD_SECONDS, RELOAD_TIMES = 120.0, 4.0
STARTS = 3  # of workers one after another that never get to load, before none is started again
SEND_SECONDS = 5.0  # for a problem to be taken from the pipe
END_SECONDS = 5.0  # for a worker to end by itself
STACK_SECONDS = 1.0  # for the stacks of a worker that hangs
STACK_CHARS = 6000
# Threads of native code wait asleep: those that spin for a core that another process has (a
# program in the sandbox, a server) made the same sample ten times slower.
IDLE = {"OMP_WAIT_POLICY": "PASSIVE"}

Load = Callable[[], Solver]
Tell = Callable[..., None]
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from mathllm.competition.kernel.worker_process import main; main()"
)
_log = logging.getLogger(__name__)


class WorkerError(RuntimeError):
    """A worker that hung or died. `stack` has its threads' stacks as far as they are known,
    `so_far` the solution from the samples that it had, None without any."""

    def __init__(self, why: str, stack: str = "", so_far: Solution | None = None):
        super().__init__(why)
        self.stack, self.so_far = stack, so_far
        if stack:
            self.add_note(stack)


class Worker:
    """A process at a time that loads a solver and then solves one problem after another.

    `prepare` is called once, before the first process starts, in a thread of its own, and
    gives what loads the solver there: a function that can be pickled. `tell(event, **values)`
    gets a journal's lines: worker, loaded, warning, silent, fault. `strict`: a load that hangs or
    dies is not tried again.
    """

    def __init__(self, prepare: Callable[[], Load], tell: Tell, strict: bool):
        self._prepare, self._tell, self._strict = prepare, tell, strict
        self._load: bytes | None = None
        self._process: _Process | None = None
        self._number = 0  # of processes started
        self._load_seconds = LOAD_SECONDS
        self._unloaded = 0  # of them in a row, that never got to load
        self._asked = 0

    def start(self) -> None:
        """Begin to load in the background; once is enough."""
        if self._process is None:
            self._replace()

    def wait_until_loaded(self) -> None:
        """Wait for the solver. Raises what its loading raised, and WorkerError."""
        self.start()
        while True:
            process = self._process
            left = process.started + self._load_seconds - time.monotonic()
            if not process.loaded.wait(max(left, 0.0)):
                why, stack = f"loading took over {self._load_seconds:g} s", process.end_hung()
            elif process.load_fault is not None:
                raise process.load_fault
            elif process.ended is None:
                self._unloaded = 0
                again = RELOAD_SECONDS + RELOAD_TIMES * process.load_seconds
                self._load_seconds = min(LOAD_SECONDS, again)
                return
            else:
                why, stack = process.ended, process.stack
            self._unloaded += not process.was_loaded
            error = WorkerError(f"the worker ended: {why}", stack)
            if self._strict or self._unloaded >= STARTS:
                raise error
            self._tell("fault", cause=str(error), stack=stack)
            self._replace()

    def solve(self, identifier: str, problem: str, seconds: float) -> Solution:
        """The solver's solution, within `seconds` and SLACK_SECONDS.

        Raises what it raised there, and WorkerError where it hung or died; then the next
        process is loading already.
        """
        process = self._process
        deadline = time.monotonic() + seconds + SLACK_SECONDS
        self._asked += 1
        so_far: Solution | None = None
        # Where it is not taken, what ended the process is heard, or nothing until the deadline.
        with suppress(OSError):
            process.connection.send((self._asked, identifier, problem, seconds))
        while True:
            try:
                said = process.heard.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                process.end_hung()
                late = f"{SLACK_SECONDS:g} s after its deadline"
                raise self._lost(f"the worker hung and was ended {late}", so_far) from None
            match said:
                case ("so far", self._asked, solution):
                    so_far = solution
                case ("solved", self._asked, solution):
                    if solution.hung:
                        self._end_hung(solution)
                    return solution
                case ("raised", self._asked, fault):
                    raise fault
                case ("ended",):
                    raise self._lost(f"the worker ended: {process.ended}", so_far)

    def close(self) -> None:
        """End the process, in some seconds at most."""
        if self._process is not None:
            self._process.close()

    def _end_hung(self, solution: Solution) -> None:
        """It answered, and something in it goes on that should have ended: another follows.
        Raises WorkerError if strict."""
        self._process.end_hung()
        lost = self._lost("samples do not end: the worker was ended", solution)
        if self._strict:
            raise lost

    def _lost(self, why: str, so_far: Solution | None) -> WorkerError:
        stack = self._process.stack
        if not self._strict:
            self._tell("fault", cause=why, stack=stack)
            self._replace()
        return WorkerError(why, stack, so_far)

    def _replace(self) -> None:
        self._number += 1
        self._process = _Process(self._number, self._loader, self._tell)

    def _loader(self) -> bytes:
        """What loads the solver, pickled. In the thread of the process that is to load it."""
        if self._load is None:
            self._load = pickle.dumps(self._prepare())
        return self._load


class _Process:
    """One process from its start to its end, and the thread that listens to it.

    `loaded` is set once loading is over, however it ended; `heard` gets what is said about a
    problem, and ("ended",). `ended` says how it ended. Questions are sent by `connection`.
    """

    def __init__(self, number: int, loader: Callable[[], bytes], tell: Tell):
        self.started = time.monotonic()
        self.loaded = threading.Event()
        self.was_loaded = False
        self.load_seconds = 0.0
        self.load_fault: BaseException | None = None
        self.heard: queue.SimpleQueue[tuple] = queue.SimpleQueue()
        self.ended: str | None = None
        self._number, self._loader, self._tell = number, loader, tell
        self._popen: subprocess.Popen[bytes] | None = None
        self._stacks = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        ours, self._theirs = socket.socketpair()
        # A process that does not read must not hold who writes.
        timeout = struct.pack("ll", int(SEND_SECONDS), 0)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        self.connection = Connection(ours.detach())
        self._closing = threading.Event()
        threading.Thread(target=self._listen, name="worker", daemon=True).start()

    @property
    def stack(self) -> str:
        """The stacks that it has left, of a crash or on demand; "" for none."""
        try:
            written = os.pread(self._stacks.fileno(), STACK_CHARS, 0)
        except (OSError, ValueError):
            return ""
        return written.decode(errors="replace").strip()

    def end_hung(self) -> str:
        """Kill it, after asking for its stacks, which are returned: where it hangs."""
        popen = self._popen
        if popen is not None and popen.poll() is None:
            with suppress(ProcessLookupError):
                # Written by a handler in C, whoever holds the interpreter's lock.
                os.kill(popen.pid, signal.SIGUSR1)
            deadline = time.monotonic() + STACK_SECONDS
            while time.monotonic() < deadline and "most recent call first" not in self.stack:
                time.sleep(0.05)
            time.sleep(0.05)  # for the rest of it
        stack = self.stack
        self._end()
        return stack

    def close(self) -> None:
        """Let it end; kill it if it does not."""
        self._closing.set()
        popen = self._popen
        with suppress(OSError):
            self.connection.send(None)
        if popen is not None and self.loaded.is_set():
            with suppress(subprocess.TimeoutExpired):
                popen.wait(END_SECONDS)
        self._end()

    def _end(self) -> None:
        self._closing.set()
        if self._popen is not None and not children.kill(self._popen):
            _log.warning("process %s does not end when it is killed", self._popen.pid)

    def _listen(self) -> None:
        """Start the process and hear it until it ends: it dies with the thread that made it."""
        try:
            self._hear_all(self._loader())
        except BaseException as fault:  # of preparing: whoever waits for the solver gets it
            self._not_loaded(fault)
        finally:
            self.ended = self.ended or "closed"
            self._end()
            children.remove_leftovers()
            self._theirs.close()
            self.connection.close()
            self.loaded.set()
            self.heard.put(("ended",))

    def _hear_all(self, load: bytes) -> None:
        """Never raises: whatever is wrong from here on ends this process, and another follows."""
        try:
            if self._closing.is_set():
                return
            self._popen = self._start()
            if self._closing.is_set():
                return
            self._tell("worker", pid=self._popen.pid, number=self._number)
            self.connection.send(sys.path)
            self.connection.send_bytes(load)
            while True:
                self._hear(self.connection.recv())
        except Exception as fault:
            self.ended = self._how(fault)

    def _start(self) -> "subprocess.Popen[bytes]":
        root = str(Path(__file__).parents[3])
        descriptors = (self._theirs.fileno(), self._stacks.fileno())
        arguments = [root, *map(str, descriptors), str(os.getpid())]
        popen = subprocess.Popen(
            [sys.executable, "-c", _START, *arguments],
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
            env={**IDLE, **os.environ, children.OWNER: children.owner()},
            start_new_session=True,
        )
        self._theirs.close()
        return popen

    def _hear(self, message: tuple) -> None:
        match message:
            case ("warning" | "silent" as event, cause):
                self._tell(event, cause=cause)
            case ("loaded", seconds, fault):
                self._tell("loaded", seconds=seconds)
                if fault:
                    self._tell("fault", cause=f"loading: {fault}")
                self.was_loaded, self.load_seconds = True, seconds
                self.loaded.set()
            case ("not loaded", told):
                self._not_loaded(_raised(told))
            case ("raised", number, told):
                self.heard.put(("raised", number, _raised(told)))
            case _:
                self.heard.put(message)

    def _not_loaded(self, fault: BaseException) -> None:
        """Whoever waits for the solver gets the fault."""
        self.load_fault = fault
        self._tell("fault", cause=f"loading: {cause_of(fault)}")
        self.loaded.set()

    def _how(self, fault: Exception) -> str:
        """How it ended, in words; by `fault` unless the pipe was closed at its end."""
        if self._popen is None or not isinstance(fault, (EOFError, ConnectionError)):
            return cause_of(fault)
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(END_SECONDS)
        code = self._popen.returncode
        return "it closed its pipe" if code is None else children.ending(code)


def _raised(told: tuple[bytes | None, str, str]) -> BaseException:
    """The exception itself where it can be had, with the stack that it came from."""
    pickled, words, trace = told
    fault: BaseException | None = None
    if pickled is not None:
        with suppress(Exception):
            fault = pickle.loads(pickled)
    if not isinstance(fault, BaseException):
        fault = RuntimeError(words)
    fault.add_note(f"in the worker:\n{trace}")
    return fault
