"""Token ids in, token ids out.

Knows the recursion's caches and how to draw a token. Knows nothing of text or answers.
"""

from mathllm.decoding.backbone import BackboneDecoder
from mathllm.decoding.engine import HALTING_THRESHOLD, Decoder
from mathllm.decoding.memory import MemoryPlan
from mathllm.decoding.requests import Completion, Progress
from mathllm.decoding.sampling import SamplingConfig

__all__ = [
    "HALTING_THRESHOLD",
    "BackboneDecoder",
    "Completion",
    "Decoder",
    "MemoryPlan",
    "Progress",
    "SamplingConfig",
]
