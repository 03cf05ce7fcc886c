"""Token ids in, token ids out.

Knows the recursion's caches and how to draw a token. Knows nothing of text or answers.
"""

from mathllm.engines.backbone import BackboneDecoder
from mathllm.engines.memory import MemoryPlan
from mathllm.engines.requests import Completion, Progress
from mathllm.engines.sampling import SamplingConfig
from mathllm.engines.trm import HALTING_THRESHOLD, Decoder

__all__ = [
    "HALTING_THRESHOLD",
    "BackboneDecoder",
    "Completion",
    "Decoder",
    "MemoryPlan",
    "Progress",
    "SamplingConfig",
]
