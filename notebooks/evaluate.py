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
# Greedy answers of the recursion and of its own backbone to the same held-out problems,
# counted by family and by difficulty. Answers are kept as parquet, one row each.

# %%
import os
import sys
from pathlib import Path

# A clone has the package in src/; on Kaggle it comes in a dataset.
here = [p / "src" for p in [Path.cwd(), *Path.cwd().parents]]
inputs = Path(os.environ.get("MATHLLM_INPUT_ROOT", "/kaggle/input"))
found = [*here, *inputs.glob("*"), *inputs.glob("datasets/*/*")]
sys.path.insert(0, next(str(p) for p in found if (p / "mathllm" / "__init__.py").is_file()))
# %matplotlib inline

# %% tags=["parameters"]
weights: str = ""  # folder with backbone/ and trm/, or a dataset; empty: the default
output_dir: str = "runs/evaluate"  # folder: gets trm.parquet and backbone.parquet
num_samples: int = 450  # held-out problems, generated
families: str = ""  # names with commas between, as "add,gcd"; empty: all
difficulties: str = "1,2,3"  # of 1 (operands to 12), 2 (two digits), 3 (three digits)
max_new_tokens: int = 160  # tokens of an answer, at most
batch_rows: int = 64  # problems answered at a time
wrong_shown: int = 5  # wrong answers of the recursion to print in full
seed: int = 1_000_000  # of the problems

# %%
import polars as pl
import torch
from IPython.display import display

from mathllm.competition.paths import locate_weights
from mathllm.data.arithmetic import generate
from mathllm.data.chat import load_tokenizer
from mathllm.decoding import BackboneDecoder, Decoder
from mathllm.evaluation import accuracy_table, answer_rows
from mathllm.evaluation.plots import plot_accuracy
from mathllm.parameters import check_parameters, parse_list
from mathllm.solving import load_model

check_parameters(globals(), __annotations__)
folder, output = locate_weights(weights), Path(output_dir)
chosen = parse_list("families", families)
levels = parse_list("difficulties", difficulties, int)
rows = generate("test", num_samples, seed, chosen, levels)

# %%
device = "cuda" if torch.cuda.is_available() else "cpu"
tokenizer = load_tokenizer(folder / "backbone")
model = load_model(folder, device)
results = {
    name: answer_rows(engine(model), tokenizer, rows, max_new_tokens, batch_rows)
    for name, engine in {"backbone": BackboneDecoder, "TRM": Decoder}.items()
}

# %% [markdown]
# ## Right answers

# %%
by_family = accuracy_table(results, "subject")
with pl.Config(tbl_rows=-1, tbl_hide_dataframe_shape=True):
    display(by_family, accuracy_table(results, "level"))

# %%
plot_accuracy(by_family)

# %% [markdown]
# ## Wrong answers of the recursion

# %%
for row in results["TRM"].filter(~pl.col("right")).head(wrong_shown).iter_rows(named=True):
    print(f"{row['problem']}\n  {row['text']}\n  right: {row['answer']}\n")

# %%
output.mkdir(parents=True, exist_ok=True)
for name, answered in results.items():
    answered.write_parquet(output / f"{name.lower()}.parquet")
print(f"answers: {output}")
