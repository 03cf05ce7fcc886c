"""Tiny random models: backbones of every shape, recursions on them, whole weights folders."""

from pathlib import Path

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from mathllm.tiny.tokenizer import train_tokenizer
from mathllm.trm import RecursiveLM, TRMConfig, save_checkpoint

SHAPES = {
    "tied": {"tie_word_embeddings": True, "num_key_value_heads": 4},
    "untied": {"tie_word_embeddings": False, "num_key_value_heads": 4},
    "grouped": {"tie_word_embeddings": True, "num_key_value_heads": 1, "hidden_size": 96},
}

VOCABULARY = 300


def make_backbone(seed: int = 0, **overrides: object) -> Qwen2ForCausalLM:
    """A random Qwen2 whose hidden states have the size of trained ones, about 1."""
    sizes = {
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
    }
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(Qwen2Config(**(sizes | overrides))).eval().requires_grad_(False)


def random_trm(backbone: nn.Module, seed: int = 1, std: float = 0.1, **overrides) -> RecursiveLM:
    """A TRM whose every weight is drawn, so that no part of it is the identity."""
    model = RecursiveLM(backbone, TRMConfig.for_backbone(backbone.config, **overrides))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in model.trm_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model.eval()


def write_weights(folder: Path, **sizes: object) -> Path:
    """`folder` with backbone/ (tokenizer included) and trm/, both of these sizes."""
    backbone = make_backbone(vocab_size=VOCABULARY, **sizes)
    backbone.save_pretrained(folder / "backbone")
    texts = ["Please reason step by step, and put your final answer within a box."] * 2
    train_tokenizer(texts, VOCABULARY).save_pretrained(folder / "backbone")
    config = TRMConfig.for_backbone(backbone.config, n=1, T=1, N_sup=1, layers=1)
    save_checkpoint(RecursiveLM(backbone, config), folder / "trm")
    return folder
