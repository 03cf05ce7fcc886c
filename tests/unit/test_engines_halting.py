"""Tokens that freeze when the halting head says so, against the definition."""

import random

import pytest
import torch

from helpers import naive_decoding as naive
from helpers.models import make_backbone, random_trm
from mathllm.engines import Decoder, SamplingConfig
from mathllm.engines.speculation import DraftLength
from mathllm.errors import ParameterError
from mathllm.evaluation.halting import disagreement
from mathllm.trm import load_checkpoint, save_checkpoint


@pytest.mark.parametrize("case", range(12))
def test_halted_decoding_equals_its_definition(case, monkeypatch):
    """Batches, drafts and rollbacks together with halting, for random models."""
    draw = random.Random(case)
    model = naive.random_model(draw, N_sup=draw.randint(2, 4))
    model.halting.weight.data.mul_(3)  # some sure, some not
    vocabulary = model.config.vocab_size
    prompts = [[draw.randrange(vocabulary) for _ in range(size)] for size in (1, 7, 12)]
    monkeypatch.setattr(DraftLength, "choose", naive.random_lengths(draw))
    decoder = Decoder(model, halting_threshold=0.6)
    config = SamplingConfig(n=2, max_new_tokens=8, temperature=0)
    used = 0
    for prompt, samples in zip(prompts, decoder.generate(prompts, config), strict=True):
        tokens, steps = naive.greedy_halting(model, prompt, 8, 0.6)
        for sample in samples:
            assert sample.tokens == tokens
            assert sample.supervision_steps_used == steps
        used += steps
    every = model.config.N_sup * 8 * len(prompts)
    assert 8 * len(prompts) <= used <= every
    if case == 0:
        assert 8 * len(prompts) < used < every  # some halted early and some did not


def test_halting_saves_work():
    model = random_trm(make_backbone(), n=1, T=1, N_sup=4)
    model.halting.weight.data.zero_()
    model.halting.bias.data.fill_(5.0)  # always sure
    calls = []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    counts = {}
    for threshold in (None, 0.9):
        calls.clear()
        decoder = Decoder(model, max_drafts=0, halting_threshold=threshold)
        ((sample,),) = decoder.generate([[1]], SamplingConfig(max_new_tokens=5, temperature=0))
        counts[threshold] = (len(calls), sample.supervision_steps_used)
    assert counts == {None: (5 * 4 * 2, 20), 0.9: (5 * 2, 5)}


def test_the_checkpoint_says_whether_tokens_halt(tmp_path):
    backbone = make_backbone()
    for threshold in (None, 0.8):
        model = random_trm(backbone, N_sup=2, halting_threshold=threshold)
        save_checkpoint(model, tmp_path / "trm")
        loaded = load_checkpoint(backbone, tmp_path / "trm")
        assert Decoder(loaded).halting_threshold == threshold
        assert Decoder(loaded, halting_threshold=None).halting_threshold is None
        assert Decoder(loaded, halting_threshold=0.5).halting_threshold == 0.5


def test_prompts_never_halt():
    """The keys and values of a prompt are those of the full recursion."""
    model = random_trm(make_backbone(), n=1, T=1, N_sup=3)
    model.halting.weight.data.zero_()
    model.halting.bias.data.fill_(5.0)
    prompt = list(range(10))
    logits, used = naive.halting_logits(model, prompt, len(prompt) - 1, 0.9)
    assert used.tolist() == [3] * 9 + [1]
    ((sample,),) = Decoder(model, halting_threshold=0.9).generate(
        [prompt], SamplingConfig(max_new_tokens=1, temperature=0)
    )
    expected = logits[-1].log_softmax(dim=-1)[sample.tokens[0]].item()
    assert sample.logprobs[0] == pytest.approx(expected, abs=1e-4)
    assert sample.tokens[0] == int(torch.argmax(logits[-1]))


def test_disagreement_is_counted_along_the_full_recursions_text():
    model = random_trm(make_backbone(), n=1, T=1, N_sup=3)
    model.halting.weight.data.mul_(3)
    prompts = [[1, 2, 3], [4]]
    config = SamplingConfig(max_new_tokens=20, temperature=0)
    texts = [sample.tokens for (sample,) in Decoder(model).generate(prompts, config)]
    differ = steps = 0
    for prompt, text in zip(prompts, texts, strict=True):
        logits, used = naive.halting_logits(model, prompt + text[:-1], len(prompt) - 1, 0.6)
        said = logits[len(prompt) - 1 :].argmax(dim=-1)
        differ += int((said != torch.tensor(text)).sum())
        steps += int(used[len(prompt) - 1 :].sum())
    found = disagreement(Decoder(model, halting_threshold=0.6), prompts, texts)
    assert (found.tokens, found.differ, found.steps) == (40, differ, steps)
    assert differ > 0
    assert found.share == differ / 40
    assert found.steps_per_token == steps / 40


def test_disagreement_needs_a_decoder_that_halts_and_some_text():
    model = random_trm(make_backbone(), N_sup=2)
    with pytest.raises(ParameterError, match="halting_threshold is None"):
        disagreement(Decoder(model), [[1]], [[2]])
    with pytest.raises(ParameterError, match="no text"):
        disagreement(Decoder(model, halting_threshold=0.9), [[1]], [[]])
