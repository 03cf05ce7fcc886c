"""What halting saves and what it costs, on held-out problems.

Baseline "full": the recursion through all supervision steps, greedy. Against it the same
model with halting at several thresholds: supervision steps a token, tokens where it says
something else after the same text, answers that are right, and seconds, in the same run.

    python benchmarks/halting.py --out halting.json
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from mathllm.data.arithmetic import generate
from mathllm.data.chat import end_of_turn_id, load_tokenizer, prompt_ids
from mathllm.engines import HALTING_THRESHOLD, Decoder, SamplingConfig
from mathllm.errors import UserError
from mathllm.evaluation.halting import disagreement
from mathllm.solving import extract_answer, load_model

TINY = Path(__file__).resolve().parents[1] / "assets" / "tiny"


def main() -> int:
    """Measure the thresholds and print a line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=TINY, help="folder (the embedded default)")
    parser.add_argument("--problems", type=int, default=200, help="held-out problems (200)")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.5, 0.7, 0.9, 0.97, 0.99])
    parser.add_argument("--max-new-tokens", type=int, default=160, help="of an answer (160)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        report = measure(arguments)
    except UserError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(arguments: argparse.Namespace) -> list[dict]:
    """Rows of figures, the full recursion first."""
    model = load_model(arguments.weights)
    tokenizer = load_tokenizer(arguments.weights / "backbone")
    rows = generate("test", arguments.problems, 1_000_000)
    prompts = [prompt_ids(tokenizer, problem) for problem in rows["problem"]]
    sampling = SamplingConfig(
        max_new_tokens=arguments.max_new_tokens,
        temperature=0,
        stop_ids=frozenset({end_of_turn_id(tokenizer)}),
    )
    report: list[dict] = []
    texts: list[list[int]] = []
    for threshold in tqdm([None, *arguments.thresholds], desc="thresholds", disable=None):
        decoder = Decoder(model, halting_threshold=threshold)
        began = time.perf_counter()
        samples = [sample for (sample,) in decoder.generate(prompts, sampling)]
        seconds = time.perf_counter() - began
        answers = [
            extract_answer(tokenizer.decode(sample.tokens, skip_special_tokens=True))
            for sample in samples
        ]
        count = sum(len(sample.tokens) for sample in samples)
        figures = {
            "threshold": threshold,
            "default": threshold == HALTING_THRESHOLD,
            "problems": len(samples),
            "right": sum(a == b for a, b in zip(answers, rows["answer"], strict=True)),
            "steps_per_token": sum(s.supervision_steps_used for s in samples) / count,
            "seconds": seconds,
        }
        if threshold is None:
            texts = [sample.tokens for sample in samples]
        else:
            found = disagreement(decoder, prompts, texts)
            figures |= {
                "tokens": found.tokens,
                "differ": found.differ,
                "other_texts": sum(a.tokens != b for a, b in zip(samples, texts, strict=True)),
                "time_ratio": seconds / report[0]["seconds"],
            }
        report.append(figures)
    for row in report:
        name = "full" if row["threshold"] is None else f"{row['threshold']:.2f}"
        extra = ""
        if row["threshold"] is not None:
            extra = (
                f", {row['differ']} of {row['tokens']} tokens differ, "
                f"{row['other_texts']} texts, {row['time_ratio']:.2f} of the time"
            )
        mark = " (default)" if row["default"] else ""
        print(
            f"{name}{mark}: {row['steps_per_token']:.3f} of {model.config.N_sup} steps a token, "
            f"{row['right']} of {row['problems']} right{extra}"
        )
    return report


if __name__ == "__main__":
    sys.exit(main())
