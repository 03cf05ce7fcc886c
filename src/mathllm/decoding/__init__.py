"""Token ids in, token ids out.

Knows the recursion's caches and how to draw a token. Knows nothing of text or answers.
"""

from mathllm.decoding.engine import BackboneDecoder, Completion, Decoder
from mathllm.decoding.sampling import SamplingConfig

__all__ = ["BackboneDecoder", "Completion", "Decoder", "SamplingConfig"]
