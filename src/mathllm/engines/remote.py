"""An engine behind an OpenAI-compatible endpoint, such as a vLLM server on loopback.

Same interface as the decoders: token ids in, completions out. Prompts go out as token ids,
which vLLM takes and which keeps the chat template ours; what comes back as text is tokenised
again where the server does not send ids. Knows HTTP, the completions API and processes.
Knows nothing of problems.
"""

import atexit
import json
import math
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import requests

from mathllm.engines import Completion, SamplingConfig
from mathllm.engines.requests import OnPass, Request, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 60.0  # without a byte from the server, before it counts as hanging
END_SECONDS = 10.0  # for a server to end after SIGTERM, before it is killed
TOP = 5  # most likely tokens whose probabilities are asked for: entropy from below


class EngineError(RuntimeError):
    """The endpoint cannot be reached, refused the request, or went away in the middle."""


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
        """As Decoder.generate; `on_pass` is told after each piece of text.

        A sample whose request fails ends with finish_reason "fault" and what it has. Raises
        EngineError if all of them do.
        """
        vocabulary = len(self.tokenizer)
        request = Request.of(prompts, config, seeds, vocabulary, self.max_positions, on_pass)
        flat_seeds = _flat(request, seeds)
        lock, faults = Lock(), []

        def run(row: Row, seed: int) -> None:
            try:
                self._stream(request, row, seed, lock)
            except (requests.RequestException, EngineError, ValueError, KeyError) as fault:
                if row.completion.finish_reason is None:
                    row.completion.finish_reason = "fault"
                faults.append(fault)

        with ThreadPoolExecutor(min(self.parallel, len(request.rows))) as pool:
            list(pool.map(run, request.rows, flat_seeds))
        if len(faults) == len(request.rows):
            cause = " ".join(str(faults[0]).split())[:300]
            raise EngineError(f"{self.url}: {type(faults[0]).__name__}: {cause}") from faults[0]
        return request.completions

    def _stream(self, request: Request, row: Row, seed: int, lock: Lock) -> None:
        """One sample. Its tokens are added as they come."""
        row.end_if_asked()
        if row.done:
            return
        body = self._body(row, seed)
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

    def _body(self, row: Row, seed: int) -> dict[str, Any]:
        config = row.config
        stop = [self.tokenizer.decode(list(ids)) for ids in config.stop_sequences]
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": row.prompt,
            "max_tokens": row.limit,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "seed": seed % 2**31,
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


def _flat(request: Request, seeds: Sequence[Sequence[int]] | None) -> list[int]:
    """A seed for each row, as the decoders count them."""
    if seeds is None:
        first = request.rows[0].config.seed
        return list(range(first, first + len(request.rows)))
    return [seed for row in seeds for seed in row]


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


def start_server(command: str, url: str, log: Path, seconds: float) -> subprocess.Popen[bytes]:
    """Start a server by its command line and wait until it answers; it ends with this process.

    Both of its outputs go to `log`. Raises EngineError when it ends or does not answer in time.
    """
    with log.open("wb") as output:
        try:
            server = subprocess.Popen(
                shlex.split(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as fault:
            raise EngineError(f"{command!r} cannot be started: {fault}") from fault
    atexit.register(_end, server)
    try:
        wait_until_ready(url, seconds, server)
    except EngineError as fault:
        _end(server)
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise EngineError(f"{fault}; its last line: {last[0] if last else 'none'}") from fault
    return server


def _end(server: subprocess.Popen[bytes]) -> None:
    """End a server and whatever it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(END_SECONDS)


def wait_until_ready(
    url: str, seconds: float, alive: subprocess.Popen[bytes] | None = None
) -> None:
    """Wait until an endpoint lists its models. Raises EngineError when it does not in time.

    `alive`: the server's process, whose end is noticed at once.
    """
    deadline = time.monotonic() + seconds
    while True:
        if alive is not None and alive.poll() is not None:
            raise EngineError(f"the server ended with status {alive.returncode} before it was up")
        try:
            if requests.get(f"{url.rstrip('/')}/models", timeout=CONNECT_SECONDS).ok:
                return
        except requests.RequestException:
            pass  # not yet
        if time.monotonic() >= deadline:
            raise EngineError(f"{url} did not answer within {seconds:.0f} s")
        time.sleep(0.5)
