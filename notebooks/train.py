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
# # Train a tiny recursive model
#
# Trains the recursion over a frozen backbone by deep supervision (arXiv 2510.04871) and
# writes a weights folder that `build.py vendor` takes. With the defaults: the embedded
# backbone, generated arithmetic, about a minute on 2 cores.

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
weights: str = ""  # folder with backbone/, or a dataset; empty: the default
output_dir: str = "runs/train"  # folder: gets backbone/, trm/ and metrics.jsonl
num_samples: int = 2500  # training problems, generated
difficulties: str = "1,2,3"  # of 1 (operands to 12), 2 (two digits), 3 (three digits)
held_out: int = 300  # held-out problems, for the loss against the backbone's
n_latent: int = 2  # n: latent updates in a latent recursion
T_recursion: int = 2  # T: latent recursions in a deep recursion, the last with gradient
N_supervision: int = 4  # N_sup: supervision steps, each with an optimizer step
layers: int = 2  # L: layers of the recursion network
mixer: str = "attention"  # "attention" or "none" (the recursion is then per token)
freeze_lm_head: bool = True  # keep the backbone's norm and head, or train a copy of them
epochs: int = 1  # passes over the training problems
batch_tokens: int = 6_000  # tokens a batch, padding counted
lr: float = 1e-4  # peak learning rate of AdamW
seed: int = 0  # of weights, problems and order
reserved: str = "assets/reserved.txt"  # file: sums of statements never to train on
problems: str = "assets/problems.csv"  # file: problems of the rehearsal, never to train on

# %%
import shutil

import polars as pl
import torch
from IPython.display import HTML, display

from mathllm.competition.paths import locate, locate_weights
from mathllm.data.arithmetic import generate
from mathllm.data.chat import encode, load_tokenizer, padding_id
from mathllm.data.problems import read_problems
from mathllm.data.reserved import Reserved
from mathllm.data.show import example_html
from mathllm.parameters import check_parameters, parse_list
from mathllm.training.curves import plot_losses
from mathllm.training.trainer import TrainConfig, held_out_loss, train
from mathllm.trm import RecursiveLM, TRMConfig, load_backbone, save_checkpoint

check_parameters(globals(), __annotations__)
source, output = locate_weights(weights) / "backbone", Path(output_dir)
config = TrainConfig(epochs=epochs, batch_tokens=batch_tokens, lr=lr, seed=seed)

# %% [markdown]
# ## The network

# %%
torch.manual_seed(seed)
tokenizer = load_tokenizer(source)
backbone = load_backbone(source, device="cuda" if torch.cuda.is_available() else "cpu")
trm_config = TRMConfig.for_backbone(
    backbone.config,
    **{"n": n_latent, "T": T_recursion, "N_sup": N_supervision, "layers": layers},
    mixer=mixer,
    train_head=not freeze_lm_head,
)
model = RecursiveLM(backbone, trm_config)
print(f"effective depth {trm_config.effective_depth} layers")
pl.DataFrame(model.parameter_table(), schema=["component", "parameters", "trainable"], orient="row")

# %% [markdown]
# ## The data
#
# Prompt tokens (pale) are masked; every underlined token is a label.

# %%
never = Reserved.read(locate(reserved)).add(read_problems(locate(problems))["problem"])
levels = parse_list("difficulties", difficulties, int)
rows = generate("train", num_samples, seed, (), levels, never)
tests = generate("test", held_out, seed)
never.check(rows["problem"])
train_set, test_set = (
    encode(tokenizer, r["problem"].to_list(), r["solution"].to_list()) for r in (rows, tests)
)
lengths = pl.Series([len(e.tokens) for e in train_set])
labels = sum(len(e.tokens) - e.prompt for e in train_set)
print(f"{len(rows):,} rows, {lengths.mean():.0f} tokens on average, {lengths.max()} at most,")
print(f"{labels / lengths.sum():.0%} of them labels; none is a reserved problem")
display(HTML(example_html(tokenizer, train_set[0])))

# %% [markdown]
# ## Deep supervision

# %%
train(model, train_set, config, padding_id(tokenizer), output / "metrics.jsonl")
plot_losses(output / "metrics.jsonl")

# %% [markdown]
# ## Against its own backbone

# %%
ours, theirs = held_out_loss(model, test_set, padding_id(tokenizer))
print(f"held-out loss: TRM {ours:.4f}, backbone {theirs:.4f} nats per label token")

# %%
save_checkpoint(model, output / "trm")
shutil.copytree(source, output / "backbone", dirs_exist_ok=True)
print(f"weights folder: {output}")
