"""Samples drawn together, with or without tools.

With tools a sample stops where it opens an output block; its last Python block is run, the
output is written into the block, and the sample goes on, until it ends by itself.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from mathllm.answers.extract import extract_answer
from mathllm.engines.base import Completion, Engine, SamplingConfig
from mathllm.errors import cause_of
from mathllm.solving.programs import OUTPUT, Wait, waiting

if TYPE_CHECKING:  # it takes seconds; whoever only votes is spared them
    from transformers import PreTrainedTokenizerBase

BROKEN = ("fault", "memory", "nan")  # finish reasons that say that something is wrong
TAIL = 32  # tokens at the end of a sample whose entropy counts as the tail's


class BrokenSampleError(RuntimeError):
    """Samples that ended because something is wrong with the engine."""


class Session(Protocol):
    """Where the programs of one sample run; what one defines, the next one sees."""

    def run(self, code: str, deadline: float | None = None) -> Any:
        """A result with `output` (text for the model) and `fault` (None or a reason), in time:
        `deadline` is a time.monotonic()."""


class Tools(Protocol):
    """Where sessions come from. `size` is how many can be open at once."""

    size: int

    def session(self, deadline: float | None = None) -> Any:
        """A context manager that gives a Session, or raises when the deadline is there."""


@dataclass(frozen=True)
class Attempt:
    """One sample: its text, its answer, and how it ended.

    `tokens` counts what was generated, without the tools' output. `mean_entropy` and
    `tail_entropy` (of the last TAIL tokens) are in nats per token, 0 for none; `confidence`
    is the halting head's mean probability, None where the engine has none, and
    `supervision_steps` counts those of all tokens. `calls` counts programs that were run,
    `faults` says which of them failed to. `broke` says what ended a sample that went on from
    a program no more, "" where nothing did.
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
    supervision_steps: int = 0
    broke: str = ""


@dataclass(eq=False)
class _Sample:
    """A sample that grows. `tokens` holds everything after the prompt, tools' output too."""

    asked: "Asked"
    config: SamplingConfig
    seed: Callable[[int], int]
    tokens: list[int] = field(default_factory=list)
    generated: int = 0
    entropy: list[float] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    finish_reason: str = ""
    supervision_steps: int = 0
    calls: int = 0
    faults: list[str] = field(default_factory=list)
    session: Session | None = None
    broke: Exception | None = None

    def add(self, completion: Completion) -> None:
        """What an engine generated."""
        self.tokens += completion.tokens
        self.generated += len(completion.tokens)
        self.entropy += completion.entropy
        self.confidence += completion.confidence
        self.supervision_steps += completion.supervision_steps_used
        self.finish_reason = completion.finish_reason or "fault"

    def fail(self, fault: Exception) -> None:
        """It cannot go on from its program; what it has stays."""
        self.finish_reason, self.broke = "fault", fault


@dataclass(frozen=True)
class Asked:
    """Samples of one problem. `prompt` is token ids, `config` that of each sample, and
    `seeds[i](part)` seeds a part of sample i: what lies between two tool calls.

    Answers are integers in `low`…`high`. `note` says if the prompt is not the whole problem.
    """

    prompt: list[int]
    config: SamplingConfig
    seeds: Sequence[Callable[[int], int]]
    low: int
    high: int
    note: str = ""

    def part(self, samples: slice) -> "Asked":
        """Some of the samples."""
        return replace(self, seeds=self.seeds[samples])


def draw(
    engine: Engine,
    tokenizer: "PreTrainedTokenizerBase",
    asked: Sequence[Asked],
    tools: Tools | None = None,
    max_calls: int = 4,
) -> list[list[Attempt]]:
    """The attempts of each that is asked, all drawn together.

    With tools, a sample may call them `max_calls` times, and there may be no more samples in
    all than they have sessions. A sample whose program cannot be run or gone on from ends by
    "fault". Raises what the engine raises at first, and what broke all samples.
    """
    stop: tuple[tuple[int, ...], ...] = ()
    if tools is not None:
        stop = (tuple(tokenizer(OUTPUT, add_special_tokens=False)["input_ids"]),)
    configs = [
        replace(one.config, n=len(one.seeds), stop_sequences=(*one.config.stop_sequences, *stop))
        for one in asked
    ]
    found = engine.generate(
        [one.prompt for one in asked],
        configs,
        seeds=[[seed(0) for seed in one.seeds] for one in asked],
    )
    samples = [
        [_Sample(one, config, seed) for seed in one.seeds]
        for one, config in zip(asked, configs, strict=True)
    ]
    for own, completions in zip(samples, found, strict=True):
        for sample, completion in zip(own, completions, strict=True):
            sample.add(completion)
    if tools is not None:
        with ExitStack() as sessions:
            flat = [sample for own in samples for sample in own]
            _with_tools(engine, tokenizer, flat, tools, max_calls, sessions)
        if all(sample.broke for sample in flat):
            raise flat[0].broke
    return [[_attempt(tokenizer, sample) for sample in own] for own in samples]


def _with_tools(
    engine: Engine,
    tokenizer: "PreTrainedTokenizerBase",
    samples: list[_Sample],
    tools: Tools,
    max_calls: int,
    sessions: ExitStack,
) -> None:
    """Run what waits for its output and go on with it, until nothing waits."""
    for part in range(1, max_calls + 1):
        waits = [(s, wait) for s in samples if (wait := _wait(tokenizer, s)) is not None]
        for sample, _ in waits:
            if sample.session is None:
                try:
                    sample.session = sessions.enter_context(tools.session(sample.config.deadline))
                except Exception as fault:
                    sample.fail(fault)
        waits = [(sample, wait) for sample, wait in waits if sample.session is not None]
        if not waits:
            return
        with ThreadPoolExecutor(len(waits)) as pool:
            results = list(pool.map(_run, waits))
        going = []
        for (sample, wait), result in zip(waits, results, strict=True):
            if isinstance(result, Exception):
                sample.fail(result)
                continue
            sample.calls += 1
            if result.fault:
                sample.faults.append(result.fault)
            _write_output(tokenizer, sample, wait.missing, result.output)
            room = sample.config.max_new_tokens - len(sample.tokens)
            if room > 0:
                going.append((sample, replace(sample.config, n=1, max_new_tokens=room)))
            else:
                sample.finish_reason = "length"
        if not going:
            return
        try:
            found = engine.generate(
                [sample.asked.prompt + sample.tokens for sample, _ in going],
                [own for _, own in going],
                seeds=[[sample.seed(part)] for sample, _ in going],
            )
        except Exception as fault:  # of these: what the others have is kept
            for sample, _ in going:
                sample.fail(fault)
            return
        for (sample, _), (completion,) in zip(going, found, strict=True):
            sample.add(completion)


def _run(waits: tuple[_Sample, Wait]) -> Any:
    """What the sandbox returned or raised."""
    sample, wait = waits
    try:
        return sample.session.run(wait.program, sample.config.deadline)
    except Exception as fault:
        return fault


def _wait(tokenizer: "PreTrainedTokenizerBase", sample: _Sample) -> Wait | None:
    """What the sample waits for; None when it does not wait."""
    if sample.finish_reason != "stop":
        return None
    return waiting(tokenizer.decode(sample.tokens, skip_special_tokens=True))


def _write_output(
    tokenizer: "PreTrainedTokenizerBase", sample: _Sample, missing: str, output: str
) -> None:
    # Here and not above: it brings transformers along.
    from mathllm.data.chat import without_tokens

    while sample.tokens and sample.tokens[-1] in sample.config.stop_ids:
        sample.tokens.pop()  # its turn goes on
    text = f"{missing}\n{without_tokens(tokenizer, output).rstrip()}\n```\n"
    sample.tokens += tokenizer(text, add_special_tokens=False)["input_ids"]


def _attempt(tokenizer: "PreTrainedTokenizerBase", sample: _Sample) -> Attempt:
    text = tokenizer.decode(sample.tokens, skip_special_tokens=True)
    confidence = sample.confidence
    return Attempt(
        text=text,
        answer=extract_answer(text, sample.asked.low, sample.asked.high),
        tokens=sample.generated,
        finish_reason=sample.finish_reason,
        mean_entropy=_mean(sample.entropy),
        tail_entropy=_mean(sample.entropy[-TAIL:]),
        confidence=_mean(confidence) if confidence else None,
        calls=sample.calls,
        faults=tuple(sample.faults),
        supervision_steps=sample.supervision_steps,
        broke=cause_of(sample.broke) if sample.broke else "",
    )


def broken(drawn: Sequence[Attempt]) -> str:
    """How many of the samples broke and how, in words; "" if none."""
    reasons = Counter(a.finish_reason for a in drawn if a.finish_reason in BROKEN)
    kinds = ", ".join(f"{count} by {reason!r}" for reason, count in reasons.items())
    cause = next((f" ({a.broke})" for a in drawn if a.broke), "")
    return f"of {len(drawn)} samples ended {kinds}{cause}" if kinds else ""


def check_whole(drawn: Sequence[Sequence[Attempt]]) -> None:
    """Raise BrokenSampleError if a sample broke."""
    if told := broken([attempt for own in drawn for attempt in own]):
        raise BrokenSampleError(told)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
