"""An engine behind an OpenAI-compatible endpoint, such as a vLLM server on loopback.

Prompts go out as token ids, which vLLM takes and which keeps the chat template ours; what comes
back as text is tokenised again where the server does not send ids.
"""

import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any

import requests

from mathllm.engines.base import Completion, EngineError, OnPass, SamplingConfig
from mathllm.engines.requests import Request, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 60.0  # without a byte from the server, before it counts as hanging
TOP = 5  # most likely tokens whose probabilities are asked for: entropy from below


class RemoteEngine:
    """Generates through `POST {url}/completions`, one streamed request a sample.

    `url` as "http://127.0.0.1:8000/v1". `max_positions`: prompt and new tokens together.
    `parallel` requests run at once; a server batches them.
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
        self.url = url.rstrip("/")
        self.model = model
        self.tokenizer = tokenizer
        self.max_positions = max_positions
        self.parallel = parallel
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

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
        lock, faults = Lock(), []

        def run(row: Row) -> None:
            try:
                self._stream(request, row, lock)
            except (requests.RequestException, EngineError, ValueError, KeyError) as fault:
                if row.completion.finish_reason is None:
                    row.completion.finish_reason = "fault"
                faults.append(fault)

        with ThreadPoolExecutor(min(self.parallel, len(request.rows))) as pool:
            list(pool.map(run, request.rows))
        if len(faults) == len(request.rows):
            cause = " ".join(str(faults[0]).split())[:300]
            raise EngineError(f"{self.url}: {type(faults[0]).__name__}: {cause}") from faults[0]
        return request.completions

    def _stream(self, request: Request, row: Row, lock: Lock) -> None:
        """One sample. Its tokens are added as they come."""
        row.end_if_asked()
        if row.done:
            return
        body = self._body(row)
        with requests.post(
            f"{self.url}/completions",
            json=body,
            headers=self._headers,
            stream=True,
            timeout=(CONNECT_SECONDS, SILENCE_SECONDS),
        ) as response:
            if response.status_code != requests.codes.ok:
                raise EngineError(f"status {response.status_code}: {response.text[:200]}")
            for choice in _choices(response):
                with lock:
                    self._add(row, choice)
                    request.passed([row], 0)
                row.end_if_asked()
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

    def _add(self, row: Row, choice: dict[str, Any]) -> None:
        """The tokens of one piece, and the end if it says so."""
        tokens = choice.get("token_ids")
        if tokens is None:
            tokens = self.tokenizer(choice.get("text") or "", add_special_tokens=False)["input_ids"]
        logprobs, entropy = _measures(choice.get("logprobs") or {}, len(tokens))
        for values in zip(tokens, logprobs, entropy, strict=True):
            if not row.done:
                row.add(*values)
        reason = choice.get("finish_reason")
        if reason is not None and not row.done:
            row.completion.finish_reason = "length" if reason == "length" else "stop"


def _choices(response: requests.Response) -> Iterator[dict[str, Any]]:
    """The choices of a stream of server-sent events, up to [DONE]."""
    for line in response.iter_lines():
        if not line.startswith(b"data:"):
            continue
        data = line[len(b"data:") :].strip()
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise EngineError(str(event["error"])[:300])
        yield from event.get("choices", [])


def _measures(logprobs: dict[str, Any], count: int) -> tuple[list[float], list[float]]:
    """Log probability and entropy in nats of `count` tokens, 0 where the server tells none.

    The entropy is that of the most likely tokens with all others taken as one: a lower bound.
    """
    own = list(logprobs.get("token_logprobs") or [])
    top = list(logprobs.get("top_logprobs") or [])
    entropy = []
    for place in range(count):
        known = top[place] if len(top) == count and top[place] else {}
        values = list(known.values()) if isinstance(known, dict) else []
        rest = max(0.0, 1.0 - sum(math.exp(value) for value in values)) if values else 0.0
        nats = -sum(value * math.exp(value) for value in values)
        entropy.append(nats - (rest * math.log(rest) if rest > 0 else 0.0))
    if len(own) != count or any(value is None for value in own):
        own = [0.0] * count
    return own, entropy
