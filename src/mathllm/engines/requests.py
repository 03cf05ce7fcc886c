"""What is asked of an engine, as rows: a sample each, with what has come of it so far.

Knows token ids and when a sample has ended. Knows nothing of how tokens are made.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from mathllm.engines.memory import out_of_memory
from mathllm.engines.sampling import SamplingConfig, random_numbers
from mathllm.errors import ParameterError

log = logging.getLogger(__name__)

FinishReason = Literal["stop", "length", "deadline", "cancelled", "nan", "memory", "fault"]


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


@dataclass(eq=False)
class Row:
    """A sample that grows. `limit` is how many tokens it may have."""

    prompt: list[int]
    config: SamplingConfig
    limit: int
    random: Tensor  # [limit, 3]
    completion: Completion = field(default_factory=Completion)

    @property
    def sequence(self) -> list[int]:
        """Prompt and what was generated."""
        return self.prompt + self.completion.tokens

    @property
    def done(self) -> bool:
        return self.completion.finish_reason is not None

    def add(self, token: int, logprob: float, entropy: float) -> None:
        """One more token, and the end if it is one."""
        completion = self.completion
        completion.tokens.append(token)
        completion.logprobs.append(logprob)
        completion.entropy.append(entropy)
        if token in self.config.stop_ids or self._ends_in_stop_sequence():
            completion.finish_reason = "stop"
        elif len(completion.tokens) == self.limit:
            completion.finish_reason = "length"

    def _ends_in_stop_sequence(self) -> bool:
        tokens = self.completion.tokens
        return any(
            tuple(tokens[-len(stop) :]) == tuple(stop) for stop in self.config.stop_sequences
        )

    def end_if_asked(self) -> None:
        """End a row whose deadline has passed or that was cancelled."""
        if self.done:
            return
        if self.config.cancel is not None and self.config.cancel.is_set():
            self.completion.finish_reason = "cancelled"
        elif self.config.deadline is not None and time.monotonic() >= self.config.deadline:
            self.completion.finish_reason = "deadline"


class Request:
    """One call of an engine: its rows, what has come of them, and who is told."""

    def __init__(self, rows: list[Row], counts: list[int], on_pass: OnPass | None) -> None:
        self.rows = rows
        completions = iter([row.completion for row in rows])
        self.completions = [[next(completions) for _ in range(count)] for count in counts]
        self._on_pass = on_pass
        self._began = time.perf_counter()
        self._passes = 0
        self._tokens = 0

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        config: SamplingConfig | Sequence[SamplingConfig],
        seeds: Sequence[Sequence[int]] | None,
        vocabulary: int,
        max_positions: int,
        on_pass: OnPass | None,
    ) -> "Request":
        """The request for all samples of all prompts, those of a prompt side by side.

        Raises ParameterError for no prompts, an empty prompt, an id outside the vocabulary,
        a prompt that leaves no position for a new token, and for configs or seeds that are
        not one for each prompt or sample.
        """
        _check(prompts, vocabulary, max_positions)
        configs = [config] * len(prompts) if isinstance(config, SamplingConfig) else list(config)
        if len(configs) != len(prompts):
            raise ParameterError(
                f"{len(configs)} configs given for {len(prompts)} prompts: one for all, or one each"
            )
        counts = [c.n for c in configs]
        if seeds is None:
            firsts = [configs[0].seed + sum(counts[:p]) for p in range(len(counts))]
            seeds = [range(first, first + n) for first, n in zip(firsts, counts, strict=True)]
        given = [len(row) for row in seeds]
        if given != counts:
            raise ParameterError(f"seeds given for {given} samples of the prompts, not {counts}")
        rows = []
        for prompt, own, row_seeds in zip(prompts, configs, seeds, strict=True):
            limit = min(own.max_new_tokens, max_positions - len(prompt))
            rows += [Row(list(prompt), own, limit, random_numbers(s, limit)) for s in row_seeds]
        return cls(rows, counts, on_pass)

    @property
    def most_tokens(self) -> int:
        """Of a row at most, prompt included."""
        return max(len(row.prompt) for row in self.rows) + max(row.limit for row in self.rows)

    def asked(self, rows: list[Row]) -> list[Row]:
        """Ends rows that were cancelled or are late; gives those that go on."""
        for row in rows:
            row.end_if_asked()
        return [row for row in rows if not row.done]

    def add(self, row: Row, token: int, logprob: float, entropy: float, broken: bool) -> bool:
        """One more token for a row that goes on; `broken`: its logits were no numbers.

        Whether it was taken: a row that has ended takes none.
        """
        if row.done:
            return False
        if broken:
            row.completion.finish_reason = "nan"
            return False
        row.add(token, logprob, entropy)
        self._tokens += 1
        return True

    def passed(self, rows: list[Row], waiting: int) -> None:
        """A pass over these rows is done: tell whoever asked."""
        self._passes += 1
        if self._on_pass is not None:
            live = sum(not row.done for row in rows)
            seconds = time.perf_counter() - self._began
            self._on_pass(
                Progress(self._passes, live, waiting, self._tokens, seconds, self.completions)
            )


def _check(prompts: Sequence[Sequence[int]], vocabulary: int, max_positions: int) -> None:
    if not prompts:
        raise ParameterError("no prompts given: at least one list of token ids is needed")
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise ParameterError(f"prompt {number} is empty: give at least one token id")
        if len(prompt) >= max_positions:
            raise ParameterError(
                f"prompt {number} has {len(prompt)} tokens and the backbone {max_positions} "
                "positions: shorten it"
            )
        if not 0 <= min(prompt) <= max(prompt) < vocabulary:
            raise ParameterError(
                f"prompt {number} has token ids outside 0…{vocabulary - 1}: "
                "use the backbone's own tokenizer"
            )


def in_groups(
    rows: list[Row],
    size: int,
    run: Callable[[list[Row], int], None],
    release: Callable[[], None] = lambda: None,
) -> None:
    """Run every row, at most `size` together; `run` gets a group and how many rows wait.

    Where memory runs out, `release` is called and the rows that have not ended go on in
    halves, from the tokens they have; a single row that does not fit ends.
    """
    groups = [rows[start : start + size] for start in range(0, len(rows), size)]
    while groups:
        group = groups.pop(0)
        try:
            run(group, sum(map(len, groups)))
        except Exception as fault:
            if not out_of_memory(fault):
                raise
            # Not in this block: the traceback holds on to what filled the memory.
            cause = " ".join(str(fault).split())[:200]
        else:
            continue
        release()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        left = [row for row in group if not row.done]
        if len(left) == 1 and len(group) == 1:
            left[0].completion.finish_reason = "memory"
            log.warning("out of memory with one row, which ends: %s", cause)
            continue
        half = max(1, len(left) // 2)
        log.warning(
            "out of memory with %d rows, going on with %d at a time: %s", len(group), half, cause
        )
        groups[:0] = [left[start : start + half] for start in range(0, len(left), half)]
