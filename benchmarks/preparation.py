"""Preparing NuminaMath-CoT's 859,494 rows: minutes, peak memory, against a plain loop.

The rows are generated, in the schema, the shards and the sources of AI-MO/NuminaMath-CoT,
from sentences of real MATH and GSM8K rows, with lengths from a log-normal distribution of
about 500 Qwen2.5 tokens a row. They then go the way of real ones, in a process of their
own, with the calls of the train notebook: scan, filters, held-out rows, decontamination
against these, MATH-500, GSM8K test and AIMO 3, reserved statements, token store.
How fast generated and real text are tokenised is printed side by side, so that the one
can stand for the other. Baseline: a loop over rows with apply_chat_template(tokenize=True),
on a sample, in the same run.

    python benchmarks/preparation.py --rows 20000            # a minute
    python benchmarks/preparation.py --out preparation.json  # all rows: needs 8 GB of disk
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from mathllm.data.chat import SYSTEM_PROMPT, encode, load_tokenizer
from mathllm.data.decontaminate import Reserved
from mathllm.data.selection import select_rows
from mathllm.data.token_store import prepare

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
NEEDED = ("math/test.jsonl", "math/math500.jsonl", "gsm8k/train.jsonl", "gsm8k/test.jsonl")
NEEDED += ("aimo3/reference.csv", "qwen2.5-tokenizer/tokenizer.json")
ROWS = 859_494  # of NuminaMath-CoT's train split
SHARDS = 5
# Rows of each source, in thousands: the dataset card.
SOURCES = {
    "cn_k12": 277,
    "synthetic_math": 168,
    "orca_math": 153,
    "olympiads": 151,
    "synthetic_amc": 62,
    "aops_forum": 30,
    "math": 7,
    "gsm8k": 7,
    "amc_aime": 4,
}
HELD_OUT = 300  # rows kept apart, as in the train notebook
PROBLEM_TOKENS, SOLUTION_TOKENS = 85, 385  # means; the chat around them adds the rest
SPREAD = 0.7  # sigma of the logarithm: the longest of a thousand rows is about 7 times the mean
ROWS_AT_ONCE = 20_000  # generated and written at a time
SAMPLE = 2_000  # rows of the baseline and of the comparison with real text
INTERVAL = 0.2  # seconds between two looks at the memory


@dataclass(frozen=True)
class Sentences:
    """A pool to draw from, and the mean length of what is in it, in tokens."""

    texts: list[str]
    tokens: float

    @classmethod
    def of(cls, texts: pl.Series, tokenizer: PreTrainedTokenizerBase) -> "Sentences":
        """Split after full stops and line breaks."""
        parts = [p for text in texts for p in re.split(r"(?<=[.?!])\s+|\n+", text) if p.strip()]
        ids = tokenizer(parts, add_special_tokens=False)["input_ids"]
        return cls(parts, sum(map(len, ids)) / len(ids))

    def draw(self, rng: np.random.Generator, rows: int, mean: float) -> list[str]:
        """Texts of about `mean` tokens on average, with a heavy tail."""
        wanted = rng.lognormal(np.log(mean) - SPREAD**2 / 2, SPREAD, size=rows)
        counts = np.maximum(1, np.rint(wanted / self.tokens)).astype(int)
        drawn = rng.integers(len(self.texts), size=counts.sum()).tolist()
        ends = np.cumsum(counts).tolist()
        return [
            " ".join(self.texts[i] for i in drawn[end - count : end])
            for end, count in zip(ends, counts.tolist(), strict=True)
        ]


def training_rows() -> pl.DataFrame:
    """Real rows with problem and solution, none of them in an evaluation set."""
    evaluated = pl.read_ndjson(SHARED / "math" / "math500.jsonl")["problem"]
    math = pl.read_ndjson(SHARED / "math" / "test.jsonl").select("problem", "solution")
    gsm8k = pl.read_ndjson(SHARED / "gsm8k" / "train.jsonl")
    return pl.concat(
        [
            math.filter(~pl.col("problem").is_in(evaluated.implode())),
            gsm8k.select(problem="question", solution="answer"),
        ]
    )


def evaluation_problems() -> list[str]:
    """Statements that no training row may share."""
    return [
        *pl.read_ndjson(SHARED / "math" / "math500.jsonl")["problem"],
        *pl.read_ndjson(SHARED / "gsm8k" / "test.jsonl")["question"],
        *pl.read_csv(SHARED / "aimo3" / "reference.csv")["problem"],
    ]


def tables(rows: int, seed: int, tokenizer: PreTrainedTokenizerBase) -> Iterator[pa.Table]:
    """NuminaMath-CoT's columns, ROWS_AT_ONCE rows at a time."""
    real = training_rows()
    problems, solutions = (Sentences.of(real[c], tokenizer) for c in ("problem", "solution"))
    rng = np.random.default_rng(seed)
    shares = np.array(list(SOURCES.values())) / sum(SOURCES.values())
    for start in range(0, rows, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, rows - start)
        answers = rng.integers(0, 100_000, size=count).tolist()
        asked = problems.draw(rng, count, PROBLEM_TOKENS)
        worked = solutions.draw(rng, count, SOLUTION_TOKENS)
        worked = [
            f"{text}\nThe answer is $\\boxed{{{answer}}}$."
            for text, answer in zip(worked, answers, strict=True)
        ]
        messages = [
            [{"content": p, "role": "user"}, {"content": s, "role": "assistant"}]
            for p, s in zip(asked, worked, strict=True)
        ]
        sources = rng.choice(list(SOURCES), size=count, p=shares).tolist()
        yield pa.table(
            {"source": sources, "problem": asked, "solution": worked, "messages": messages}
        )


def write_shards(folder: Path, rows: int, seed: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """`rows` rows as parquet shards, named as on the hub."""
    writers: dict[int, pq.ParquetWriter] = {}
    written = 0
    for table in tables(rows, seed, tokenizer):
        shard = written * SHARDS // rows
        if shard not in writers:
            name = f"train-{shard:05d}-of-{SHARDS:05d}.parquet"
            writers[shard] = pq.ParquetWriter(folder / name, table.schema)
        writers[shard].write_table(table, row_group_size=1_000)
        written += table.num_rows
    for writer in writers.values():
        writer.close()


def run_path(shards: Path, cache: Path, max_length: int) -> None:
    """The measured process: from shards to a token store, then once more; prints JSON."""
    tokenizer = load_tokenizer(SHARED / "qwen2.5-tokenizer")
    reserved = Reserved.read(ROOT / "assets" / "reserved.txt")
    never = evaluation_problems()

    def once() -> dict:
        began = time.perf_counter()
        chosen = select_rows("numina", reserved, 0, HELD_OUT, seed=0, path=shards, never=never)
        selected = time.perf_counter() - began
        tokens = prepare(chosen.train, tokenizer, cache, max_length)
        return {
            "seconds": time.perf_counter() - began,
            "selection_seconds": selected,
            "dropped": dict(chosen.dropped),
            "contaminated": chosen.contamination.dropped,
            "report": tokens.report,
            "tokens": int(tokens.lengths.sum(dtype=np.int64)),
            "longest": int(tokens.lengths.max()),
            "label_share": tokens.label_share,
            "cache_bytes": sum(p.stat().st_size for p in tokens.folder.iterdir()),
        }

    first = once()
    print(json.dumps(first | {"seconds_again": once()["seconds"]}))


def measured_child(command: list[str]) -> dict:
    """Run a command; its JSON, and the peak memory of all its processes together."""
    peak = 0
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen(command, stdout=output)
        process = psutil.Process(child.pid)
        while child.poll() is None:
            total = 0
            try:
                for each in [process, *process.children(recursive=True)]:
                    total += each.memory_info().rss
            except psutil.NoSuchProcess:  # ended between two looks
                pass
            peak = max(peak, total)
            time.sleep(INTERVAL)
        if child.returncode:
            sys.exit(child.returncode)  # it has said why
        output.seek(0)
        return json.loads(output.read().splitlines()[-1]) | {"peak_bytes": peak}


def plain_loop(tokenizer: PreTrainedTokenizerBase, rows: pl.DataFrame) -> float:
    """Rows a second of the baseline."""
    began = time.perf_counter()
    for problem, solution in rows.select("problem", "solution").iter_rows():
        messages = [
            {"role": "system", "content": SYSTEM_PROMPT},
            {"role": "user", "content": problem},
            {"role": "assistant", "content": solution},
        ]
        tokenizer.apply_chat_template(messages, tokenize=True)
    return len(rows) / (time.perf_counter() - began)


def tokens_per_second(tokenizer: PreTrainedTokenizerBase, rows: pl.DataFrame) -> float:
    """Of `encode`, as the token store calls it."""
    began = time.perf_counter()
    examples = encode(tokenizer, rows["problem"].to_list(), rows["solution"].to_list())
    return sum(len(e.tokens) for e in examples) / (time.perf_counter() - began)


def measure(arguments: argparse.Namespace, folder: Path) -> dict:
    """Generate, run, compare."""
    tokenizer = load_tokenizer(SHARED / "qwen2.5-tokenizer")
    shards, cache = folder / "numina", folder / "tokens"
    shards.mkdir()
    began = time.perf_counter()
    write_shards(shards, arguments.rows, arguments.seed, tokenizer)
    size = sum(p.stat().st_size for p in shards.iterdir())
    print(f"generated {arguments.rows:,} rows in {time.perf_counter() - began:,.0f} s", flush=True)
    command = [sys.executable, __file__, "--child", str(shards), "--cache", str(cache)]
    ours = measured_child([*command, "--max-length", str(arguments.max_length)])
    generated = pl.scan_parquet(shards / "*.parquet").head(SAMPLE).collect()
    real = training_rows().sample(SAMPLE, seed=0)
    rates = {"generated": 0.0, "real": 0.0}
    for _ in range(3):  # the best of three each, by turns: other jobs disturb
        for name, rows in (("generated", generated), ("real", real)):
            rates[name] = max(rates[name], tokens_per_second(tokenizer, rows))
    baseline = plain_loop(tokenizer, generated)
    ours["rows_per_second"] = arguments.rows / ours["seconds"]
    return {
        "settings": {"rows": arguments.rows, "seed": arguments.seed}
        | {"max_length": arguments.max_length, "cores": len(os.sched_getaffinity(0))},
        "shard_bytes": size,
        "ours": ours,
        "plain_loop_rows_per_second": baseline,
        "ratio": ours["rows_per_second"] / baseline,
        "tokens_per_second": rates,
    }


def show(report: dict) -> None:
    """The figures as a person reads them."""
    ours, rates = report["ours"], report["tokens_per_second"]
    kept = ours["report"]["kept"]
    print(f"rows: {ours['dropped']}, contaminated {ours['contaminated']:,}; {ours['report']}")
    print(
        f"{ours['tokens']:,} tokens, {ours['tokens'] / kept:.0f} a row (longest {ours['longest']}),"
        f" {ours['label_share']:.0%} labels; {ours['cache_bytes'] / 1e9:.2f} GB of cache"
    )
    print(
        f"{ours['seconds'] / 60:.1f} minutes ({ours['selection_seconds'] / 60:.1f} to select), "
        f"{ours['rows_per_second']:,.0f} rows/s on {report['settings']['cores']} cores, peak "
        f"{ours['peak_bytes'] / 2**30:.2f} GiB; the second time {ours['seconds_again']:.0f} s"
    )
    print(
        f"plain loop: {report['plain_loop_rows_per_second']:,.0f} rows/s for the tokens alone; "
        f"ours, all told, {report['ratio']:.1f} x"
    )
    print(f"tokens/s of encode: generated {rates['generated']:,.0f}, real {rates['real']:,.0f}")


def main() -> int:
    """Run as described in --help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=ROWS, help=f"rows (default {ROWS:,})")
    parser.add_argument(
        "--max-length", type=int, default=4096, help="longer rows are dropped (default 4096)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the generated rows (default 0)")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if missing := [name for name in NEEDED if not (SHARED / name).is_file()]:
        print(
            f"error: {SHARED / missing[0]} is not there: the rows are made from real ones",
            file=sys.stderr,
        )
        return 2
    if arguments.child:
        run_path(arguments.child, arguments.cache, arguments.max_length)
        return 0
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="preparation-", dir=arguments.folder))
    try:
        report = measure(arguments, folder)
    finally:
        shutil.rmtree(folder)
    show(report)
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
