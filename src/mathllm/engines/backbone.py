"""The plain backbone behind the decoder's interface, through transformers' own generate.

What the recursion is compared with. Tokens are drawn by the same rules from the same random
numbers, inside a logits processor that leaves generate one token to choose from.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from mathllm.engines.base import Completion, OnPass, SamplingConfig
from mathllm.engines.batch import PromptBatch, in_groups
from mathllm.engines.memory import MemoryPlan, available_bytes, plan
from mathllm.engines.requests import Request, Row
from mathllm.engines.sampling import DRAFT, inverse_transform, measures
from mathllm.trm import RecursiveLM


class BackboneDecoder:
    """Generates with the frozen backbone of `model` alone. Arguments as Decoder's."""

    def __init__(self, model: RecursiveLM, memory_bytes: int | None = None) -> None:
        self.model = model.eval()
        self.memory_bytes = memory_bytes

    @property
    def max_positions(self) -> int:
        """Prompt and new tokens together, at most."""
        return self.model.config.max_positions

    def memory_plan(self, tokens: int, rows: int = 1) -> MemoryPlan:
        """What `rows` samples of at most `tokens` tokens take, prompt included."""
        device = self.model.halting.weight.device
        available = available_bytes(device) if self.memory_bytes is None else self.memory_bytes
        return plan(self.model, 0, tokens, rows, 1, available)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        config: SamplingConfig | Sequence[SamplingConfig],
        seeds: Sequence[Sequence[int]] | None = None,
        on_pass: OnPass | None = None,
    ) -> list[list[Completion]]:
        """As Engine.generate. `supervision_steps_used` stays 0."""
        request = Request.of(
            prompts, config, seeds, self.model.config.vocab_size, self.max_positions, on_pass
        )
        size = self.memory_plan(request.most_tokens, len(request.rows)).rows
        in_groups(request.rows, size, lambda rows, waiting: self._run(request, rows, waiting))
        return request.completions

    def _run(self, request: Request, rows: list[Row], waiting: int) -> None:
        rows = request.asked(rows)
        if not rows:
            return
        longest = max(len(row.sequence) for row in rows)
        device = self.model.halting.weight.device
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        valid = torch.zeros_like(tokens)
        for place, row in enumerate(rows):
            tokens[place, longest - len(row.sequence) :] = torch.tensor(row.sequence)
            valid[place, longest - len(row.sequence) :] = 1
        # Neutral where a backbone's own generation_config is not: only the rules below count.
        neutral = GenerationConfig(
            max_new_tokens=max(row.limit - len(row.completion.tokens) for row in rows),
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            pad_token_id=0,
            eos_token_id=None,
        )
        own = self.model.backbone.generation_config
        self.model.backbone.generation_config = neutral
        try:
            self.model.backbone.generate(
                tokens.to(device),
                attention_mask=valid.to(device),
                logits_processor=LogitsProcessorList([_Draw(PromptBatch(rows, device), request)]),
                stopping_criteria=StoppingCriteriaList([_Ended(rows, waiting, request)]),
            )
        finally:
            self.model.backbone.generation_config = own


class _Draw(LogitsProcessor):
    """Draws a token for each row, adds it to the row, and leaves no other choice."""

    def __init__(self, batch: PromptBatch, request: Request) -> None:
        self._batch = batch
        self._request = request

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        """scores [B, V] -> [B, V], 0 at the token drawn and −∞ elsewhere."""
        batch, logits = self._batch, scores.float()
        broken = ~logits.logsumexp(dim=-1).isfinite()
        logits = logits.masked_fill(broken[:, None], 0.0)
        seen = batch.seen(logits.shape[-1])
        if batch.rules.greedy:
            tokens = batch.rules.penalise(logits, seen).argmax(dim=-1)
        else:
            p = batch.rules.probabilities(logits, seen)
            tokens = inverse_transform(p, batch.uniform(1)[:, 0, DRAFT])
        logprobs, entropy = measures(logits, tokens)
        values = zip(
            tokens.tolist(), logprobs.tolist(), entropy.tolist(), broken.tolist(), strict=True
        )
        for row, (token, logprob, nats, bad) in zip(batch.rows, values, strict=True):
            self._request.add(row, token, logprob, nats, bad)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


class _Ended(StoppingCriteria):
    """After each token: which rows have ended."""

    def __init__(self, rows: list[Row], waiting: int, request: Request) -> None:
        self._rows = rows
        self._waiting = waiting
        self._request = request

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # noqa: ARG002
        """[B], true where a row is done."""
        self._request.passed(self._rows, self._waiting)
        self._request.asked(self._rows)
        return torch.tensor([row.done for row in self._rows], device=input_ids.device)
