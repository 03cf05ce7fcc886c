"""Token ids in, token ids out.

Knows the recursion's caches and how to draw a token. Knows nothing of text or answers.

The names below come from their modules when they are first asked for: whoever asks an
endpoint, or only needs the types, does not wait for torch.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "HALTING_THRESHOLD": "trm",
    "BackboneDecoder": "backbone",
    "Completion": "base",
    "Decoder": "trm",
    "Engine": "base",
    "MemoryPlan": "memory",
    "Progress": "base",
    "SamplingConfig": "base",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
