"""The halting head as a verifier of whole answers, taught from what the model wrote itself."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from mathllm.errors import ParameterError
from mathllm.tokens.batches import IGNORED, collate, plan_batches
from mathllm.tokens.rows import Example, TokenSet
from mathllm.trm import RecursiveLM


def drawn_answers(
    rows: pl.DataFrame, tokenizer: PreTrainedTokenizerBase
) -> tuple[TokenSet, np.ndarray]:
    """Samples of an evaluation (mathllm.evaluation.results) as token ids, and which are right.

    Samples without a token are left out. Raises ParameterError where all are right, or none.
    """
    examples, right = [], []
    for prompt, text, is_right in rows.select("prompt", "text", "right").iter_rows():
        before, written = (
            tokenizer(part, add_special_tokens=False)["input_ids"] for part in (prompt, text)
        )
        if written:
            examples.append(Example([*before, *written], len(before)))
            right.append(is_right)
    if len(set(right)) < 2:
        raise ParameterError(
            f"{sum(right)} of {len(right)} samples are right: a verifier needs right and wrong "
            "ones; draw more, or from other problems"
        )
    return TokenSet.of(examples), np.array(right)


def teach_verifier(
    model: RecursiveLM,
    data: TokenSet,
    right: Sequence[bool] | np.ndarray,
    padding: int,
    epochs: int = 4,
    lr: float = 0.01,
    batch: int = 8_000,
    seed: int = 0,
) -> list[float]:
    """Teach the halting head, at each token of a row, whether the whole row is `right` [rows].

    Binary cross-entropy, every row with the same weight however long it is, as the token-level
    verifiers of Cobbe et al. (2110.14168); but the recursion stays as it is, so that the model's
    answers do. A head that knew tokens forgets them: it begins from the share of right rows, and
    model.config says from then on that it must not halt. `batch` is in tokens. Gives each epoch's
    mean loss in nats.
    """
    right = np.asarray(right, dtype=bool)
    if len(right) != len(data):
        raise ParameterError(f"{len(right)} verdicts for {len(data)} rows: give one for each")
    device = model.halting.weight.device
    torch.nn.init.zeros_(model.halting.weight)
    torch.nn.init.constant_(model.halting.bias, float(np.log(right.mean() / (1 - right.mean()))))
    optimizer = torch.optim.Adam(model.halting.parameters(), lr=lr)
    losses = []
    for epoch in tqdm(range(epochs), desc="verifier", unit="epoch"):
        total = 0.0
        for rows in plan_batches(data.lengths, batch, seed, epoch):
            tensors = collate([data[int(i)] for i in rows], padding)
            input_ids, attention_mask, labels = (tensor.to(device) for tensor in tensors)
            keep = labels != IGNORED
            with torch.no_grad():
                y = model.refine(*model.encode(input_ids, attention_mask))
            verdict = torch.tensor(right[rows], device=device, dtype=y.dtype)[:, None]
            each = F.binary_cross_entropy_with_logits(
                model.halting_logit(y), verdict.expand(keep.shape), reduction="none"
            )
            loss = ((each * keep).sum(dim=1) / keep.sum(dim=1)).sum()
            (loss / len(rows)).backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item()
        losses.append(total / len(data))
    model.config = model.config.as_verifier()
    return losses
