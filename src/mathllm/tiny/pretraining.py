"""Pre-training of the embedded default's backbone: a plain causal language model.

Only the small model in assets/tiny is trained here; real backbones come trained.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import polars as pl
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from mathllm.data import arithmetic, chains
from mathllm.data.chat import SYSTEM_PROMPT, encode, end_of_turn_id, padding_id
from mathllm.data.decontaminate import Reserved
from mathllm.tiny.tokenizer import train_tokenizer
from mathllm.tokens.batches import IGNORED, batches_of
from mathllm.training.averages import cosine_with_warmup


@dataclass(frozen=True)
class PretrainConfig:
    """Shape and schedule. `batch_tokens` counts padding; `steps` are optimizer steps."""

    hidden_size: int = 128
    intermediate_size: int = 384
    layers: int = 6
    heads: int = 4
    key_value_heads: int = 2
    positions: int = 1024
    vocabulary: int = 640
    steps: int = 1500
    warmup_steps: int = 100
    batch_tokens: int = 6_000
    learning_rate: float = 3e-3
    seed: int = 0


ROWS_PER_DRAW = 8_192  # problems drawn at a time, so that lengths have company in a batch


def build_tokenizer(config: PretrainConfig) -> PreTrainedTokenizerBase:
    """A tokenizer trained on problems and the chat text around them."""
    rows = _rows(20_000, config.seed, chains.HOPS)
    chat = f"<|im_start|>system\n{SYSTEM_PROMPT}\n<|im_start|>user\n\n<|im_start|>assistant\n"
    texts = (rows["problem"] + "\n" + rows["solution"]).to_list()
    return train_tokenizer([*texts, *[chat] * len(texts)], config.vocabulary)


def build_backbone(config: PretrainConfig, tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """An untrained Qwen2 with tied embeddings, of the configured shape."""
    torch.manual_seed(config.seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.key_value_heads,
            max_position_embeddings=config.positions,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=end_of_turn_id(tokenizer),
            pad_token_id=padding_id(tokenizer),
        )
    )


def _rows(
    count: int, seed: int, hops: Sequence[int], reserved: Reserved | None = None
) -> pl.DataFrame:
    """Arithmetic and chains, half and half."""
    half = count // 2
    return pl.concat(
        [
            arithmetic.generate("train", half, seed, reserved=reserved),
            chains.generate("train", half, seed, hops=hops, reserved=reserved),
        ],
        how="diagonal",
    )


def _batches(
    config: PretrainConfig, tokenizer: PreTrainedTokenizerBase, reserved: Reserved
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Fresh problems without end, no draw repeated; chains of one hop, which is what a backbone
    can do in one pass."""
    draw = 0
    while True:
        draw += 1
        seed = config.seed + draw
        rows = _rows(ROWS_PER_DRAW, seed, [1], reserved)
        examples = encode(tokenizer, rows["problem"].to_list(), rows["solution"].to_list())
        yield from batches_of(examples, config.batch_tokens, padding_id(tokenizer), seed)


def _optimizers(model: Qwen2ForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings, norms and biases."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def pretrain(
    config: PretrainConfig,
    tokenizer: PreTrainedTokenizerBase,
    model: Qwen2ForCausalLM,
    reserved: Reserved,
    metrics: Path,
) -> Qwen2ForCausalLM:
    """Train `model` in place and write one JSON line every 20 steps to `metrics`.

    Losses are nats per label token.
    """
    optimizers = _optimizers(model, config.learning_rate)
    rate = partial(cosine_with_warmup, steps=config.steps, warmup=config.warmup_steps)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, rate) for o in optimizers]
    model.train()
    metrics.parent.mkdir(parents=True, exist_ok=True)
    batches = _batches(config, tokenizer, reserved)
    with metrics.open("w", encoding="utf-8") as log:
        log.write(json.dumps({"config": asdict(config)}) + "\n")
        for step in (bar := tqdm(range(config.steps), desc="pre-training", unit="step")):
            input_ids, attention_mask, labels = next(batches)
            keep = labels != IGNORED
            hidden = model.model(input_ids, attention_mask=attention_mask).last_hidden_state
            loss = F.cross_entropy(model.lm_head(hidden[keep]), labels[keep])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
            if step % 20 == 19 or step + 1 == config.steps:
                row = {"step": step + 1, "loss": loss.item(), "labels": int(keep.sum())}
                log.write(json.dumps(row) + "\n")
                log.flush()
                bar.set_postfix(loss=f"{row['loss']:.4f}")
    return model.eval()
