"""Engines answer problems with known answers: a judged row for each sample.

What is drawn is the solver's: prompt, stops, tools and seeds.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from mathllm.answers.boxes import last_box
from mathllm.answers.equivalent import grade
from mathllm.answers.expressions import MAX_BITS
from mathllm.answers.latex import NUMBER
from mathllm.answers.reading import integer_value
from mathllm.errors import EngineFailedError, ParameterError
from mathllm.evaluation.engines import EngineSpec
from mathllm.evaluation.results import TOO_LONG, Header, ResultFile
from mathllm.evaluation.sets import ProblemSet
from mathllm.settings import CURRENT
from mathllm.solving import Attempt, Solver, SolverSettings, extract_answer
from mathllm.solving.attempts import Asked, Tools
from mathllm.solving.dialects import ChatML
from mathllm.solving.outcomes import BrokenSampleError

_INTEGER = re.compile(r"[-−]?(?:" + NUMBER + r")", re.ASCII)

Told = Callable[[Mapping[str, Any]], None]


def evaluate(
    engines: Sequence[EngineSpec],
    tokenizer: PreTrainedTokenizerBase,
    problems: ProblemSet,
    settings: SolverSettings,
    output: Path,
    resume: bool = True,
    batch_rows: int = 64,
    told: Told | None = None,
    tools: Tools | None = None,
) -> dict[str, pl.DataFrame]:
    """Each engine's samples, kept in its file in the folder `output`; name -> rows.

    All `n_samples` of each problem are drawn, whatever the settings' votes and rules to stop:
    those are for `votes.voted` to apply. With `resume`, problems that a file has already are not
    asked again. `batch_rows` samples are drawn at a time. `told` is called with each new row.
    Raises ParameterError for no samples, for several at temperature 0, which would all be the same,
    ResultsError for a file of other settings, before any engine is opened, and
    EngineFailedError where an engine fails in the middle: what it had drawn before is kept.
    """
    ids = problems.rows["id"].to_list()
    if not ids:
        raise ParameterError("no problems to evaluate: loosen the filters")
    if settings.n_samples > 1 and settings.temperature == 0:
        raise ParameterError(
            f"n_samples is {settings.n_samples} at temperature 0: greedy samples are all the "
            "same; give a temperature, as 0.7, or 1 sample"
        )
    files = [
        ResultFile(
            output / engine.file,
            Header(
                engine=engine.name,
                weights=engine.weights,
                dataset=problems.name,
                split=problems.split,
                problems=problems.digest,
                settings=_deciding(settings, tools) | engine.settings,
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
                dialect = ChatML(tokenizer, tools is not None)
                solver = Solver(engine.open(), dialect, settings, tools)
                draw(solver, problems.rows, file, batch_rows, told)
        results[engine.name] = file.rows
    return results


def _deciding(settings: SolverSettings, tools: Tools | None) -> dict[str, Any]:
    """Those of the settings that decide what is drawn; what is off is left out."""
    always = ("n_samples", "temperature", "top_p", "max_new_tokens", "seed")
    decided = {name: getattr(settings, name) for name in always}
    decided |= {name: value for name in ("top_k", "min_p") if (value := getattr(settings, name))}
    return decided | ({} if tools is None else {"max_calls": settings.max_calls})


def draw(
    solver: Solver,
    problems: pl.DataFrame,
    file: ResultFile,
    batch_rows: int = 64,
    told: Told | None = None,
) -> None:
    """Samples of the problems that the file lacks, judged and added to it, batch by batch.

    What is drawn for a problem depends neither on the others nor on where an evaluation was
    killed: a sample's seed is a function of (seed, sample, problem id).
    """
    asked = [(row, solver.asked(row["id"], row["problem"])) for row in problems.rows(named=True)]
    # Like lengths together: less padding in the prefill. Batches are made of all problems,
    # done or not, so that an evaluation that goes on has the same ones.
    asked.sort(key=lambda pair: len(pair[1].begin().prompt))
    name, done = file.header.engine, file.done
    size = max(1, batch_rows // solver.settings.n_samples)
    with tqdm(total=len(asked), desc=name, unit="problem", initial=len(done)) as bar:
        for start in range(0, len(asked), size):
            batch = [pair for pair in asked[start : start + size] if pair[0]["id"] not in done]
            if not batch:
                continue
            judged = _judged(solver, batch, name, batch_rows)
            rows = [row | {"engine": name} | own for row, own in judged]
            file.append(rows)
            for row in rows if told else ():
                told(row)
            bar.update(len(batch))


def _judged(
    solver: Solver, batch: Sequence[tuple[Mapping[str, Any], Asked]], name: str, at_once: int
) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    """A batch's samples, each with its problem; the batch's seconds are shared by tokens."""
    began = time.perf_counter()
    try:
        drawn = solver.draw_all([one for _, one in batch], at_once)
    except BrokenSampleError as fault:  # it says nothing of the model: it is no wrong answer
        raise EngineFailedError(
            f"{name}: {fault}; the batches before are kept, and the same command goes on from them"
        ) from None
    seconds = time.perf_counter() - began
    per_token = seconds / max(1, sum(attempt.tokens for own in drawn for attempt in own))
    for (row, one), attempts in zip(batch, drawn, strict=True):
        begun = one.begin()
        prompt = solver.dialect.tokenizer.decode(begun.prompt)
        for number, (seed, attempt) in enumerate(zip(one.seeds, attempts, strict=True)):
            own = {"sample": number, "seed": seed(0), "prompt": prompt}
            own |= {"seconds": per_token * attempt.tokens} | _measured(attempt)
            if begun.note:  # cut, it is another problem
                own["finish_reason"] = TOO_LONG
            yield row, own | judge(attempt.text, row["truth"])


def _measured(attempt: Attempt) -> dict[str, Any]:
    count, steps = attempt.tokens, attempt.supervision_steps
    return {
        "tokens": count,
        "entropy": attempt.mean_entropy if count else None,
        "tail_entropy": attempt.tail_entropy if count else None,
        "group_entropy": attempt.group_entropy if count else None,
        "logprob": attempt.mean_logprob if count else None,
        "confidence": attempt.confidence,
        "supervision_steps": steps / count if steps else None,
        "calls": attempt.calls,
        "finish_reason": attempt.finish_reason,
    }


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
