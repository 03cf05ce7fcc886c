"""A problem in, an integer out: prompt, samples, answers, vote.

Knows how the rooms below are put together for one problem. Knows nothing of Kaggle, files
or how the engine makes its tokens.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mathllm.solving.answers import ANSWER_MAX, ANSWER_MIN, extract_answer
from mathllm.solving.voting import vote

if TYPE_CHECKING:  # torch and transformers take seconds; whoever only votes is spared them
    from transformers import PreTrainedTokenizerBase

    from mathllm.decoding import Completion

# Of a backbone's positions, the share kept for the answer when the problem is too long.
ANSWER_SHARE = 0.25
FALLBACK_ANSWER = 0  # submitted when no sample gives a valid one


@dataclass(frozen=True)
class SolverSettings:
    """How one problem is sampled; the answer range is the competition's.

    `temperature` 0 is greedy: then all samples are the same, so `n_samples` should be 1.
    """

    n_samples: int = 4
    max_new_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 0.95
    seed: int = 0
    answer_min: int = ANSWER_MIN
    answer_max: int = ANSWER_MAX


@dataclass(frozen=True)
class Attempt:
    """One sample: its text, its answer, and how it ended.

    `tokens` counts what was generated; `mean_entropy` is in nats per token, 0 for none.
    """

    text: str
    answer: int | None
    tokens: int
    finish_reason: str
    mean_entropy: float


@dataclass(frozen=True)
class Solution:
    """The answer to submit (FALLBACK_ANSWER without a valid vote) and how it came about."""

    problem_id: str
    answer: int
    votes: dict[int, int]
    reason: str
    attempts: list[Attempt]
    seconds: float


class Solver:
    """Samples one problem at a time from an engine and takes the majority's answer.

    The engine has `generate(prompts, config, seeds)` as `mathllm.decoding.Decoder`, and may
    have `max_positions`, the number of tokens that prompt and answer together can have.
    `clock` counts as time.monotonic, by which the engine keeps its deadline. Raises
    ParameterError for settings out of their range.
    """

    def __init__(
        self,
        engine: Any,
        tokenizer: "PreTrainedTokenizerBase",
        settings: SolverSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        from mathllm.data.chat import end_of_turn_id, padding_id
        from mathllm.decoding import SamplingConfig

        self.engine = engine
        self.tokenizer = tokenizer
        self.settings = settings or SolverSettings()
        self._clock = clock
        self._sampling = SamplingConfig(
            n=self.settings.n_samples,
            max_new_tokens=self.settings.max_new_tokens,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            seed=self.settings.seed,
            stop_ids=frozenset({end_of_turn_id(tokenizer), padding_id(tokenizer)}),
        )

    def solve(self, problem_id: str, problem: str, seconds: float | None = None) -> Solution:
        """`seconds` is the time to answer in; None takes as long as the samples need."""
        from mathllm.data.chat import prompt_ids

        started = self._clock()
        prompt, max_new_tokens, note = self._fit(prompt_ids(self.tokenizer, problem))
        deadline = None if seconds is None else started + seconds
        config = replace(self._sampling, max_new_tokens=max_new_tokens, deadline=deadline)
        indices = range(self.settings.n_samples)
        seeds = [sample_seed(self.settings.seed, problem_id, index) for index in indices]
        (completions,) = self.engine.generate([prompt], config, seeds=[seeds])
        attempts = [self._attempt(completion) for completion in completions]
        decision = vote([attempt.answer for attempt in attempts])
        answer, reason = decision.answer, decision.reason
        if answer is None:
            answer = FALLBACK_ANSWER
            reason += f", {answer} stands in"
        elapsed = self._clock() - started
        return Solution(problem_id, answer, decision.votes, reason + note, attempts, elapsed)

    def _attempt(self, completion: "Completion") -> Attempt:
        text = self.tokenizer.decode(completion.tokens, skip_special_tokens=True)
        answer = extract_answer(text, self.settings.answer_min, self.settings.answer_max)
        entropy = completion.entropy
        mean_entropy = sum(entropy) / len(entropy) if entropy else 0.0
        tokens = len(completion.tokens)
        return Attempt(text, answer, tokens, completion.finish_reason, mean_entropy)

    def _fit(self, prompt: list[int]) -> tuple[list[int], int, str]:
        """Prompt and number of new tokens that fit the backbone together, and a note if cut.

        New tokens give way first, down to ANSWER_SHARE of the positions; then the problem
        loses its end, but never the turns around it.
        """
        wanted = self.settings.max_new_tokens
        positions = getattr(self.engine, "max_positions", None)
        if positions is None or len(prompt) + wanted <= positions:
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

        frame = prompt_ids(self.tokenizer, "")
        length = 0
        while length < min(len(frame), len(prompt)) and frame[-1 - length] == prompt[-1 - length]:
            length += 1
        return prompt[len(prompt) - length :]


def sample_seed(seed: int, problem_id: str, index: int) -> int:
    """A seed in 0…2^63 − 1 for one sample, the same whatever was solved before it."""
    digest = hashlib.sha256(f"{seed}:{index}:{problem_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
