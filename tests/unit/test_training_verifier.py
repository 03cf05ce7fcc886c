"""The halting head as a verifier: taught on whole answers, and nothing else moves."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from helpers.models import make_backbone, random_trm
from helpers.scripted import make_tokenizer
from mathllm.engines import Decoder
from mathllm.errors import ParameterError
from mathllm.evaluation.statistics import pairs_told
from mathllm.tokens.rows import Example, TokenSet
from mathllm.training.verifier import drawn_answers, teach_verifier
from mathllm.trm import load_checkpoint, save_checkpoint

ANSWERS = (7, 11)  # a token that right answers are made of, and one of wrong ones


def written(seed: int, count: int) -> tuple[TokenSet, np.ndarray]:
    """Answers of several lengths whose own tokens say whether they are right."""
    rng = np.random.default_rng(seed)
    right = rng.random(count) < 0.7
    rows = [
        Example([*rng.integers(20, 60, size=5), *[ANSWERS[int(not r)]] * rng.integers(2, 7)], 5)
        for r in right
    ]
    return TokenSet.of(rows), right


def sureness(model, data: TokenSet) -> np.ndarray:
    """The head's mean logit over the answer, behind its first token."""
    means = []
    for row in data:
        ids = torch.tensor(np.array(row.tokens))[None].long()
        y = model.refine(*model.encode(ids))
        means.append(model.halting_logit(y)[0, row.prompt : -1].mean().item())
    return np.array(means)


def test_it_learns_which_answers_are_right_and_moves_nothing_else(tmp_path):
    backbone = make_backbone()
    model = random_trm(backbone, std=0.01, n=1, T=1, N_sup=2)
    before = {name: p.clone() for name, p in model.trm_parameters()}
    data, right = written(1, 120)
    losses = teach_verifier(model, data, right, padding=0, epochs=12, lr=0.05, batch=400)
    share = right.mean()
    assert losses[-1] < 0.7 * -(share * np.log(share) + (1 - share) * np.log(1 - share))
    changed = {n for n, p in model.trm_parameters() if not torch.equal(p, before[n])}
    assert changed == {"halting.weight", "halting.bias"}
    fresh, truth = written(2, 60)
    scores = sureness(model, fresh)
    told, pairs = pairs_told([scores], [truth])
    assert told.sum() > 0.95 * pairs.sum()
    save_checkpoint(model, tmp_path / "trm")
    assert load_checkpoint(backbone, tmp_path / "trm").config.verifier


def test_the_first_loss_is_the_naive_one():
    model = random_trm(make_backbone(), n=1, T=1, N_sup=2).double()
    data, right = written(3, 9)
    found = teach_verifier(model, data, right, padding=0, epochs=1, lr=1e-9, batch=10_000)
    # The head begins with the share of right rows, whatever it reads.
    share = right.mean()
    expected = np.where(right, -np.log(share), -np.log(1 - share)).mean()
    assert found == [pytest.approx(expected, rel=1e-6)]


def test_no_token_halts_by_a_verifier():
    model = random_trm(make_backbone(), n=1, T=1, N_sup=2)
    model.config = replace(model.config, halting_threshold=0.9)
    teach_verifier(model, *written(1, 20), padding=0, epochs=1)
    assert model.config.halting_threshold is None
    with pytest.raises(ParameterError, match=r"halting_threshold is 0\.9.*verifier"):
        Decoder(model, halting_threshold=0.9)


def test_drawn_samples_become_rows_of_their_own_tokens():
    tokenizer = make_tokenizer()
    table = pl.DataFrame(
        {
            "prompt": ["What is 1+1?"] * 3,
            "text": ["It is 2.", "", "It is 3."],
            "right": [True, False, False],
        }
    )
    data, right = drawn_answers(table, tokenizer)
    assert right.tolist() == [True, False]
    assert [tokenizer.decode(row.labels()) for row in data] == ["It is 2.", "It is 3."]
    with pytest.raises(ParameterError, match="1 of 1 samples are right"):
        drawn_answers(table[:1], tokenizer)


def test_a_verdict_is_wanted_for_each_row():
    data, right = written(1, 10)
    with pytest.raises(ParameterError, match="9 verdicts for 10 rows"):
        teach_verifier(random_trm(make_backbone()), data, right[1:], padding=0)
