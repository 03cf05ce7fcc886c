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
# # A verifier from the halting head
#
# Teaches the halting head to say whether a whole answer is right, from answers that the same
# weights wrote. Draw these first: evaluate.ipynb on training problems, engine TRM, several
# samples each. The recursion and its answers stay as they are; what changes is `confidence`,
# by which votes can be weighed. Judge it on other problems, by evaluate.ipynb again.

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
samples: str = "runs/evaluate/trm.parquet"  # what these weights wrote, with several samples each
epochs: int = 4  # passes over the samples
lr: float = 0.01  # learning rate of Adam
batch: int = 6_000  # tokens at a time, padding counted
copy_backbone: bool = True  # make output_dir a weights folder of its own
seed: int = 0  # of the samples' order
output_dir: str = "runs/verifier"  # folder: gets trm/, backbone/, metrics.json

# %%
import shutil

import torch

from mathllm.data.chat import load_tokenizer, padding_id
from mathllm.errors import ParameterError
from mathllm.evaluation.engines import weights_digest
from mathllm.evaluation.results import RESULTS
from mathllm.metrics import record
from mathllm.parameters import check_parameters
from mathllm.paths import locate_weights
from mathllm.solving.loading import load_model
from mathllm.training.verifier import drawn_answers, teach_verifier
from mathllm.trm import save_checkpoint

check_parameters(globals(), __annotations__)
folder, output = locate_weights(weights), Path(output_dir)
header, rows = RESULTS.read(Path(samples))
if header.weights != (own := weights_digest(folder, ["backbone", "trm"])):
    raise ParameterError(
        f"samples: {samples} was written by {header.engine} {header.weights}, not by TRM {own} of "
        f"{folder}: draw samples with these weights, or give the others"
    )
problems = f"{rows['id'].n_unique():,} problems of {header.dataset} ({header.split})"
print(f"{len(rows):,} samples of {problems}, {rows['right'].mean():.1%} right")
print("judge the verifier on problems that are not among these")

# %% [markdown]
# ## Teaching

# %%
tokenizer = load_tokenizer(folder / "backbone")
data, right = drawn_answers(rows, tokenizer)
model = load_model(folder, "cuda" if torch.cuda.is_available() else "cpu")
losses = teach_verifier(model, data, right, padding_id(tokenizer), epochs, lr, batch, seed)
print("nats a sample, by epoch: " + ", ".join(f"{loss:.4f}" for loss in losses))

# %%
save_checkpoint(model, output / "trm")
if copy_backbone:
    shutil.copytree(folder / "backbone", output / "backbone", dirs_exist_ok=True)
record(output, verifier_loss=losses[-1])
print(f"weights folder: {output}")
