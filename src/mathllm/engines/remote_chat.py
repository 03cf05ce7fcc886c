"""An engine behind the chat completions API, for servers that render messages themselves.

Such a server gives no token ids. What it streams is kept as pieces of text with ids of their own,
and marks say whether a piece is thought, said, or part of a tool's call.
"""

import json
import math
from collections.abc import Sequence
from threading import Lock
from typing import Any

from mathllm.engines.base import EngineError, Messages, Prompt, SamplingConfig
from mathllm.engines.events import measures
from mathllm.engines.remote import TEXT_CHARS, TOP, Read, RemoteEngine
from mathllm.engines.requests import Row
from mathllm.errors import ParameterError
from mathllm.wording import shown, writable

THINKS, SAYS, CALLS = MARKS = range(3)
USUAL_SIZE = 200_000  # tokens of a model's vocabulary, as far as unsureness goes
MOST_CALLS = 16  # of one turn


class Pieces:
    """Every piece of text that was streamed, by number, and the marks before them.

    A call is CALLS, a piece of JSON with its `id` and `name`, and the pieces of its arguments.
    """

    size = 1 << 31

    def __init__(self) -> None:
        self._texts = [""] * len(MARKS)
        self._ids: dict[str, int] = {}
        self._lock = Lock()

    def encode(self, text: str) -> list[int]:
        """As Vocabulary.encode: one piece."""
        if not text:
            return []
        with self._lock:
            if text not in self._ids:
                self._ids[text] = len(self._texts)
                self._texts.append(text)
            return [self._ids[text]]

    def decode(self, tokens: Sequence[int]) -> str:
        """As Vocabulary.decode; marks are nothing."""
        return "".join(self._texts[token] for token in tokens)


class ChatRow(Row):
    """A row that goes on from messages."""

    def __init__(self, messages: Messages, config: SamplingConfig, limit: int, seed: int) -> None:
        super().__init__([], config, limit, seed)
        self.messages = messages


class RemoteChat(RemoteEngine):
    """As RemoteEngine, through `POST {url}/chat/completions`, from Messages.

    Its `vocabulary` is Pieces; a token is one that the server told log probabilities of, else
    an event's text.
    """

    path = "chat/completions"
    goes_on = False
    ends = RemoteEngine.ends | {"tool_calls": "stop", "function_call": "stop"}

    def _row(self, prompt: Prompt, config: SamplingConfig, seed: int) -> ChatRow:
        if not isinstance(prompt, Messages):
            raise ParameterError("a chat's server takes messages, not token ids")
        if (room := self.max_positions - len(prompt)) <= 0:
            raise ParameterError(
                f"the messages have about {len(prompt)} tokens and the model "
                f"{self.max_positions} positions: shorten them"
            )
        return ChatRow(prompt, config, min(config.max_new_tokens, room), seed)

    def _body(self, row: ChatRow) -> dict[str, Any]:
        return self._sampling(row) | {
            "messages": list(row.messages.said),
            **({"tools": list(row.messages.tools)} if row.messages.tools else {}),
            **({"logprobs": True, "top_logprobs": TOP} if self._logprobs else {}),
        }

    def _reader(self) -> Read:
        return _Reader(self.vocabulary).read


class _Reader:
    """One sample's events: in which part of its turn it is."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._part: object = None
        self._last = 0  # of an event's tokens, those whose measures may be told
        self._calls: list[object] = []  # their indices

    def read(self, choice: dict[str, Any]) -> tuple[list[int], list[float], list[float]]:
        """Tokens of one event with their measures. Raises EngineError for odd ones."""
        delta = choice.get("delta") or {}
        if not isinstance(delta, dict):
            raise EngineError(f"the delta of a reply is {shown(delta)}")
        # vLLM had the first name before the second.
        thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
        said, calls = delta.get("content") or "", delta.get("tool_calls") or []
        self._last = 0
        tokens: list[int] = []
        for mark, text in ((THINKS, thought), (SAYS, said)):
            if text:
                tokens += self._begin(mark, mark)
                tokens += self._text(text, choice)
        if not isinstance(calls, list):
            raise EngineError(f"the tool_calls of a reply are {shown(calls)}")
        for call in calls:
            tokens += self._call(call)
        return tokens, *_told(choice.get("logprobs"), len(tokens), self._last)

    def _begin(self, part: object, mark: int) -> list[int]:
        """The mark, where another part begins."""
        self._last = 0
        if part == self._part:
            return []
        self._part = part
        return [mark]

    def _text(self, text: Any, choice: dict[str, Any]) -> list[int]:
        if not isinstance(text, str) or len(text) > TEXT_CHARS:
            raise EngineError(f"the text of a reply is {shown(text)}")
        text = writable(text)
        told = _entries(choice.get("logprobs"))
        words = [entry.get("token") for entry in told]
        if all(isinstance(word, str) for word in words) and "".join(words) == text:
            tokens = [token for word in words for token in self._pieces.encode(word)]
            self._last = len(tokens)
            return tokens
        return self._pieces.encode(text)

    def _call(self, call: Any) -> list[int]:
        if not isinstance(call, dict):
            raise EngineError(f"a tool call of a reply is {shown(call)}")
        function = call.get("function") or {}
        if not isinstance(function, dict):
            raise EngineError(f"the function of a tool call is {shown(function)}")
        index, name = call.get("index", 0), function.get("name")
        tokens: list[int] = []
        if index not in self._calls or self._part != ("call", index):
            if index in self._calls or len(self._calls) == MOST_CALLS:
                raise EngineError("the tool calls of a reply are mixed up, or too many")
            self._calls.append(index)
            told = {"id": str(call.get("id") or f"call-{index}"), "name": str(name or "")}
            tokens = [*self._begin(("call", index), CALLS), *self._pieces.encode(json.dumps(told))]
        arguments = function.get("arguments") or ""
        if not isinstance(arguments, str) or len(arguments) > TEXT_CHARS:
            raise EngineError(f"the arguments of a tool call are {shown(arguments)}")
        return tokens + self._pieces.encode(writable(arguments))


def _entries(logprobs: Any) -> list[dict[str, Any]]:
    return _dicts(logprobs.get("content")) if isinstance(logprobs, dict) else []


def _dicts(values: Any) -> list[dict[str, Any]]:
    return [one for one in values if isinstance(one, dict)] if isinstance(values, list) else []


def _told(logprobs: Any, count: int, last: int) -> tuple[list[float], list[float]]:
    """Measures of an event's `count` tokens; only its `last` ones have any: marks have none."""
    entries = _entries(logprobs)[:last] if last else []
    tops = [
        {str(n): one.get("logprob") for n, one in enumerate(_dicts(entry.get("top_logprobs")))}
        for entry in entries
    ]
    asked = {"token_logprobs": [entry.get("logprob") for entry in entries], "top_logprobs": tops}
    own, entropy = measures(asked, len(entries), math.log(USUAL_SIZE))
    before = [0.0] * (count - len(own))
    return before + own, before + entropy
