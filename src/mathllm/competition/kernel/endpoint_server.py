"""The endpoint's server through a whole run: started, watched, and started again when it dies."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mathllm.engines.base import EngineError
from mathllm.engines.server import Server

START_SECONDS = 900.0  # until it answers: a large model takes minutes to load
RESTARTS = 5  # in a run
WATCH_SECONDS = 1.0  # between two looks at it
PAUSE_SECONDS = 2.0  # before it is started again, twice as long each time: memory is freed late


class EndpointServer:
    """The server of a command line at `url`; `start` and `close` it.

    The n-th that is started writes to the folder `log`, into server.log, server-2.log and so
    on. `tell(event, **values)` gets a journal's line for each that dies.
    """

    def __init__(self, command: str, url: str, log: Path, tell: Callable[..., None]):
        self._command, self._url, self._log, self._tell = command, url, log, tell
        self._server: Server | None = None
        self._started = 0
        self._closing = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start it, wait until it answers, and watch it from then on. Raises EngineError."""
        self._begin()
        self._server.wait_until_ready(START_SECONDS)
        threading.Thread(target=self._watch, name="endpoint server", daemon=True).start()

    def close(self) -> None:
        """End it, in some seconds at most."""
        self._closing.set()
        with self._lock:
            if self._server is not None:
                self._server.close()

    def _begin(self) -> None:
        with self._lock:
            if self._closing.is_set():
                raise EngineError("the run is over: no server is started")
            self._started += 1
            number = f"-{self._started}" if self._started > 1 else ""
            self._server = Server(self._command, self._url, self._log / f"server{number}.log")

    def _watch(self) -> None:
        while not self._closing.wait(WATCH_SECONDS):
            if (status := self._server.status) is None:
                continue
            why = f"the server ended with status {status}: {self._server.last_line() or 'no word'}"
            if self._started > RESTARTS:
                self._tell("fault", cause=f"{why}; it is not started a {self._started + 1}th time")
                return
            self._tell("fault", cause=f"{why}; it is started again")
            if self._closing.wait(PAUSE_SECONDS * 2 ** (self._started - 1)):
                return
            # Where it cannot be, the next look finds the one that ended again.
            with suppress(EngineError):
                self._begin()
