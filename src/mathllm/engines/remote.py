"""An engine behind an OpenAI-compatible endpoint, such as a vLLM server on loopback.

Prompts go out as token ids, which vLLM takes and which keeps the chat template ours; what comes
back as text is tokenised again where the server does not send ids. Nothing that comes back is
believed before it was looked at, and no sample outlives its deadline.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any

from mathllm.engines.base import (
    EngineError,
    FinishReason,
    Prompt,
    SamplingConfig,
    Vocabulary,
)
from mathllm.engines.events import StreamError, choices, measures
from mathllm.engines.exchange import Exchange, check_url, key_header
from mathllm.engines.requests import Row, row_of
from mathllm.wording import shown, writable

CONNECT_SECONDS = 5.0
# Without a token from the server, before a sample counts as hanging: at most this long, and at
# most this share of the time that it has, so that a spare engine has the rest.
SILENCE_SECONDS = 60.0
SILENCE_SHARE = 0.25
PATIENCE_SHARE = 0.5  # of a sample's time, that a server which is away is waited for
PAUSE_SECONDS, MOST_PAUSE_SECONDS = 0.2, 5.0  # between two requests meanwhile
SERVER_ERROR = 500
WATCH_SECONDS = 0.05  # between two looks at the clock and the cancel flags
TEXT_CHARS = 1 << 18  # of one piece without ids: more would be tokenised beyond the deadline
TOP = 5  # most likely tokens whose probabilities are asked for: entropy from below

SILENT = "silent"  # the `event` of a log record that says that no sample gets a token any more

Read = Callable[[dict[str, Any]], tuple[list[int], list[float], list[float]]]

log = logging.getLogger(__name__)


class RemoteEngine:
    """Generates through `POST {url}/completions`, one streamed request a sample of token ids.

    `url` as "http://127.0.0.1:8000/v1". `max_positions`: prompt and new tokens together.
    `patience_seconds`: how long a sample waits for a server that is away, at most half of its
    time. Raises ParameterError for a URL or key that is none.
    """

    path = "completions"
    goes_on = True  # whether a sample that broke off can be asked for from where it was
    ends: Mapping[str, FinishReason] = {"stop": "stop", "length": "length"}

    def __init__(
        self,
        url: str,
        model: str,
        vocabulary: Vocabulary,
        max_positions: int,
        api_key: str | None = None,
        patience_seconds: float = 0.0,
    ) -> None:
        check_url(url)
        self.url = url.rstrip("/")
        self.model = model
        self.vocabulary = vocabulary
        self.max_positions = max_positions
        self.patience_seconds = patience_seconds
        self._headers = key_header(api_key)
        self._watcher = _Watcher()
        self._seeds = _Seeds()
        self._pulse = _Pulse(self.url)
        self._logprobs = True  # until the server refuses to tell them

    def start(self, prompt: Prompt, config: SamplingConfig, seed: int) -> Row:
        """As Engine.start. A request that fails ends its sample by "fault"."""
        row = self._row(prompt, config, seed)
        stream = _Stream(row, self._pulse)
        self._watcher.watch(stream)
        threading.Thread(target=self._run, args=(stream,), name="stream", daemon=True).start()
        return row

    def _row(self, prompt: Prompt, config: SamplingConfig, seed: int) -> Row:
        return row_of(prompt, config, seed, self.vocabulary.size, self.max_positions)

    def _run(self, stream: "_Stream") -> None:
        """One sample, asked for again while its server is away and time is left for that. It goes
        on from the tokens that it has."""
        again = time.monotonic() + min(self.patience_seconds, PATIENCE_SHARE * stream.left())
        pause = PAUSE_SECONDS
        while not stream.row.done:
            seeded, told = self._seeds.sent(stream.row.config), self._logprobs
            try:
                self._stream(stream, seeded)
                return
            except Exception as fault:  # whatever one reply does, the others go on
                blamed = seeded and self._seeds.blamed(fault)
                begun = bool(stream.row.completion.tokens)
                if not begun and (blamed or (told and self._does_without_logprobs(fault))):
                    continue
                broke = _broke(fault) and self.goes_on if begun else _is_away(fault)
                if not broke or time.monotonic() + pause > again:
                    stream.fail(self._named(fault))
                    return
            stream.row.wait(pause)
            pause = min(2 * pause, MOST_PAUSE_SECONDS)

    def _does_without_logprobs(self, fault: Exception) -> bool:
        """Whether it was for the log probabilities that a request was refused."""
        if not (isinstance(fault, EngineError) and "logprob" in str(fault)):
            return False
        first, self._logprobs = self._logprobs, False
        if first:
            log.warning("%s tells no log probabilities: votes are not weighed", self.url)
        return True

    def _named(self, fault: Exception) -> EngineError:
        cause = " ".join(str(fault).split())[:300]
        named = EngineError(f"{self.url}: {type(fault).__name__}: {cause}")
        named.__cause__ = fault
        return named

    def _stream(self, stream: "_Stream", seeded: bool) -> None:
        """One request. Its tokens are added as they come."""
        row = stream.row
        row.end_if_asked()
        if row.done:
            return
        stream.begin()
        asked = time.monotonic()
        # A socket that is not connected yet cannot be shut by the watcher.
        seconds = max(min(CONNECT_SECONDS, stream.left()), WATCH_SECONDS)
        # What goes on has a seed of its own: not the same numbers twice.
        seed = (row.seed + len(row.completion.tokens)) % 2**31
        body = self._body(row) | ({"seed": seed} if seeded else {})
        stream.exchange = Exchange(self.url, self.path, body, self._headers, seconds)
        read = self._reader()
        with stream.exchange as exchange:
            for choice in choices(exchange.lines()):
                tokens, logprobs, entropy = read(choice)
                for values in zip(tokens, logprobs, entropy, strict=True):
                    row.add(*values)
                if tokens:
                    stream.heard = self._pulse.last = time.monotonic()
                    stream.served = True
                    if seeded:
                        self._seeds.taken(asked)
                reason = choice.get("finish_reason")
                if reason is not None and not row.done:
                    if not isinstance(reason, str) or reason not in self.ends:  # "abort", "error"
                        raise EngineError(f"the server ended a sample by {shown(reason)}")
                    row.end(self.ends[reason])
                if row.done:  # leaving the block closes the connection, which ends the request
                    return
        raise _EndedError("the stream ended before the completion did")

    def _body(self, row: Row) -> dict[str, Any]:
        config = row.config
        stop = [self.vocabulary.decode(ids) for ids in config.stop_sequences]
        return self._sampling(row) | {
            "prompt": row.sequence,
            **({"logprobs": TOP} if self._logprobs else {}),
            **({"stop": stop} if stop else {}),
            "stop_token_ids": sorted(config.stop_ids),
            # vLLM's own, which others leave alone.
            "return_token_ids": True,
            "include_stop_str_in_output": True,
        }

    def _sampling(self, row: Row) -> dict[str, Any]:
        """What each request has, whatever it is asked with; what is off is left out."""
        config = row.config
        extra = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
        own = {name: getattr(config, name) for name in extra}
        return {
            "model": self.model,
            "max_tokens": row.room,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "stream": True,
        } | {name: value for name, value in own.items() if value != extra[name]}

    def _reader(self) -> Read:
        """What takes one sample's events: the tokens of each, log probabilities and entropy."""
        return self._read

    def _read(self, choice: dict[str, Any]) -> tuple[list[int], list[float], list[float]]:
        """Tokens of one piece, their log probabilities and entropy. Raises EngineError."""
        tokens, text = choice.get("token_ids"), choice.get("text") or ""
        if tokens is None:
            if not isinstance(text, str) or len(text) > TEXT_CHARS:
                raise EngineError(f"the text of a reply is {shown(text)}")
            tokens = self.vocabulary.encode(writable(text))
        size = self.vocabulary.size
        if not isinstance(tokens, list) or not all(
            type(token) is int and 0 <= token < size for token in tokens
        ):
            raise EngineError(f"the token_ids of a reply are no ids of 0…{size - 1}")
        return tokens, *measures(choice.get("logprobs"), len(tokens), math.log(size))


class _EndedError(EngineError):
    """A reply that broke off."""


class _Seeds:
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
            return _broke(fault)
        if _broke(fault) and self._lives and not _is_refusal(fault):
            self._lives, self._died = False, time.monotonic()
            self._deaths += 1
        return self._deaths > 1


def _is_away(fault: Exception) -> bool:
    """Whether a fault says that a server is starting, overloaded or gone, not that it refuses."""
    if isinstance(fault, EngineError):
        return fault.status is not None and fault.status >= SERVER_ERROR
    return isinstance(fault, OSError | HTTPException)


def _broke(fault: Exception) -> bool:
    """Whether it is the server that went, in the middle or before."""
    return _is_away(fault) or isinstance(fault, _EndedError)


def _is_refusal(fault: Exception) -> bool:
    """Whether a server is there and says by its status that it cannot now."""
    return isinstance(fault, EngineError) and not isinstance(fault, _EndedError | StreamError)


class _Pulse:
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


class _Stream:
    """A row's request on its way. `heard` is when its last token came, by time.monotonic."""

    def __init__(self, row: Row, pulse: _Pulse) -> None:
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


class _Watcher:
    """A thread that ends streams whatever their own threads wait for, while there are any."""

    def __init__(self) -> None:
        self._streams: list[_Stream] = []
        self._lock = threading.Lock()

    def watch(self, stream: _Stream) -> None:
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
