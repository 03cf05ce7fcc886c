"""Recorded passes on a CPU: torch's tracer stands in for a CUDA graph.

A trace, like a graph, is a fixed list of operations on fixed addresses: whatever Python
decided while it was recorded stays decided. Tracing with fake tensors fails where a function
asks for a value, as recording does on a GPU.
"""

import gc
import itertools
import random
import time
import weakref

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from helpers import naive_decoding as naive
from helpers.models import make_backbone, random_trm
from mathllm.engines import Decoder, SamplingConfig, graphs, local
from mathllm.engines.speculation import DraftLength


@pytest.fixture
def recorded(monkeypatch):
    """Graphs that are traces; gives the list of input shapes that were recorded."""
    shapes = []

    def record(function, inputs, pool):  # noqa: ARG001
        shapes.append([tuple(tensor.shape) for tensor in inputs])
        with torch.no_grad():
            traced = make_fx(function, tracing_mode="real")(*inputs)
            outputs = traced(*inputs)

        def replay():
            with torch.no_grad():
                for output, new in zip(outputs, traced(*inputs), strict=True):
                    output.copy_(new)

        return replay, outputs

    monkeypatch.setattr(graphs, "record", record)
    return shapes


def generate(decoder: Decoder, prompts, config):
    # Tracing does not go with inference mode.
    return Decoder.generate.__wrapped__(decoder, prompts, config)


@pytest.mark.slow
@pytest.mark.parametrize("case", range(2))
def test_replayed_passes_give_the_same_tokens(case, recorded, monkeypatch):
    draw = random.Random(case)
    monkeypatch.setattr(DraftLength, "choose", naive.random_lengths(draw, most=2))
    model = naive.random_model(draw)
    vocabulary = model.config.vocab_size
    decoder = Decoder(model, max_drafts=2, graphs=True)
    stop = frozenset(range(0, vocabulary, 9))
    config = SamplingConfig(n=2, max_new_tokens=8, temperature=0, stop_ids=stop)
    for count in (3, 2):  # the second call replays what the first recorded
        prompts = [
            [draw.randrange(vocabulary) for _ in range(draw.randint(1, 9))] for _ in range(count)
        ]
        with torch.no_grad():
            found = generate(decoder, prompts, config)
        for prompt, samples in zip(prompts, found, strict=True):
            for sample in samples:
                assert sample.tokens == naive.greedy(model, prompt, 8, stop)
    rows = {shapes[0][0] for shapes in recorded}
    assert rows <= {1, 2, 4, 6}  # powers of two, or all


@pytest.mark.slow
@pytest.mark.parametrize("case", range(2))
def test_replayed_passes_halt_as_the_definition_says(case, recorded, monkeypatch):
    draw = random.Random(case)
    monkeypatch.setattr(DraftLength, "choose", naive.random_lengths(draw, most=2))
    model = naive.random_model(draw, N_sup=3)
    model.halting.weight.data.mul_(3)
    decoder = Decoder(model, max_drafts=2, graphs=True, halting_threshold=0.6)
    prompts = [[1, 2, 3], [4], [5, 6]]
    config = SamplingConfig(max_new_tokens=6, temperature=0)
    with torch.no_grad():
        found = generate(decoder, prompts, config)
    assert recorded
    for prompt, (sample,) in zip(prompts, found, strict=True):
        tokens, steps = naive.greedy_halting(model, prompt, 6, 0.6)
        assert sample.tokens == tokens
        assert sample.supervision_steps_used == steps


def test_nothing_is_recorded_twice_and_memory_is_kept_until_released(recorded):
    model = random_trm(make_backbone(), n=1, T=1, N_sup=2)
    decoder = Decoder(model, max_drafts=0, graphs=True)
    config = SamplingConfig(n=2, max_new_tokens=5, temperature=0)
    with torch.no_grad():
        first = generate(decoder, [[1, 2, 3]], config)
        count, kept = len(recorded), decoder.lanes(1, 4)
        second = generate(decoder, [[1, 2, 3]], config)
        assert decoder.lanes(1, 4) is kept
    assert len(recorded) == count == 2  # the backbone's pass and the recursion's
    assert [s.tokens for s in first[0]] == [s.tokens for s in second[0]]
    decoder.release()
    assert decoder.lanes(1, 4) is not kept


# Operations that wait for the device: for a value, or for the shape of their result.
WAITING = ("_local_scalar_dense", "nonzero", "index.Tensor", "masked_select", "equal.")


@pytest.mark.slow
def test_rows_that_are_begun_one_by_one_run_side_by_side(recorded, monkeypatch):
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # tracing does not go with it
    model = random_trm(make_backbone(), n=1, T=1, N_sup=2)
    decoder = Decoder(model, max_drafts=2, graphs=True)
    advance, live = decoder.advance, []

    def seen(lanes, batch):
        live.append(len(batch.rows))
        advance(lanes, batch)

    monkeypatch.setattr(decoder, "advance", seen)
    config = SamplingConfig(max_new_tokens=60, temperature=0)
    prompts = [[1, 2, 3], [4, 5], [1, 2, 3, 4, 5, 6]]
    rows = [decoder.start(prompts[0], config, 0)]
    while not rows[0].completion.tokens:
        time.sleep(0.01)
    rows += [decoder.start(prompt, config, 0) for prompt in prompts[1:]]
    assert all(row.wait(100) for row in rows)
    assert max(live) == 3
    assert recorded
    for row, prompt in zip(rows, prompts, strict=True):
        with torch.no_grad():
            assert row.completion.tokens == naive.greedy(model, prompt, 60, frozenset())


def operations(function, inputs) -> list[str]:
    """What `function` does with fake tensors, which have no values to decide by."""
    trace = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    return [str(node.target) for node in trace.graph.nodes if node.op == "call_function"]


def waiting(names: list[str]) -> list[str]:
    return [name for name in names if any(part in name for part in WAITING)]


def test_a_pass_asks_the_device_for_no_value(monkeypatch):
    monkeypatch.setattr(local, "packed", lambda model: model)  # oneDNN's have no fake ones
    model = random_trm(make_backbone(), n=2, T=2, N_sup=2)
    lanes = Decoder(model, graphs=True).lanes(2, 20)
    columns = lanes.window(3)
    tokens = torch.zeros(2, 3, dtype=torch.long)
    bias = columns.bias(torch.float32)
    with torch.no_grad():
        h, _ = lanes._feed(tokens, bias, columns.positions, columns.places)
        x = model.normalise(h)
        cos, sin = model.rotary(x, columns.positions)
        refined = (x, cos, sin, bias, columns.places)
        fed = (tokens, bias, columns.positions, columns.places)
        for function, inputs in (
            (lambda *i: lanes._feed(*i), fed),
            (lambda *i: lanes._refine._all_steps(*i), refined),
        ):
            names = operations(function, inputs)
            assert len(names) > 50
            assert not waiting(names)


def test_what_waits_for_the_device_is_seen():
    assert waiting(operations(lambda t: t[t > 0], (torch.ones(2),)))
    assert waiting(operations(lambda t: t.nonzero(), (torch.ones(2),)))
    with pytest.raises(GuardOnDataDependentSymNode):
        operations(lambda t: t if t.sum() > 0 else -t, (torch.ones(2),))


@pytest.mark.parametrize("with_graphs", [False, True])
def test_lanes_that_are_released_are_freed_at_once(with_graphs, recorded):
    # Not when the garbage collector comes by: on a GPU the next ones must fit beside them.
    decoder = Decoder(random_trm(make_backbone(), n=1, T=1, N_sup=2), graphs=with_graphs)
    with torch.no_grad():
        generate(decoder, [[1, 2, 3]], SamplingConfig(max_new_tokens=4, temperature=0))
        lanes = decoder.lanes(2, 40)
    assert bool(recorded) is with_graphs
    freed = weakref.ref(lanes)
    gc.disable()
    try:
        del lanes
        decoder.release()
        assert freed() is None
    finally:
        gc.enable()


def test_passes_that_record_a_graph_are_not_timed(recorded, monkeypatch):
    told = []
    observe = DraftLength.observe

    def spy(self, k, kept, seconds):
        told.append((len(recorded), seconds is None))
        observe(self, k, kept, seconds)

    monkeypatch.setattr(DraftLength, "observe", spy)
    decoder = Decoder(random_trm(make_backbone(), n=1, T=1, N_sup=2), max_drafts=2, graphs=True)
    with torch.no_grad():
        generate(decoder, [[1, 2, 3]], SamplingConfig(max_new_tokens=40, temperature=0))
    before = [0, *(count for count, _ in told)]
    assert [untold for _, untold in told] == [
        now > earlier for earlier, now in itertools.pairwise(before)
    ]
    # At most three lengths are drafted, each with two graphs, in at least 13 passes.
    assert not all(untold for _, untold in told)


@pytest.mark.gpu
@pytest.mark.parametrize("halting", [None, 0.6])
def test_cuda_graphs_give_the_tokens_of_passes_without(halting):
    model = random_trm(make_backbone(), n=2, T=1, N_sup=3).to("cuda")
    config = SamplingConfig(n=3, max_new_tokens=24, temperature=0.8)
    plain, graphed = (
        Decoder(model, max_drafts=2, halting_threshold=halting, graphs=graphs)
        for graphs in (False, True)
    )
    texts = [
        [[sample.tokens for sample in samples] for samples in found]
        for decoder in (plain, graphed, graphed)  # recorded, then replayed
        for found in [decoder.generate([[1, 2, 3], [4]], config)]
    ]
    assert texts[1] == texts[2] == texts[0]
