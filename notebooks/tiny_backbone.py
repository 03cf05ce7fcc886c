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
# # Pre-train the embedded backbone
#
# Makes `assets/tiny/backbone`: a Qwen2-shaped language model of 1.25 million parameters and
# its tokenizer, trained on generated arithmetic. It stands in for Qwen2.5-Math wherever the
# real weights are out of reach: tests, continuous integration, a first rehearsal. About 45
# minutes on 2 cores; nobody has to repeat it, since the result is committed.

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
output_dir: str = (
    "runs/tiny_backbone"  # folder: gets backbone/ (weights, tokenizer) and metrics.jsonl
)
steps: int = 1500  # optimizer steps
batch_tokens: int = 6_000  # tokens a step, padding counted
learning_rate: float = 3e-3  # peak, for Muon and AdamW alike
seed: int = 0  # of weights, problems and order
threads: int = 2  # CPU threads
reserved: str = "assets/reserved.txt"  # file: sums of the statements that are never trained on

# %%
import torch

from mathllm.data.decontaminate import Reserved
from mathllm.parameters import check_parameters
from mathllm.paths import locate
from mathllm.tiny.pretraining import PretrainConfig, build_backbone, build_tokenizer, pretrain

check_parameters(globals(), __annotations__)
torch.set_num_threads(threads)
config = PretrainConfig(
    steps=steps, batch_tokens=batch_tokens, learning_rate=learning_rate, seed=seed
)
tokenizer = build_tokenizer(config)
backbone = build_backbone(config, tokenizer)
print(f"{len(tokenizer)} tokens, {sum(p.numel() for p in backbone.parameters()):,} parameters")

# %%
output = Path(output_dir)
pretrain(config, tokenizer, backbone, Reserved.read(locate(reserved)), output / "metrics.jsonl")

# %%
backbone.save_pretrained(output / "backbone")
tokenizer.save_pretrained(output / "backbone")
print(f"saved to {output / 'backbone'}")

# %%
import polars as pl
from matplotlib import pyplot as plt

curve = pl.read_ndjson(output / "metrics.jsonl").drop_nulls("step")
figure, axes = plt.subplots(figsize=(7, 3.5))
axes.semilogy(curve["step"], curve["loss"])
axes.set(xlabel="optimizer step", ylabel="loss (nats per label token)")
axes.grid(alpha=0.3)
