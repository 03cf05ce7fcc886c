"""How good it is, and how sure that is. Knows problems, engines and answers, not Kaggle."""

from mathllm.evaluation.grading import equivalent, grade
from mathllm.evaluation.results import Header, read_results, write_results
from mathllm.evaluation.running import Sampling, evaluate
from mathllm.evaluation.sets import load_set
from mathllm.evaluation.tables import accuracy_table

__all__ = [
    "Header",
    "Sampling",
    "accuracy_table",
    "equivalent",
    "evaluate",
    "grade",
    "load_set",
    "read_results",
    "write_results",
]
