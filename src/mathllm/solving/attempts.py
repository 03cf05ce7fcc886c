"""Attempts at a problem, each on its own: turns, programs, limits, an end.

An attempt is a thread that waits for its engine or for its program. With tools, what the model
waits for is run in a session of the attempt's own, and the attempt goes on from the output, until
it ends by itself or by a limit. None waits for another.
"""

import math
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Protocol

from mathllm.answers.extract import extract_answer
from mathllm.engines.base import Completion, Engine, Sample, SamplingConfig
from mathllm.errors import cause_of
from mathllm.solving.dialects import Conversation, Dialect
from mathllm.solving.measures import behind_box, group_entropy, mean, tail_entropy
from mathllm.solving.outcomes import Attempt

LOOK_SECONDS = 0.2  # between two looks at what a running attempt has written
# A box that more may be written to: at the end of a text it is no answer yet.
_UNSETTLED = re.compile(r"\}[\s\d]*\Z")


class Session(Protocol):
    """Where the programs of one attempt run; what one defines, the next one sees."""

    def run(self, code: str, deadline: float | None = None) -> Any:
        """A result with `output` (text for the model) and `fault` (None or a reason), in time:
        `deadline` is a time.monotonic()."""

    def cancel(self) -> None:
        """End what runs, soon; from any thread."""


class Tools(Protocol):
    """Where sessions come from. `size` is how many can be open at once."""

    size: int

    def session(self, deadline: float | None = None) -> Any:
        """A context manager that gives a Session, or raises when the deadline is there."""


@dataclass(frozen=True)
class Asked:
    """Attempts at one problem. `config` is that of each, with a limit for all of its tokens.

    `seeds[i](turn)` seeds a turn of attempt i: what lies between two programs. Answers are
    integers in `low`…`high`, programs at most `max_calls`; a turn has `turn_tokens` at most, an
    attempt `seconds`, where they are not 0. `since` is when the problem was asked, a
    time.monotonic(). `order` is held while something of an attempt gets its time and is told, so
    that it is told in the order of these times.
    """

    problem: str
    dialect: Dialect
    positions: int
    config: SamplingConfig
    seeds: Sequence[Callable[[int], int]]
    low: int
    high: int
    max_calls: int
    turn_tokens: int = 0
    seconds: float = 0.0
    since: float = field(default_factory=time.monotonic)
    order: Lock = field(default_factory=Lock)

    def begin(self) -> Conversation:
        """A conversation for one attempt."""
        return self.dialect.begin(self.problem, self.positions, self.config.max_new_tokens)


Told = Callable[[int, Attempt, bool], None]


class Runner:
    """Attempt `number` at what is asked; `run` it in a thread, look at it from another.

    `told` gets its number, what it has come to and whether that is its end, whenever a box is
    there and at its end.
    """

    def __init__(
        self,
        asked: Asked,
        number: int,
        engine: Engine,
        tools: Tools | None = None,
        told: Told = lambda *_: None,
    ) -> None:
        self.asked, self.number = asked, number
        self.result: Attempt | None = None
        self._engine, self._tools, self._told = engine, tools, told
        self._seed = asked.seeds[number]
        self._conversation = asked.begin()
        self._whole = Completion()  # of all turns that have ended
        self._sample: Sample | None = None
        self._session: Session | None = None
        self._boxes: list[tuple[float, int]] = []
        self._turn, self._calls, self._faults = 0, 0, []
        self._begun = self._now()
        limit = asked.config.deadline
        self._deadline = math.inf if limit is None else limit
        self._cancelled, self._lock = False, Lock()

    def run(self) -> Attempt:
        """The attempt, whatever happens."""
        self._begun = self._now()
        if self.asked.seconds:
            self._deadline = min(self._deadline, time.monotonic() + self.asked.seconds)
        try:
            with ExitStack() as sessions:
                reason, fault = self._turns(sessions), ""
        except BaseException as error:  # panics of Rust packages are no Exceptions
            reason, fault = "fault", cause_of(error)
        try:
            behind = behind_box(self._whole.tokens, self.asked.dialect.decode)
            text = self._conversation.text()
            result = self._attempt(self._whole, text, reason, fault, behind)
        except BaseException as error:
            result = self._attempt(self._whole, "", "fault", cause_of(error))
        with self.asked.order:
            with self._lock:
                self._sample = None
                self.result = replace(result, ended=self._now(), boxes=tuple(self._boxes))
            self._told(self.number, self.result, True)
        return self.result

    def cancel(self) -> None:
        """End it soon; what it has stays. From any thread."""
        with self._lock:
            self._cancelled = True
            sample, session = self._sample, self._session
        if sample is not None:
            sample.cancel()
        if session is not None:
            session.cancel()

    def so_far(self) -> Attempt:
        """Its result; what it has now, without its text, while it runs."""
        with self._lock:
            if self.result is not None:
                return self.result
            whole = self._whole
            if self._sample is not None:
                whole = _joined(whole, self._sample.completion)
            reason = "cancelled" if self._cancelled else "running"
            return replace(self._attempt(whole, "", reason), answer=self.answer)

    @property
    def late(self) -> bool:
        """Whether its time is up."""
        return time.monotonic() >= self._deadline

    @property
    def answer(self) -> int | None:
        """The box that it has closed, or its answer once it has ended."""
        if self.result is not None:
            return self.result.answer
        return self._boxes[-1][1] if self._boxes else None

    def _turns(self, sessions: ExitStack) -> str:
        """Turn after turn; why it ended."""
        config, limit = self.asked.config, self.asked.turn_tokens
        deadline = None if math.isinf(self._deadline) else self._deadline
        while True:
            room = min(config.max_new_tokens - self._written, self._positions)
            if room <= 0:
                return "length"
            room = min(room, limit or room)
            sample = self._start(replace(config, n=1, max_new_tokens=room, deadline=deadline))
            if sample is None:
                return "cancelled"
            self._watch(sample)
            completion = sample.completion
            reason = completion.finish_reason
            with self._lock:
                self._sample = None
                self._whole = _joined(self._whole, completion)
                programs = self._conversation.add(completion.tokens, reason == "stop")
            if sample.fault is not None:
                raise sample.fault
            if not programs or self._tools is None or self._calls >= self.asked.max_calls:
                return reason or "fault"
            if (ended := self._run_all(programs, sessions)) is not None:
                return ended

    @property
    def _written(self) -> int:
        """Tokens after the first prompt, the tools' output among them."""
        return len(self._conversation.prompt) - self._conversation.begun

    @property
    def _positions(self) -> int:
        return self.asked.positions - len(self._conversation.prompt)

    def _start(self, config: SamplingConfig) -> Sample | None:
        """The next turn's sample; None where the attempt is over."""
        if self._cancelled:
            return None
        seed = self._seed(self._turn)
        self._turn += 1
        sample = self._engine.start(self._conversation.prompt, config, seed)
        with self._lock:
            self._sample = sample
            if self._cancelled:
                sample.cancel()
        return sample

    def _watch(self, sample: Sample) -> None:
        """Wait for its end, and look meanwhile whether it has closed a box."""
        seen, unread = 0, ""
        while not sample.wait(LOOK_SECONDS):
            tokens = [*sample.completion.tokens]
            unread += self.asked.dialect.decode(tokens[seen:])
            seen = len(tokens)
            box = unread[unread.rfind("boxed") :] if "boxed" in unread else ""
            if not box or box.count("{") > box.count("}") or _UNSETTLED.search(box):
                unread = box or unread[-len("boxed") :]
                continue
            unread = ""
            text = self._conversation.text(tokens)
            answer = extract_answer(text, self.asked.low, self.asked.high)
            if answer is not None and answer != self.answer:
                with self.asked.order:
                    self._boxes.append((self._now(), answer))
                    self._told(self.number, self.so_far(), False)

    def _run_all(self, programs: Sequence[str], sessions: ExitStack) -> str | None:
        """The programs' output into the conversation; why that is the end, None if it is not."""
        deadline = None if math.isinf(self._deadline) else self._deadline
        if self._session is None:
            session = sessions.enter_context(self._tools.session(deadline))
            with self._lock:
                self._session = session
        for program in programs:
            if self._cancelled:
                return "cancelled"
            result = self._session.run(program, deadline)
            if self._cancelled:
                return "cancelled"
            self._calls += 1
            if result.fault:
                self._faults.append(result.fault)
            with self._lock:
                self._conversation.reply(result.output)
        return None

    def _now(self) -> float:
        return time.monotonic() - self.asked.since

    def _attempt(
        self, whole: Completion, text: str, reason: str, fault: str = "", behind: int = 0
    ) -> Attempt:
        confidence = whole.confidence
        return Attempt(
            text=text,
            answer=extract_answer(text, self.asked.low, self.asked.high),
            tokens=len(whole.tokens),
            finish_reason=reason,
            mean_entropy=mean(whole.entropy),
            tail_entropy=tail_entropy(whole.entropy, behind),
            group_entropy=group_entropy(whole.entropy),
            confidence=mean(confidence) if confidence else None,
            turns=self._turn,
            calls=self._calls,
            faults=tuple(self._faults),
            supervision_steps=whole.supervision_steps_used,
            broke=fault,
            begun=self._begun,
            ended=self._now(),
            boxes=tuple(self._boxes),
            mean_logprob=mean(whole.logprobs),
        )


def _joined(one: Completion, other: Completion) -> Completion:
    """Both in a row; how the second ended."""
    return Completion(
        one.tokens + other.tokens,
        one.logprobs + other.logprobs,
        one.entropy + other.entropy,
        one.confidence + other.confidence,
        other.finish_reason,
        one.supervision_steps_used + other.supervision_steps_used,
    )
