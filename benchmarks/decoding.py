"""Tokens a second of the decoder, against its own backbone and against no cache at all.

A random backbone of Qwen2's shape and a TRM over it whose weights are scaled until its
greedy tokens agree with the backbone's as often as asked. What they say is nonsense, how
long it takes is not. Baselines, in the same run: "generate", transformers' own on the backbone;
"naive", everything recomputed for every token. Greedy, float32 on a CPU, 16 bits on a GPU.

    python benchmarks/decoding.py                          hidden 512, on 2 threads
    python benchmarks/decoding.py --preset 1.5b --device cuda
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import torch
from measuring import (
    Measured,
    bandwidth,
    measure_engine,
    measure_flight,
    measure_generate,
    often,
    synchronise,
)
from shapes import SHAPES, agree, build, random_prompt

from mathllm.engines import Decoder
from mathllm.trm import RecursiveLM


@torch.inference_mode()
def measure_naive(model: RecursiveLM, prompt: list[int], tokens: int, device: str) -> Measured:
    """Everything recomputed for every token, as RecursiveLM.logits does."""
    text = torch.tensor([prompt], device=device)
    times = []
    for _ in range(tokens):
        began = time.perf_counter()
        text = torch.cat([text, model.logits(text)[:, -1:].argmax(dim=-1)], dim=1)
        synchronise(device)
        times.append(time.perf_counter() - began)
    rates = tokens / sum(times), (tokens - 1) / max(sum(times[1:]), 1e-9)
    return Measured("naive", 1, tokens, *rates, times[0], sum(times))


def roofline(model: RecursiveLM, context: int, device: str, seconds_per_token: float) -> dict:
    """The least time for one token at batch 1, every weight and cached value read once a use."""
    config = model.config
    f = sum(p.numel() * p.itemsize for p in model.network.parameters())
    backbone = sum(p.numel() * p.itemsize for p in model.backbone.parameters())
    pair = 2 * config.num_key_value_heads * config.head_size * model.halting.weight.itemsize
    moved = f * config.calls + backbone + pair * config.effective_depth * context
    rate = bandwidth(device)
    return {
        "bytes_per_token": moved,
        "bandwidth": rate,
        "least_seconds": moved / rate,
        "share_reached": moved / rate / seconds_per_token,
        "f_bytes": f,
    }


def main() -> int:
    """Measure every engine and print its ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=SHAPES, default="512", help="shapes (default 512)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--n", type=int, default=6, help="latent updates (default 6)")
    parser.add_argument("--T", type=int, default=3, help="latent recursions (default 3)")
    parser.add_argument("--N-sup", type=int, default=16, help="supervision steps (default 16)")
    parser.add_argument("--agreement", type=float, default=0.9, help="TRM with backbone (0.9)")
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens (default 128)")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens (default 64)")
    parser.add_argument("--batch", type=int, nargs="*", default=[16], help="rows (default 16)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="of rows that come and go, 2 or more; 0: none"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs, of which the median counts")
    parser.add_argument("--naive-tokens", type=int, default=3, help="of the naive baseline (3)")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("error: --device is cuda and torch sees no GPU here: use cpu", file=sys.stderr)
        return 2
    torch.set_num_threads(arguments.threads)
    device = arguments.device
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    trm = {"n": arguments.n, "T": arguments.T, "N_sup": arguments.N_sup}
    model = build(arguments.preset, device, dtype, **trm)
    prompt = random_prompt(model, arguments.prompt)
    reached = agree(model, prompt, arguments.agreement, arguments.tokens)

    def measured(name: str, rows: int, decoder: Decoder | None = None) -> Measured:
        given = (prompt, rows, arguments.tokens, device)
        if decoder is None:
            return often(lambda: measure_generate(model, *given), arguments.repeats)
        return often(lambda: measure_engine(name, decoder, *given), arguments.repeats)

    plain, drafting = Decoder(model, max_drafts=0), Decoder(model)
    results = [
        measured("generate", 1),
        measure_naive(model, prompt, arguments.naive_tokens, device),
        measured("exact, no drafts", 1, plain),
        measured("exact, drafts", 1, drafting),
    ]
    for rows in arguments.batch:
        results += [
            measured("generate", rows),
            measured("exact, no drafts", rows, plain),
            measured("exact, drafts", rows, drafting),
        ]
    flights = []
    for rows in arguments.batch if arguments.rounds else ():
        prompts = [random_prompt(model, arguments.prompt, seed) for seed in range(rows)]
        # Drafts of rows that differ are kept as often in both, so they are left out.
        pairs = [
            measure_flight(plain, prompts, arguments.tokens, arguments.rounds, device)
            for _ in range(arguments.repeats)
        ]
        pairs.sort(key=lambda pair: pair[1].tokens_per_second / pair[0].tokens_per_second)
        flights.append(pairs[(len(pairs) - 1) // 2])
    show(arguments, model, results, reached, flights)
    return 0


def show(
    arguments: argparse.Namespace,
    model: RecursiveLM,
    results: list[Measured],
    reached: float,
    flights: list[tuple[Measured, Measured]],
) -> None:
    """Print the table and the roofline, write the JSON."""
    _, naive, single = results[:3]
    config = model.config
    print(
        f"hidden {config.hidden_size}, L = {config.layers}, n = {config.n}, T = {config.T}, "
        f"N_sup = {config.N_sup}: {config.effective_depth} layers; TRM and backbone agree on "
        f"{reached:.0%} of tokens; prompt {arguments.prompt}, {arguments.tokens} new tokens"
    )
    print(
        f"{'engine':18} {'rows':>4} {'tokens/s':>9} {'first, s':>9} {'cache MiB':>9} {'kept':>5} "
        f"{'a pass':>6} {'/backbone':>9} {'/naive':>7} {'/single':>7}"
    )
    rows = []
    for result in results:
        # Against the backbone in a batch of the same size.
        rate = next(
            r.tokens_per_second for r in results if r.engine == "generate" and r.rows == result.rows
        )
        ratios = {
            "backbone": result.tokens_per_second / rate,
            "naive": result.tokens_per_second / naive.tokens_per_second,
            "single_without_drafts": result.tokens_per_second / single.tokens_per_second,
        }
        rows.append({k: v for k, v in vars(result).items() if k != "texts"} | {"ratios": ratios})
        kept = "" if result.acceptance is None else f"{result.acceptance:.0%}"
        per_pass = "" if result.per_pass is None else f"{result.per_pass:.1f}"
        print(
            f"{result.engine:18} {result.rows:4} {result.tokens_per_second:9.2f} "
            f"{result.first_token:9.2f} {result.cache_bytes / 2**20:9.0f} {kept:>5} {per_pass:>6} "
            f"{ratios['backbone']:9.3f} {ratios['naive']:7.1f} "
            f"{ratios['single_without_drafts']:7.2f}"
        )
    for fixed, flight in flights:
        ratio = flight.tokens_per_second / fixed.tokens_per_second
        print(
            f"{fixed.rows} rows, {arguments.rounds} rounds: fixed batches "
            f"{fixed.tokens_per_second:.2f} tokens/s, rows that come and go "
            f"{flight.tokens_per_second:.2f}: {ratio:.3f}"
        )
    context = arguments.prompt + arguments.tokens // 2
    line = roofline(model, context, arguments.device, 1 / single.tokens_per_second)
    print(
        f"roofline, one token at batch 1: {line['bytes_per_token'] / 1e9:.2f} GB (f has "
        f"{line['f_bytes'] / 1e6:.1f} MB) at {line['bandwidth'] / 1e9:.1f} GB/s: "
        f"{1e3 * line['least_seconds']:.1f} ms; without drafts {line['share_reached']:.0%} of it"
    )
    if arguments.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak memory {peak / 2**30:.2f} GiB")
    if arguments.out:
        settings = {k: v for k, v in vars(arguments).items() if k != "out"}
        report = {
            "settings": settings,
            "agreement": reached,
            "results": rows,
            "flights": [
                {
                    "rows": fixed.rows,
                    "fixed": fixed.tokens_per_second,
                    "come_and_go": flight.tokens_per_second,
                    "ratio": flight.tokens_per_second / fixed.tokens_per_second,
                }
                for fixed, flight in flights
            ],
            "roofline": line,
            "peak_bytes": peak,
        }
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
