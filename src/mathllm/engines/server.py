"""An endpoint's server: its process started, asked what it serves, and ended.

What is generated through the endpoint is remote.py's.
"""

import atexit
import json
import os
import shlex
import shutil
import time
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from threading import Timer
from typing import Any

from mathllm import children
from mathllm.engines.base import EngineError
from mathllm.engines.exchange import Exchange
from mathllm.wording import brief, shown

PROBE_SECONDS = 5.0  # for one answer to whether it is there
POLL_SECONDS = 0.5
LAST_BYTES = 16_384  # of its log, where its last lines are looked for
LIST_BYTES = 1 << 20  # of a list of models
WARM_SECONDS = 300.0  # for the first token: kernels may be compiled for it


class WrongServerError(EngineError):
    """An endpoint that is there and is not the one that was asked for."""


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
        return (self.last_lines(1) or [""])[-1]

    def last_lines(self, count: int) -> list[str]:
        """So many of the lines that it said last, those with something on them."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - LAST_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return []
        return [brief(line, 300) for line in lines if line.strip()][-count:]

    def close(self) -> None:
        """End it and whatever it started."""
        atexit.unregister(self.close)
        children.end_guarded(self._process)


def is_ready(url: str) -> bool:
    """Whether an endpoint lists its models."""
    try:
        _asked(url, "models", None, PROBE_SECONDS)
    except (OSError, ValueError, HTTPException, EngineError):
        return False
    return True


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


def check_served(url: str, model: str, positions: int = 0) -> None:
    """Raise WrongServerError where an endpoint does not serve a model, or says that its context
    is less than `positions`."""
    try:
        told = json.loads(_asked(url, "models", None, PROBE_SECONDS))
        served = {one["id"]: one for one in told["data"]}
    except (ValueError, TypeError, KeyError, RecursionError, OSError, HTTPException) as fault:
        raise WrongServerError(
            f"{url} does not list models ({brief(fault, 100)}): is it an OpenAI-compatible server?"
        ) from fault
    if model not in served:
        names = ", ".join(shown(name) for name in list(served)[:5]) or "nothing"
        raise WrongServerError(f"{url} serves {names}, not {shown(model)}: correct endpoint_model")
    length = served[model].get("max_model_len")  # vLLM's own
    if type(length) is int and length < positions:
        raise WrongServerError(
            f"{url} serves {shown(model)} with {length} positions, less than {positions}: correct "
            "positions, or the server's --max-model-len"
        )


def generate_one(
    url: str, model: str, seconds: float = WARM_SECONDS, messages: bool = False
) -> float:
    """Seconds that the endpoint takes for one token, of a prompt or, where its server renders
    them, of `messages`. Raises EngineError where none comes."""
    began = time.monotonic()
    body: dict[str, Any] = {"model": model, "max_tokens": 1, "temperature": 0.0}
    if messages:
        path, asked = "chat/completions", {"messages": [{"role": "user", "content": "1 + 1 ="}]}
    else:
        path, asked = "completions", {"prompt": "1 + 1 ="}
    try:
        told = json.loads(_asked(url, path, body | asked, seconds))
        if not told["choices"]:
            raise ValueError("no choices")
    except (
        *(ValueError, TypeError, KeyError, RecursionError),
        *(OSError, HTTPException, EngineError),
    ) as fault:
        late = time.monotonic() - began >= seconds
        why = f"within {seconds:g} s" if late else f"({brief(fault, 200)})"
        raise EngineError(f"{url} generates nothing {why}") from fault
    return time.monotonic() - began


def _asked(url: str, path: str, body: Mapping[str, Any] | None, seconds: float) -> bytes:
    """A reply's beginning, in time."""
    exchange = Exchange(url, path, body, seconds=min(seconds, PROBE_SECONDS))
    limit = Timer(seconds, exchange.abort)
    limit.daemon = True
    limit.start()
    try:
        with exchange:
            return exchange.read(LIST_BYTES)
    finally:
        limit.cancel()
