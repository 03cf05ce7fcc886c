"""Engines answer problems with known answers: a judged row for each sample.

Knows prompts, seeds, answers and the order in which batches go. Leaves counting to tables,
files to results, and right or wrong to grading.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from mathllm.answers.boxes import NUMBER, last_box
from mathllm.answers.equivalent import grade
from mathllm.answers.values import MAX_BITS, integer_value
from mathllm.data.chat import end_of_turn_id, padding_id, prompt_text
from mathllm.engines import Completion, SamplingConfig
from mathllm.errors import ParameterError
from mathllm.evaluation.engines import Engine
from mathllm.evaluation.results import TOO_LONG, Header, ResultFile
from mathllm.evaluation.sets import ProblemSet
from mathllm.settings import CURRENT
from mathllm.solving import extract_answer
from mathllm.solving.solver import BROKEN, BrokenSampleError, sample_seed

_INTEGER = re.compile(r"[-−]?(?:" + NUMBER.pattern + r")", re.ASCII)

Told = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Sampling:
    """How each problem is sampled. Raises ParameterError for what SamplingConfig refuses, and
    for several samples at temperature 0, which would all be the same."""

    n_samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        self.config(frozenset())
        if self.n_samples > 1 and self.temperature == 0:
            raise ParameterError(
                f"n_samples is {self.n_samples} at temperature 0: greedy samples are all the "
                "same; give a temperature, as 0.7, or 1 sample"
            )

    def config(self, stop_ids: frozenset[int]) -> SamplingConfig:
        return SamplingConfig(
            n=self.n_samples,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop_ids=stop_ids,
        )


def evaluate(
    engines: Sequence[Engine],
    tokenizer: PreTrainedTokenizerBase,
    problems: ProblemSet,
    sampling: Sampling,
    output: Path,
    resume: bool = True,
    batch_rows: int = 64,
    told: Told | None = None,
) -> dict[str, pl.DataFrame]:
    """Each engine's samples, kept in its file in the folder `output`; name -> rows.

    With `resume`, problems that a file has already are not asked again. `batch_rows` samples
    are drawn at a time. `told` is called with each new row. Raises ResultsError for a file
    of other settings, before any engine is opened, and BrokenSampleError where an engine
    fails in the middle: what it had drawn before is kept.
    """
    ids = problems.rows["id"].to_list()
    if not ids:
        raise ParameterError("no problems to evaluate: loosen the filters")
    files = [
        ResultFile(
            output / engine.file,
            Header(
                engine=engine.name,
                weights=engine.weights,
                dataset=problems.name,
                split=problems.split,
                problems=problems.digest,
                settings=asdict(sampling) | engine.settings,
            ),
            ids,
            resume,
        )
        for engine in engines
    ]
    results = {}
    for engine, file in zip(engines, files, strict=True):
        with file:
            if len(file.done) < len(ids):
                draw(engine.open(), tokenizer, problems.rows, sampling, file, batch_rows, told)
        results[engine.name] = file.rows
    return results


def draw(
    engine: Any,
    tokenizer: PreTrainedTokenizerBase,
    problems: pl.DataFrame,
    sampling: Sampling,
    file: ResultFile,
    batch_rows: int = 64,
    told: Told | None = None,
) -> None:
    """Samples of the problems that the file lacks, judged and added to it, batch by batch.

    The seed of a sample is the solver's, of (seed, sample, problem id): what is drawn for a
    problem depends neither on the others nor on where an evaluation was killed.
    """
    asked = [_asked(tokenizer, row, sampling) for row in problems.iter_rows(named=True)]
    config = sampling.config(frozenset({end_of_turn_id(tokenizer), padding_id(tokenizer)}))
    # Like lengths together: less padding in the prefill. Batches are made of all problems,
    # done or not, so that an evaluation that goes on has the same ones.
    asked.sort(key=lambda one: len(one.tokens))
    done, size = file.done, max(1, batch_rows // sampling.n_samples)
    with tqdm(total=len(asked), desc=file.header.engine, unit="problem", initial=len(done)) as bar:
        for start in range(0, len(asked), size):
            batch = [one for one in asked[start : start + size] if one.row["id"] not in done]
            judged = []
            for one, samples, seconds in _answered(engine, batch, config, file.header.engine):
                common = one.row | {"engine": file.header.engine, "prompt": one.prompt}
                for number, sample in enumerate(samples):
                    text = tokenizer.decode(sample.tokens, skip_special_tokens=True)
                    own = {"sample": number, "seed": one.seeds[number], "seconds": seconds[number]}
                    judged.append(common | own | _measured(sample) | judge(text, one.row["truth"]))
            if batch:
                file.append(judged)
            for row in judged if told else ():
                told(row)
            bar.update(len(batch))


def judge(text: str, truth: str) -> dict[str, Any]:
    """text, answer (null for none) and right, of a model's text.

    An integer truth is compared by value; where the competition's range holds it, what lies
    outside is no answer, as it is none for the solver. Another truth is compared by
    `grading.grade`, and the answer is then what stands in the last box.
    """
    bound = 1 << MAX_BITS
    if _INTEGER.fullmatch(truth.strip()) and (value := integer_value(truth)) is not None:
        low, high = CURRENT.answer_min, CURRENT.answer_max
        limits = (low, high) if low <= value <= high else (-bound, bound)
        found = extract_answer(text, *limits)
        right, answer = found == value, None if found is None else str(found)
    else:
        right, answer = grade(text, truth), last_box(text)
        if answer is None and (found := extract_answer(text, -bound, bound)) is not None:
            answer = str(found)
    return {"text": text, "answer": answer, "right": right}


@dataclass(frozen=True)
class _Asked:
    """A problem's row, its prompt as text and as token ids, and its samples' seeds."""

    row: dict[str, Any]
    prompt: str
    tokens: list[int]
    seeds: list[int]


def _asked(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], sampling: Sampling) -> _Asked:
    prompt = prompt_text(tokenizer, row["problem"])
    tokens = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    seeds = [sample_seed(sampling.seed, row["id"], i) for i in range(sampling.n_samples)]
    return _Asked(row, prompt, tokens, seeds)


def _answered(
    engine: Any, batch: Sequence[_Asked], config: SamplingConfig, name: str
) -> Iterator[tuple[_Asked, list[Completion], list[float]]]:
    """Each problem with its samples and their seconds, which share the batch's by tokens.

    A problem that leaves no position for an answer is not asked: cut, it would be another.
    """
    positions = getattr(engine, "max_positions", None)
    fitting = [one for one in batch if positions is None or len(one.tokens) < positions]
    began = time.perf_counter()
    drawn = []
    if fitting:
        prompts, seeds = [one.tokens for one in fitting], [one.seeds for one in fitting]
        drawn = engine.generate(prompts, config, seeds=seeds)
    seconds = time.perf_counter() - began
    _check(drawn, name)
    per_token = seconds / max(1, sum(len(s.tokens) for samples in drawn for s in samples))
    answered = iter(drawn)
    for one in batch:
        unasked = [Completion(finish_reason=TOO_LONG) for _ in range(config.n)]
        samples = next(answered) if one in fitting else unasked
        yield one, samples, [per_token * len(sample.tokens) for sample in samples]


def _measured(sample: Completion) -> dict[str, Any]:
    count = len(sample.tokens)
    steps = sample.supervision_steps_used
    return {
        "tokens": count,
        "entropy": sum(sample.entropy) / count if sample.entropy else None,
        "confidence": sum(sample.confidence) / count if sample.confidence else None,
        "supervision_steps": steps / count if steps else None,
        "finish_reason": sample.finish_reason,
    }


def _check(drawn: Sequence[Sequence[Completion]], name: str) -> None:
    """A sample that broke says nothing of the model: it is no wrong answer."""
    reasons = [s.finish_reason for samples in drawn for s in samples]
    if broken := [reason for reason in reasons if reason in BROKEN]:
        raise BrokenSampleError(
            f"{name}: {len(broken)} of {len(reasons)} samples ended by {broken[0]!r}; the batches "
            "before are kept, and the same command goes on from them"
        )
