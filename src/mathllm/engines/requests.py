"""What is asked of an engine, as rows: a sample each, with what has come of it so far."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mathllm.engines.base import OnPass, Progress, Sample, SamplingConfig
from mathllm.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor


class Row(Sample):
    """A sample that is generated here. `limit` is how many tokens it may have.

    `random` [limit, 3] is made of the seed by whoever draws.
    """

    def __init__(self, prompt: list[int], config: SamplingConfig, limit: int, seed: int) -> None:
        super().__init__(config)
        self.prompt, self.limit, self.seed = prompt, limit, seed
        self.random: Tensor | None = None

    @property
    def sequence(self) -> list[int]:
        """Prompt and what was generated."""
        return self.prompt + self.completion.tokens

    @property
    def room(self) -> int:
        """Tokens that it may still have."""
        return self.limit - len(self.completion.tokens)

    def add(
        self,
        token: int,
        logprob: float,
        entropy: float,
        broken: bool = False,
        confidence: float | None = None,
        steps: int = 0,
    ) -> None:
        """One more token, and the end if it is one; `broken`: its logits were no numbers.

        A row that has ended takes none. `steps` are the supervision steps that it took.
        """
        if self.done:
            return
        completion = self.completion
        if broken:
            self.end("nan")
            return
        completion.supervision_steps_used += steps
        if confidence is not None:
            completion.confidence.append(confidence)
        completion.logprobs.append(logprob)
        completion.entropy.append(entropy)
        completion.tokens.append(token)
        if token in self.config.stop_ids or self._ends_in_stop_sequence():
            self.end("stop")
        elif len(completion.tokens) == self.limit:
            self.end("length")

    def _ends_in_stop_sequence(self) -> bool:
        tokens = self.completion.tokens
        return any(
            tuple(tokens[-len(stop) :]) == tuple(stop) for stop in self.config.stop_sequences
        )


def row_of(
    prompt: Sequence[int], config: SamplingConfig, seed: int, vocabulary: int, max_positions: int
) -> Row:
    """One sample's row. Raises ParameterError as Engine.start."""
    _check([prompt], vocabulary, max_positions)
    return Row(list(prompt), config, min(config.max_new_tokens, max_positions - len(prompt)), seed)


class Request:
    """One call of an engine: its rows, what has come of them, and who is told."""

    def __init__(self, rows: list[Row], counts: list[int], on_pass: OnPass | None) -> None:
        self.rows = rows
        completions = iter([row.completion for row in rows])
        self.completions = [[next(completions) for _ in range(count)] for count in counts]
        self._on_pass = on_pass
        self._began = time.perf_counter()
        self._passes = 0

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
            rows += [Row(list(prompt), own, limit, seed) for seed in row_seeds]
        return cls(rows, counts, on_pass)

    def passed(self, rows: Sequence[Row], waiting: int) -> None:
        """A pass over these rows is done: tell whoever asked."""
        self._passes += 1
        if self._on_pass is not None:
            live = sum(not row.done for row in rows)
            tokens = sum(len(row.completion.tokens) for row in self.rows)
            seconds = time.perf_counter() - self._began
            self._on_pass(Progress(self._passes, live, waiting, tokens, seconds, self.completions))


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
