"""A problem in, an integer out."""

from mathllm.solving.answers import extract_answer
from mathllm.solving.budget import Budget
from mathllm.solving.loading import load_model, load_solver
from mathllm.solving.solver import Attempt, Solution, Solver, SolverSettings
from mathllm.solving.voting import Decision, vote

__all__ = [
    "Attempt",
    "Budget",
    "Decision",
    "Solution",
    "Solver",
    "SolverSettings",
    "extract_answer",
    "load_model",
    "load_solver",
    "vote",
]
