"""Cached, batched, left-padded, drafted decoding against recomputing everything."""

import random
from threading import Event

import pytest
import torch

from helpers import naive_decoding as naive
from helpers.models import make_backbone, random_trm
from mathllm.engines import BackboneDecoder, Decoder, SamplingConfig
from mathllm.engines.lanes import Lanes
from mathllm.engines.speculation import DraftLength
from mathllm.errors import ParameterError


def prompts_of(draw: random.Random, model, count: int, longest: int = 20) -> list[list[int]]:
    vocabulary = model.config.vocab_size
    lengths = [draw.randint(1, longest) for _ in range(count)]
    return [[draw.randrange(vocabulary) for _ in range(length)] for length in lengths]


@pytest.mark.parametrize(
    "case", [0, *(pytest.param(case, marks=pytest.mark.slow) for case in range(1, 10))]
)
def test_greedy_tokens_equal_the_uncached_ones(case, monkeypatch):
    """20 cases each, 200 in all: shapes, recursions, prompts, batches, drafts, early ends."""
    draw = random.Random(case)
    monkeypatch.setattr(DraftLength, "choose", naive.random_lengths(draw))
    stood = fell = 0
    for _ in range(20):
        model = naive.random_model(draw)
        prompts = prompts_of(draw, model, draw.randint(1, 3))
        stop = frozenset(range(0, model.config.vocab_size, draw.choice([5, 20])))
        limit = draw.randint(1, 9)
        config = SamplingConfig(
            n=draw.randint(1, 3), max_new_tokens=limit, temperature=0, stop_ids=stop
        )
        decoder = Decoder(model, max_drafts=draw.choice([0, 2, 16]))
        for prompt, samples in zip(prompts, decoder.generate(prompts, config), strict=True):
            expected = naive.greedy(model, prompt, limit, stop)
            for sample in samples:
                assert sample.tokens == expected
                assert sample.finish_reason == ("stop" if expected[-1] in stop else "length")
                assert sample.supervision_steps_used == model.config.N_sup * len(expected)
                stood += sample.accepted
                fell += sample.drafted - sample.accepted
    assert stood > 0  # both happened, or the drafts were not tested
    assert fell > 0


@pytest.mark.parametrize("case", range(6))
def test_logits_equal_the_uncached_ones_after_rollbacks(case):
    draw = random.Random(case)
    model = naive.random_model(draw, N_sup=3)
    first, second = prompts_of(draw, model, 2)
    vocabulary = model.config.vocab_size
    texts = [
        row + [draw.randrange(vocabulary) for _ in range(40)] for row in (first, second, second)
    ]
    reference = [model.logits(torch.tensor([text]))[0] for text in texts]
    lanes = Lanes(model, 3, 80, 3, None)
    lanes.prefill([first, second], [len(first), len(second)], [0, 1, 1])
    at = [len(first), len(second), len(second)]
    with torch.inference_mode():
        for _ in range(7):
            size = draw.randint(1, 5)
            right = [draw.randint(1, size) for _ in at]  # then drafts that are wrong
            tokens = torch.tensor(
                [
                    text[start : start + count] + [0] * (size - count)
                    for text, start, count in zip(texts, at, right, strict=True)
                ]
            )
            columns = lanes.window(size)
            h, _ = lanes.feed(tokens, columns)
            logits = model.head(lanes.refine(h, columns)[0])
            for row, (start, count) in enumerate(zip(at, right, strict=True)):
                torch.testing.assert_close(
                    logits[row, :count], reference[row][start : start + count], atol=1e-4, rtol=1e-4
                )
            lanes.advance(right)
            at = [start + count for start, count in zip(at, right, strict=True)]


def test_log_probability_and_entropy_are_the_models_own():
    model = random_trm(make_backbone(), n=1, T=2, N_sup=2)
    prompt = [5, 6, 7]
    config = SamplingConfig(max_new_tokens=6, temperature=0.5, top_p=0.9, seed=4)
    for engine in (Decoder(model), Decoder(model, max_drafts=0), BackboneDecoder(model)):
        ((sample,),) = engine.generate([prompt], config)
        ids = torch.tensor([prompt + sample.tokens])
        theirs = isinstance(engine, BackboneDecoder)
        logits = (model.backbone(ids).logits if theirs else model.logits(ids))[0, 2:-1]
        expected = torch.distributions.Categorical(logits=logits)
        tokens = torch.tensor(sample.tokens)
        close = {"atol": 1e-4, "rtol": 1e-4}
        torch.testing.assert_close(
            torch.tensor(sample.logprobs), expected.log_prob(tokens), **close
        )
        torch.testing.assert_close(torch.tensor(sample.entropy), expected.entropy(), **close)


@pytest.mark.slow
@pytest.mark.parametrize("drafts", [0, 3, 16])
def test_a_sample_depends_on_neither_neighbours_nor_drafts(drafts, monkeypatch):
    """8 prompts of unequal length, left-padded in one batch, give each what it gets alone."""
    model = random_trm(make_backbone(), std=0.05, n=1, T=1, N_sup=2)
    draw = random.Random(3)
    prompts = prompts_of(draw, model, 8, longest=30)
    settings = {"max_new_tokens": 12, "temperature": 1.0, "stop_ids": frozenset({0, 1})}
    seeds = [[10 * p + i for i in range(3)] for p in range(8)]
    decoder = Decoder(model, max_drafts=drafts)
    monkeypatch.setattr(DraftLength, "choose", naive.random_lengths(draw))
    together = decoder.generate(prompts, SamplingConfig(n=3, **settings), seeds)
    for prompt, row, samples in zip(prompts, seeds, together, strict=True):
        for seed, sample in zip(row, samples, strict=True):
            ((alone,),) = decoder.generate([prompt], SamplingConfig(**settings), [[seed]])
            assert alone.tokens == sample.tokens


def test_every_prompt_may_have_settings_of_its_own():
    model = random_trm(make_backbone(), n=1, T=1, N_sup=2)
    prompts = [[1, 2, 3], [4], [5, 6]]
    configs = [
        SamplingConfig(n=2, max_new_tokens=9, temperature=0, repetition_penalty=1.4),
        SamplingConfig(n=1, max_new_tokens=4, temperature=0.7, top_k=5, seed=7),
        SamplingConfig(n=1, max_new_tokens=7, temperature=1.2, min_p=0.1, top_p=0.8, seed=8),
    ]
    seeds = [[1, 2], [3], [4]]
    for engine in (Decoder(model), BackboneDecoder(model)):
        together = engine.generate(prompts, configs, seeds)
        assert [len(samples) for samples in together] == [2, 1, 1]
        for number, (prompt, config) in enumerate(zip(prompts, configs, strict=True)):
            (alone,) = engine.generate([prompt], config, [seeds[number]])
            assert [s.tokens for s in alone] == [s.tokens for s in together[number]]


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_the_backbone_engine_is_transformers_greedy(backbone, penalty):
    model = random_trm(backbone, n=1, T=1, N_sup=1)
    prompts = [[3, 1, 4, 1, 5], [9, 2]]
    backbone.generation_config.repetition_penalty = 1.9  # a backbone's own is not ours
    config = SamplingConfig(max_new_tokens=10, temperature=0, repetition_penalty=penalty)
    found = BackboneDecoder(model).generate(prompts, config)
    assert backbone.generation_config.repetition_penalty == 1.9
    for prompt, (sample,) in zip(prompts, found, strict=True):
        theirs = backbone.generate(
            torch.tensor([prompt]),
            max_new_tokens=10,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            repetition_penalty=penalty,
        )
        assert sample.tokens == theirs[0, len(prompt) :].tolist()
        assert sample.finish_reason == "length"


@pytest.mark.parametrize("engine", [Decoder, BackboneDecoder])
def test_generation_ends_at_the_last_position(engine):
    model = random_trm(make_backbone(max_position_embeddings=16), n=1, T=1, N_sup=1)
    config = SamplingConfig(max_new_tokens=50, temperature=0)
    found = engine(model).generate([list(range(10)), [1] * 15], config)
    assert [len(sample.tokens) for (sample,) in found] == [6, 1]
    assert {sample.finish_reason for (sample,) in found} == {"length"}


@pytest.mark.parametrize("engine", [Decoder, BackboneDecoder])
def test_a_stop_sequence_ends_a_completion_and_is_part_of_it(engine):
    model = random_trm(make_backbone(), n=1, T=1, N_sup=1)
    free = SamplingConfig(max_new_tokens=20, temperature=1.0, seed=3)
    ((whole,),) = engine(model).generate([[1, 2]], free)
    stop = tuple(whole.tokens[6:9])
    config = SamplingConfig(
        max_new_tokens=20, temperature=1.0, seed=3, stop_sequences=((0, 0, 0, 0), stop)
    )
    ((sample,),) = engine(model).generate([[1, 2]], config)
    assert sample.tokens == whole.tokens[: len(sample.tokens)]
    assert tuple(sample.tokens[-3:]) == stop
    assert sample.finish_reason == "stop"


@pytest.mark.parametrize("engine", [Decoder, BackboneDecoder])
def test_a_passed_deadline_gives_empty_completions_at_once(engine, monkeypatch):
    model = random_trm(make_backbone(), n=1, T=1, N_sup=1)
    monkeypatch.setattr(model.backbone, "forward", None)  # must not be called
    (samples,) = engine(model).generate([[1, 2]], SamplingConfig(n=2, deadline=0.0))
    assert [(s.tokens, s.finish_reason) for s in samples] == [([], "deadline")] * 2


@pytest.mark.parametrize("engine", [Decoder, BackboneDecoder])
def test_the_cancel_flag_is_seen_after_every_pass(engine):
    model = random_trm(make_backbone(), n=1, T=1, N_sup=1)
    cancel = Event()
    seen = []

    def told(progress):
        seen.append((progress.passes, progress.live, progress.tokens))
        assert sum(len(s.tokens) for row in progress.completions for s in row) == progress.tokens
        if progress.passes == 3:
            cancel.set()

    config = SamplingConfig(n=2, max_new_tokens=40, cancel=cancel)
    (samples,) = engine(model).generate([[1, 2]], config, on_pass=told)
    assert [s.finish_reason for s in samples] == ["cancelled"] * 2
    assert [passes for passes, _, _ in seen] == [1, 2, 3]
    assert sum(len(s.tokens) for s in samples) == seen[-1][2] > 0


@pytest.mark.parametrize("engine", [Decoder, BackboneDecoder])
@pytest.mark.parametrize(
    ("prompts", "named"),
    [
        ([], "no prompts"),
        ([[1], []], "prompt 1 is empty"),
        ([[97]], "outside 0…96"),
        ([[-1]], "outside 0…96"),
        ([[1] * 128], "128 tokens .* 128 positions"),
        ([[1] * 500], "500 tokens .* 128 positions"),
    ],
)
def test_a_wrong_prompt_is_named(engine, prompts, named):
    with pytest.raises(ParameterError, match=named):
        engine(random_trm(make_backbone(), N_sup=1)).generate(prompts, SamplingConfig())


def test_configs_and_seeds_must_fit_the_prompts():
    decoder = Decoder(random_trm(make_backbone(), N_sup=1))
    with pytest.raises(ParameterError, match="2 configs given for 1 prompts"):
        decoder.generate([[1]], [SamplingConfig()] * 2)
    with pytest.raises(ParameterError, match="seeds given for"):
        decoder.generate([[1]], SamplingConfig(n=2), seeds=[[1]])


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"max_drafts": -1}, "max_drafts is -1"),
        ({"halting_threshold": 0.0}, "halting_threshold is 0.0"),
        ({"halting_threshold": 1.5}, "halting_threshold is 1.5"),
        ({"supervision_steps": 0}, "N_sup is 0"),
    ],
)
def test_a_wrong_decoder_setting_is_named(wrong, named):
    with pytest.raises(ParameterError, match=named):
        Decoder(random_trm(make_backbone(), N_sup=1), **wrong)


def test_supervision_steps_may_be_others_than_the_models():
    model = random_trm(make_backbone(), n=1, T=1, N_sup=2)
    prompt = [4, 5, 6]
    ((sample,),) = Decoder(model, supervision_steps=5).generate(
        [prompt], SamplingConfig(max_new_tokens=5, temperature=0)
    )
    tokens = torch.tensor([prompt + sample.tokens])
    expected = model.logits(tokens, supervision_steps=5)[0, 2:-1].argmax(dim=-1)
    assert sample.tokens == expected.tolist()
    assert sample.supervision_steps_used == 25
