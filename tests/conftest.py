"""Tiny random models, made once for each shape, and where real data may lie."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings
from transformers import Qwen2Config, Qwen2ForCausalLM

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"

# No deadline: a timing does not belong in a test. No database: every run draws afresh.
settings.register_profile("mathllm", deadline=None, database=None)
settings.load_profile("mathllm")
torch.set_num_threads(1)

SHAPES = {
    "tied": {"tie_word_embeddings": True, "num_key_value_heads": 4},
    "untied": {"tie_word_embeddings": False, "num_key_value_heads": 4},
    "grouped": {"tie_word_embeddings": True, "num_key_value_heads": 1, "hidden_size": 96},
}


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


@pytest.fixture(params=SHAPES)
def backbone(request: pytest.FixtureRequest) -> Qwen2ForCausalLM:
    """One of the three shapes: tied, untied, grouped."""
    return make_backbone(**SHAPES[request.param])


def shared_file(*parts: str) -> Path:
    """A file of real data beside the project; the test is skipped where there is none."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"real data not at hand: {'/'.join(parts)}")
    return path
