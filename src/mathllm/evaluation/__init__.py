"""How good it is. Knows problems, engines and answers. Knows nothing of Kaggle."""

from mathllm.evaluation.accuracy import accuracy_table, answer_rows
from mathllm.evaluation.grading import equivalent, grade

__all__ = ["accuracy_table", "answer_rows", "equivalent", "grade"]
