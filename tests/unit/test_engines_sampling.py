"""What may be drawn, against transformers' own warpers; and the draw itself."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mathllm.engines.sampling import (
    Rules,
    SamplingConfig,
    inverse_transform,
    measures,
    random_numbers,
)
from mathllm.errors import ParameterError

CPU = torch.device("cpu")
VOCABULARY = 40
configs = st.builds(
    SamplingConfig,
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 5, 39, 40, 1000]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
)


def theirs(config: SamplingConfig, logits: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """transformers' distribution [V] for one row."""
    steps = [RepetitionPenaltyLogitsProcessor(float(config.repetition_penalty))]
    steps.append(TemperatureLogitsWarper(float(config.temperature)))
    if config.top_k:
        steps.append(TopKLogitsWarper(config.top_k))
    if config.top_p < 1:
        steps.append(TopPLogitsWarper(config.top_p))
    if config.min_p:
        steps.append(MinPLogitsWarper(config.min_p))
    scores = logits[None].clone()
    for step in steps:
        scores = step(torch.tensor([ids]), scores)
    return scores.softmax(dim=-1)[0]


@given(st.lists(configs, min_size=1, max_size=5), st.integers(0, 2**31))
def test_what_may_be_drawn_is_transformers(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(rows), VOCABULARY, generator=generator) * 3
    ids = torch.randint(0, VOCABULARY, (len(rows), 6), generator=generator)
    seen = torch.zeros(len(rows), VOCABULARY, dtype=torch.bool).scatter(1, ids, True)
    found = Rules(rows, CPU).probabilities(logits, seen)
    for row, config in enumerate(rows):
        expected = theirs(config, logits[row], ids[row].tolist())
        torch.testing.assert_close(found[row], expected, atol=1e-6, rtol=1e-5)


def test_greedy_rows_stand_beside_others():
    logits = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]])
    rules = Rules([SamplingConfig(temperature=0), SamplingConfig()], CPU)
    p = rules.probabilities(logits)
    assert p[0].tolist() == [0.0, 1.0, 0.0]
    torch.testing.assert_close(p[1], logits[1].softmax(dim=-1))
    assert not rules.greedy
    assert Rules([SamplingConfig(temperature=0)], CPU).greedy


def test_draws_have_the_distribution():
    p = torch.tensor([0.6, 0.25, 0.0, 0.15])
    rows = 20_000
    uniform = torch.cat([random_numbers(seed, 1)[:, 0] for seed in range(rows)])
    counts = inverse_transform(p.expand(rows, -1), uniform).bincount(minlength=4)
    assert counts[2] == 0
    expected = p * rows
    seen = expected > 0
    chi_square = ((counts - expected)[seen] ** 2 / expected[seen]).sum().item()
    assert chi_square < 13.8  # 0.1 % of the chi-square distribution, 2 degrees of freedom


@given(st.integers(-(2**70), 2**70), st.integers(1, 50), st.integers(1, 50))
def test_random_numbers_do_not_change_with_the_length(seed, few, more):
    longer = random_numbers(seed, few + more)
    assert torch.equal(random_numbers(seed, few), longer[:few])
    assert ((longer >= 0) & (longer < 1)).all()


def test_measures_are_nats():
    logits = torch.log(torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]))
    logprobs, entropy = measures(logits, torch.tensor([0, 2]))
    torch.testing.assert_close(logprobs, torch.tensor([0.5, 0.5]).log())
    torch.testing.assert_close(
        entropy, torch.tensor([0.5, 0.25]).log().neg() * torch.tensor([1, 0.75])
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 0},
        {"max_new_tokens": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"repetition_penalty": 0},
        {"stop_sequences": ((),)},
    ],
)
def test_a_wrong_sampling_setting_is_named(wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        SamplingConfig(**wrong)
