"""The endpoint's server through a whole run: started, watched, and started again when it dies
or hangs.

Its weights are read ahead while it starts. It is ready once it lists the model and has generated
a token. From then on it is asked every few seconds whether it is there, and for a token where
whoever generates has waited for one in vain; one that does not answer is ended.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from mathllm.competition.kernel.prefetch import Prefetch, weight_files
from mathllm.engines.base import EngineError
from mathllm.engines.server import (
    WARM_SECONDS,
    Server,
    WrongServerError,
    check_served,
    generate_one,
    is_ready,
)
from mathllm.solving import EngineSettings

START_SECONDS = 900.0  # until it answers: a large model takes minutes to load
RESTARTS = 5  # in a run
WATCH_SECONDS = 1.0  # between two looks at its process
HEALTH_SECONDS = 10.0  # between two questions whether it is there
MISSES = 4  # of those without an answer, one after another, and it counts as hanging
SUSPECT_SECONDS = 20.0  # for a token, where others have waited in vain
PAUSE_SECONDS = 2.0  # before it is started again, twice as long each time: memory is freed late
LOG_LINES = 12  # of its log, in the journal


class EndpointServer:
    """The server that an engine's settings name; `start` and `close` it.

    The n-th that is started writes to the folder `log`, into server.log, server-2.log and so
    on. `tell(event, **values)` gets a journal's lines: prefetch, server, and a fault for each
    that dies. `left` gives the seconds that are left of the run: where they are fewer than a
    start took, none is started again.
    """

    def __init__(
        self,
        engine: EngineSettings,
        log: Path,
        tell: Callable[..., None],
        left: Callable[[], float],
        say: Callable[[str], None] = print,
    ):
        self._engine, self._log, self._tell, self._say = engine, log, tell, say
        self._left = left
        self._server: Server | None = None
        self._started = 0
        self._start_seconds = 0.0
        self._closing, self._suspected = threading.Event(), threading.Event()
        self._lock = threading.Lock()

    def start(self, tries: int = 1) -> None:
        """Start it, wait until it generates, and watch it from then on. Raises EngineError
        where it did not in any of the tries."""
        files = weight_files(self._engine.server)
        prefetch = Prefetch(files, self._say, self._prefetched)
        prefetch.start()
        try:
            while True:
                try:
                    self._begin()
                    self._ready()
                    break
                except EngineError as fault:
                    self._end()
                    last = self._started >= tries or isinstance(fault, WrongServerError)
                    if last or self._closing.wait(PAUSE_SECONDS):
                        raise
                    self._failed(fault, "it is started again")
        finally:
            prefetch.stop()
        threading.Thread(target=self._watch, name="endpoint server", daemon=True).start()

    def suspect(self) -> None:
        """Whoever generates has waited in vain: look whether it does at all."""
        self._suspected.set()

    def close(self) -> None:
        """End it, in some seconds at most."""
        self._closing.set()
        self._end()

    def _prefetched(self, files: int, size: int, seconds: float) -> None:
        if files:
            self._tell("prefetch", files=files, bytes=size, seconds=round(seconds, 1))

    def _begin(self) -> None:
        with self._lock:
            if self._closing.is_set():
                raise EngineError("the run is over: no server is started")
            self._started += 1
            number = f"-{self._started}" if self._started > 1 else ""
            log = self._log / f"server{number}.log"
            self._server = Server(self._engine.server, self._engine.endpoint, log)

    def _end(self) -> None:
        with self._lock:
            if self._server is not None:
                self._server.close()

    def _ready(self) -> None:
        began = time.monotonic()
        engine = self._engine
        self._server.wait_until_ready(START_SECONDS)
        answers = time.monotonic() - began
        check_served(engine.endpoint, engine.endpoint_model, engine.positions)
        warm = self._generate(WARM_SECONDS)
        self._start_seconds = answers + warm
        self._tell(
            "server",
            number=self._started,
            seconds=round(answers, 1),
            first_token_seconds=round(warm, 1),
        )

    def _watch(self) -> None:
        """Until the run is over, or no server is worth a start any more."""
        while (why := self._wait_for_its_end()) is not None:
            lost = time.monotonic()
            log = self._server.last_lines(LOG_LINES)
            self._end()
            if (reason := self._given_up()) is not None:
                self._tell("fault", cause=f"{why}; {reason}", log=log)
                return
            self._tell("fault", cause=f"{why}; it is started again", log=log)
            if not self._start_again():
                return
            away = time.monotonic() - lost
            self._tell(
                "warning",
                cause=f"the server was away for {away:.0f} s: samples waited for it and went on "
                "from what they had, or were lost",
            )

    def _given_up(self) -> str | None:
        """Why it is not started again."""
        if self._started > RESTARTS:
            return f"it is not started a {self._started + 1}th time"
        if (left := self._left()) < self._start_seconds:
            return (
                f"it is not started again: that took {self._start_seconds:.0f} s, and "
                f"{max(left, 0):.0f} s are left"
            )
        return None

    def _start_again(self) -> bool:
        """Whether it generates again; else the run is over, or it has been given up."""
        while not self._closing.wait(PAUSE_SECONDS * 2 ** (self._started - 1)):
            try:
                self._begin()
                self._ready()
                return True
            except EngineError as fault:
                self._end()
                if self._closing.is_set():
                    break
                reason = self._given_up()
                self._failed(fault, reason or "it is started again")
                if reason is not None:
                    return False
        return False

    def _failed(self, fault: EngineError, then: str) -> None:
        log = [] if self._server is None else self._server.last_lines(LOG_LINES)
        self._tell("fault", cause=f"the server did not start: {fault}; {then}", log=log)

    def _wait_for_its_end(self) -> str | None:
        """Why it counts as gone; None once the run is over."""
        asked, misses = time.monotonic(), 0
        self._suspected.clear()
        while not self._closing.wait(WATCH_SECONDS):
            server = self._server
            if (status := server.status) is not None:
                return f"the server ended with status {status}: {server.last_line() or 'no word'}"
            if self._suspected.is_set():
                self._suspected.clear()
                if (why := self._silent()) is not None:
                    return f"the server hangs: {why}"
            if time.monotonic() - asked < HEALTH_SECONDS:
                continue
            misses = 0 if is_ready(self._engine.endpoint) else misses + 1
            asked = time.monotonic()
            if misses >= MISSES:
                return f"the server hangs: it did not answer {misses} times, one after another"
        return None

    def _silent(self) -> str | None:
        """Why it does not generate; None if it does."""
        try:
            self._generate(SUSPECT_SECONDS)
        except EngineError as fault:
            return str(fault)
        return None

    def _generate(self, seconds: float) -> float:
        engine = self._engine
        messages = engine.dialect == "chat"  # such a server may take nothing else
        return generate_one(engine.endpoint, engine.endpoint_model, seconds, messages)
