"""Memory that is planned, memory that runs out, logits that are no numbers."""

import logging

import pytest
import torch
from torch import nn

from helpers.models import make_backbone, random_trm
from mathllm.engines import BackboneDecoder, Decoder, SamplingConfig, trm
from mathllm.engines.lanes import Lanes
from mathllm.engines.memory import out_of_memory
from mathllm.engines.packed import PackedLinear, packed
from mathllm.errors import MemoryLimitError

PROMPTS = [[1, 2, 3, 4], [5, 6]]
CONFIG = SamplingConfig(n=3, max_new_tokens=15, temperature=0.9, stop_ids=frozenset(range(4)))


def tokens_of(found) -> list[list[list[int]]]:
    return [[sample.tokens for sample in samples] for samples in found]


def test_the_plan_counts_what_is_allocated():
    model = random_trm(make_backbone(), n=2, T=1, N_sup=3)
    decoder = Decoder(model, max_drafts=4)
    plan = decoder.memory_plan(tokens=20, rows=5)
    lanes = decoder.lanes(5, 20 + 4)
    stores = {"recursion": lanes._recursion, "backbone": lanes._backbone.store}
    for name, store in stores.items():
        assert getattr(plan, name) * 5 == store.keys.nbytes + store.values.nbytes
    assert lanes.bytes == 5 * (plan.recursion + plan.backbone)
    assert plan.row == plan.recursion + plan.backbone + plan.logits
    assert "5 rows need" in str(plan)


@pytest.mark.parametrize("kind", [Decoder, BackboneDecoder])
def test_a_batch_is_cut_to_what_fits(kind):
    model = random_trm(make_backbone(), n=1, T=1, N_sup=2)
    expected = kind(model).generate(PROMPTS, CONFIG)
    row = kind(model).memory_plan(4 + 15).row
    seen = []
    found = kind(model, memory_bytes=int(2.5 * row)).generate(
        PROMPTS, CONFIG, on_pass=lambda p: seen.append((p.live, p.waiting))
    )
    assert tokens_of(found) == tokens_of(expected)
    assert max(live for live, _ in seen) <= 2
    waiting = [waiting for _, waiting in seen]
    assert waiting == sorted(waiting, reverse=True)  # each gets its lane when one is free
    assert (waiting[0], waiting[-1]) == (4, 0)


@pytest.mark.parametrize("kind", [Decoder, BackboneDecoder])
def test_not_even_one_row_is_said_beforehand(kind):
    model = random_trm(make_backbone(), n=1, T=1, N_sup=2)
    with pytest.raises(MemoryLimitError, match=r"one row of .* needs .* are free: lower max_new"):
        kind(model, memory_bytes=1000).generate(PROMPTS, CONFIG)


@pytest.mark.parametrize("kind", [Decoder, BackboneDecoder])
def test_memory_that_runs_out_costs_no_token(kind, monkeypatch, caplog):
    """Greedy and drawn, in the middle of a batch and again in its half."""
    model = random_trm(make_backbone(), n=1, T=1, N_sup=2)
    expected = kind(model).generate(PROMPTS, CONFIG)
    decoder = kind(model)
    forward, calls, faults = decoder.model.backbone.model.forward, [], []

    def scarce(*args, **kwargs):
        calls.append(1)
        if len(calls) in (9, 14):
            faults.append(len(calls))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(*args, **kwargs)

    monkeypatch.setattr(decoder.model.backbone.model, "forward", scarce)
    seen = []
    with caplog.at_level(logging.WARNING):
        found = decoder.generate(PROMPTS, CONFIG, on_pass=lambda p: seen.append(p.tokens))
    assert faults == [9, 14]
    assert tokens_of(found) == tokens_of(expected)
    assert [s.finish_reason for row in found for s in row] == [
        s.finish_reason for row in expected for s in row
    ]
    assert seen == sorted(seen)  # no token is counted twice
    assert "going on with" in caplog.text
    assert "Tried to allocate" in caplog.text


def test_one_row_without_memory_ends_and_keeps_its_tokens(monkeypatch, caplog):
    model = random_trm(make_backbone(), n=1, T=1, N_sup=2)
    decoder = Decoder(model, max_drafts=0)
    ((whole,),) = decoder.generate([[1, 2]], SamplingConfig(max_new_tokens=8))
    feed, calls = Lanes.feed, []

    def scarce(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > 5:
            raise MemoryError("none left")
        return feed(self, *args, **kwargs)

    monkeypatch.setattr(Lanes, "feed", scarce)
    ((sample,),) = decoder.generate([[1, 2]], SamplingConfig(max_new_tokens=8))
    assert sample.finish_reason == "memory"
    assert sample.tokens == whole.tokens[:4]  # one call was the prefill
    assert "one row" in caplog.text


def test_other_faults_are_raised(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Lanes, "feed", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        Decoder(random_trm(make_backbone(), N_sup=1)).generate([[1, 2]], CONFIG)


def test_torchs_own_words_for_no_memory_are_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert out_of_memory(caught.value)
    for said in (
        "CUDA error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
    ):
        assert out_of_memory(RuntimeError(said))
    assert not out_of_memory(RuntimeError("shapes do not match"))
    assert not out_of_memory(ValueError("can't allocate memory"))


@pytest.mark.parametrize("drafts", [0, 8])
@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_without_numbers_ends_and_the_others_go_on(drafts, temperature, value, monkeypatch):
    model = random_trm(make_backbone(), std=0.05, n=1, T=1, N_sup=2)
    config = SamplingConfig(n=1, max_new_tokens=12, temperature=temperature)
    decoder = Decoder(model, max_drafts=drafts)
    expected = decoder.generate(PROMPTS, config)
    verify, calls = trm.verify, []

    def poisoned(rules, logits, *rest):
        calls.append(1)
        if len(calls) == 2:
            logits[0, 0, 5] = value
        return verify(rules, logits, *rest)

    monkeypatch.setattr(trm, "verify", poisoned)
    (broken,), (whole,) = decoder.generate(PROMPTS, config)
    assert broken.finish_reason == "nan"
    assert 0 < len(broken.tokens) < 12
    assert broken.tokens == expected[0][0].tokens[: len(broken.tokens)]
    assert whole.tokens == expected[1][0].tokens
    assert whole.finish_reason == "length"


def test_the_backbone_engine_ends_rows_without_numbers(monkeypatch):
    model = random_trm(make_backbone(tie_word_embeddings=False), n=1, T=1, N_sup=1)
    engine = BackboneDecoder(model)
    head = engine.model.backbone.lm_head
    forward, calls = head.forward, []

    def poisoned(h):
        calls.append(1)
        logits = forward(h)
        if len(calls) == 3:
            logits[1] = torch.nan
        return logits

    monkeypatch.setattr(head, "forward", poisoned)
    config = SamplingConfig(max_new_tokens=6, temperature=0)
    (whole,), (broken,) = engine.generate(PROMPTS, config)
    assert (whole.finish_reason, len(whole.tokens)) == ("length", 6)
    assert (broken.finish_reason, len(broken.tokens)) == ("nan", 2)


def test_packed_layers_give_the_same_numbers_and_share_the_rest():
    model = random_trm(make_backbone(tie_word_embeddings=True), n=1, T=1, N_sup=1)
    copy = packed(model)
    assert isinstance(copy.network.layers[0].swiglu.down, PackedLinear)
    assert isinstance(copy.backbone.lm_head, PackedLinear)
    assert not any(isinstance(part, PackedLinear) for part in model.modules())
    theirs, ours = model.backbone.model.embed_tokens, copy.backbone.model.embed_tokens
    assert ours.weight.data_ptr() == theirs.weight.data_ptr()
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    torch.testing.assert_close(copy.logits(ids), model.logits(ids), atol=1e-4, rtol=1e-4)


def test_nothing_is_packed_without_the_memory_for_it(monkeypatch):
    model = random_trm(make_backbone(), n=1, T=1, N_sup=1)
    monkeypatch.setattr("mathllm.engines.packed.free_memory", lambda: 100_000)
    assert packed(model) is model


def test_layers_in_16_bits_are_left_alone():
    layer = nn.Sequential(nn.Linear(32, 32).bfloat16(), nn.Linear(32, 1))
    assert packed(layer) is layer
