# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Ask a question
#
# One problem through the solver of the submission: samples, their answers, the vote.

# %%
import os
import sys
from pathlib import Path

# On Kaggle the package comes in a dataset; a clone has it in src/.
inputs = Path(os.environ.get("MATHLLM_INPUT_ROOT") or "/kaggle/input")
places = ["*", "*/*", "datasets/*/*", "datasets/*/*/*"]
found = [p for place in places for p in inputs.glob(f"{place}/mathllm/__init__.py")]
found += [p / "src/mathllm/__init__.py" for p in [Path.cwd(), *Path.cwd().parents]]
sys.path.insert(0, next(str(p.parents[1]) for p in found if p.is_file()))

# %% tags=["parameters"]
weights: str = ""  # folder with backbone/ and trm/, or a dataset; empty: the default
problem: str = r"What is the remainder when $7^{4}$ is divided by $13$?"  # LaTeX
n_samples: int = 8  # samples that vote
max_new_tokens: int = 200  # tokens of a sample, at most
temperature: float = 0.7  # 0 is greedy
top_p: float = 0.95  # nucleus
seconds: float = 60.0  # time to answer in
seed: int = 0  # with the problem's id it decides every sample

# %%
import torch

from mathllm.parameters import check_parameters
from mathllm.paths import locate_weights
from mathllm.solving import SolverSettings, load_solver

check_parameters(globals(), __annotations__)
device = "cuda" if torch.cuda.is_available() else "cpu"
settings = SolverSettings(
    n_samples=n_samples,
    max_new_tokens=max_new_tokens,
    temperature=temperature,
    top_p=top_p,
    seed=seed,
)
solver = load_solver(locate_weights(weights), settings, device)
print(solver.engine.memory_plan(solver.engine.max_positions, n_samples))

# %%
solution = solver.solve("question", problem, seconds)
print(f"answer {solution.answer} in {solution.seconds:.1f} s: {solution.reason}")

# %%
for number, attempt in enumerate(solution.attempts, 1):
    print(
        f"{number}. {attempt.answer}  ({attempt.tokens} tokens, {attempt.finish_reason}, "
        f"{attempt.mean_entropy:.3f} nats a token)\n   {attempt.text}\n"
    )
