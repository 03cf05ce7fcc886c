"""An engine whose samples are a function of problem and seed, and what it is asked with."""

import threading
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import polars as pl

from mathllm.data.arithmetic import generate
from mathllm.engines import Completion
from mathllm.engines.base import Sample
from mathllm.evaluation.results import Header
from mathllm.evaluation.sets import ProblemSet
from mathllm.solving import SolverSettings
from mathllm.tiny.tokenizer import train_tokenizer

SETTINGS = SolverSettings(n_samples=3, temperature=1.0, max_new_tokens=40, seed=7)


def make_tokenizer():
    """A small one that knows digits, words and ChatML."""
    rows = generate("train", 300, seed=0)
    return train_tokenizer((rows["problem"] + rows["solution"]).to_list(), 400)


def make_problems(count: int = 10) -> ProblemSet:
    """Sums whose truth the engine gives in two of three samples or so."""
    rows = [(f"p{i}", f"What is ${i}+{i}$?", str(2 * i), str(i % 2), None) for i in range(count)]
    schema = dict.fromkeys(("id", "problem", "truth", "level", "subject"), pl.String)
    return ProblemSet("sums", "test", pl.DataFrame(rows, schema=schema, orient="row"))


class Instant:
    """An engine whose samples have ended when they are begun, with what `say` gives for them."""

    max_positions = 10_000

    def say(self, prompt, config, seed) -> Completion:
        raise NotImplementedError

    def start(self, prompt, config, seed) -> Sample:
        sample = Sample(config)
        sample.completion = said = self.say(prompt, config, seed)
        reason, said.finish_reason = said.finish_reason, None
        sample.end(reason)
        return sample


def ask(engine, prompts, config, seeds=None):
    """`config.n` samples of each prompt, all begun at once; the completions when all have ended."""
    seeds = seeds or [range(config.seed, config.seed + config.n)] * len(prompts)
    begun = [
        [engine.start(prompt, config, seed) for seed in own]
        for prompt, own in zip(prompts, seeds, strict=True)
    ]
    assert all(sample.wait(120) for own in begun for sample in own)
    return [[sample.completion for sample in own] for own in begun]


class Scripted(Instant):
    """`script` maps a part of a prompt to a reply; without it, sums are answered by seed."""

    def __init__(self, tokenizer, script: dict[str, str] | None = None) -> None:
        self.tokenizer, self.script, self.asked = tokenizer, script, 0
        self.counting = threading.Lock()  # samples begin in threads of their own

    def say(self, prompt, _config, seed) -> Completion:
        with self.counting:
            self.asked += 1
        return self._sample(self.tokenizer.decode(prompt), seed)

    def _sample(self, text: str, seed: int) -> Completion:
        if self.script is not None:
            reply = next(reply for part, reply in self.script.items() if part in text)
        else:
            number = int(text.split("$")[1].split("+")[0])
            reply = rf"Hm. $\boxed{{{2 * number + (seed % 3 == 0)}}}$."
        tokens = self.tokenizer(reply, add_special_tokens=False)["input_ids"]
        entropy = [zlib.crc32(f"{seed}:{i}".encode()) / 2**32 for i in range(len(tokens))]
        return Completion(
            tokens=tokens,
            entropy=entropy,
            finish_reason="stop",
            confidence=[0.5] * len(tokens),
            supervision_steps_used=2 * len(tokens),
        )


@dataclass
class Printing:
    """Tools whose sessions give each program the same output."""

    output: str
    size: int = 2
    ran: list[str] = field(default_factory=list)

    @contextmanager
    def session(self, _deadline=None):
        yield self

    def run(self, code, _deadline=None):
        self.ran.append(code)
        return SimpleNamespace(output=self.output, fault=None)

    def cancel(self):
        """Nothing runs for long here."""


def header(problems: ProblemSet, **settings) -> Header:
    return Header("scripted", "none", problems.name, problems.split, problems.digest, settings)


def killed(folder: Path) -> Path:
    """Where killed_evaluation writes."""
    return folder / "scripted.parquet"
