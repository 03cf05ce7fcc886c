"""The experiment of docs/EVIDENCE.md: a task that is all depth, for backbones of any size.

A permutation of nine digits, one cycle, is told by its values at 0, 1, …; before it stands k,
behind it a start; asked is where k applications lead. A sign is a token, and so is the answer:

    4  6 7 3 5 0 1 8 4 2  3 =  →  4

Train, development and test share no permutation, by the same rule as in mathllm.data.chains.
"""

import json
import random
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm
from transformers import Qwen2Config, Qwen2ForCausalLM

from mathllm.data.chains import LONGEST, SPLITS, split_of, structure_of
from mathllm.errors import ParameterError
from mathllm.tokens.batches import IGNORED, collate, plan_batches
from mathllm.tokens.rows import Example, TokenSet
from mathllm.training.averages import cosine_with_warmup
from mathllm.training.config import Compute, TrainConfig
from mathllm.training.staircase import right_by_step
from mathllm.training.supervision import begin, supervise
from mathllm.trm import RecursiveLM
from mathllm.wording import shown

DIGITS = LONGEST + 1  # so that LONGEST hops meet no digit twice
STROKE, ASKED, PADDING = range(DIGITS, DIGITS + 3)
VOCABULARY = DIGITS + 3
RIGHT_ENOUGH = 0.999  # of rows, for pre-training to end


def example(
    digits: Sequence[int],
    k: int,
    strokes: bool = False,
    written: bool = False,
) -> Example:
    """One row. `digits` is the cycle from the start on, k the hops, also 0.

    Where there are hops, LONGEST steps' labels; a row with its hops written out before the answer
    has its own tokens as labels of every step.
    """
    follow = dict(zip(digits, [*digits[1:], digits[0]], strict=True))
    hops = [STROKE] * k if strokes else [k]
    prompt = [*hops, *(follow[digit] for digit in range(DIGITS)), digits[0], ASKED]
    values = [digits[step % DIGITS] for step in range(LONGEST + 1)]
    if not k:
        return Example([*prompt, values[0]], len(prompt))
    if written:
        return Example([*prompt, *values[1 : k + 1]], len(prompt), np.array([values[1 : k + 1]]), k)
    steps = np.array(values[1:], dtype=np.int32)[:, None]
    return Example([*prompt, values[k]], len(prompt), steps, k)


def rows(
    split: str,
    count: int,
    seed: int,
    hops: Sequence[int],
    strokes: bool = False,
    written: bool = False,
) -> TokenSet:
    """`count` rows of a split, as many of each number of hops. Raises ParameterError."""
    if split not in SPLITS:
        raise ParameterError(f"split is {shown(split)}: it must be {', '.join(SPLITS)}")
    if not hops or not all(0 <= k <= LONGEST for k in hops):
        raise ParameterError(f"hops are {shown(list(hops))}: give integers of 0 to {LONGEST}")
    rng = random.Random(f"evidence:{split}:{seed}")
    found: list[Example] = []
    while len(found) < count:
        digits = rng.sample(range(DIGITS), DIGITS)
        follow = dict(zip(digits, [*digits[1:], digits[0]], strict=True))
        if split_of("permutation", structure_of(follow)) == split:
            found.append(example(digits, hops[len(found) % len(hops)], strokes, written))
    return TokenSet.of(found)


def small_backbone(seed: int, hidden_size: int = 64, layers: int = 4) -> Qwen2ForCausalLM:
    """An untrained one for these tokens, whose layers begin as nothing."""
    torch.manual_seed(seed)
    backbone = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=hidden_size,
            intermediate_size=3 * hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=128,
            initializer_range=0.1,  # from 0.02 it stands at 0 hops for hundreds of steps
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=PADDING,
        )
    )
    with torch.no_grad():
        for layer in backbone.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return backbone


def pretrain(
    backbone: Qwen2ForCausalLM, seed: int, steps: int = 2_000, lr: float = 3e-3, batch: int = 128
) -> float:
    """Teach it rows of 0 and 1 hops, fresh ones, until nearly all of a batch are right for 20 steps
    or the steps are over. Gives the last share of right rows."""
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=lr, betas=(0.9, 0.98))
    backbone.train()
    right, good = 0.0, 0
    with tqdm(range(steps), desc="pre-training", unit="step") as bar:
        for step in bar:
            data = rows("train", batch, seed * steps + step, (0, 1))
            ids, mask, labels = collate(list(data), PADDING)
            keep = labels != IGNORED
            logits = backbone(input_ids=ids, attention_mask=mask).logits[keep]
            loss = F.cross_entropy(logits, labels[keep])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = lr * cosine_with_warmup(step, steps, warmup=100)
            optimizer.step()
            optimizer.zero_grad()
            right = (logits.argmax(dim=-1) == labels[keep]).float().mean().item()
            good = good + 1 if right >= RIGHT_ENOUGH else 0
            bar.set_postfix(loss=f"{loss.item():.4f}", right=f"{right:.1%}")
            if good == 20:
                break
    backbone.eval()
    return right


def backbone_in(folder: Path, steps: int = 2_000) -> Path:
    """The folder, with the experiment's backbone: made from seed 0 where there is none.

    Runs side by side may all ask for it: each makes the same one, and the first to end is kept.
    """
    if not (folder / "config.json").is_file():
        small = small_backbone(seed=0)
        share = pretrain(small, seed=0, steps=steps)
        print(f"{share:.1%} of the last batch of 0 and 1 hops are right")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as staging:
            small.save_pretrained(staging)
            with suppress(OSError):  # another was first
                Path(staging).rename(folder)
        if not (folder / "config.json").is_file():
            raise ParameterError(f"backbone: {folder} is there and has no config.json: remove it")
    return folder


def answers(model: RecursiveLM, data: TokenSet, steps: int) -> pl.DataFrame:
    """A row for each of `data`: whether its last token is right, and whether the halting head says
    that it stands, after 0 to `steps` steps; 0 is the backbone. Tokens before the last are written
    by the model itself, and the head is not asked about them."""
    right, sure = right_by_step(model, data, PADDING, steps)
    if (data.lengths - data.prompts > 1).any():
        right = _right_at_last(model, data, steps)
    return pl.DataFrame(
        {
            "row": range(len(data)),
            "hops": data.by_step.hops.astype(np.int64),
            "right": right.tolist(),
            "sure": sure.tolist(),
        }
    )


@torch.no_grad()
def _right_at_last(model: RecursiveLM, data: TokenSet, steps: int, batch: int = 250) -> np.ndarray:
    """Whether each row's last token is right, bool [rows, steps + 1], as `right_by_step`, when the
    model has written all behind the prompt, token by token."""
    right = np.zeros((len(data), steps + 1), dtype=bool)
    shape = np.stack([data.prompts, data.lengths])
    for prompt, length in np.unique(shape, axis=1).T:
        alike = np.flatnonzero((data.prompts == prompt) & (data.lengths == length))
        for chosen in np.split(alike, range(batch, len(alike), batch)):
            whole = torch.from_numpy(np.stack([data[int(i)].tokens for i in chosen])).long()
            whole = whole.to(model.halting.weight.device)
            for step in range(steps + 1):
                ids = whole[:, :prompt]
                while ids.shape[1] < length:
                    encoded = model.encode(ids)
                    *_, y = encoded.x, *model.states(encoded, step)
                    ids = torch.cat([ids, model.head(y[:, -1:]).argmax(dim=-1)], dim=1)
                right[chosen, step] = (ids[:, -1] == whole[:, -1]).cpu().numpy()
    return right


def training_flops(model: RecursiveLM, data: TokenSet, metrics: Path, config: TrainConfig) -> float:
    """What training took, from its log: encoding once a group, and each supervision step forward
    and backward, both counted on one group of rows of that size."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [row for row in lines if "step" in row]
    groups = len({row["group"] for row in steps})
    passes = sum(len(row["losses"]) for row in steps)
    batch = plan_batches(data.lengths, config.batch, config.seed)[0]
    with FlopCounterMode(display=False) as encoding:
        micro = begin(model, data, batch, PADDING)
    with FlopCounterMode(display=False) as supervision:
        supervise(model, data, micro, PADDING, config, Compute(), None, 1.0)
    model.zero_grad()
    return groups * encoding.get_total_flops() + passes * supervision.get_total_flops()
