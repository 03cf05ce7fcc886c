"""How good it is, and how sure that is. Knows problems, engines and answers, not Kaggle.

The names below come from their modules when they are first asked for: the command line reads
this package at each start, and must not wait for torch.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Header": "evaluation.results",
    "accuracy_table": "evaluation.tables",
    "equivalent": "answers.equivalent",
    "evaluate": "evaluation.run",
    "grade": "answers.equivalent",
    "load_set": "evaluation.sets",
    "RESULTS": "evaluation.results",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"mathllm.{_HOMES[name]}"), name)
