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
from typing import Any

from mathllm.engines.absence import EndedError, Seeds, broke, is_away
from mathllm.engines.base import (
    EngineError,
    FinishReason,
    Prompt,
    SamplingConfig,
    Vocabulary,
)
from mathllm.engines.events import choices, measures
from mathllm.engines.exchange import Exchange, check_url, key_header
from mathllm.engines.requests import Row, row_of
from mathllm.engines.streams import WATCH_SECONDS, Pulse, Stream, Watcher
from mathllm.wording import shown, writable

CONNECT_SECONDS = 5.0
PATIENCE_SHARE = 0.5  # of a sample's time, that a server which is away is waited for
PAUSE_SECONDS, MOST_PAUSE_SECONDS = 0.2, 5.0  # between two requests meanwhile
TEXT_CHARS = 1 << 18  # of one piece without ids: more would be tokenised beyond the deadline
TOP = 5  # most likely tokens whose probabilities are asked for: entropy from below

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
        self._watcher = Watcher()
        self._seeds = Seeds()
        self._pulse = Pulse(self.url)
        self._logprobs = True  # until the server refuses to tell them
        self._absent = False  # since a sample last had a token

    def start(self, prompt: Prompt, config: SamplingConfig, seed: int) -> Row:
        """As Engine.start. A request that fails ends its sample by "fault"."""
        row = self._row(prompt, config, seed)
        stream = Stream(row, self._pulse)
        self._watcher.watch(stream)
        threading.Thread(target=self._run, args=(stream,), name="stream", daemon=True).start()
        return row

    def _row(self, prompt: Prompt, config: SamplingConfig, seed: int) -> Row:
        return row_of(prompt, config, seed, self.vocabulary.size, self.max_positions)

    def _run(self, stream: Stream) -> None:
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
                waited = broke(fault) and self.goes_on if begun else is_away(fault)
                if not waited or time.monotonic() + pause > again:
                    stream.fail(self._named(fault))
                    return
                self._tell_absence(fault, again - time.monotonic())
            stream.row.wait(pause)
            pause = min(2 * pause, MOST_PAUSE_SECONDS)

    def _tell_absence(self, fault: Exception, seconds: float) -> None:
        """Once for all samples that wait, and again when it was back in between."""
        first, self._absent = not self._absent, True
        if first:
            log.warning("%s; samples wait for it, up to %.0f s", self._named(fault), seconds)

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

    def _stream(self, stream: Stream, seeded: bool) -> None:
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
                    stream.served, self._absent = True, False
                    if seeded:
                        self._seeds.taken(asked)
                reason = choice.get("finish_reason")
                if reason is not None and not row.done:
                    if not isinstance(reason, str) or reason not in self.ends:  # "abort", "error"
                        raise EngineError(f"the server ended a sample by {shown(reason)}")
                    row.end(self.ends[reason])
                if row.done:  # leaving the block closes the connection, which ends the request
                    return
        raise EndedError("the stream ended before the completion did")

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
