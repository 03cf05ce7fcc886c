"""Cached, batched, left-padded decoding against recomputing everything for every token."""

import time

import pytest
import torch
from conftest import make_backbone
from hypothesis import given
from hypothesis import strategies as st
from test_trm import random_trm

from mathllm.decoding import BackboneDecoder, Decoder, SamplingConfig
from mathllm.decoding.sampling import draw, nucleus
from mathllm.errors import ParameterError
from mathllm.trm import RecursiveLM


def naive_greedy(model: RecursiveLM, prompt: list[int], limit: int, stop: frozenset) -> list[int]:
    """Every token from scratch, by the reference."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + limit:
        tokens.append(int(model.logits(torch.tensor([tokens]))[0, -1].argmax()))
        if tokens[-1] in stop:
            break
    return tokens[len(prompt) :]


@pytest.mark.parametrize("mixer", ["attention", "none"])
@pytest.mark.parametrize("case", range(4))
def test_greedy_tokens_equal_the_uncached_ones(backbone, mixer, case):
    generator = torch.Generator().manual_seed(case)
    n, T, N_sup, layers = torch.randint(1, 4, (4,), generator=generator).tolist()
    model = random_trm(backbone, seed=case, n=n, T=T, N_sup=N_sup, layers=layers, mixer=mixer)
    lengths = torch.randint(1, 20, (3,), generator=generator).tolist()
    prompts = [torch.randint(0, 97, (size,), generator=generator).tolist() for size in lengths]
    stop = frozenset(range(0, 97, 12))
    config = SamplingConfig(n=2, max_new_tokens=10, temperature=0, stop_ids=stop)
    for prompt, samples in zip(prompts, Decoder(model).generate(prompts, config), strict=True):
        expected = naive_greedy(model, prompt, 10, stop)
        for sample in samples:
            assert sample.tokens == expected
            assert sample.finish_reason == ("stop" if expected[-1] in stop else "length")
            assert sample.supervision_steps_used == N_sup * len(expected)


def test_log_probability_and_entropy_are_the_models_own():
    model = random_trm(make_backbone(), n=1, T=2, N_sup=2)
    prompt = [5, 6, 7]
    config = SamplingConfig(max_new_tokens=6, temperature=0.5, top_p=0.9, seed=4)
    ((sample,),) = Decoder(model).generate([prompt], config)
    logits = model.logits(torch.tensor([prompt + sample.tokens]))[0, 2:-1]
    expected = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(
        torch.tensor(sample.logprobs),
        expected.log_prob(torch.tensor(sample.tokens)),
        atol=1e-4,
        rtol=1e-4,
    )
    torch.testing.assert_close(
        torch.tensor(sample.entropy), expected.entropy(), atol=1e-4, rtol=1e-4
    )


def test_a_sample_does_not_change_with_its_neighbours():
    model = random_trm(make_backbone(), n=1, T=1, N_sup=2)
    prompts = [[1, 2, 3], list(range(20)), [9]]
    config = SamplingConfig(n=3, max_new_tokens=12, temperature=1.0, stop_ids=frozenset({0, 1}))
    seeds = [[10, 11, 12], [20, 21, 22], [30, 31, 32]]
    together = Decoder(model).generate(prompts, config, seeds)
    one = SamplingConfig(n=1, max_new_tokens=12, temperature=1.0, stop_ids=frozenset({0, 1}))
    for prompt, row, samples in zip(prompts, seeds, together, strict=True):
        for seed, sample in zip(row, samples, strict=True):
            ((alone,),) = Decoder(model).generate([prompt], one, [[seed]])
            assert alone.tokens == sample.tokens


def test_the_backbone_engine_is_transformers_greedy(backbone):
    model = random_trm(backbone, n=1, T=1, N_sup=1)
    prompt = [3, 1, 4, 1, 5]
    config = SamplingConfig(max_new_tokens=10, temperature=0)
    ((sample,),) = BackboneDecoder(model).generate([prompt], config)
    theirs = backbone.generate(
        torch.tensor([prompt]),
        max_new_tokens=10,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert sample.tokens == theirs[0, 5:].tolist()


def test_generation_ends_at_the_last_position():
    model = random_trm(make_backbone(max_position_embeddings=16), n=1, T=1, N_sup=1)
    config = SamplingConfig(max_new_tokens=50, temperature=0)
    ((sample,),) = Decoder(model).generate([list(range(10))], config)
    assert len(sample.tokens) == 6
    assert sample.finish_reason == "length"


def test_a_passed_deadline_gives_empty_completions_at_once():
    model = random_trm(make_backbone(), n=1, T=1, N_sup=1)
    config = SamplingConfig(n=2, deadline=time.monotonic() - 1)
    (samples,) = Decoder(model).generate([[1, 2]], config)
    assert [(s.tokens, s.finish_reason) for s in samples] == [([], "deadline")] * 2


@pytest.mark.parametrize(
    ("prompts", "named"),
    [
        ([], "no prompts"),
        ([[1], []], "prompt 1 is empty"),
        ([[97]], "outside 0…96"),
        ([[-1]], "outside 0…96"),
        ([[1] * 128], "128 tokens .* 128 positions"),
    ],
)
def test_a_wrong_prompt_is_named(prompts, named):
    with pytest.raises(ParameterError, match=named):
        Decoder(random_trm(make_backbone(), N_sup=1)).generate(prompts, SamplingConfig())


@pytest.mark.parametrize(
    "wrong", [{"n": 0}, {"max_new_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}]
)
def test_a_wrong_sampling_setting_is_named(wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        SamplingConfig(**wrong)


@given(
    st.lists(st.floats(0.001, 1), min_size=1, max_size=30),
    st.floats(0.01, 0.99),
)
def test_the_nucleus_is_the_smallest_set_that_holds_top_p(weights, top_p):
    p = torch.tensor([weights], dtype=torch.float64)
    p = p / p.sum()
    kept = nucleus(p, top_p)[0] > 0
    mass = p[0][kept].sum()
    assert mass >= top_p - 1e-9
    assert mass - p[0][kept].min() < top_p + 1e-9
    assert p[0][kept].min() >= p[0][~kept].max() if (~kept).any() else True


def test_draws_have_the_distribution_of_temperature_and_top_p():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    config = SamplingConfig(temperature=0.8, top_p=0.95)
    rows = 20_000
    streams = [torch.Generator().manual_seed(i) for i in range(rows)]
    tokens, _, _ = draw(logits.expand(rows, -1), config, streams)
    expected = nucleus((logits / 0.8).softmax(-1)[None], 0.95)[0] * rows
    counts = tokens.bincount(minlength=4)
    assert counts[expected == 0].sum() == 0
    seen = expected > 0
    chi_square = ((counts - expected)[seen] ** 2 / expected[seen]).sum().item()
    assert chi_square < 13.8  # 0.1 % of the chi-square distribution, 2 degrees of freedom
