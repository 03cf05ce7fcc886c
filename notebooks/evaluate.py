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
# # Evaluate a weights folder
#
# Answers of the recursion and of its own backbone to the same problems, greedy or by vote
# over samples: how many are right, how sure that is, and which are wrong. Every sample is a
# row of a parquet file; run again with the same parameters, it goes on where it was stopped.

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
# %matplotlib inline

# %% tags=["parameters"]
weights: str = ""  # folder with backbone/ and trm/, or a dataset; empty: the default
output_dir: str = "runs/evaluate"  # folder: gets trm.parquet, backbone.parquet, metrics.json
resume: bool = True  # go on from the files in output_dir; False: begin anew
dataset: str = "arithmetic"  # or chains (generated too), gsm8k, math, math500, numina, aimo, file
data_path: str = ""  # file, folder or glob of the data; empty: Kaggle's inputs, then the hub
columns: str = ""  # of dataset file, as "problem: question, answer: result"
split: str = "test"  # train, test, or held_out: what training with these filters kept apart
num_samples: int = 450  # problems, drawn with the seed; 0: all
offset: int = 0  # rows to leave out at the beginning
families: str = ""  # of what is generated, with commas between, as "add,gcd"; empty: all
difficulties: str = "1,2,3"  # of arithmetic: 1 (operands to 12), 2 (two digits), 3 (three digits)
sources: str = ""  # numina's sources to keep, with commas between; empty: all
levels: str = ""  # to keep, with commas; empty: all
subjects: str = ""  # MATH's subjects to keep, with commas; empty: all
integer_answers: bool = False  # keep only problems whose answer is an integer in 0…99999
engines: str = "backbone,TRM"  # with commas, of: backbone, TRM, endpoint
n_samples: int = 1  # samples of each problem; their vote is the engine's answer
parallel: int = 0  # as the kernel's: samples that run side by side; 0: all
voting: str = "majority"  # or entropy, tail_entropy, group_entropy, confidence, combined
agreement: int = 0  # samples that agree and end a problem early; 0: only once it is decided
tool_kernels: int = 0  # Python kernels for programs that the model writes; 0: no tools
temperature: float = 0.0  # 0 is greedy, for 1 sample; 0.7 is usual for more
top_p: float = 1.0  # nucleus
max_new_tokens: int = 160  # tokens of an answer, at most
supervision_steps: str = ""  # N_sup at test time, as "2,4,8": a TRM each; empty: the checkpoint's
endpoint: str = ""  # OpenAI-compatible server, as http://127.0.0.1:8000/v1
endpoint_model: str = ""  # the model's name there
batch_rows: int = 64  # samples drawn at a time
verbose: bool = False  # print every sample as it comes, in full
wrong_only: bool = False  # print every wrong sample as it comes, in full
wrong_shown: int = 50  # wrong answers of the last engine to show, folded
seed: int = 1_000_000  # of the choice of problems and of every sample

# %%
import polars as pl
import torch
from IPython.display import HTML, display

from mathllm.data.chat import load_tokenizer
from mathllm.data.sources import Filters
from mathllm.evaluation import accuracy_table, evaluate, load_set, tables, votes
from mathllm.evaluation.engines import open_engines
from mathllm.evaluation.figures import plot_depth, plot_groups, plot_times, plot_voting
from mathllm.evaluation.groups import read_depths
from mathllm.evaluation.rendering import answers_html, row_text
from mathllm.metrics import record
from mathllm.parameters import check_parameters, parse_list, parse_mapping
from mathllm.paths import input_root, locate_weights
from mathllm.settings import CURRENT
from mathllm.solving import SolverSettings
from mathllm.solving.loading import open_tools

check_parameters(globals(), __annotations__)
folder, output = locate_weights(weights), Path(output_dir)
settings = SolverSettings(
    n_samples=n_samples,
    max_new_tokens=max_new_tokens,
    temperature=temperature,
    top_p=top_p,
    parallel=parallel,
    voting=voting,
    agreement=agreement,
    seed=seed,
)
shown = {"tbl_rows": -1, "tbl_cols": -1, "tbl_width_chars": 200, "fmt_str_lengths": 60}
shown |= {"tbl_hide_dataframe_shape": True, "tbl_hide_column_data_types": True}
_ = pl.Config(**shown, float_precision=3)

# %%
generated = dataset == "arithmetic"
filters = Filters(
    parse_list("sources", sources),
    parse_list("levels", levels or (difficulties if generated else "")),
    parse_list("subjects", subjects or families),
    integer_answers=integer_answers,
)
place = (data_path or None, parse_mapping("columns", columns), [input_root()])
problems = load_set(dataset, split, *place, filters, num_samples, offset, seed)
print(f"{len(problems.rows)} problems of {dataset} ({split})")
if problems.ungraded:
    print(f"{problems.ungraded} rows without an answer to grade by were left out")

# %%
device = "cuda" if torch.cuda.is_available() else "cpu"
tokenizer = load_tokenizer(folder / "backbone")
steps = parse_list("supervision_steps", supervision_steps, int)
named = (parse_list("engines", engines), folder, tokenizer, device)
chosen = open_engines(*named, steps, endpoint, endpoint_model)


def told(row):
    if verbose or not row["right"]:
        print(row_text(row))


printed = told if verbose or wrong_only else None
tools = open_tools(tool_kernels)
options = (output, resume, batch_rows, printed, tools)
results = evaluate(chosen, tokenizer, problems, settings, *options)
voted = {name: votes.voted(rows, settings, tool_kernels) for name, rows in results.items()}
record(output, **{f"accuracy_{name.lower()}": rows["right"].mean() for name, rows in voted.items()})

# %% [markdown]
# ## Right answers
#
# Shares in per cent, with intervals of 95 %: Wilson's for one sample a problem, else from
# resampled problems. `vote` is the answer that most samples give; the tables by group count
# what the solver would submit, by its rules to stop and to vote.

# %%
groups = [by for by in ("subject", "level") if problems.rows[by].is_not_null().any()]
display(tables.summary_table(results))
for by in groups:
    display(accuracy_table(voted, by))

# %%
for by in groups:
    figure, reading = plot_groups(tables.group_table(results, by))
    print(reading)
    display(tables.group_table(results, by), figure)
display(tables.group_table(tables.with_bins(results, "tokens"), "tokens_bin"))

# %% [markdown]
# ## One engine against another
#
# McNemar's test on the votes: problems that only one of two engines has right.

# %%
if len(results) > 1:
    display(tables.paired_table(results))
    _, differing = tables.compare(*list(results.values())[:2])
    print("{} is first, {} second".format(*results))
    display(differing.head(wrong_shown))

# %% [markdown]
# ## Votes
#
# How much of what some sample solves the vote keeps, and how many independent samples the
# drawn ones are worth: those of one problem tend to fail together. Then what tells a right sample
# from a wrong one of the same problem: AUROC, 0.5 where a measure says nothing.

# %%
if n_samples == 1:
    print("one sample of each problem: give n_samples and a temperature to see votes")
else:
    for name, rows in results.items():
        curve = votes.voting_curve(votes.Samples.of(rows))
        figure, reading = plot_voting(curve)
        print(f"{name}. {reading}")
        display(curve, figure)
    display(tables.method_table(results, settings, tool_kernels))
    display(tables.correlation_table(results))
    display(tables.auroc_table(results))

# %% [markdown]
# ## In the competition
#
# What a submission would earn if the competition's problems were like these.

# %%
print(CURRENT.name)
for name, rows in results.items():
    score = votes.expected_score(votes.Samples.of(rows), CURRENT.points, CURRENT.problems)
    print(f"{name}: {score}")

# %% [markdown]
# ## Depth and time

# %%
deep = [engine for engine in chosen if engine.steps]
if len(deep) < 2:
    print("give supervision_steps, as 1,2,4, to see what depth gives")
else:
    depths = read_depths([output / engine.file for engine in deep])
    figure, reading = plot_depth(tables.depth_curve(depths), deep[0].trained_steps)
    print(reading)
    display(tables.depth_curve(depths), figure)

# %%
figure, reading = plot_times(tables.problem_times(results))
print(reading)
display(figure)

# %% [markdown]
# ## Wrong answers
#
# Of the last engine; each line opens to problem, text and prompt.

# %%
wrong = list(results.values())[-1].filter(~pl.col("right"))
display(HTML(answers_html(wrong, wrong_shown)))
print(f"samples: {', '.join(str(output / engine.file) for engine in chosen)}")
