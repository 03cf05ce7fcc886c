"""A problem in, an integer out: prompt, samples, answers, vote."""

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from mathllm.engines.base import Engine, SamplingConfig
from mathllm.errors import cause_of
from mathllm.solving.attempts import Asked, Attempt, Tools, broken, check_whole, draw
from mathllm.solving.budget import next_wave
from mathllm.solving.solution import Solution, SolverSettings, ballot_of, decide
from mathllm.solving.voting import Ballot, decided

if TYPE_CHECKING:  # it takes seconds; whoever only votes is spared them
    from transformers import PreTrainedTokenizerBase

# Of a backbone's positions, the share kept for the answer when the problem is too long.
ANSWER_SHARE = 0.25
RESCUE_SAMPLES = 2  # that the spare engine draws
CAUSE_CHARS = 300  # of a fault, in the journal
MOMENT = 1e-3  # seconds: a problem is always tried, however late it is


class Solver:
    """Samples problems from an engine: `solve` takes a vote over one's answers, in time.

    `tools` runs programs (mathllm.sandbox.SandboxPool); without them none are asked
    for. `clock` counts as time.monotonic, by which the engine keeps its deadline.

    `strict`: a fault is raised. Otherwise half as many samples are tried, without tools, then
    fewer, then some of the `spare` engine (such as the plain backbone), then the votes at
    hand decide. Raises ParameterError for settings out of their range.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: "PreTrainedTokenizerBase",
        settings: SolverSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        tools: Tools | None = None,
        spare: Engine | None = None,
        strict: bool = True,
    ):
        from mathllm.data.chat import SYSTEM_PROMPT, TOOL_PROMPT, end_of_turn_id, padding_id

        self.engine = engine
        self.tokenizer = tokenizer
        self.settings = settings or SolverSettings()
        self.tools = tools
        self.spare = spare
        self.strict = strict
        self._tokens_per_second: float | None = None
        self._usual_tokens: float | None = None
        self.load_fault: str | None = None  # what was missing when it was loaded
        self._clock = clock
        self._system = SYSTEM_PROMPT if tools is None else TOOL_PROMPT
        self._sampling = partial(
            SamplingConfig,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            top_k=self.settings.top_k,
            min_p=self.settings.min_p,
            seed=self.settings.seed,
            stop_ids=frozenset({end_of_turn_id(tokenizer), padding_id(tokenizer)}),
        )
        # Checks the settings.
        self._sampling(n=self.settings.n_samples, max_new_tokens=self.settings.max_new_tokens)

    def solve(
        self,
        problem_id: str,
        problem: str,
        seconds: float | None = None,
        tell: Callable[[Solution], None] = lambda _: None,
    ) -> Solution:
        """`seconds` is the time to answer in; None takes as long as the samples need.

        `tell` gets what the answer would be, whenever samples have come.
        """
        started = self._clock()
        deadline = None if seconds is None else started + seconds
        attempts: list[Attempt] = []
        faults: list[str] = []
        note, early = "", None

        def so_far() -> Solution:
            elapsed = self._clock() - started
            return decide(problem_id, attempts, self.settings.voting, elapsed, early, note, faults)

        try:
            asked = self.asked(problem_id, problem, deadline)
            note = asked.note
            early = self._sample(asked, deadline, attempts, faults, lambda: tell(so_far()))
        except Exception as fault:  # none that `_sample` has a way around
            if self.strict:
                raise
            cause = cause_of(fault)[:CAUSE_CHARS]
            faults.append(f"{cause}; the {len(attempts)} samples at hand decide")
        return so_far()

    def asked(self, problem_id: str, problem: str, deadline: float | None = None) -> Asked:
        """All samples of a problem: what `solve` draws some or all of."""
        from mathllm.data.chat import prompt_ids

        settings = self.settings
        prompt, max_new_tokens, note = self._fit(prompt_ids(self.tokenizer, problem, self._system))
        return Asked(
            prompt,
            self._sampling(max_new_tokens=max_new_tokens, deadline=deadline),
            [
                partial(sample_seed, settings.seed, problem_id, index)
                for index in range(settings.n_samples)
            ],
            settings.answer_min,
            settings.answer_max,
            note,
        )

    def draw_all(self, asked: Sequence[Asked]) -> list[list[Attempt]]:
        """All the samples of some problems, drawn together as far as the tools' sessions go.

        Without time limits and votes: what `solve` draws of a problem comes first among
        these, and is the same. Raises what the engine raises, and BrokenSampleError.
        """
        everything = sum(len(one.seeds) for one in asked)
        room = everything if self.tools is None else self.tools.size
        attempts: list[list[Attempt]] = [[] for _ in asked]
        while any(len(own) < len(one.seeds) for own, one in zip(attempts, asked, strict=True)):
            left, parts = room, {}
            for place, one in enumerate(asked):
                begun = len(attempts[place])
                part = one.part(slice(begun, begun + left))
                left -= len(part.seeds)
                if part.seeds:
                    parts[place] = part
            drawn = draw(
                self.engine,
                self.tokenizer,
                list(parts.values()),
                self.tools,
                self.settings.max_calls,
            )
            check_whole(drawn)
            for place, own in zip(parts, drawn, strict=True):
                attempts[place] += own
        return attempts

    def _sample(
        self,
        asked: Asked,
        deadline: float | None,
        attempts: list[Attempt],
        faults: list[str],
        on_wave: Callable[[], None],
    ) -> str | None:
        """Add attempts wave by wave, and what failed; why no more were drawn, where it is early.

        Waves are smaller than their fixed sizes only where the time left is too short for
        them, so that what is drawn depends on the clock only where time is up.
        """
        settings = self.settings
        engine, tools, total = self.engine, self.tools, settings.n_samples
        size = settings.wave or total
        while len(attempts) < total:
            if attempts:
                on_wave()
                if deadline is not None and self._clock() >= deadline:
                    return f"time was up after {len(attempts)} samples"
                ballots = [ballot_of(attempt) for attempt in attempts]
                if early := decided(ballots, total, settings.voting, settings.agreement):
                    return early
            left = None if deadline is None else max(deadline - self._clock(), MOMENT)
            count = next_wave(
                len(attempts), total, size, self._tokens_per_second, self._usual_tokens, left
            )
            if self.tools is not None:
                count = min(count, self.tools.size)
            wave = asked.part(slice(len(attempts), len(attempts) + count))
            began = self._clock()
            try:
                (drawn,) = draw(engine, self.tokenizer, [wave], tools, settings.max_calls)
                if self.strict:
                    check_whole([drawn])
                elif told := broken(drawn):
                    faults.append(told)
                attempts += drawn
                self._measure(drawn, self._clock() - began)
            except Exception as fault:
                if self.strict:
                    raise
                cause = cause_of(fault)[:CAUSE_CHARS]
                if attempts:
                    faults.append(f"{cause}; the {len(attempts)} samples at hand decide")
                    break
                if tools is not None:  # they may be what failed
                    tools = None
                    size = total = max(1, size // 2)
                    faults.append(f"{cause}; trying {size} samples without tools")
                elif engine is self.engine and size > 1:
                    size = total = size // 2
                    faults.append(f"{cause}; trying {size} samples")
                elif self.spare is not None and engine is not self.spare:
                    engine, size = self.spare, min(RESCUE_SAMPLES, settings.n_samples)
                    total = size
                    faults.append(f"{cause}; trying {size} of {type(engine).__name__}")
                else:
                    faults.append(f"{cause}; nothing is left to try")
                    break
        return None

    def _measure(self, drawn: list[Attempt], seconds: float) -> None:
        """How fast samples come and how long they are, for the size of the next wave."""
        tokens = sum(attempt.tokens for attempt in drawn)
        if tokens and seconds > 0:
            self._tokens_per_second = tokens / seconds
            self._usual_tokens = tokens / len(drawn)

    def _fit(self, prompt: list[int]) -> tuple[list[int], int, str]:
        """Prompt and number of new tokens that fit the backbone together, and a note if cut.

        New tokens give way first, down to ANSWER_SHARE of the positions; then the problem
        loses its end, but never the turns around it.
        """
        wanted = self.settings.max_new_tokens
        positions = self.engine.max_positions
        if len(prompt) + wanted <= positions:
            return prompt, wanted, ""
        reserved = min(wanted, max(1, int(positions * ANSWER_SHARE)))
        keep = positions - reserved
        if len(prompt) <= keep:
            return prompt, positions - len(prompt), ""
        tail = self._assistant_turn(prompt)[-keep:]
        note = f"; prompt cut from {len(prompt)} to {keep} tokens"
        return prompt[: keep - len(tail)] + tail, reserved, note

    def _assistant_turn(self, prompt: list[int]) -> list[int]:
        """The prompt's last tokens, those that every problem shares: end of turn, next turn."""
        from mathllm.data.chat import prompt_ids

        frame = prompt_ids(self.tokenizer, "", self._system)
        length = 0
        while length < min(len(frame), len(prompt)) and frame[-1 - length] == prompt[-1 - length]:
            length += 1
        return prompt[len(prompt) - length :]


def drawn_samples(ballots: Sequence[Ballot], settings: SolverSettings, sessions: int = 0) -> int:
    """How many of all samples, in their order, `solve` draws where time is no limit.

    `sessions`: those of its tools, 0 without tools. What it then answers is the `vote` over
    so many ballots.
    """
    total, drawn = len(ballots), 0
    while drawn < total:
        if drawn and decided(ballots[:drawn], total, settings.voting, settings.agreement):
            break
        count = next_wave(drawn, total, settings.wave or total)
        drawn += min(count, sessions or count)
    return drawn


def sample_seed(seed: int, problem_id: str, index: int, part: int = 0) -> int:
    """A seed in 0…2^63 − 1 for one part of a sample, the same whatever was solved before it."""
    text = f"{seed}:{index}:{problem_id}" + (f":{part}" if part else "")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
