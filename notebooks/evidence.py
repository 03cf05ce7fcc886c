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
# # Does the recursion win, and not the parameters?
#
# Trains one arm of the experiment of docs/EVIDENCE.md with one seed, and asks it 4,000 problems
# that it has not seen. A permutation of nine digits is listed; asked is where k applications lead.

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
backbone: str = "runs/evidence_backbone"  # folder; pre-trained first, from seed 0, if not there
pretraining_steps: int = 2_000  # optimizer steps of its pre-training, at most
name: str = "recursion"  # what the report calls this way to train
arm: str = "paper"  # paper, single, untied, copied, middle, low_rank (mathllm.training.baselines)
n_latent: int = 1  # n: latent updates in a latent recursion, of arm paper
T_recursion: int = 1  # T: latent recursions in a deep recursion, of arm paper
N_supervision: int = 12  # N_sup: supervision steps at most; 1: no loop
layers: int = 2  # L: layers of the network
intermediate: int = 192  # size inside its SwiGLU
rank: int = 8  # of arm low_rank
targets: str = "steps"  # of the supervision steps: steps, same, shuffled, spread, final
gated: bool = True  # hops rise one by one, as gates open; False: all at once
forced: int = 6  # with targets steps: depth to force first
window: int = 6  # supervision steps that one gradient goes through, up to 8
beyond: int = 3  # supervision steps beyond the hops, at most
gate: float = 0.9  # share of right rows at which depth or hops rise
patience: int = 2_000  # groups after which a gate is given up
trained_hops: int = 6  # rows of 1 to so many hops are trained on
strokes: bool = False  # hops in strokes and not in digits
written: bool = False  # every hop is written out before the answer
rows: int = 200_000  # training rows, each once
batch: int = 1_536  # tokens a group
lr: float = 1e-3  # peak learning rate of AdamW
test_rows: int = 4_000  # problems asked, as many of each number of hops
test_hops: int = 8  # the most hops that are asked for
test_steps: int = 12  # supervision steps after which answers are looked at
seed: int = 1  # of weights, rows and order
threads: int = 1  # CPU threads
output_dir: str = "runs/evidence"  # folder: gets trial.parquet, trm/, metrics.json(l)

# %%
import json

import numpy as np
import torch
from IPython.display import display

from mathllm.evaluation.evidence import TRIALS, Trial
from mathllm.metrics import record
from mathllm.parameters import check_parameters
from mathllm.training import evidence
from mathllm.training.baselines import build
from mathllm.training.config import Saving, TrainConfig
from mathllm.training.figures import plot_curriculum, plot_staircase
from mathllm.training.run import train
from mathllm.training.staircase import by_hops
from mathllm.trm import load_backbone, save_checkpoint

check_parameters(globals(), __annotations__)
torch.set_num_threads(threads)
output = Path(output_dir)
settings = {name: globals()[name] for name in __annotations__}
for name in ("backbone", "output_dir", "threads"):
    settings.pop(name)

# %% [markdown]
# ## The backbone
#
# It knows rows of no hop and of one, and is frozen from here on.

# %%
frozen = load_backbone(evidence.backbone_in(Path(backbone), pretraining_steps))
print(f"{sum(p.numel() for p in frozen.parameters()):,} parameters")

# %% [markdown]
# ## Training

# %%
torch.manual_seed(seed)
trm = {"n": n_latent, "T": T_recursion, "N_sup": N_supervision, "layers": layers}
trm["intermediate_size"] = intermediate
model = build(arm, frozen, trm, rank)
data = evidence.rows("train", rows, seed, range(1, trained_hops + 1), strokes, written)
config = TrainConfig(
    batch=batch,
    lr=lr,
    targets=targets,
    gated=gated,
    forced=forced,
    window=window,
    beyond=beyond,
    gate=gate,
    patience=patience,
    seed=seed,
)
train(model, data, config, evidence.PADDING, output, saving=Saving(every_minutes=5.0))
log = output / "metrics.jsonl"
steps = [row for row in map(json.loads, log.read_text().splitlines()) if "step" in row]
seconds = sum(row["seconds"] for row in steps)
if gated:
    display(plot_curriculum(log, gate))

# %% [markdown]
# ## Problems that it has not seen

# %%
asked = evidence.rows("test", test_rows, 0, range(1, test_hops + 1), strokes, written)
answers = evidence.answers(model, asked, test_steps)
shares = by_hops(np.array(answers["right"].to_list()), answers["hops"].to_numpy())
display(plot_staircase(shares))

# %%
trial = Trial(
    name=name,
    seed=seed,
    lr=lr,
    parameters=sum(p.numel() for _, p in model.trm_parameters()),
    trained_rows=rows,
    flops=evidence.training_flops(model, data, log, config),
    seconds=seconds,
    stage=steps[-1]["stage"],
    settings=settings,
)
TRIALS.write(output / "trial.parquet", trial, answers)
save_checkpoint(model, output / "trm")
deep = [share[-1] for k, share in shares.items() if 3 <= k <= trained_hops]
record(
    output,
    right_deep=sum(deep) / max(len(deep), 1),
    parameters=trial.parameters,
    flops=trial.flops,
    training_seconds=seconds,
    **{f"right_{k}_hops": share[-1] for k, share in shares.items()},
)
print(f"{trial.parameters:,} parameters, {trial.flops:.3g} FLOPs, {seconds:.0f} s, {trial.stage}")
