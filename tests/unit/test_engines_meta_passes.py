"""Passes at Qwen2.5-Math-1.5B's shapes over tensors without values, torch's meta device.

As on a GPU, a tensor that was made on the CPU by mistake does not mix with the others, and
an operation that asks for a value fails. No memory is taken.
"""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from mathllm.engines import Decoder, SamplingConfig
from mathllm.engines.batch import PromptBatch
from mathllm.engines.flight import prefill
from mathllm.engines.requests import Request
from mathllm.trm import RecursiveLM, TRMConfig

QWEN = Qwen2Config(
    vocab_size=151_936,
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    tie_word_embeddings=True,
)
SHARP = {"temperature": 0.7, "top_p": 0.9, "top_k": 50, "min_p": 0.02, "repetition_penalty": 1.1}


def meta_model(backbone: torch.dtype, trm: torch.dtype, **settings) -> RecursiveLM:
    with torch.device("meta"):
        model = Qwen2ForCausalLM(QWEN).to(backbone).eval()
        model = RecursiveLM(model, TRMConfig.for_backbone(QWEN, **settings)).eval()
    for _, parameter in model.trm_parameters():
        parameter.data = parameter.data.to(trm)
    return model


@pytest.mark.parametrize("sampling", [{"temperature": 0}, SHARP], ids=["greedy", "drawn"])
@pytest.mark.parametrize(
    ("backbone", "trm", "settings"),
    [
        (torch.bfloat16, torch.bfloat16, {"n": 1, "T": 1, "N_sup": 4}),
        (torch.float16, torch.float32, {"n": 1, "T": 2, "N_sup": 2, "learn_initial_state": True}),
        (torch.bfloat16, torch.bfloat16, {"n": 1, "T": 1, "N_sup": 1, "train_head": True}),
    ],
)
@pytest.mark.parametrize("drafts", [0, 4])
def test_a_pass_keeps_to_its_device_and_asks_for_no_value(
    backbone, trm, settings, sampling, drafts, monkeypatch
):
    model = meta_model(backbone, trm, **settings)
    decoder = Decoder(model, max_drafts=drafts, memory_bytes=2**40)
    config = SamplingConfig(n=3, max_new_tokens=40, **sampling)
    request = Request.of([[1] * 100, [2] * 60], config, None, QWEN.vocab_size, 4096, None)
    verdicts = []

    def take(rows, verdict, used, sure, k):
        verdicts.append((verdict, used, sure))
        return [k] * len(rows)

    monkeypatch.setattr("mathllm.engines.trm._add", take)
    with torch.inference_mode():
        lanes = decoder.lanes(6, 100 + 40 + drafts)
        prefill(lanes, request.rows)
        decoder.advance(lanes, PromptBatch(request.rows, torch.device("meta")))
    ((verdict, used, sure),) = verdicts
    for measured in (verdict.tokens, verdict.logprobs, verdict.entropy, used, sure):
        assert measured.shape == (6, drafts + 1)
        assert measured.device.type == "meta"


def test_the_device_is_asked_where_a_value_is_wanted():
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        torch.zeros(2, device="meta").tolist()
    with pytest.raises(RuntimeError, match="device"):
        torch.zeros(2, device="meta") + torch.zeros(2)
