"""An endpoint's server: its process started, asked whether it is there, and ended.

What is asked of the endpoint is remote.py's.
"""

import atexit
import os
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import requests

from mathllm.engines.base import EngineError

PROBE_SECONDS = 5.0  # for one answer to whether it is there
POLL_SECONDS = 0.5
END_SECONDS = 10.0  # for a server to end after SIGTERM, before it is killed


class Server:
    """A server's process, from its command line; it ends with `close`, or with this process.

    `url` is its endpoint, as "http://127.0.0.1:8000/v1". Both of its outputs go to the file
    `log`. Raises EngineError where the command cannot be started.
    """

    def __init__(self, command: str, url: str, log: Path) -> None:
        self.url, self.log = url, log
        with log.open("wb") as output:
            try:
                self._process = subprocess.Popen(
                    shlex.split(command),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
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
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def close(self) -> None:
        """End it and whatever it started."""
        atexit.unregister(self.close)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)


def is_ready(url: str) -> bool:
    """Whether an endpoint lists its models."""
    try:
        return requests.get(f"{url.rstrip('/')}/models", timeout=PROBE_SECONDS).ok
    except requests.RequestException:
        return False


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
