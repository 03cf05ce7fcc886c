"""What an engine is: a prompt in, token ids out, each sample on its own.

Needs no torch, so that whoever only asks an engine does not wait for it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Any, Literal, Protocol

from mathllm.errors import ParameterError


class EngineError(RuntimeError):
    """An engine that cannot be reached or started, refused a request, or went away.

    `status` is the HTTP status that it answered with, if that is the reason.
    """

    def __init__(self, why: str, status: int | None = None) -> None:
        super().__init__(why)
        self.status = status


FinishReason = Literal["stop", "length", "deadline", "cancelled", "nan", "memory", "fault"]


@dataclass(frozen=True)
class SamplingConfig:
    """How to draw for one prompt, and when to stop.

    Temperature 0 is greedy; top_k 0, top_p 1, min_p 0 and repetition_penalty 1 are off.
    `stop_ids` and `stop_sequences` (token ids) end a completion and are part of it.
    `deadline` is a time.monotonic() in seconds, `cancel` ends generation once it is set.
    Raises ParameterError for a value out of its range.
    """

    n: int = 1
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop_ids: frozenset[int] = frozenset()
    stop_sequences: tuple[tuple[int, ...], ...] = ()
    deadline: float | None = None
    cancel: Event | None = None

    def __post_init__(self) -> None:
        for name, low in (("n", 1), ("max_new_tokens", 1), ("temperature", 0), ("top_k", 0)):
            value = getattr(self, name)
            if not value >= low:
                raise ParameterError(f"{name} is {value}: it must be at least {low}")
        if not 0 < self.top_p <= 1:
            raise ParameterError(f"top_p is {self.top_p}: it must be over 0 and at most 1")
        if not 0 <= self.min_p <= 1:
            raise ParameterError(f"min_p is {self.min_p}: it must be from 0 to 1")
        if not self.repetition_penalty > 0:
            raise ParameterError(
                f"repetition_penalty is {self.repetition_penalty}: it must be over 0"
            )
        if not all(self.stop_sequences):
            raise ParameterError(
                "stop_sequences has an empty sequence: give each at least one token id"
            )


@dataclass
class Completion:
    """One sample, a value a token in each list; `finish_reason` is None while it grows.

    `logprobs` and `entropy` are nats, the model's own; `confidence` is the halting head's
    probability that the token is right, where there is one. `finish_reason`: a stop token or
    sequence, the length allowed, the deadline, the cancel flag, logits that were no numbers,
    no memory for even this row alone, or a fault of the engine's in the middle.
    `supervision_steps_used` counts over all tokens; `drafted` and `accepted` count the
    backbone's drafts for this row.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    supervision_steps_used: int = 0
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True)
class Messages:
    """A conversation for a server that renders it itself, as the chat completions API has it.

    `tools` describes the functions that may be called; `length` is about how many tokens the
    server will make of it all.
    """

    said: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...]
    length: int

    def __len__(self) -> int:
        return self.length


Prompt = Sequence[int] | Messages


class Vocabulary(Protocol):
    """A model's `size` tokens."""

    size: int

    def encode(self, text: str) -> list[int]:
        """A text as tokens."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens as text."""


class Sample:
    """A sample on its way: `completion` grows until it has a finish_reason.

    `fault` is what broke a sample whose finish_reason is "fault". Whoever asked for it waits,
    looks at what there is, or cancels it, from any thread.
    """

    def __init__(self, config: SamplingConfig) -> None:
        self.config = config
        self.completion = Completion()
        self.fault: Exception | None = None
        self._cancelled = False
        self._over = Event()
        self._ending = Lock()

    @property
    def done(self) -> bool:
        return self.completion.finish_reason is not None

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end, or so long; whether it has ended."""
        return self._over.wait(seconds)

    def cancel(self) -> None:
        """End it soon; what it has stays."""
        self._cancelled = True

    def end(self, reason: FinishReason, fault: Exception | None = None) -> None:
        """The engine's word that nothing more comes. The first one counts."""
        with self._ending:
            if self.done:
                return
            self.fault = fault
            self.completion.finish_reason = reason
        self._over.set()

    def end_if_asked(self) -> None:
        """End it if its deadline has passed or it was cancelled."""
        config = self.config
        if self._cancelled or (config.cancel is not None and config.cancel.is_set()):
            self.end("cancelled")
        elif config.deadline is not None and time.monotonic() >= config.deadline:
            self.end("deadline")


@dataclass
class Progress:
    """What a callback is told after each pass. `completions` holds every sample, growing."""

    passes: int
    live: int
    waiting: int
    tokens: int
    seconds: float
    completions: list[list[Completion]]


OnPass = Callable[[Progress], None]


class Engine(Protocol):
    """What generates, sample by sample. A sample depends on its prompt, config and seed alone,
    never on what else is asked meanwhile."""

    @property
    def max_positions(self) -> int:
        """Tokens of a prompt and its completion together, at most."""

    def start(self, prompt: Prompt, config: SamplingConfig, seed: int) -> Sample:
        """Begin a sample from a prompt and return at once; `config.n` is not read. All take token
        ids, but for one whose server renders messages.

        It is cut at `max_positions`; one that breaks ends by "nan", "memory" or "fault", with
        the tokens that it has. Raises ParameterError for an empty prompt, an id outside the
        vocabulary, and a prompt that leaves no position for a new token.
        """
