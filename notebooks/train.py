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
# backbone, generated arithmetic, about a minute on 2 cores. Run again with the same
# parameters, it goes on from its last checkpoint.

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
weights: str = ""  # folder with backbone/, or a dataset; empty: the default
dataset: str = "arithmetic"  # arithmetic, chains (generated), gsm8k, math, numina, or file
data_path: str = ""  # file, folder or glob of the data; empty: Kaggle's inputs, then the hub
columns: str = ""  # of dataset file, as "problem: question, solution: answer"
sources: str = ""  # numina's sources to keep, with commas between; empty: all
levels: str = ""  # to keep, with commas: MATH's, arithmetic's 1 to 3, or chains' hops; empty: all
subjects: str = ""  # MATH's subjects to keep, or families of what is generated; empty: all
integer_answers: bool = False  # keep only rows whose answer is an integer in 0…99999
num_samples: int = 2500  # training rows; 0: all
offset: int = 0  # rows to leave out at the beginning
held_out: int = 300  # rows kept from training, for the loss against the backbone's
max_length: int = 1024  # tokens of a row; longer ones are dropped, never cut
answers_only: int = 0  # over 0: answers alone, of rows whose worked solution has so many results
n_latent: int = 2  # n: latent updates in a latent recursion
T_recursion: int = 2  # T: latent recursions in a deep recursion, the last with gradient
N_supervision: int = 4  # N_sup: supervision steps, each with an optimizer step
layers: int = 2  # L: layers of the recursion network
mixer: str = "attention"  # "attention" or "none" (the recursion is then per token)
freeze_lm_head: bool = True  # keep the backbone's norm and head, or train a copy of them
epochs: int = 1  # passes over the training rows
batch: int = 6_000  # tokens a micro-batch, padding counted
gradient_accumulation: int = 1  # micro-batches an optimizer step, on each process
lr: float = 1e-4  # peak learning rate of AdamW
replace_halted: bool = False  # rows that are all right make room for fresh ones
targets: str = "same"  # of supervision steps: same, steps (each its own), shuffled, spread, final
gated: bool = False  # hops rise one by one, as gates open; steps, shuffled and spread need it
window: int = 1  # supervision steps that one gradient goes through, up to 8; 1: as in the paper
forced: int = 0  # gated, targets "steps": depth to force first, a step more at each gate
beyond: int = 3  # gated: supervision steps beyond the hops, at most
gate: float = 0.9  # gated: share of right rows at which it gets deeper
patience: int = 2_000  # gated: groups after which a gate is given up
answer_phase: bool = False  # gated: at last only the answer is taught
precision: str = "auto"  # fp32, bf16, fp16; auto: what the device does best
backbone_precision: str = "auto"  # also int8 or nf4, with bitsandbytes installed
logits_chunk: int = 1024  # label positions whose logits exist at once
activation_checkpointing: bool = False  # less memory, about a third more time
compile: bool = False  # torch.compile of the recursion network
processes: int = 1  # of this machine; one for each GPU
resume: str = "auto"  # "auto", "never", or another run's output_dir to go on from
time_limit: float = 0.0  # minutes of training, after which it saves and ends; 0: none
save_minutes: float = 15.0  # minutes between checkpoints
evaluate_steps: int = 0  # steps between held-out losses on the way; 0: at the end only
copy_backbone: bool = True  # into output_dir, which is then a whole weights folder
seed: int = 0  # of weights, rows and order
output_dir: str = "runs/train"  # folder: gets trm/, backbone/, checkpoints/, metrics.json(l)
reserved: str = "assets/reserved.txt"  # file: sums of statements never to train on
problems: str = "assets/problems.csv"  # files, with commas: what you evaluate on, never trained on

# %%
import shutil
import time

from IPython.display import HTML, display

from mathllm.data.chat import load_tokenizer, padding_id
from mathllm.data.decontaminate import Reserved
from mathllm.data.selection import select_rows
from mathllm.data.sources import Filters, read_statements
from mathllm.data.token_store import prepare
from mathllm.data.worked_steps import answers_alone
from mathllm.metrics import record
from mathllm.parameters import check_parameters, parse_list, parse_mapping
from mathllm.paths import input_root, locate, locate_weights
from mathllm.training.config import Compute, Saving, TrainConfig
from mathllm.training.figures import (
    example_html,
    plot_curriculum,
    plot_lengths,
    plot_losses,
    plot_staircase,
)
from mathllm.training.held_out import held_out_loss
from mathllm.training.launch import TrainingRun, launch
from mathllm.training.staircase import by_hops, right_by_step
from mathllm.trm import load_backbone, load_checkpoint

check_parameters(globals(), __annotations__)
source, output, began = locate_weights(weights), Path(output_dir), time.monotonic()
trm = {"n": n_latent, "T": T_recursion, "N_sup": N_supervision, "layers": layers}
trm |= {"mixer": mixer, "train_head": not freeze_lm_head}
config = TrainConfig(
    **{"epochs": epochs, "batch": batch, "gradient_accumulation": gradient_accumulation},
    **{"lr": lr, "replace_halted": replace_halted, "seed": seed},
    **{
        "targets": targets,
        "gated": gated,
        "window": window,
        "forced": forced,
        "beyond": beyond,
        "gate": gate,
    },
    **{"patience": patience, "answer_phase": answer_phase},
)
compute = Compute(
    precision,
    backbone_precision,
    logits_chunk,
    activation_checkpointing=activation_checkpointing,
    compile=compile,
)

# %% [markdown]
# ## The rows

# %%
files = [locate(name) for name in parse_list("problems", problems)]
statements = [text for file in files for text in read_statements(file)]
filters = Filters(
    *(parse_list("sources", sources), parse_list("levels", levels)),
    subjects=parse_list("subjects", subjects),
    integer_answers=integer_answers,
)
chosen = select_rows(
    dataset,
    Reserved.read(locate(reserved)).add(statements),
    num_samples,
    held_out,
    seed,
    filters,
    offset,
    data_path or None,
    parse_mapping("columns", columns),
    [input_root()],
    statements,
)
for reason, count in chosen.dropped.items():
    print(f"{count:>9,}  {reason}")
print(f"{chosen.contamination.dropped:>9,}  dropped for words shared with held-out problems")
print("of those that stay, none is a reserved problem")
for name, _, words in chosen.contamination.examples:
    print(f"           {name}: … {words} …")

# %% [markdown]
# ## The tokens
#
# Prompt tokens (pale) are masked; every underlined token is a label.

# %%
tokenizer = load_tokenizer(source / "backbone")
parts = [chosen.train, chosen.held_out.lazy()]
if answers_only:  # the results on the way are what the supervision steps are taught
    parts = [answers_alone(rows, answers_only) for rows in parts]
train_set, test_set = (
    prepare(rows, tokenizer, output / "tokens", max_length, aligned=not answers_only)
    for rows in parts
)
print(", ".join(f"{count:,} {what}" for what, count in train_set.report.items() if count))
print(f"{train_set.lengths.sum():,} tokens, {train_set.label_share:.0%} of them labels")
display(HTML(example_html(tokenizer, train_set[0])))

# %%
plot_lengths(train_set)

# %% [markdown]
# ## Deep supervision

# %%
minutes = max(0.01, time_limit - (time.monotonic() - began) / 60) if time_limit else 0.0
saving = Saving(resume, save_minutes, evaluate_steps=evaluate_steps, time_limit=minutes)
folders = [str(path) for path in (source, train_set.folder, output, test_set.folder)]
launch(TrainingRun(*folders, trm, config, compute, saving), processes)
plot_losses(output / "metrics.jsonl")

# %%
if gated:
    display(plot_curriculum(output / "metrics.jsonl", gate))

# %% [markdown]
# ## Against its own backbone

# %%
model = load_checkpoint(load_backbone(source / "backbone"), output / "trm")
ours, theirs = held_out_loss(model, test_set, padding_id(tokenizer), batch)
print(f"held-out loss: TRM {ours:.4f}, backbone {theirs:.4f} nats per label token")
if ours > theirs:
    print("the TRM is worse than its backbone: train longer, or with a lower lr")
record(output, held_out_loss_trm=ours, held_out_loss_backbone=theirs)

# %% [markdown]
# With hops to count, which problems are right after how many supervision steps.

# %%
hops = test_set.by_step.hops
if hops.any():
    right, _ = right_by_step(model, test_set, padding_id(tokenizer), N_supervision, batch)
    shares = by_hops(right, hops)
    record(output, **{f"right_{k}_hops": share[-1] for k, share in shares.items()})
    display(plot_staircase(shares))

# %%
if copy_backbone:
    shutil.copytree(source / "backbone", output / "backbone", dirs_exist_ok=True)
print(f"weights folder: {output}")
