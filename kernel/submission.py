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
# # Submission
#
# Answers the competition's problems through its evaluation API. In a scored rerun it serves
# and waits; in a commit run it plays the gateway over the public `test.csv`. It listens at
# once and loads the weights meanwhile.

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
weights: str = ""  # folder or dataset with backbone/ and trm/; empty: the vendored one
n_samples: int = 4  # samples of a problem, which vote
max_new_tokens: int = 256  # tokens of a sample, at most
turn_tokens: int = 0  # of them between two programs; 0: what is left
sample_seconds: float = 0.0  # of a sample, at most; 0: what its problem has
temperature: float = 0.7  # 0 is greedy
top_p: float = 0.95  # nucleus
top_k: int = 0  # most likely tokens to draw from; 0: all
min_p: float = 0.0  # least probability of a token, as a share of the likeliest's
parallel: int = 0  # samples that run side by side; 0: all
voting: str = "majority"  # or entropy, tail_entropy, group_entropy, confidence, combined
agreement: int = 0  # samples that agree and end a problem early; 0: only once it is decided
lead: float = 0.0  # votes ahead of any other answer that end it early; 0: only once it is decided
max_calls: int = 4  # programs that a sample may have run
tool_kernels: int = 0  # Python kernels for programs that the model writes; 0: no tools
endpoint: str = ""  # OpenAI-compatible server that generates, as http://127.0.0.1:8000/v1
endpoint_model: str = ""  # its name there
server: str = ""  # command that starts it, as "vllm serve {served} --port 8000"; empty: it runs
served: str = ""  # Kaggle's handle of its model, for whose folder {served} stands
dialect: str = "chatml"  # of its model: chatml, harmony (gpt-oss), or chat: the server renders
positions: int = 0  # its context, in tokens: it is all that generates; 0: the TRM stands in for it
tokenizer: str = ""  # folder of its tokenizer.json, with positions; none for chat
effort: str = "high"  # of harmony: low, medium, high
system: str = ""  # system prompt, may name {low} and {high}; empty: the dialect's own
user: str = ""  # what stands around the problem, as "{problem} Think."; empty: nothing
cuda_graphs: bool = True  # False if recording them fails on the GPU at hand: slower
hours: float = 5.0  # length of the session
margin_minutes: float = 15.0  # kept free at its end
expected_problems: int = 50  # that share the time; the gateway does not say how many come
base_seconds: float = 0.0  # kept for each problem to come, all else is the next's; 0: even shares
ceiling_seconds: float = 0.0  # of one problem, at most; 0: none
hard_problems: int = 0  # that may take more than the even share, with base_seconds; 0: any number
seed: int = 0  # with a problem's id it decides every sample
bundle: str = ""  # what the notebook was vendored with; empty: not checked

# %% tags=["settings"]
import polars as pl

from mathllm.competition.kernel.serve import serve
from mathllm.parameters import check_parameters
from mathllm.solving import Budget, EngineSettings, SolverSettings

check_parameters(globals(), __annotations__)
settings = SolverSettings(
    n_samples=n_samples,
    max_new_tokens=max_new_tokens,
    temperature=temperature,
    top_p=top_p,
    top_k=top_k,
    min_p=min_p,
    parallel=parallel,
    voting=voting,
    agreement=agreement,
    lead=lead,
    max_calls=max_calls,
    turn_tokens=turn_tokens,
    sample_seconds=sample_seconds,
    seed=seed,
)
budget = Budget(
    hours * 3600,
    margin_minutes * 60,
    expected_problems,
    ceiling_seconds=ceiling_seconds or None,
    base_seconds=base_seconds or None,
    hard_problems=hard_problems or None,
)
engine = EngineSettings(
    tool_kernels,
    endpoint,
    endpoint_model,
    server,
    cuda_graphs,
    dialect,
    tokenizer,
    positions,
    effort,
    system,
    user,
    served,
)

# %%
submission = serve(weights, settings, budget, engine, bundle)

# %% [markdown]
# ## What was answered

# %%
pl.Config(tbl_rows=-1, fmt_str_lengths=120, tbl_hide_dataframe_shape=True)
submission.summary()

# %%
# %matplotlib inline
submission.plot()

# %%
submission.written()
