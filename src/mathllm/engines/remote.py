"""An engine behind an OpenAI-compatible endpoint, such as a vLLM server on loopback.

Prompts go out as token ids, which vLLM takes and which keeps the chat template ours; what comes
back as text is tokenised again where the server does not send ids. Nothing that comes back is
believed before it was looked at, and no sample outlives its deadline.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

from mathllm.engines.base import Completion, EngineError, OnPass, SamplingConfig
from mathllm.engines.exchange import Exchange, check_url, key_header
from mathllm.engines.requests import Request, Row
from mathllm.wording import shown, writable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONNECT_SECONDS = 5.0
# Without a token from the server, before a sample counts as hanging: at most this long, and at
# most this share of the time that it has, so that a spare engine has the rest.
SILENCE_SECONDS = 60.0
SILENCE_SHARE = 0.25
WATCH_SECONDS = 0.05  # between two looks at the clock and the cancel flags
TEXT_CHARS = 1 << 18  # of one piece without ids: more would be tokenised beyond the deadline
TOP = 5  # most likely tokens whose probabilities are asked for: entropy from below
ROUNDING = 1e-3  # by which a probability may be over 1


class RemoteEngine:
    """Generates through `POST {url}/completions`, one streamed request a sample.

    `url` as "http://127.0.0.1:8000/v1". `max_positions`: prompt and new tokens together.
    `parallel` requests run at once; a server batches them. Raises ParameterError for a URL or
    key that is none.
    """

    def __init__(
        self,
        url: str,
        model: str,
        tokenizer: "PreTrainedTokenizerBase",
        max_positions: int,
        api_key: str | None = None,
        parallel: int = 64,
    ) -> None:
        check_url(url)
        self.url = url.rstrip("/")
        self.model = model
        self.tokenizer = tokenizer
        self.max_positions = max_positions
        self.parallel = parallel
        self._headers = key_header(api_key)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        config: SamplingConfig | Sequence[SamplingConfig],
        seeds: Sequence[Sequence[int]] | None = None,
        on_pass: OnPass | None = None,
    ) -> list[list[Completion]]:
        """As Engine.generate; `on_pass` is told after each piece of text.

        A sample whose request fails ends with finish_reason "fault" and what it has. Raises
        EngineError if all of them do.
        """
        vocabulary = len(self.tokenizer)
        request = Request.of(prompts, config, seeds, vocabulary, self.max_positions, on_pass)
        lock = Lock()
        streams = [_Stream(row) for row in request.rows]

        def run(stream: _Stream) -> None:
            try:
                self._stream(request, stream, lock)
            # Whatever one reply does, the others go on.
            except Exception as fault:
                stream.fail(fault)

        with _watched(streams, lock), ThreadPoolExecutor(min(self.parallel, len(streams))) as pool:
            list(pool.map(run, streams))
        faults = [stream.fault for stream in streams if stream.fault is not None]
        if len(faults) == len(streams):
            cause = " ".join(str(faults[0]).split())[:300]
            raise EngineError(f"{self.url}: {type(faults[0]).__name__}: {cause}") from faults[0]
        return request.completions

    def _stream(self, request: Request, stream: "_Stream", lock: Lock) -> None:
        """One sample. Its tokens are added as they come."""
        row = stream.row
        row.end_if_asked()
        if row.done:
            return
        stream.begin()
        # A socket that is not connected yet cannot be shut by the watcher.
        seconds = max(min(CONNECT_SECONDS, stream.left()), WATCH_SECONDS)
        stream.exchange = Exchange(self.url, "completions", self._body(row), self._headers, seconds)
        with stream.exchange as exchange:
            for choice in _choices(exchange.lines()):
                tokens, logprobs, entropy = self._read(choice)
                with lock:
                    for values in zip(tokens, logprobs, entropy, strict=True):
                        if not row.done:
                            row.add(*values)
                    reason = choice.get("finish_reason")
                    if reason is not None and not row.done:
                        if reason not in ("stop", "length"):  # "abort", "error"
                            raise EngineError(f"the server ended a sample by {shown(reason)}")
                        row.completion.finish_reason = reason
                    if tokens:
                        stream.heard = time.monotonic()
                    request.passed([row], 0)
                if row.done:  # leaving the block closes the connection, which ends the request
                    return
        raise EngineError("the stream ended before the completion did")

    def _body(self, row: Row) -> dict[str, Any]:
        config = row.config
        stop = [self.tokenizer.decode(list(ids)) for ids in config.stop_sequences]
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": row.prompt,
            "max_tokens": row.limit,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "seed": row.seed % 2**31,
            "stream": True,
            "logprobs": TOP,
            "stop_token_ids": sorted(config.stop_ids),
            # vLLM's own, which others leave alone.
            "return_token_ids": True,
            "include_stop_str_in_output": True,
        }
        extra = {
            "top_k": config.top_k,
            "min_p": config.min_p,
            "repetition_penalty": config.repetition_penalty,
            "stop": stop,
        }
        neutral = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "stop": []}
        return body | {name: value for name, value in extra.items() if value != neutral[name]}

    def _read(self, choice: dict[str, Any]) -> tuple[list[int], list[float], list[float]]:
        """Tokens of one piece, their log probabilities and entropy. Raises EngineError."""
        tokens, text = choice.get("token_ids"), choice.get("text") or ""
        if tokens is None:
            if not isinstance(text, str) or len(text) > TEXT_CHARS:
                raise EngineError(f"the text of a reply is {shown(text)}")
            tokens = self.tokenizer(writable(text), add_special_tokens=False)["input_ids"]
        size = len(self.tokenizer)
        if not isinstance(tokens, list) or not all(
            type(token) is int and 0 <= token < size for token in tokens
        ):
            raise EngineError(f"the token_ids of a reply are no ids of 0…{size - 1}")
        return tokens, *_measures(choice.get("logprobs"), len(tokens), math.log(size))


@dataclass(eq=False)
class _Stream:
    """A row's request on its way. `heard` is when its last token came, by time.monotonic."""

    row: Row
    exchange: Exchange | None = None
    heard: float | None = None
    silence: float = math.inf
    fault: Exception | None = None

    def begin(self) -> None:
        """Its clock runs from here on."""
        self.heard = time.monotonic()
        self.silence = min(SILENCE_SECONDS, SILENCE_SHARE * self.left())

    def left(self) -> float:
        """Seconds until its deadline."""
        deadline = self.row.config.deadline
        return math.inf if deadline is None else deadline - time.monotonic()

    def fail(self, fault: Exception) -> None:
        """It broke; no fault where it had its end already."""
        if not self.row.done:
            self.row.completion.finish_reason = "fault"
            self.fault = fault

    def look(self) -> None:
        """End the row that is late, cancelled or silent, and with it the wait for it."""
        self.row.end_if_asked()
        if self.heard is not None and time.monotonic() - self.heard > self.silence:
            self.fail(EngineError(f"no token for {self.silence:.1f} s"))
        if self.row.done and self.exchange is not None:
            self.exchange.abort()


@contextmanager
def _watched(streams: Sequence[_Stream], lock: Lock) -> Iterator[None]:
    """Meanwhile, a thread that ends streams whatever their threads wait for."""
    over = Event()

    def watch() -> None:
        while not over.wait(WATCH_SECONDS):
            for stream in streams:
                with lock:
                    stream.look()

    watcher = Thread(target=watch, name="streams", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _choices(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The first choice, which alone was asked for, of each event of a stream, up to [DONE].
    Raises EngineError for what is no such event."""
    for line in lines:
        if not line.startswith(b"data:"):
            continue
        data = line[len(b"data:") :].strip()
        if data == b"[DONE]":
            return
        try:
            event = json.loads(data)
        except (ValueError, RecursionError) as fault:
            raise EngineError(f"the stream has an event that is no JSON: {data[:80]!r}") from fault
        if not isinstance(event, dict):
            raise EngineError(f"the stream has an event that is no object: {data[:80]!r}")
        if event.get("error"):
            raise EngineError(str(event["error"])[:300])
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                yield choice


def _measures(logprobs: Any, count: int, unsure: float) -> tuple[list[float], list[float]]:
    """Log probability and entropy in nats of `count` tokens, 0 where the server tells none.

    The entropy is that of the most likely tokens with all others taken as one: a lower bound.
    Numbers that are no log probabilities (NaN, logits, words) count as `unsure` nats.
    """
    told = logprobs if isinstance(logprobs, dict) else {}
    own, top = told.get("token_logprobs"), told.get("top_logprobs")
    if not isinstance(own, list) or len(own) != count or not all(map(_is_finite, own)):
        own = [0.0] * count
    if not isinstance(top, list) or len(top) != count:
        return own, [0.0] * count
    return own, [_entropy(known, unsure) for known in top]


def _entropy(known: Any, unsure: float) -> float:
    if not known:
        return 0.0
    if not isinstance(known, dict) or not all(map(_is_logprob, known.values())):
        return unsure
    likely = [math.exp(value) for value in known.values()]
    if sum(likely) > 1 + ROUNDING:
        return unsure
    parts = [*likely, max(0.0, 1.0 - sum(likely))]
    return max(0.0, -sum(p * math.log(p) for p in parts if p > 0))


def _is_finite(value: Any) -> bool:
    return _is_logprob(value) and value > -math.inf


def _is_logprob(value: Any) -> bool:
    """NaN is none, and no integer that a float cannot hold."""
    return (type(value) is float or (type(value) is int and value > -(2**53))) and value <= ROUNDING
