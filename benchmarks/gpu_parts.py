"""What benchmarks/gpu.py measures, a case at a time, and what each case needs.

A case is a function of a `Bench` and plain arguments that gives figures as JSON has them.
"""

import copy
import gc
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from measuring import (
    Measured,
    bandwidth,
    matmul_rate,
    measure_engine,
    measure_generate,
    median_seconds,
    often,
    pass_work,
    prompt_flops,
)
from shapes import agree, backbone_config, build, random_prompt
from torch.autograd import DeviceType

from mathllm.engines import BackboneDecoder, Decoder, SamplingConfig, graphs
from mathllm.tokens.rows import Example, TokenSet
from mathllm.training.config import Compute, TrainConfig
from mathllm.training.memory import estimate, parameter_rows
from mathllm.training.processes import Alone
from mathllm.training.trainer import Trainer
from mathllm.trm import RecursiveLM, TRMConfig

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
AGREEMENT = 0.8  # of the drafts of a random TRM's backbone stand, about


@dataclass
class Bench:
    """Where the cases run: shapes, prompt and new tokens of a row, and the model at hand."""

    device: str
    shape: str
    prompt: int
    tokens: int
    repeats: int
    _held: dict[tuple, RecursiveLM] = field(default_factory=dict)

    def model(self, dtype: str, **trm: int) -> RecursiveLM:
        """A random model of the shape; it is kept until another one is asked for."""
        key = (dtype, *sorted(trm.items()))
        if key not in self._held:
            self.drop()
            model = build(self.shape, self.device, DTYPES[dtype], **trm)
            few = min(self.prompt, 64)
            agree(model, random_prompt(model, few), AGREEMENT, min(self.tokens, 32), tries=6)
            self._held[key] = model
        return self._held[key]

    def drop(self) -> None:
        """Free the model, and what was kept in the caching allocator."""
        self._held.clear()
        self.tidy()

    def tidy(self) -> None:
        """Free what the last case left; the next one's peak counts from here."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


@contextmanager
def replays(device: str) -> Iterator[None]:
    """On a CPU, where nothing can be recorded, a replay runs the function again."""

    def again(function: Callable, inputs: tuple, _: object) -> tuple:
        outputs = function(*inputs)

        def replay() -> None:
            for output, new in zip(outputs, function(*inputs), strict=True):
                output.copy_(new)

        return replay, outputs

    record = graphs.record
    graphs.record = record if device == "cuda" else again
    try:
        yield
    finally:
        graphs.record = record


def ceilings(bench: Bench) -> dict[str, Any]:
    """Bytes a second of a large copy, FLOP/s of a large product, on random data."""
    if bench.device == "cuda":
        rates = {"bandwidth": bandwidth("cuda", 2**32, 10), "repeated": bandwidth("cuda", 2**32)}
        return rates | {name: matmul_rate("cuda", dtype) for name, dtype in DTYPES.items()}
    rate = matmul_rate("cpu", torch.float32, 512, 3)
    return {"bandwidth": bandwidth("cpu", 2**26, 3), "float32": rate}


def same(ours: list[list[int]], theirs: list[list[int]]) -> dict[str, Any]:
    """Tokens that are equal in their place, of how many, and the first place that is not."""
    pairs = [list(zip(a, b, strict=True)) for a, b in zip(ours, theirs, strict=True)]
    differ = [place for row in pairs for place, (a, b) in enumerate(row) if a != b]
    count = sum(map(len, pairs))
    return {
        "equal": count - len(differ),
        "tokens": count,
        "first_difference": min(differ, default=None),
    }


def graphed(
    bench: Bench, dtype: str, rows: int, drafts: int = 0, halting: bool = False, **sampling: Any
) -> dict[str, Any]:
    """Part a: passes as CUDA graphs against the same passes without; and against themselves."""
    model = bench.model(dtype, n=1, T=1, N_sup=4)
    prompt = random_prompt(model, bench.prompt)
    threshold = 0.006 if halting else None  # an untrained halting head says 0.7 %
    found: dict[str, Measured] = {}
    with replays(bench.device):
        for name in ("none", "again", "graphs"):
            engine = Decoder(model, drafts, threshold, graphs=name == "graphs")
            given = (name, engine, prompt, rows, bench.tokens, bench.device)
            repeats = 1 if name == "again" else bench.repeats
            found[name] = often(lambda given=given: measure_engine(*given, **sampling), repeats)
            engine.release()
    rates = {name: run.decoding_rate for name, run in found.items()}
    return {
        "graphs_and_none": same(found["graphs"].texts, found["none"].texts),
        "none_twice": same(found["again"].texts, found["none"].texts),
        "decoding_rate": rates,
        "speed_ratio": rates["graphs"] / rates["none"],
    }


@torch.inference_mode()
def precision(bench: Bench, rows: int) -> dict[str, Any]:
    """Part b: bfloat16 against float32 over the same weights, which bfloat16 holds exactly."""
    half = bench.model("bfloat16", n=1, T=1, N_sup=4)
    full = copy.deepcopy(half).float()
    config = SamplingConfig(n=1, max_new_tokens=bench.tokens, temperature=0)
    prompts = [random_prompt(full, bench.prompt + row)[-bench.prompt :] for row in range(rows)]
    texts = {}
    for name, model in (("bfloat16", half), ("float32", full)):
        samples = Decoder(model, 0, None).generate(prompts, config)
        texts[name] = [sample.tokens for (sample,) in samples]
    # The same text for both: token by token, without what an early difference brings on.
    ids = torch.tensor(
        [p + t for p, t in zip(prompts, texts["float32"], strict=True)], device=bench.device
    )
    result: dict[str, Any] = {"greedy": same(texts["bfloat16"], texts["float32"])}
    for name in ("recursion", "backbone"):
        equal, largest, mean, spread = [], [], [], []
        for row in ids[:, None]:
            ours, theirs = (
                (m.logits(row) if name == "recursion" else m.backbone(row).logits).float()
                for m in (half, full)
            )
            equal.append((ours.argmax(-1) == theirs.argmax(-1)).float().mean().item())
            spread.append(theirs.std(-1).mean().item())
            difference = (ours - theirs).abs()
            largest.append(difference.max().item())
            mean.append(difference.mean().item())
        result[name] = {
            "positions": ids.numel(),
            "argmax_equal": statistics.fmean(equal),
            "largest_difference": max(largest),
            "mean_difference": statistics.fmean(mean),
            "standard_deviation_of_logits": statistics.fmean(spread),
        }
    return result


def decoding(bench: Bench, engine: str, rows: int, drafts: int = 0, **trm: int) -> dict[str, Any]:
    """Part c: one engine on `rows` samples of a prompt; what it had to read and to compute."""
    dtype = "bfloat16" if bench.device == "cuda" else "float32"
    model = bench.model(dtype, **trm)
    prompt = random_prompt(model, bench.prompt)
    given = (prompt, rows, bench.tokens, bench.device)
    if engine == "generate":
        run = often(lambda: measure_generate(model, *given), bench.repeats)
    else:
        made = BackboneDecoder(model) if engine == "backbone" else Decoder(model, drafts, None)
        with replays(bench.device):
            run = often(lambda: measure_engine(engine, made, *given), bench.repeats)
    figures = {k: v for k, v in vars(run).items() if k != "texts"}
    recursion = engine == "trm"
    figures["prompt_flops"] = prompt_flops(model, rows, len(prompt), recursion)
    if not drafts:  # with drafts, how much is read depends on how many stand
        context = len(prompt) + bench.tokens // 2
        figures["pass"] = pass_work(model, rows, context, recursion)
    return figures | peak(bench)


def profile(bench: Bench, rows: int, **trm: int) -> dict[str, Any]:
    """Part c: which kernels a decoder's passes spend their time in, and how busy the GPU is."""
    cuda = bench.device == "cuda"
    model = bench.model("bfloat16" if cuda else "float32", **trm)
    prompt = random_prompt(model, bench.prompt)
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if cuda else []
    with replays(bench.device):
        decoder = Decoder(model, 0, None)
        config = SamplingConfig(n=rows, max_new_tokens=min(bench.tokens, 16), temperature=0)
        decoder.generate([prompt], config)
        with torch.profiler.profile(activities=activities) as seen:
            run = measure_engine("trm", decoder, prompt, rows, config.max_new_tokens, bench.device)
    kind, name = (DeviceType.CUDA, "device") if cuda else (DeviceType.CPU, "cpu")
    times = {
        event.key: getattr(event, f"self_{name}_time_total") / 1e6
        for event in seen.key_averages()
        if event.device_type == kind  # an operation's kernels are events of their own
    }
    longest = sorted(times, key=times.__getitem__, reverse=True)[:15]
    return {
        "kernel_seconds": sum(times.values()),
        "seconds": run.seconds,
        "longest": {name[:100]: times[name] for name in longest},
    }


def training(bench: Bench, batch: int, length: int, **trm: int) -> dict[str, Any]:
    """Part d: supervision steps of the trainer, each with its optimizer step."""
    bench.drop()
    cuda = bench.device == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    model = build(bench.shape, bench.device, dtype, torch.float32, **trm).train()
    device, shape = model.halting.weight.device, model.backbone.config
    rows = 3 * (batch // length)
    ids = torch.randint(0, shape.vocab_size, (rows, length), generator=torch.Generator()).tolist()
    data = TokenSet.of([Example(row, length // 4) for row in ids])
    name = "bf16" if cuda else "fp32"
    compute = Compute(precision=name)
    trainer = Trainer(model, data, 0, TrainConfig(batch=batch), compute, Alone(device))
    bench.tidy()
    steps = [trainer.advance() for _ in range(trainer.steps)]
    seconds = [row["tokens_per_second"] for row in steps[model.config.N_sup :]]
    tokens = batch // length * length
    rate = 1 / statistics.fmean(1 / each for each in seconds)
    states = [trainer.micro_batches[0].x] * 3  # x, y and z go there, y and z come back

    def move() -> None:
        there = [state.to(device) for state in states]
        for state in there[:2]:
            state.cpu()

    expected = estimate(shape, model.config, batch, 1, name, name, compute.logits_chunk, False)
    return {
        "tokens_per_second": rate,
        "median_step_seconds": tokens / statistics.median(seconds),
        "flops_per_second": rate * step_flops(model, length),
        "loss": [row["loss"] for row in steps],
        "estimated_bytes": expected.total,
        "seconds_moving_states": median_seconds(move, bench.device, 3),
    } | peak(bench)


def step_flops(model: RecursiveLM, length: int) -> float:
    """FLOPs a token of one supervision step: forward, backward through the last recursion.

    Rows of `length` tokens, three quarters of them labels. The frozen head has no gradient
    of its own, the backbone runs once in N_sup steps and only forward.
    """
    config, backbone = model.config, model.backbone
    attention = 2 * length * config.num_heads * config.head_size  # a layer, causal: half of all
    f = 2 * sum(p.numel() for p in model.network.parameters()) + config.layers * attention
    calls = (config.n + 1) * config.T
    head = 2 * config.vocab_size * config.hidden_size
    layers = backbone.config.num_hidden_layers
    frozen = 2 * sum(p.numel() for p in backbone.model.layers.parameters()) + layers * attention
    return f * (calls + 2 * (config.n + 1)) + 0.75 * 2 * head + frozen / config.N_sup


def peak(bench: Bench) -> dict[str, int]:
    """The most memory that tensors took on a GPU since the last case."""
    return {"peak_bytes": torch.cuda.max_memory_allocated()} if bench.device == "cuda" else {}


KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    part.__name__: part for part in (ceilings, graphed, precision, decoding, profile, training)
}


def needed(bench: Bench, kind: str, arguments: dict[str, Any]) -> int:
    """Bytes on the device that a case takes, about: weights, caches, a training step."""
    if kind == "ceilings":
        return 2 * 2**32
    shape = backbone_config(bench.shape)
    trm = {k: arguments[k] for k in ("n", "T", "N_sup") if k in arguments}
    trm = TRMConfig.for_backbone(shape, **(trm or {"n": 1, "T": 1, "N_sup": 4}))
    if kind == "training":
        return estimate(shape, trm, arguments["batch"], 1, "bf16", "bf16").total
    weights = sum(count for _, count, _ in parameter_rows(shape, trm))
    item = {"float32": 4}.get(arguments.get("dtype", ""), 2)
    item = 6 if kind == "precision" else item  # both at once
    layers = trm.effective_depth + shape.num_hidden_layers
    columns = arguments.get("rows", 1) * (bench.prompt + bench.tokens + 17)
    pair = 2 * trm.num_key_value_heads * trm.head_size
    return item * (weights + columns * pair * layers)
