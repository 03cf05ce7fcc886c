"""A second opinion on the reader of answers: math-verify on the same boxes, each disagreement
listed for a person to look at; and how long a call lasts on texts made to be hard.

The baseline is math-verify 0.9.0 with its defaults. Three sources, each optional:

    --math FILE      MATH's solutions: the integer that each box holds
    --gsm8k FILE     GSM8K's answers: the integer after ####, in a box
    --drawn FILE     rows of an evaluation (text, truth): the integer of each answer in range,
                     and whether it is right

    python benchmarks/answers.py --math test.jsonl --gsm8k test.jsonl --drawn endpoint.parquet \\
        --fuzzed 100000 --out answers.json
"""

import argparse
import json
import logging
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from mathllm.answers.boxes import last_box
from mathllm.answers.equivalent import equivalent
from mathllm.answers.extract import extract_answer
from mathllm.answers.reading import integer_value

LOW, HIGH = 0, 99999
# Pieces of which the hard texts are made: what the grammar knows, and what it does not.
PIECES = [*"0123456789+-*/^_{}()[]|=<>,.;:!'\"$%&~` \n\t", "\\", r"\\", "**", "```", "```python\n"]
PIECES += [r"\boxed{", r"\frac", r"\frac{1}{2}", r"\sqrt", r"\sqrt[3]", r"\text{", r"\mathrm{e}"]
PIECES += [
    r"\pi",
    r"\binom",
    r"\log",
    r"\log_2",
    r"\ln",
    r"\exp",
    r"\lfloor",
    r"\rfloor",
    r"\lceil",
]
PIECES += [r"\gcd(", r"\max\{", r"\}", r"\{", r"\pmod", r"\equiv", r"\cdot", r"\left", r"\sum"]
PIECES += ["mod", "base", "where", "when", "at", "for", "is", "and", "or", "e", "i", "x", "n"]
PIECES += ["1e3", r"0.\overline{3}", "500!", "1,234", "1{,}234", "\ud800", "\0", "π", "√", "²", "½"]
PIECES += ["€", "５", "个", r"\begin{cases}", "<code>", "</code>", "<!--", "-->", "^{-1}", "^{1/2}"]
PIECES += ["2^{64}", "(\\pi-\\pi)", "\\sqrt{2}", "```output\n", "~~~", "%", "\n% "]


def theirs(content: str) -> int | None:
    """The integer that math-verify's reading of a box equals, as a person would take it: of the
    value where a name stands before it."""
    import sympy
    from math_verify import LatexExtractionConfig, parse

    config = [LatexExtractionConfig(boxed_match_priority=-1)]
    latex = content.replace(r"\%", "")
    readings = parse(f"${latex}$", config, parsing_timeout=None, fallback_mode="no_fallback")
    value = readings[0] if readings else None
    if isinstance(value, sympy.Equality):
        value = value.rhs if value.lhs.is_Symbol or not value.lhs.free_symbols else None
    if isinstance(value, sympy.FiniteSet) and len(value) == 1:
        value = value.args[0]
    value = value.doit() if isinstance(value, sympy.Expr) else None
    if isinstance(value, sympy.Float):
        value = sympy.Rational(str(value))
    return int(value) if value is not None and value.is_Integer else None


def their_verdict(text: str, truth: str) -> bool:
    from math_verify import parse, verify

    gold = parse(f"${truth}$", parsing_timeout=None)
    answer = parse(text, parsing_timeout=None)
    return bool(verify(gold, answer, timeout_seconds=None))


def integers(contents: list[str], low: int | None, high: int | None) -> dict[str, Any]:
    """How often both read the same integer, one alone does, or each another one."""
    counts: Counter[str] = Counter()
    listed: dict[str, list[Any]] = {"only ours": [], "only theirs": [], "different": []}
    for content in contents:
        a, b = integer_value(content), theirs(content)
        a, b = (v if v is not None and low <= v <= high else None for v in (a, b))
        if a == b:
            kind = "both none" if a is None else "same"
        else:
            kind = "only ours" if b is None else "only theirs" if a is None else "different"
            listed[kind].append([content, a, b])
        counts[kind] += 1
    return {"boxes": len(contents), "counts": dict(counts), "disagreements": listed}


def verdicts(rows: list[tuple[str, str]]) -> dict[str, Any]:
    """How often both call an answer right, neither does, or one alone does."""
    counts: Counter[str] = Counter()
    listed: dict[str, list[Any]] = {"only ours": [], "only theirs": []}
    for text, truth in rows:
        content = last_box(text)
        a = content is not None and equivalent(content, truth)
        b = content is not None and their_verdict(f"$\\boxed{{{content}}}$", truth)
        kind = {(1, 1): "both right", (0, 0): "neither"}.get((a, b))
        if kind is None:
            kind = "only ours" if a else "only theirs"
            listed[kind].append([content, truth])
        counts[kind] += 1
    return {"answers": len(rows), "counts": dict(counts), "disagreements": listed}


def fuzzed(count: int, seed: int) -> dict[str, Any]:
    """Seconds of extract_answer on made-up texts; a fault is listed."""
    draw = random.Random(seed)
    longest, hardest, faults, found = 0.0, "", [], 0
    began = time.perf_counter()
    for number in range(count):
        text = "".join(draw.choices(PIECES, k=draw.choice([3, 6, 12, 30, 80, 300])))
        if draw.random() < 0.8:
            text = "\\boxed{" + text + "}" * draw.choice([1, 1, 2])
        start = time.perf_counter()
        try:
            found += extract_answer(text) is not None
        except Exception as fault:  # what is looked for
            faults.append([repr(text), repr(fault)])
        if (seconds := time.perf_counter() - start) > longest:
            longest, hardest = seconds, text
        if number % 10_000 == 9_999:
            print(f"\r{number + 1:,} texts", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    return {
        "texts": count,
        "seed": seed,
        "answers": found,
        "faults": faults,
        "longest_seconds": longest,
        "hardest": repr(hardest[:200]),
        "mean_seconds": (time.perf_counter() - began) / max(1, count),
    }


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--math", type=Path, metavar="FILE", help="test.jsonl with solution")
    parser.add_argument("--gsm8k", type=Path, metavar="FILE", help="test.jsonl with answer")
    parser.add_argument("--drawn", type=Path, metavar="FILE", help="parquet with text and truth")
    parser.add_argument("--fuzzed", type=int, default=0, metavar="N", help="texts made up")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON with all of it")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # math-verify says at each call that it has no time limit
    found: dict[str, Any] = {}
    if options.math:
        boxes = [last_box(row["solution"]) or "" for row in lines(options.math)]
        found["math"] = integers(boxes, LOW, HIGH)
    if options.gsm8k:
        ends = [row["answer"].rpartition("####")[2].strip() for row in lines(options.gsm8k)]
        found["gsm8k"] = integers(ends, -(10**9), 10**9)
    if options.drawn:
        rows = pl.read_parquet(options.drawn).select("text", "truth").rows()
        boxes = [content for text, _ in rows if (content := last_box(text)) is not None]
        found["drawn"] = {"texts": len(rows)} | integers(boxes, LOW, HIGH)
        found["verdicts"] = verdicts(rows)
    if options.fuzzed:
        found["fuzzed"] = fuzzed(options.fuzzed, options.seed)
    for name, part in found.items():
        print(name, json.dumps({k: v for k, v in part.items() if k != "disagreements"}))
        for kind, pairs in part.get("disagreements", {}).items():
            for pair in pairs:
                print(f"    {kind}: {pair}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
