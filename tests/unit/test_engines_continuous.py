"""Rows that come and go between passes: what a sample says depends on nothing but its seed."""

import gc
import random
import time
import weakref

import pytest
import torch

from helpers.models import make_backbone, random_trm
from mathllm.engines import BackboneDecoder, Decoder, SamplingConfig
from mathllm.engines.lanes import Lanes
from mathllm.errors import MemoryLimitError, ParameterError

KINDS = pytest.mark.parametrize("kind", [Decoder, BackboneDecoder])
SAMPLED = SamplingConfig(max_new_tokens=24, temperature=0.9)
GREEDY = SamplingConfig(max_new_tokens=24, temperature=0)


def model(**settings):
    return random_trm(make_backbone(), **({"n": 1, "T": 1, "N_sup": 2} | settings))


def finished(row):
    assert row.wait(60)
    return row.completion


def begun(row):
    """It has tokens, or its end."""
    while not (row.completion.tokens or row.done):
        time.sleep(0.001)


def alone(kind, trm, prompt, config, seed):
    (((sample),),) = kind(trm).generate([prompt], config, seeds=[[seed]])
    return sample


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize("case", range(4))
def test_rows_that_join_and_leave_say_what_they_say_alone(kind, case):
    draw, trm = random.Random(case), model()
    engine = kind(trm, graphs=False)
    jobs = []
    for number in range(9):
        # Some prompts twice: they share what is prefilled.
        size = draw.randint(1, 12)
        prompt = draw.choice([[1, 2, 3], [draw.randrange(32) for _ in range(size)]])
        config = draw.choice([SAMPLED, GREEDY])
        length = draw.randint(1, 24)
        config = SamplingConfig(max_new_tokens=length, temperature=config.temperature)
        jobs.append((prompt, config, number))
    running = [engine.start(*jobs[0])]
    for job in jobs[1:]:
        if draw.random() < 0.7:  # in the middle of the one before, or beside it
            begun(running[-1])
        running.append(engine.start(*job))
    for row, job in zip(running, jobs, strict=True):
        expected = alone(kind, trm, *job)
        assert finished(row).tokens == expected.tokens
        assert row.completion.finish_reason == expected.finish_reason
        assert row.completion.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


@pytest.mark.slow
@KINDS
def test_a_cancelled_row_leaves_and_the_others_go_on(kind):
    trm = model()
    engine = kind(trm)
    config = SamplingConfig(max_new_tokens=100, temperature=0.9)
    first, second = engine.start([1, 2], config, 1), engine.start([3], config, 2)
    begun(first)
    first.cancel()
    assert finished(first).finish_reason == "cancelled"
    assert 0 < len(first.completion.tokens) < 100
    assert finished(second).tokens == alone(kind, trm, [3], config, 2).tokens


@KINDS
def test_a_deadline_ends_a_row_that_runs_and_one_that_never_did(kind):
    engine = kind(model())
    late = SamplingConfig(max_new_tokens=100, deadline=time.monotonic() - 1)
    row = engine.start([1], late, 0)
    assert (finished(row).finish_reason, row.completion.tokens) == ("deadline", [])
    soon = SamplingConfig(max_new_tokens=100, deadline=time.monotonic() + 0.05)
    row = engine.start([1], soon, 0)
    assert finished(row).finish_reason in ("deadline", "length")


@KINDS
def test_what_breaks_a_pass_ends_its_rows_and_the_next_begin_anew(kind, monkeypatch):
    trm = model()
    engine = kind(trm)
    feed = Lanes.feed

    def broken(*_, **__):
        raise RuntimeError("injected")

    monkeypatch.setattr(Lanes, "feed", broken)
    row = engine.start([1, 2], SAMPLED, 1)
    assert finished(row).finish_reason == "fault"
    assert "injected" in str(row.fault)
    monkeypatch.setattr(Lanes, "feed", feed)
    assert finished(engine.start([1, 2], SAMPLED, 1)).tokens == (
        alone(kind, trm, [1, 2], SAMPLED, 1).tokens
    )


@pytest.mark.slow
@KINDS
def test_logits_that_are_no_numbers_leave_nothing_to_their_neighbours(kind, monkeypatch):
    """A row's lane may be another's next: NaN times a weight of 0 is NaN."""
    trm = model()
    expected = [alone(kind, trm, [5, seed], SAMPLED, seed).tokens for seed in range(4)]
    engine = kind(trm)
    prefill, poisoned = Lanes.prefill, []

    def poison(lanes, prompts, *rest):
        prefill(lanes, prompts, *rest)
        if not poisoned:  # the first lane of the first prefill
            poisoned.append(lanes)
            for store in lanes._stores:
                store.values[:, 0, : len(prompts[0])] = float("nan")

    monkeypatch.setattr(Lanes, "prefill", poison)
    first = engine.start([7, 7, 7, 7, 7, 7, 7, 7, 7], SAMPLED, 9)
    rows = [engine.start([5, seed], SAMPLED, seed) for seed in range(4)]
    assert finished(first).finish_reason == "nan"
    assert [finished(row).tokens for row in rows] == expected


@KINDS
def test_a_row_that_fits_nowhere_is_said_to_be_and_costs_no_other(kind):
    trm = model()
    small = SamplingConfig(max_new_tokens=4)
    engine = kind(trm, memory_bytes=int(1.5 * kind(trm).memory_plan(6).row))
    large = engine.start([1] * 30, SamplingConfig(max_new_tokens=30), 0)
    assert isinstance(large.fault, MemoryLimitError) or finished(large).finish_reason == "fault"
    assert isinstance(large.fault, MemoryLimitError)
    rows = [engine.start([1, 2], small, seed) for seed in range(3)]
    expected = [alone(kind, trm, [1, 2], small, seed).tokens for seed in range(3)]
    assert [finished(row).tokens for row in rows] == expected


@pytest.mark.slow
def test_memory_that_runs_out_while_one_joins_costs_no_token(monkeypatch):
    trm = model()
    engine = Decoder(trm)
    config = SamplingConfig(max_new_tokens=60, temperature=0.9)
    grown, calls = Lanes.grown, []

    def scarce(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("injected: out of memory")
        return grown(*arguments)

    monkeypatch.setattr(Lanes, "grown", scarce)
    first = engine.start([1, 2], config, 1)
    begun(first)
    second = engine.start([3, 4, 5], config, 2)
    for row, prompt, seed in ((first, [1, 2], 1), (second, [3, 4, 5], 2)):
        assert finished(row).tokens == alone(Decoder, trm, prompt, config, seed).tokens
        assert row.completion.finish_reason == "length"


@KINDS
def test_nothing_is_held_once_all_have_ended(kind, monkeypatch):
    made = []
    begin = Lanes.__init__

    def seen(lanes, *arguments):
        begin(lanes, *arguments)
        made.append(weakref.ref(lanes))

    monkeypatch.setattr(Lanes, "__init__", seen)
    engine = kind(model(), graphs=False)
    for row in [engine.start([1, 2], SAMPLED, seed) for seed in range(3)]:
        finished(row)
    engine.generate([[1, 2]], SAMPLED)
    deadline = time.monotonic() + 5
    while any(lanes() for lanes in made) and time.monotonic() < deadline:
        time.sleep(0.01)
        gc.collect()
    assert made
    assert not [lanes() for lanes in made if lanes()]


def test_a_prompt_that_cannot_be_is_refused_at_once():
    engine = Decoder(model())
    for prompt in ([], [10**6], [1] * 10_000):
        with pytest.raises(ParameterError, match="prompt 0"):
            engine.start(prompt, SAMPLED, 0)
