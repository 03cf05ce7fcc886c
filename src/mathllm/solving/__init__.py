"""A problem in, an integer out."""

from mathllm.answers.extract import extract_answer
from mathllm.solving.budget import Budget
from mathllm.solving.loading import EngineSettings, load_model, load_solver
from mathllm.solving.outcomes import Attempt
from mathllm.solving.solution import Solution, SolverSettings
from mathllm.solving.solver import Solver
from mathllm.solving.voting import Ballot, Decision, decided, vote

__all__ = [
    "Attempt",
    "Ballot",
    "Budget",
    "Decision",
    "EngineSettings",
    "Solution",
    "Solver",
    "SolverSettings",
    "decided",
    "extract_answer",
    "load_model",
    "load_solver",
    "vote",
]
