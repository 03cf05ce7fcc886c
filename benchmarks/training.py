"""Training on real GSM8K rows: label tokens a second and peak memory, against padding.

Baseline "padded": every row padded to 1,024 tokens, logits at every position, one
optimizer step a supervision step. Against it the trainer of this project, on the same
model, the same rows and the same number of rows a step, each in a process of its own, so
that neither sees the other's memory. The backbone has Qwen2.5's vocabulary and random
weights: what is trained does not matter here, only how fast.

    python benchmarks/training.py --out training.json
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import Qwen2Config, Qwen2ForCausalLM

from mathllm.data.chat import encode, load_tokenizer, padding_id
from mathllm.data.sources import load_problems
from mathllm.tokens.rows import TokenSet
from mathllm.training.config import Compute, TrainConfig
from mathllm.training.processes import Alone
from mathllm.training.trainer import Trainer
from mathllm.trm import RecursiveLM, TRMConfig
from mathllm.trm.recursion import deep_supervision

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
WIDTH = 1024  # of the baseline's rows
VOCABULARY = 151_936  # of Qwen2.5-Math-1.5B


def build(arguments: argparse.Namespace) -> RecursiveLM:
    """A random backbone of Qwen2's shape and a TRM over it."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=arguments.hidden,
        intermediate_size=4 * arguments.hidden,
        num_hidden_layers=4,
        num_attention_heads=arguments.hidden // 64,
        num_key_value_heads=max(1, arguments.hidden // 256),
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    backbone = Qwen2ForCausalLM(config).eval()
    trm = {"n": arguments.n, "T": arguments.T, "N_sup": arguments.steps}
    return RecursiveLM(backbone, TRMConfig.for_backbone(config, **trm)).train()


def rows_of(arguments: argparse.Namespace) -> tuple[TokenSet, int]:
    """GSM8K's training rows as tokens, in file order, and the padding id."""
    tokenizer = load_tokenizer(SHARED / "qwen2.5-tokenizer")
    rows = load_problems("gsm8k", "train", path=SHARED / "gsm8k" / "train.jsonl")
    rows = rows.head(arguments.rows * arguments.groups)
    examples = encode(tokenizer, rows["problem"].to_list(), rows["solution"].to_list())
    return TokenSet.of(examples), padding_id(tokenizer)


def padded(model: RecursiveLM, data: TokenSet, padding: int, rows: int) -> list[float]:
    """Label tokens a second of each optimizer step of the baseline."""
    optimizer = torch.optim.AdamW([p for _, p in model.trm_parameters()], lr=1e-4)
    rates = []
    for start in range(0, len(data), rows):
        began = time.perf_counter()
        ids = torch.full((rows, WIDTH), padding)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, -100)
        for row in range(rows):
            example = data[start + row]
            tokens = torch.as_tensor(example.tokens, dtype=torch.long)
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
            labels[row, example.prompt - 1 : len(tokens) - 1] = tokens[example.prompt :]
        config = model.config
        x, rotary, attend = model.encode(ids, mask)
        f, state = model.f(rotary, attend), model.initial(x)
        for y, _ in deep_supervision(f, x, *state, config.n, config.T, config.N_sup):
            logits = model.head(y)
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
            right = (logits.argmax(-1) == labels).float()
            halting = model.halting_logit(y.detach())
            counted = labels != -100
            loss = loss + 0.5 * F.binary_cross_entropy_with_logits(halting[counted], right[counted])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            rates.append(counted.sum().item() / (time.perf_counter() - began))
            began = time.perf_counter()
    return rates


def ours(model: RecursiveLM, data: TokenSet, padding: int, rows: int) -> list[float]:
    """Label tokens a second of each optimizer step of the trainer."""
    budget = int(data.lengths.mean() * rows)
    trainer = Trainer(
        model,
        data,
        padding,
        TrainConfig(batch=budget),
        Compute(precision="fp32"),
        Alone(torch.device("cpu")),
    )
    return [trainer.advance()["labels_per_second"] for _ in range(trainer.steps)]


def child(arguments: argparse.Namespace) -> None:
    """Measure one variant in this process; print it as JSON."""
    torch.set_num_threads(arguments.threads)
    model = build(arguments)
    data, padding = rows_of(arguments)
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rates = {"padded": padded, "ours": ours}[arguments.variant](
        model, data, padding, arguments.rows
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {
                "variant": arguments.variant,
                "steps": len(rates),
                "labels_per_second": statistics.median(rates),
                "peak_bytes": peak,
                "peak_bytes_over_idle": peak - idle,
            }
        )
    )


def main() -> int:
    """Run both variants and print their ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=256, help="hidden size (default 256)")
    parser.add_argument("--n", type=int, default=6, help="latent updates (default 6)")
    parser.add_argument("--T", type=int, default=3, help="latent recursions (default 3)")
    parser.add_argument("--steps", type=int, default=2, help="supervision steps (default 2)")
    parser.add_argument("--rows", type=int, default=4, help="rows a step (default 4)")
    parser.add_argument("--groups", type=int, default=4, help="batches of the baseline (default 4)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--variant", choices=["padded", "ours"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not (SHARED / "gsm8k").is_dir():
        print(f"error: {SHARED}/gsm8k is not there: this benchmark needs GSM8K", file=sys.stderr)
        return 2
    if arguments.variant:
        child(arguments)
        return 0
    measured = {}
    for variant in ("padded", "ours"):
        command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        measured[variant] = json.loads(output.splitlines()[-1])
        print(
            f"{variant:8} {measured[variant]['labels_per_second']:8,.1f} label tokens/s, "
            f"peak {measured[variant]['peak_bytes'] / 2**30:.2f} GiB "
            f"({measured[variant]['peak_bytes_over_idle'] / 2**30:.2f} GiB over the loaded model)"
        )
    before, after = measured["padded"], measured["ours"]
    ratios = {
        "labels_per_second": after["labels_per_second"] / before["labels_per_second"],
        "peak_memory": after["peak_bytes"] / before["peak_bytes"],
        "peak_memory_over_idle": after["peak_bytes_over_idle"] / before["peak_bytes_over_idle"],
    }
    print(
        f"ours / padded: {ratios['labels_per_second']:.1f} x the label tokens/s, "
        f"{ratios['peak_memory']:.2f} of the peak memory"
    )
    if arguments.out:
        settings = {k: v for k, v in vars(arguments).items() if k not in ("out", "variant")}
        report = {"settings": settings, "measured": measured, "ratios": ratios}
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
