"""Samples of one problem, drawn together, with or without tools.

With tools a sample stops where it opens an output block; its last Python block is run, the
output is written into the block, and the sample goes on, until it ends by itself. Knows the
shape of such texts. Knows nothing of votes, time budgets or how code is run.
"""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from mathllm.answers.extract import extract_answer

if TYPE_CHECKING:  # torch and transformers take seconds; whoever only votes is spared them
    from transformers import PreTrainedTokenizerBase

    from mathllm.engines import Completion, SamplingConfig

OUTPUT = "```output"  # where the model waits for what its program printed
TAIL = 32  # tokens at the end of a sample whose entropy counts as the tail's
_PYTHON = re.compile(r"```(?:python|py)\s*\n(.*?)```", re.DOTALL)


class Session(Protocol):
    """Where the programs of one sample run; what one defines, the next one sees."""

    def run(self, code: str) -> Any:
        """A result with `output` (text for the model) and `fault` (None or a reason)."""


class Tools(Protocol):
    """Where sessions come from. `size` is how many can be open at once."""

    size: int

    def session(self) -> Any:
        """A context manager that gives a Session."""


@dataclass(frozen=True)
class Attempt:
    """One sample: its text, its answer, and how it ended.

    `tokens` counts what was generated, without the tools' output. `mean_entropy` and
    `tail_entropy` (of the last TAIL tokens) are in nats per token, 0 for none; `confidence`
    is the halting head's mean probability, None where the engine has none. `calls` counts
    programs that were run, `faults` says which of them failed to.
    """

    text: str
    answer: int | None
    tokens: int
    finish_reason: str
    mean_entropy: float
    tail_entropy: float = 0.0
    confidence: float | None = None
    calls: int = 0
    faults: tuple[str, ...] = ()


@dataclass(eq=False)
class _Sample:
    """A sample that grows. `tokens` holds everything after the prompt, tools' output too."""

    seeds: Callable[[int], int]
    tokens: list[int] = field(default_factory=list)
    generated: int = 0
    entropy: list[float] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    finish_reason: str = ""
    calls: int = 0
    faults: list[str] = field(default_factory=list)
    session: Session | None = None

    def add(self, completion: "Completion") -> None:
        """What an engine generated."""
        self.tokens += completion.tokens
        self.generated += len(completion.tokens)
        self.entropy += completion.entropy
        self.confidence += completion.confidence
        self.finish_reason = completion.finish_reason or "fault"


@dataclass(frozen=True)
class Asked:
    """What is drawn: `prompt` token ids, `config` for each sample, `low`…`high` for answers."""

    prompt: list[int]
    config: "SamplingConfig"
    low: int
    high: int
    tools: Tools | None = None
    max_calls: int = 4


def draw(
    engine: Any,
    tokenizer: "PreTrainedTokenizerBase",
    asked: Asked,
    seeds: Sequence[Callable[[int], int]],
) -> list[Attempt]:
    """One attempt for each of `seeds`, which gives the seed of each part of a sample.

    A part is what lies between two tool calls. With tools, no more samples than they have
    sessions. Raises what the engine raises.
    """
    samples = [_Sample(own) for own in seeds]
    config = replace(asked.config, n=len(samples))
    if asked.tools is not None:
        stop = tuple(tokenizer(OUTPUT, add_special_tokens=False)["input_ids"])
        config = replace(config, stop_sequences=(*config.stop_sequences, stop))
    (completions,) = engine.generate([asked.prompt], config, seeds=[[own(0) for own in seeds]])
    for sample, completion in zip(samples, completions, strict=True):
        sample.add(completion)
    if asked.tools is not None:
        with ExitStack() as sessions:
            _with_tools(engine, tokenizer, asked, config, samples, sessions)
    return [_attempt(tokenizer, sample, asked.low, asked.high) for sample in samples]


def _with_tools(
    engine: Any,
    tokenizer: "PreTrainedTokenizerBase",
    asked: Asked,
    config: "SamplingConfig",
    samples: list[_Sample],
    sessions: ExitStack,
) -> None:
    """Run what waits for its output and go on with it, until nothing waits."""
    for part in range(1, asked.max_calls + 1):
        waiting = [(s, code) for s in samples if (code := _program(tokenizer, s)) is not None]
        if not waiting:
            return
        for sample, _ in waiting:
            if sample.session is None:
                sample.session = sessions.enter_context(asked.tools.session())
        with ThreadPoolExecutor(len(waiting)) as pool:
            results = list(pool.map(lambda pair: pair[0].session.run(pair[1]), waiting))
        going = []
        for (sample, _), result in zip(waiting, results, strict=True):
            sample.calls += 1
            if result.fault:
                sample.faults.append(result.fault)
            _write_output(tokenizer, sample, result.output)
            room = config.max_new_tokens - len(sample.tokens)
            if room > 0:
                going.append((sample, replace(config, n=1, max_new_tokens=room)))
            else:
                sample.finish_reason = "length"
        if not going:
            return
        found = engine.generate(
            [asked.prompt + sample.tokens for sample, _ in going],
            [own for _, own in going],
            seeds=[[sample.seeds(part)] for sample, _ in going],
        )
        for (sample, _), (completion,) in zip(going, found, strict=True):
            sample.add(completion)


def _program(tokenizer: "PreTrainedTokenizerBase", sample: _Sample) -> str | None:
    """The program whose output the sample waits for; None when it does not wait."""
    if sample.finish_reason != "stop":
        return None
    text = tokenizer.decode(sample.tokens, skip_special_tokens=True).rstrip()
    if not text.endswith(OUTPUT):
        return None
    blocks = _PYTHON.findall(text)
    return blocks[-1] if blocks else None


def _write_output(tokenizer: "PreTrainedTokenizerBase", sample: _Sample, output: str) -> None:
    # Here and not above: it brings transformers along.
    from mathllm.data.chat import without_tokens

    text = f"\n{without_tokens(tokenizer, output).rstrip()}\n```\n"
    sample.tokens += tokenizer(text, add_special_tokens=False)["input_ids"]


def _attempt(tokenizer: "PreTrainedTokenizerBase", sample: _Sample, low: int, high: int) -> Attempt:
    text = tokenizer.decode(sample.tokens, skip_special_tokens=True)
    confidence = sample.confidence
    return Attempt(
        text=text,
        answer=extract_answer(text, low, high),
        tokens=sample.generated,
        finish_reason=sample.finish_reason,
        mean_entropy=_mean(sample.entropy),
        tail_entropy=_mean(sample.entropy[-TAIL:]),
        confidence=_mean(confidence) if confidence else None,
        calls=sample.calls,
        faults=tuple(sample.faults),
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
