"""Generation with the recursion: exact, batched, drafted by its own backbone.

Token ids in, token ids out. One pass of a batch: the backbone runs on the last token and on
k drafts of its own, the recursion refines these k + 1 positions together, and what it
confirms is kept, with one token of its own.
"""

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mathllm.engines.batch import PromptBatch
from mathllm.engines.lanes import Lanes
from mathllm.engines.local import LocalEngine
from mathllm.engines.requests import Row
from mathllm.engines.sampling import DRAFT, inverse_transform
from mathllm.engines.speculation import DraftLength, Verdict, verify
from mathllm.errors import ParameterError
from mathllm.trm import RecursiveLM

HALTING_THRESHOLD = 0.9  # a sensible one, for whoever turns halting on


class Decoder(LocalEngine):
    """Generates with the recursion over `model`, with its weights of this moment.

    Greedy tokens equal those of the uncached `RecursiveLM.logits`, whatever the batch and
    `max_drafts`, the most tokens that the backbone drafts for one pass (0: none). Halting
    trades that for speed: `halting_threshold` is the probability at which a token freezes,
    None never; by default what the checkpoint says. `supervision_steps` replaces N_sup.
    `memory_bytes` is what decoding may take, by default most of what is free. `graphs`:
    passes are replayed as CUDA graphs, by default on a GPU; caches and graphs are then kept
    for the next call, until `release`.
    """

    def __init__(
        self,
        model: RecursiveLM,
        max_drafts: int = 16,
        halting_threshold: float | str | None = "checkpoint",
        supervision_steps: int | None = None,
        memory_bytes: int | None = None,
        graphs: bool | None = None,
    ) -> None:
        if max_drafts < 0:
            raise ParameterError(f"max_drafts is {max_drafts}: it must be at least 0")
        changes: dict[str, Any] = {}
        if halting_threshold != "checkpoint":
            changes["halting_threshold"] = halting_threshold
        if supervision_steps is not None:
            changes["N_sup"] = supervision_steps
        config = replace(model.config, **changes)  # checks the values
        threshold = config.halting_threshold
        super().__init__(model, config.N_sup, max_drafts, threshold, memory_bytes, graphs)
        self.supervision_steps = config.N_sup
        self._length = DraftLength(max_drafts)

    def advance(self, lanes: Lanes, batch: PromptBatch) -> None:
        """Draft, refine, verify, and add what stands to the rows."""
        began, recorded = time.perf_counter(), lanes.recorded
        model, rules = self.model, batch.rules
        k = self._length.choose(batch.room)
        uniform = batch.uniform(k + 1)
        seen = batch.seen(model.config.vocab_size)
        drawn = self.max_drafts > 0 and not rules.greedy
        tokens, drafts, proposals, states, context = batch.last, [], [], [], seen
        for j in range(k + 1):
            h, normed = lanes.feed(tokens[:, None], lanes.window(1, offset=j))
            states.append(h)
            if j == k and not drawn:
                break  # a greedy draft of the next pass is made by the next pass
            logits = model.backbone.lm_head(normed[:, -1])
            if drawn:
                proposals.append(rules.probabilities(logits, context))
                tokens = inverse_transform(proposals[-1], uniform[:, j, DRAFT])
            else:
                tokens = rules.penalise(logits.float(), context).argmax(dim=-1)
            drafts.append(tokens)
            if context is not None:
                context = context.scatter(1, tokens[:, None], True)
        y, used = lanes.refine(torch.cat(states, dim=1), lanes.window(k + 1))
        verdict = verify(rules, model.head(y), drafts, proposals, uniform, seen)
        sure = model.halting_logit(y).float().sigmoid()
        kept = _add(batch.rows, verdict, used, sure, k)
        lanes.advance([count + 1 for count in kept])
        seconds = time.perf_counter() - began if lanes.recorded == recorded else None
        self._length.observe(k, kept, seconds)


def _add(rows: list[Row], verdict: Verdict, used: Tensor, sure: Tensor, k: int) -> list[int]:
    """What stands goes to the rows; gives how many drafts that were. Waits for the device."""
    measured = torch.stack(
        [verdict.tokens, verdict.logprobs, verdict.entropy, verdict.broken, used, sure], dim=-1
    )  # in float32, token ids to 2^24 are exact
    table, kept = measured.tolist(), verdict.kept.tolist()
    for row, values, count in zip(rows, table, kept, strict=True):
        if not row.done:
            row.completion.drafted += k
            row.completion.accepted += count
        for token, logprob, entropy, broken, steps, confidence in values[: count + 1]:
            row.add(int(token), logprob, entropy, bool(broken), confidence, int(steps))
    return kept
