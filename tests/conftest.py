"""How tests run: hypothesis' profiles, torch's threads, and the backbone of three shapes."""

import os

import pytest
import torch
from hypothesis import settings
from transformers import Qwen2ForCausalLM

pytest.register_assert_rewrite("helpers")  # before the first import of it
from helpers.models import SHAPES, make_backbone
from helpers.paths import TESTS

PROCESSES = TESTS / "process"

# No deadline: a timing does not belong in a test. No database: every run draws afresh.
settings.register_profile("full", deadline=None, database=None)
settings.register_profile("fast", settings.get_profile("full"), max_examples=25)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "full"))
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks that follow from where a test stands and what the machine has."""
    for item in items:
        if PROCESSES in item.path.parents:
            item.add_marker(pytest.mark.process)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(params=SHAPES)
def backbone(request: pytest.FixtureRequest) -> Qwen2ForCausalLM:
    """One of the three shapes: tied, untied, grouped."""
    return make_backbone(**SHAPES[request.param])
