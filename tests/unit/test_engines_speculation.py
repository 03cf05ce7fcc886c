"""Drafts by the backbone, verified by the recursion: the same distribution, whatever k."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from helpers import naive_decoding as naive
from helpers.models import make_backbone, random_trm
from mathllm.engines import Decoder, SamplingConfig, speculation
from mathllm.engines.sampling import inverse_transform, random_numbers
from mathllm.engines.speculation import DraftLength, settle

DRAWS = 20_000
VOCABULARY = 6


def p_value(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """Of Pearson's chi-square test; cells with less than 5 expected are put together."""
    counts, expected = counts.flatten().double(), expected.flatten().double()
    rare = expected < 5
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    if expected[-1] < 5:
        counts, expected = counts[:-1], expected[:-1]
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    return float(chi2.sf(statistic, len(counts) - 1))


def always(p, q, drafts, uniform):  # noqa: ARG001
    """Broken: every draft stands."""
    return drafts, torch.ones_like(drafts, dtype=torch.bool)


def from_p(p, q, drafts, uniform):
    """Broken: what replaces a draft is drawn from p, not from what q left of it."""
    _, stands = settle(p, q, drafts, uniform)
    return torch.where(stands, drafts, inverse_transform(p, uniform[:, 2])), stands


@pytest.fixture(scope="module")
def small():
    """A model with few tokens that agrees with its backbone in part, and what it says.

    Expected counts [V, V, V] of DRAWS samples of three tokens.
    """
    backbone = make_backbone(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_hidden_layers=1,
    )
    model = random_trm(backbone, seed=2, std=0.12, n=1, T=1, N_sup=2, layers=1)
    prompt = [1, 2, 3]
    p = torch.ones(1)
    for length in range(3):
        texts = torch.cartesian_prod(*[torch.arange(VOCABULARY)] * length) if length else None
        ids = torch.tensor([prompt]).expand(VOCABULARY**length, -1)
        if length:
            ids = torch.cat([ids, texts.reshape(-1, length)], dim=1)
        q = (model.logits(ids)[:, -1] / 0.8).softmax(dim=-1)
        p = (p.reshape(-1, 1) * q).flatten()
    return model, prompt, p * DRAWS


def counted(model, prompt, max_drafts) -> torch.Tensor:
    """How often each three tokens came, [V · V · V]; the samples go by their seeds."""
    config = SamplingConfig(n=DRAWS, max_new_tokens=3, temperature=0.8)
    (samples,) = Decoder(model, max_drafts=max_drafts).generate([prompt], config)
    text = torch.tensor([sample.tokens for sample in samples])
    place = text @ torch.tensor([VOCABULARY**2, VOCABULARY, 1])
    return place.bincount(minlength=VOCABULARY**3)


@pytest.mark.slow
@pytest.mark.parametrize("drafts", [0, 1, 2])
def test_sampled_text_has_the_recursions_distribution(small, drafts, monkeypatch):
    model, prompt, expected = small
    monkeypatch.setattr(DraftLength, "choose", lambda _, room: min(drafts, room - 1))
    assert p_value(counted(model, prompt, drafts), expected) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("broken", [always, from_p])
def test_a_broken_acceptance_rule_is_seen(small, broken, monkeypatch):
    """The test above, which must fail here."""
    model, prompt, expected = small
    monkeypatch.setattr(DraftLength, "choose", lambda _, room: min(2, room - 1))
    monkeypatch.setattr(speculation, "settle", broken)
    assert p_value(counted(model, prompt, 2), expected) < 1e-6


@given(st.integers(0, 2**31), st.integers(2, 6))
def test_a_draft_of_the_same_distribution_stands(seed, vocabulary):
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(1, vocabulary, generator=generator).softmax(dim=-1)
    draft = torch.randint(0, vocabulary, (1,), generator=generator)
    token, stands = settle(p, p, draft, random_numbers(seed, 1))
    assert bool(stands)
    assert token.tolist() == draft.tolist()


@given(st.integers(0, 2**31))
def test_a_draft_that_cannot_be_is_replaced(seed):
    p = torch.tensor([[0.0, 0.5, 0.5]])
    q = torch.tensor([[1.0, 0.0, 0.0]])
    token, stands = settle(p, q, torch.tensor([0]), random_numbers(seed, 1))
    assert not bool(stands)
    assert token.item() in (1, 2)


@pytest.mark.parametrize("case", range(3))
def test_a_sample_does_not_depend_on_how_many_tokens_are_drafted(case, monkeypatch):
    draw = random.Random(case)
    model = naive.random_model(draw)
    config = SamplingConfig(
        n=4, max_new_tokens=25, temperature=0.9, top_p=0.9, repetition_penalty=1.1, seed=case
    )
    decoder = Decoder(model)
    found = []
    for _ in range(3):
        monkeypatch.setattr(DraftLength, "choose", naive.random_lengths(draw))
        (samples,) = decoder.generate([[1, 2, 3]], config)
        found.append([sample.tokens for sample in samples])
    assert found[0] == found[1] == found[2]


def play(share: float, fixed: float, each: float, passes: int = 60) -> list[int]:
    """Draft lengths over passes where drafts stand with probability `share`."""
    draw = random.Random(1)
    length, chosen = DraftLength(16), []
    for _ in range(passes):
        k = length.choose(room=100)
        kept = 0
        while kept < k and draw.random() < share:
            kept += 1
        length.observe(k, [kept], fixed + each * k)
        chosen.append(k)
    return chosen


def test_the_draft_length_follows_what_drafts_bring_and_cost():
    settled = slice(20, None)
    assert min(play(0.98, fixed=1.0, each=0.02)[settled]) >= 8  # nearly all stand, nearly free
    assert sum(k == 0 for k in play(0.02, fixed=1.0, each=0.5)[settled]) > 30  # not worth it
    middling = sorted(play(0.8, fixed=1.0, each=0.2)[settled])
    assert 2 <= middling[len(middling) // 2] <= 6


def test_drafts_are_tried_again_once_they_pay():
    length = DraftLength(16)
    for _ in range(40):
        k = length.choose(room=100)
        length.observe(k, [0], 1.0 + k)
    for _ in range(400):
        k = length.choose(room=100)
        length.observe(k, [k], 1.0 + 0.01 * k)
    assert length.choose(room=100) >= 8


@given(st.integers(1, 20), st.integers(0, 16))
def test_no_more_is_drafted_than_there_is_room_for(room, most):
    assert 0 <= DraftLength(most).choose(room) <= min(most, room - 1)
