"""Mathematics by math-verify and sympy, in a process of its own under limits that hold.

Refuses to know boxes, texts and votes, and never imports sympy itself: parser and algebra may
hang or eat memory on a hostile formula, and math-verify's own limit (signal.alarm) works in the
main thread only. So the caller's clock decides here, whatever thread it is, and the worker is
killed when it runs out.
"""

import atexit
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("sympy_worker.py")
MEMORY = 1 << 30  # bytes of address space; with sympy loaded the worker has about 200 MB
START_SECONDS = 60.0  # until a worker that is not ready counts as hung; cold disks are slow
MAX_LATEX = 2000  # characters; two such questions fit any socket's buffer

_ARGUMENT = r"\s*(\{(?:[^{}]|\{[^{}]*\})*\}|\\[A-Za-z]+|[0-9A-Za-z])"
_FRACTION = re.compile(r"\\[dtc]?frac(?![A-Za-z])" + _ARGUMENT + _ARGUMENT)
_ROOT = re.compile(r"\\sqrt(?![A-Za-z])\s*(\\[A-Za-z]+|[0-9A-Za-z])")
_UPRIGHT = re.compile(r"\\(?:mathrm|text|operatorname|rm)\s*\{\s*([ei])\s*\}")
_BLACKBOARD = re.compile(r"\\mathbb\s*([A-Z])")
_SPELT_PI = re.compile(r"(?<![\\A-Za-z{])pi(?![A-Za-z])|π")
# Spaces, sizes and dollars mean nothing, but for the space that makes 1, 234 a pair.
_NO_SENSE = re.compile(
    r"(?<!,)(?:\s|~|\\[,;: ])|\\!|\\(?:left|right|displaystyle)(?![A-Za-z])"
    r"|\\?\$|\.$|(?<=\{),(?=\})"
)


def available() -> bool:
    """Whether math-verify is installed and has not failed to load."""
    return not _worker.unusable and importlib.util.find_spec("math_verify") is not None


def same(a: str, b: str, seconds: float = 5.0) -> bool:
    """Whether two answers' LaTeX means the same, b being the one known to be right.

    False when time runs out. Without math-verify: whether they are the same text but for
    spaces and sizes.
    """
    if normal_text(a) == normal_text(b):
        return True
    if max(len(a), len(b)) > MAX_LATEX:
        return False
    return available() and _worker.ask({"a": _braced(a), "b": _braced(b)}, seconds) is True


def normal_text(latex: str) -> str:
    """LaTeX without what makes no difference to its meaning, for comparing as text."""
    return _NO_SENSE.sub("", _braced(latex)).replace("{}", "")


def close() -> None:
    """End the worker; the next question starts another."""
    _worker.close()


def _braced(latex: str) -> str:
    """Upright constants as letters, and braces around the arguments of fractions and roots that
    TeX lets stand without: math-verify gives up on \\frac \\pi4."""
    if len(latex) > MAX_LATEX:
        return latex
    latex = _BLACKBOARD.sub(r"\\mathbb{\1}", latex.replace(r"\varnothing", r"\emptyset"))
    latex = _SPELT_PI.sub(r"\\pi ", _UPRIGHT.sub(r"\1", latex))
    latex = _FRACTION.sub(lambda m: f"\\frac{_group(m[1])}{_group(m[2])}", latex)
    return _ROOT.sub(lambda m: f"\\sqrt{_group(m[1])}", latex)


def _group(argument: str) -> str:
    return argument if argument.startswith("{") else "{" + argument + "}"


class Worker:
    """One process at a time, one question at a time; holds the process and its channel."""

    def __init__(self, program: Path = PROGRAM, memory: int = MEMORY):
        self.program = program
        self.memory = memory
        self.unusable = False  # it said that math-verify does not load: asked no more
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._forget()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def ask(self, question: dict[str, Any], seconds: float) -> Any:
        """The value that comes back, or None if none comes within `seconds`.

        Waiting for another thread's question counts. A worker that is at work when time
        runs out is killed; one that is still starting is left to it, for the next question.
        """
        deadline = time.monotonic() + seconds
        if not self._lock.acquire(timeout=max(seconds, 0)):
            return None
        try:
            for _ in range(2):  # again if a worker from before is dead, but only then
                fresh = self._process is None
                try:
                    return self._exchange({**question, "seconds": seconds}, deadline)
                except TimeoutError:
                    if self._ready or time.monotonic() > self._started + START_SECONDS:
                        self._stop()
                    return None
                except (OSError, EOFError, ValueError):
                    self._stop()
                    if fresh or self.unusable:
                        return None
            return None
        except BaseException:  # Ctrl-C amid a question: its late reply must reach nobody
            self._stop()
            raise
        finally:
            self._lock.release()

    def close(self) -> None:
        with self._lock:
            self._stop()

    def _exchange(self, question: dict[str, Any], deadline: float) -> Any:
        if self._process is None:
            self._start()
        if not self._ready:
            self._ready = self._line(deadline)["ready"]
            if not self._ready:
                self.unusable = True
                raise EOFError
        self._channel.settimeout(_left(deadline))
        self._channel.sendall(json.dumps(question).encode() + b"\n")
        return self._line(deadline)["value"]

    def _line(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._received:
            self._channel.settimeout(_left(deadline))
            if not (piece := self._channel.recv(65536)):
                raise EOFError
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    def _start(self) -> None:
        """The same interpreter and import path, but not the caller's terminal signals.

        A pair of sockets instead of pipes, because both directions then have a time limit.
        """
        self._channel, theirs = socket.socketpair()
        self._started = time.monotonic()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(self.program), str(self.memory)],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,
            )

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._channel is not None:
            self._channel.close()
        self._forget()

    def _forget(self) -> None:
        self._process = None
        self._channel: socket.socket | None = None
        self._received = b""
        self._ready = False
        self._started = 0.0


def _left(deadline: float) -> float:
    """Seconds left, raising TimeoutError where there are none: a timeout of 0 means another
    thing to a socket."""
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError
    return left


def _after_fork() -> None:
    """A forked child must not read its parent's replies, nor wait for a lock of its threads."""
    global _worker
    _worker = Worker()


_worker = Worker()
atexit.register(close)
os.register_at_fork(after_in_child=_after_fork)
