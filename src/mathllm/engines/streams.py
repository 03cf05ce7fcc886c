"""Requests on their way, and the thread that ends them when their time is over."""

import logging
import math
import threading
import time

from mathllm.engines.base import EngineError
from mathllm.engines.exchange import Exchange
from mathllm.engines.requests import Row

# Without a token from the server, before a sample counts as hanging: at most this long, and at
# most this share of the time that it has, so that a spare engine has the rest.
SILENCE_SECONDS = 60.0
SILENCE_SHARE = 0.25
WATCH_SECONDS = 0.05  # between two looks at the clock and the cancel flags
SILENT = "silent"  # the `event` of a log record that says that no sample gets a token any more

log = logging.getLogger(__name__)


class Pulse:
    """When the last token came, of any sample."""

    def __init__(self, url: str) -> None:
        self.last = self._said = -math.inf
        self._url = url

    def missed(self, seconds: float) -> None:
        """A sample has waited so long in vain: it is said, if all have. Once in that time."""
        now = time.monotonic()
        if now - max(self.last, self._said) > seconds:
            self._said = now
            why = f"{self._url} gave no token of any sample for {seconds:.1f} s"
            log.warning("%s", why, extra={"event": SILENT})


class Stream:
    """A row's request on its way. `heard` is when its last token came, by time.monotonic."""

    def __init__(self, row: Row, pulse: Pulse) -> None:
        self.row, self._pulse = row, pulse
        self.exchange: Exchange | None = None
        self.heard: float | None = None
        self.served = False  # whether this request has had a token
        self._silence = math.inf

    def begin(self) -> None:
        """Its clock runs from here on."""
        self.heard, self.served = time.monotonic(), False
        self._silence = min(SILENCE_SECONDS, SILENCE_SHARE * self.left())

    def left(self) -> float:
        """Seconds until its deadline."""
        deadline = self.row.config.deadline
        return math.inf if deadline is None else deadline - time.monotonic()

    def fail(self, fault: Exception) -> None:
        """It broke; no fault where it had its end already."""
        self.row.end("fault", fault)

    def _last_token(self) -> float:
        """When its last one came; before this request's first, when any sample's did: it may
        stand in the server's queue."""
        return self.heard if self.served else max(self.heard, self._pulse.last)

    def look(self) -> None:
        """End the row that is late, cancelled or silent, and with it the wait for it."""
        self.row.end_if_asked()
        if self.heard is not None and time.monotonic() - self._last_token() > self._silence:
            self.fail(EngineError(f"no token for {self._silence:.1f} s"))
            self._pulse.missed(self._silence)
        if self.row.done and self.exchange is not None:
            self.exchange.abort()


class Watcher:
    """A thread that ends streams whatever their own threads wait for, while there are any."""

    def __init__(self) -> None:
        self._streams: list[Stream] = []
        self._lock = threading.Lock()

    def watch(self, stream: Stream) -> None:
        """Until its end."""
        with self._lock:
            self._streams.append(stream)
            if len(self._streams) == 1:
                threading.Thread(target=self._watch, name="streams", daemon=True).start()

    def _watch(self) -> None:
        while True:
            with self._lock:
                for stream in self._streams:
                    stream.look()
                self._streams = [stream for stream in self._streams if not stream.row.done]
                if not self._streams:
                    return
            time.sleep(WATCH_SECONDS)
