"""An endpoint's server: its process started, asked whether it is there, and ended.

What is asked of the endpoint is remote.py's.
"""

import atexit
import os
import shlex
import shutil
import time
from http.client import HTTPException
from pathlib import Path
from threading import Timer

from mathllm import children
from mathllm.engines.base import EngineError
from mathllm.engines.exchange import Exchange

PROBE_SECONDS = 5.0  # for one answer to whether it is there
POLL_SECONDS = 0.5
LAST_BYTES = 4096  # of its log, where its last line is looked for


class Server:
    """A server's process, from its command line; it ends with `close`, or with this process,
    however that ends, and with it all that it started.

    `url` is its endpoint, as "http://127.0.0.1:8000/v1". Both of its outputs go to the file
    `log`. Raises EngineError where the command cannot be started, and where something answers
    at the endpoint already: it would answer in this one's place.
    """

    def __init__(self, command: str, url: str, log: Path) -> None:
        self.url, self.log = url, log
        if is_ready(url):
            raise EngineError(f"{url} answers before {command!r} is started: end what serves there")
        try:
            words = shlex.split(command)
            if not words or shutil.which(words[0]) is None:
                raise ValueError("no such program")
            with log.open("wb") as output:
                self._process = children.start_guarded(words, os.environ, output)
        except (OSError, ValueError) as fault:
            raise EngineError(f"{command!r} cannot be started: {fault}") from fault
        atexit.register(self.close)

    @property
    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll()

    def wait_until_ready(self, seconds: float) -> None:
        """Wait until it answers. Raises EngineError, and ends it, when it ends or is late."""
        try:
            wait_until_ready(self.url, seconds, self)
        except EngineError as fault:
            self.close()
            raise EngineError(f"{fault}; its last line: {self.last_line() or 'none'}") from fault

    def last_line(self) -> str:
        """What it said last, "" if nothing."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - LAST_BYTES))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else ""

    def close(self) -> None:
        """End it and whatever it started."""
        atexit.unregister(self.close)
        children.end_guarded(self._process)


def is_ready(url: str) -> bool:
    """Whether an endpoint lists its models."""
    exchange = Exchange(url, "models", seconds=PROBE_SECONDS)
    limit = Timer(PROBE_SECONDS, exchange.abort)
    limit.daemon = True
    limit.start()
    try:
        with exchange:
            return True
    except (OSError, ValueError, HTTPException, EngineError):
        return False
    finally:
        limit.cancel()


def wait_until_ready(url: str, seconds: float, server: Server | None = None) -> None:
    """Wait until an endpoint is ready. Raises EngineError when it is not in time.

    `server`: its process, whose end is noticed at once.
    """
    deadline = time.monotonic() + seconds
    while True:
        if server is not None and server.status is not None:
            raise EngineError(f"the server ended with status {server.status} before it was up")
        if is_ready(url):
            return
        if time.monotonic() >= deadline:
            raise EngineError(f"{url} did not answer within {seconds:.0f} s")
        time.sleep(POLL_SECONDS)
