"""Accuracy of an engine on problems with known answers, in counts."""

import time

import polars as pl
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from mathllm.data.chat import end_of_turn_id, prompt_ids
from mathllm.decoding import Decoder, SamplingConfig
from mathllm.errors import ParameterError
from mathllm.solving import extract_answer


def answer_rows(
    engine: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    rows: pl.DataFrame,
    max_new_tokens: int = 256,
    batch_rows: int = 64,
) -> pl.DataFrame:
    """One greedy answer for each row of (problem, answer, …); repeated statements count once.

    Adds text, predicted (null where no answer was found), right, tokens, finish_reason and
    seconds (a row's share of its batch). Raises ParameterError without rows.
    """
    rows = rows.unique("problem", keep="first", maintain_order=True)
    if rows.is_empty():
        raise ParameterError("no problems to evaluate: loosen the filters")
    sampling = SamplingConfig(
        max_new_tokens=max_new_tokens,
        temperature=0,
        stop_ids=frozenset({end_of_turn_id(tokenizer)}),
    )
    prompts = [prompt_ids(tokenizer, problem) for problem in rows["problem"]]
    # Like lengths together: less padding in the prefill.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: list[dict] = [{}] * len(prompts)
    with tqdm(total=len(prompts), desc=type(engine).__name__, unit="problem") as bar:
        for start in range(0, len(order), batch_rows):
            batch = order[start : start + batch_rows]
            began = time.perf_counter()
            completions = engine.generate([prompts[i] for i in batch], sampling)
            seconds = (time.perf_counter() - began) / len(batch)
            for i, (completion,) in zip(batch, completions, strict=True):
                text = tokenizer.decode(completion.tokens, skip_special_tokens=True)
                predicted = extract_answer(text)
                answers[i] = {
                    "text": text,
                    "predicted": predicted,
                    "right": predicted == rows["answer"][i],
                    "tokens": len(completion.tokens),
                    "finish_reason": completion.finish_reason,
                    "seconds": seconds,
                }
            bar.update(len(batch))
    schema = {"text": pl.String, "predicted": pl.Int64, "right": pl.Boolean, "tokens": pl.Int64}
    schema |= {"finish_reason": pl.String, "seconds": pl.Float64}
    return rows.hstack(pl.DataFrame(answers, schema=schema))


def accuracy_table(results: dict[str, pl.DataFrame], by: str) -> pl.DataFrame:
    """Right answers of each engine by group, and in all: `by`, problems, then an engine a column.

    `results` maps an engine's name to its `answer_rows`, all over the same problems.
    """
    table: pl.DataFrame | None = None
    for name, rows in results.items():
        keyed = rows.with_columns(pl.col(by).cast(pl.String))
        whole = keyed.with_columns(pl.lit("all").alias(by))
        counts = (
            pl.concat([keyed, whole])
            .group_by(by, maintain_order=True)
            .agg(pl.len().alias("problems"), pl.col("right").sum().alias(name))
        )
        table = counts if table is None else table.join(counts.drop("problems"), on=by)
    if table is None:
        raise ParameterError("no results to tabulate: evaluate at least one engine")
    return table.sort(pl.col(by) == "all", by)
