"""Clocks, engines against the clock, and what a machine can do at most."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from mathllm.engines import Progress, SamplingConfig
from mathllm.trm import RecursiveLM


@dataclass
class Measured:
    """One engine: rates in tokens/s over all rows, times in seconds, memory in bytes.

    `tokens_per_second` counts the prompt's pass, `decoding_rate` only what comes after the
    first token. `texts` are the token ids of each row.
    """

    engine: str
    rows: int
    tokens: int
    tokens_per_second: float
    decoding_rate: float
    first_token: float
    seconds: float
    cache_bytes: int = 0
    acceptance: float | None = None
    per_pass: float | None = None
    texts: list[list[int]] = field(default_factory=list, repr=False)


def synchronise(device: str) -> None:
    """Wait for a GPU, so that a clock means something."""
    if device == "cuda":
        torch.cuda.synchronize()


def clocked(run: Callable[[], Any], device: str) -> float:
    """Seconds of one call, from an idle device to an idle device."""
    synchronise(device)
    began = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - began


def median_seconds(run: Callable[[], Any], device: str, repeats: int, warm_up: int = 3) -> float:
    """The median of `repeats` calls after the warm-up; on a GPU by events around each."""
    for _ in range(warm_up):
        run()
    if device != "cuda":
        return statistics.median(clocked(run, device) for _ in range(repeats))
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for before, after in marks:
        before.record()
        run()
        after.record()
    torch.cuda.synchronize()
    return statistics.median(before.elapsed_time(after) for before, after in marks) / 1000


def often(measure: Callable[[], Measured], repeats: int) -> Measured:
    """The run of median rate."""
    runs = sorted((measure() for _ in range(repeats)), key=lambda run: run.tokens_per_second)
    gc.collect()
    return runs[(len(runs) - 1) // 2]


def measure_engine(
    name: str, engine: Any, prompt: list[int], rows: int, tokens: int, device: str, **sampling: Any
) -> Measured:
    """An engine of this project on `rows` samples of one prompt, after a short warm-up."""
    settings = {"temperature": 0} | sampling
    config = SamplingConfig(n=rows, max_new_tokens=tokens, **settings)
    passes: list[tuple[float, int]] = []  # seconds and tokens after each

    def told(progress: Progress) -> None:
        passes.append((progress.seconds, progress.tokens))

    engine.generate([prompt], SamplingConfig(n=rows, max_new_tokens=4, **settings))
    found: list = []
    seconds = clocked(lambda: found.extend(engine.generate([prompt], config, on_pass=told)), device)
    (samples,) = found
    count = sum(len(sample.tokens) for sample in samples)
    drafted = sum(sample.drafted for sample in samples)
    (first, begun), (last, made) = passes[0], passes[-1]
    return Measured(
        name,
        rows,
        count,
        count / seconds,
        (made - begun) / (last - first) if len(passes) > 1 else 0.0,
        first,
        seconds,
        engine.memory_plan(len(prompt) + tokens, rows).row * rows,
        sum(sample.accepted for sample in samples) / drafted if drafted else None,
        count / rows / len(passes),
        [sample.tokens for sample in samples],
    )


def measure_flight(
    engine: Any, prompts: Sequence[list[int]], tokens: int, rounds: int, device: str
) -> tuple[Measured, Measured]:
    """As many rows as prompts, `rounds` times: as fixed batches one after another, and as samples
    that come and go, each begun when another ends, at moments of its own.

    The first and the last of these have fewer or more tokens, so that no two end together; both
    ways begin and write as many in all. `rounds` is at least 2.
    """
    rows = len(prompts)
    config = SamplingConfig(max_new_tokens=tokens, temperature=0)
    engine.generate(prompts, replace(config, max_new_tokens=4))
    count = rows * rounds * tokens

    def fixed() -> None:
        for _ in range(rounds):
            engine.generate(prompts, config)

    def lane(row: int) -> None:
        early = tokens * (2 * row + 1 - rows) // (2 * rows)  # from -1/2 to 1/2 of the tokens
        for length in (tokens - early, *[tokens] * (rounds - 2), tokens + early):
            own = replace(config, max_new_tokens=length)
            engine.start(prompts[row], own, seed=row).wait()

    def flying() -> None:
        with ThreadPoolExecutor(rows) as lanes:
            list(lanes.map(lane, range(rows)))

    found = []
    for name, run in (("fixed batches", fixed), ("come and go", flying)):
        seconds = clocked(run, device)
        found.append(Measured(name, rows, count, count / seconds, 0.0, 0.0, seconds))
    return found[0], found[1]


class _Told(StoppingCriteria):
    """Seconds on the clock after each token of generate; ends nothing."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # noqa: ARG002
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@torch.inference_mode()
def measure_generate(
    model: RecursiveLM, prompt: list[int], rows: int, tokens: int, device: str
) -> Measured:
    """The named baseline: transformers' own greedy generate, on the backbone."""
    ids = torch.tensor([prompt] * rows, device=device)

    def generate(count: int) -> tuple[list[list[int]], list[float]]:
        told = _Told()
        synchronise(device)
        began = time.perf_counter()
        found = model.backbone.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([told]),
        )
        synchronise(device)
        times = [now - began for now in (*told.times, time.perf_counter())]
        return found[:, len(prompt) :].tolist(), times

    generate(4)
    texts, times = generate(tokens)
    count = rows * tokens
    later = rows * (tokens - 1) / (times[-1] - times[0])
    return Measured(
        "generate", rows, count, count / times[-1], later, times[0], times[-1], texts=texts
    )


def bandwidth(device: str, size: int = 2**30, repeats: int = 5) -> float:
    """Bytes a second that move, read and written, while `size` bytes are copied on the device."""
    source = torch.randint(0, 100, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / median_seconds(lambda: target.copy_(source), device, repeats)


def matmul_rate(device: str, dtype: torch.dtype, size: int = 8192, repeats: int = 10) -> float:
    """FLOP/s of a product of random matrices [size, size]; on zeros it can be faster."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda: left @ right, device, repeats)


def pass_work(model: RecursiveLM, rows: int, context: int, recursion: bool) -> dict[str, float]:
    """Bytes that must be read and FLOPs for one token in each of `rows` rows, without drafts.

    Each weight is read once a use: f's in each of its (n + 1) · T · N_sup calls, lm_head
    once. Keys and values are read once for each row and layer. Of the embeddings a pass
    reads one row a token, which is not counted.
    """
    config, backbone = model.config, model.backbone
    head = config.vocab_size * config.hidden_size
    inner = sum(p.numel() for p in backbone.model.layers.parameters())
    f = sum(p.numel() for p in model.network.parameters()) if recursion else 0
    layers = backbone.config.num_hidden_layers + (config.effective_depth if recursion else 0)
    pair = 2 * config.num_key_value_heads * config.head_size
    queries = config.num_heads * config.head_size
    products = inner + head + f * config.calls
    item = model.halting.weight.itemsize
    return {
        "bytes": item * (products + pair * layers * context * rows),
        "flops": rows * (2 * products + 4 * queries * layers * context),
    }


def prompt_flops(model: RecursiveLM, rows: int, prompt: int, recursion: bool) -> float:
    """FLOPs of a prompt that `rows` samples share, and of their first token's pass."""
    one = pass_work(model, 1, prompt // 2, recursion)["flops"]
    head = 2 * model.config.vocab_size * model.config.hidden_size
    return (prompt - 1) * (one - head) + pass_work(model, rows, prompt, recursion)["flops"]
