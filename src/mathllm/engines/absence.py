"""What a failed request says of its server: that it refuses, that it is away, that it has died."""

import logging
import math
import threading
import time
from http.client import HTTPException

from mathllm.engines.base import EngineError, SamplingConfig
from mathllm.engines.events import StreamError

SERVER_ERROR = 500

log = logging.getLogger(__name__)


class EndedError(EngineError):
    """A reply that broke off."""


def is_away(fault: Exception) -> bool:
    """Whether a fault says that a server is starting, overloaded or gone, not that it refuses."""
    if isinstance(fault, EngineError):
        return fault.status is not None and fault.status >= SERVER_ERROR
    return isinstance(fault, OSError | HTTPException)


def broke(fault: Exception) -> bool:
    """Whether it is the server that went, in the middle or before."""
    return is_away(fault) or isinstance(fault, EndedError)


def is_refusal(fault: Exception) -> bool:
    """Whether a server is there and says by its status that it cannot now."""
    return isinstance(fault, EngineError) and not isinstance(fault, EndedError | StreamError)


class Seeds:
    """Whether a server takes seeds: some refuse them, and vLLM's CPU build dies of one, at once
    or where a prompt is read in parts.

    None is sent any more after a refusal that names the seed, a death before any seeded sample
    had a token, and a second death; samples then differ from run to run.
    """

    def __init__(self) -> None:
        self._wanted, self._proven, self._deaths = True, False, 0
        # Whether a seeded sample that was asked for since the last death had a token.
        self._lives, self._died = False, -math.inf
        self._lock = threading.Lock()

    def sent(self, config: SamplingConfig) -> bool:
        """Whether a request with these settings has one. Greedy samples need none."""
        return self._wanted and config.temperature > 0

    def taken(self, asked: float) -> None:
        """A sample with a seed, asked for at this time.monotonic(), had a token. What a dead server
        had sent before is still read after others have broken off."""
        self._proven = True
        self._lives = self._lives or asked > self._died

    def blamed(self, fault: Exception) -> bool:
        """Whether it was for the seed that a request failed, which had one."""
        refused = isinstance(fault, EngineError) and "seed" in str(fault)
        gone = isinstance(fault, ConnectionRefusedError | TimeoutError)  # before it was asked
        with self._lock:
            if not refused and (gone or not self._dies(fault)):
                return False
            first, self._wanted = self._wanted, False
        if first:
            log.warning(
                "the server %s a request with a seed (%s): from now on none is sent, and samples "
                "are other ones in each run",
                "refuses" if refused else "died of",
                " ".join(str(fault).split())[:200] or type(fault).__name__,
            )
        return True

    def _dies(self, fault: Exception) -> bool:
        """Whether this is a death to blame a seed for. All that one death ends count once."""
        if not self._proven:
            return broke(fault)
        if broke(fault) and self._lives and not is_refusal(fault):
            self._lives, self._died = False, time.monotonic()
            self._deaths += 1
        return self._deaths > 1
