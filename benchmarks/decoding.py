"""Tokens a second of the decoder, against its own backbone and against no cache at all.

A random backbone of Qwen2's shape and a TRM over it whose weights are scaled until its
greedy tokens agree with the backbone's as often as asked. What they say is nonsense, how
long it takes is not. Baselines, in the same run: "backbone", transformers' own generate;
"naive", everything recomputed for every token. Greedy, float32 on a CPU, 16 bits on a GPU.

    python benchmarks/decoding.py                          hidden 512, on 2 threads
    python benchmarks/decoding.py --preset 1.5b --device cuda
"""

import argparse
import gc
import json
import resource
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import Qwen2Config, Qwen2ForCausalLM

from mathllm.engines import Decoder, Progress, SamplingConfig
from mathllm.trm import RecursiveLM, TRMConfig

PRESETS = {
    "512": {"hidden": 512, "layers": 4, "heads": 8, "kv_heads": 2, "vocabulary": 151_936},
    "1024": {"hidden": 1024, "layers": 4, "heads": 16, "kv_heads": 2, "vocabulary": 151_936},
    # config.json of Qwen2.5-Math-1.5B-Instruct and 7B-Instruct
    "1.5b": {
        "hidden": 1536,
        "layers": 28,
        "heads": 12,
        "kv_heads": 2,
        "vocabulary": 151_936,
        "intermediate": 8960,
    },
    "7b": {
        "hidden": 3584,
        "layers": 28,
        "heads": 28,
        "kv_heads": 4,
        "vocabulary": 152_064,
        "intermediate": 18944,
        "tied": False,
    },
}


@dataclass
class Measured:
    """One engine: rates in tokens/s over all rows, times in seconds, memory in bytes."""

    engine: str
    rows: int
    tokens: int
    tokens_per_second: float
    first_token: float
    seconds: float
    cache_bytes: int = 0
    acceptance: float | None = None
    per_pass: float | None = None


def build(arguments: argparse.Namespace) -> RecursiveLM:
    """A random backbone and an untrained TRM, on the device, in its precision."""
    torch.manual_seed(0)
    shape = PRESETS[arguments.preset]
    config = Qwen2Config(
        vocab_size=shape["vocabulary"],
        hidden_size=shape["hidden"],
        intermediate_size=shape.get("intermediate", 4 * shape["hidden"]),
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        max_position_embeddings=4096,
        tie_word_embeddings=shape.get("tied", True),
    )
    dtype = torch.float32 if arguments.device == "cpu" else torch.bfloat16
    with torch.device(arguments.device):
        backbone = Qwen2ForCausalLM(config).eval().to(dtype)
    trm = {"n": arguments.n, "T": arguments.T, "N_sup": arguments.N_sup}
    model = RecursiveLM(backbone, TRMConfig.for_backbone(config, **trm)).eval()
    for _, parameter in model.trm_parameters():
        parameter.data = parameter.data.to(dtype)
    return model


@torch.inference_mode()
def agree(model: RecursiveLM, prompt: list[int], wanted: float, tokens: int) -> float:
    """Scale f's output projections until greedy decoding keeps `wanted` of the drafts.

    Bisection on the logarithm of the scale, on the share of tokens of the decoder's own
    text where the backbone would say the same. Gives the share reached.
    """
    projections = [p for k, p in model.trm_parameters() if k.endswith(("o.weight", "down.weight"))]
    directions = [torch.randn_like(p.float()) / p.shape[1] ** 0.5 for p in projections]
    low, high, share = -7.0, 1.0, 1.0
    for _ in tqdm(range(12), desc="scaling the TRM", disable=None):
        scale = (low + high) / 2
        for projection, direction in zip(projections, directions, strict=True):
            projection.copy_(direction * 10**scale)
        share = agreement(model, prompt, tokens)
        if abs(share - wanted) < 0.015:
            break
        low, high = (scale, high) if share > wanted else (low, scale)
    return share


def agreement(model: RecursiveLM, prompt: list[int], tokens: int) -> float:
    """Share of the decoder's greedy tokens that the backbone would have said there too."""
    config = SamplingConfig(max_new_tokens=tokens, temperature=0)
    ((sample,),) = Decoder(model, max_drafts=4).generate([prompt], config)
    text = torch.tensor([prompt + sample.tokens], device=model.halting.weight.device)
    theirs = model.backbone(text).logits[0, len(prompt) - 1 : -1].argmax(dim=-1)
    return (theirs == text[0, len(prompt) :]).float().mean().item()


def synchronise(device: str) -> None:
    """Wait for a GPU, so that a clock means something."""
    if device == "cuda":
        torch.cuda.synchronize()


def measure_decoder(
    engine: str, decoder: Decoder, prompt: list[int], rows: int, tokens: int, device: str
) -> Measured:
    """The decoder on `rows` samples of one prompt."""
    config = SamplingConfig(n=rows, max_new_tokens=tokens, temperature=0)
    first: list[float] = []

    def told(progress: Progress) -> None:
        first.append(progress.seconds)

    decoder.generate([prompt], SamplingConfig(n=rows, max_new_tokens=4, temperature=0))
    synchronise(device)
    began = time.perf_counter()
    (samples,) = decoder.generate([prompt], config, on_pass=told)
    synchronise(device)
    seconds = time.perf_counter() - began
    count = sum(len(sample.tokens) for sample in samples)
    drafted = sum(sample.drafted for sample in samples)
    plan = decoder.memory_plan(len(prompt) + tokens, rows)
    return Measured(
        engine,
        rows,
        count,
        count / seconds,
        first[0],
        seconds,
        plan.row * rows,
        sum(sample.accepted for sample in samples) / drafted if drafted else None,
        count / rows / len(first),
    )


@torch.inference_mode()
def measure_backbone(
    model: RecursiveLM, prompt: list[int], rows: int, tokens: int, device: str
) -> Measured:
    """transformers' own greedy generate."""
    ids = torch.tensor([prompt] * rows, device=device)

    def generate(count: int) -> float:
        began = time.perf_counter()
        model.backbone.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        synchronise(device)
        return time.perf_counter() - began

    generate(4)
    first = generate(1)
    seconds = generate(tokens)
    return Measured("backbone", rows, rows * tokens, rows * tokens / seconds, first, seconds)


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
    return Measured("naive", 1, tokens, tokens / sum(times), times[0], sum(times))


def bandwidth(device: str) -> float:
    """Bytes a second that this machine reads from memory, the best of five sums of 1 GiB."""
    block = torch.ones(2**28, device=device)
    seconds = []
    for _ in range(5):
        synchronise(device)
        began = time.perf_counter()
        block.sum()
        synchronise(device)
        seconds.append(time.perf_counter() - began)
    return block.numel() * 4 / min(seconds)


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
    parser.add_argument("--preset", choices=PRESETS, default="512", help="shapes (default 512)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--n", type=int, default=6, help="latent updates (default 6)")
    parser.add_argument("--T", type=int, default=3, help="latent recursions (default 3)")
    parser.add_argument("--N-sup", type=int, default=16, help="supervision steps (default 16)")
    parser.add_argument("--agreement", type=float, default=0.9, help="TRM with backbone (0.9)")
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens (default 128)")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens (default 64)")
    parser.add_argument("--batch", type=int, nargs="*", default=[16], help="rows (default 16)")
    parser.add_argument("--repeats", type=int, default=3, help="runs, of which the median counts")
    parser.add_argument("--naive-tokens", type=int, default=3, help="of the naive baseline (3)")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("error: --device is cuda and torch sees no GPU here: use cpu", file=sys.stderr)
        return 2
    torch.set_num_threads(arguments.threads)
    device = arguments.device
    model = build(arguments)
    generator = torch.Generator().manual_seed(1)
    vocabulary = model.config.vocab_size
    prompt = torch.randint(0, vocabulary, (arguments.prompt,), generator=generator).tolist()
    reached = agree(model, prompt, arguments.agreement, arguments.tokens)

    def often(measure, *given) -> Measured:
        runs = [measure(*given) for _ in range(arguments.repeats)]
        gc.collect()
        middle = statistics.median_low([run.tokens_per_second for run in runs])
        return next(run for run in runs if run.tokens_per_second == middle)

    plain, drafting = Decoder(model, max_drafts=0), Decoder(model)
    results = [
        often(measure_backbone, model, prompt, 1, arguments.tokens, device),
        measure_naive(model, prompt, arguments.naive_tokens, device),
        often(measure_decoder, "exact, no drafts", plain, prompt, 1, arguments.tokens, device),
        often(measure_decoder, "exact, drafts", drafting, prompt, 1, arguments.tokens, device),
    ]
    for rows in arguments.batch:
        results += [
            often(measure_backbone, model, prompt, rows, arguments.tokens, device),
            *(
                often(measure_decoder, name, decoder, prompt, rows, arguments.tokens, device)
                for name, decoder in (("exact, no drafts", plain), ("exact, drafts", drafting))
            ),
        ]
    show(arguments, model, results, reached)
    return 0


def show(
    arguments: argparse.Namespace, model: RecursiveLM, results: list[Measured], reached: float
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
            r.tokens_per_second for r in results if r.engine == "backbone" and r.rows == result.rows
        )
        ratios = {
            "backbone": result.tokens_per_second / rate,
            "naive": result.tokens_per_second / naive.tokens_per_second,
            "single_without_drafts": result.tokens_per_second / single.tokens_per_second,
        }
        rows.append(asdict(result) | {"ratios": ratios})
        kept = "" if result.acceptance is None else f"{result.acceptance:.0%}"
        per_pass = "" if result.per_pass is None else f"{result.per_pass:.1f}"
        print(
            f"{result.engine:18} {result.rows:4} {result.tokens_per_second:9.2f} "
            f"{result.first_token:9.2f} {result.cache_bytes / 2**20:9.0f} {kept:>5} {per_pass:>6} "
            f"{ratios['backbone']:9.3f} {ratios['naive']:7.1f} "
            f"{ratios['single_without_drafts']:7.2f}"
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
            "roofline": line,
            "peak_bytes": peak,
        }
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
