"""Generation with the recursion: exact, batched, drafted by its own backbone.

Token ids in, token ids out. One pass of a batch: the backbone runs on the last token and on
k drafts of its own, the recursion refines these k + 1 positions together, and what it
confirms is kept, with one token of its own. Rows that have ended leave.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mathllm.engines.base import Completion, OnPass, SamplingConfig
from mathllm.engines.batch import PromptBatch, in_groups
from mathllm.engines.lanes import Lanes
from mathllm.engines.memory import MemoryPlan, available_bytes, plan
from mathllm.engines.packed import packed
from mathllm.engines.refinement import layers_per_step
from mathllm.engines.requests import Request, Row
from mathllm.engines.sampling import DRAFT, inverse_transform
from mathllm.engines.speculation import DraftLength, Verdict, verify
from mathllm.errors import ParameterError
from mathllm.trm import RecursiveLM

HALTING_THRESHOLD = 0.9  # a sensible one, for whoever turns halting on


class Decoder:
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
        self.model = packed(model.eval())
        self.max_drafts = max_drafts
        self.halting_threshold = config.halting_threshold
        self.supervision_steps = config.N_sup
        self.memory_bytes = memory_bytes
        self._device = self.model.halting.weight.device
        self.graphs = self._device.type == "cuda" if graphs is None else graphs
        self._kept: Lanes | None = None

    @property
    def max_positions(self) -> int:
        """Prompt and new tokens together, at most."""
        return self.model.config.max_positions

    def memory_plan(self, tokens: int, rows: int = 1) -> MemoryPlan:
        """What `rows` samples of at most `tokens` tokens take, prompt included."""
        available = self.memory_bytes
        if available is None:
            held = 0 if self._kept is None else self._kept.bytes
            available = available_bytes(self._device) + held
        layers = layers_per_step(self.model) * self.supervision_steps
        width = tokens + self.max_drafts + 1
        return plan(self.model, layers, width, rows, self.max_drafts + 1, available)

    def release(self) -> None:
        """Give back the memory that is kept for the next call."""
        self._kept = None

    def lanes(self, rows: int, width: int) -> Lanes:
        """Empty lanes for so many rows of so many columns, or for more."""
        kept = self._kept
        if kept is not None and kept.rows >= rows and kept.width >= width:
            kept.reset(rows)
            return kept
        self.release()
        lanes = self._new_lanes(rows, width)
        self._kept = lanes if self.graphs else None
        return lanes

    def _new_lanes(self, rows: int, width: int) -> Lanes:
        return Lanes(
            self.model, rows, width, self.supervision_steps, self.halting_threshold, self.graphs
        )

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        config: SamplingConfig | Sequence[SamplingConfig],
        seeds: Sequence[Sequence[int]] | None = None,
        on_pass: OnPass | None = None,
    ) -> list[list[Completion]]:
        """As Engine.generate; `on_pass` is called after each pass.

        Rows that do not fit into memory together run one group after another.
        """
        request = Request.of(
            prompts, config, seeds, self.model.config.vocab_size, self.max_positions, on_pass
        )
        size = self.memory_plan(request.most_tokens, len(request.rows)).rows
        in_groups(request.rows, size, _Job(self, request).run, self.release)
        return request.completions


class _Job:
    """One call of `generate`: groups of rows, pass after pass."""

    def __init__(self, decoder: Decoder, request: Request) -> None:
        self._decoder = decoder
        self._model = decoder.model
        self._request = request
        self._length = DraftLength(decoder.max_drafts)

    def run(self, rows: list[Row], waiting: int) -> None:
        """Generate until every row has ended."""
        request, device = self._request, self._model.halting.weight.device
        rows = request.asked(rows)
        if not rows:
            return
        lanes = self._prefilled(rows)
        batch = PromptBatch(rows, device)
        while request.asked(batch.rows):
            going = [place for place, row in enumerate(batch.rows) if not row.done]
            if len(going) < len(batch.rows):
                order = lanes.keep(going)
                batch = PromptBatch([batch.rows[place] for place in order], device)
            self._pass(lanes, batch)
            request.passed(batch.rows, waiting)

    def _prefilled(self, rows: list[Row]) -> Lanes:
        """Lanes for the rows, filled with all but their last token; equal rows share that."""
        longest = max(len(row.sequence) for row in rows)
        room = max(row.limit - len(row.completion.tokens) for row in rows)
        lanes = self._decoder.lanes(len(rows), longest + room + self._decoder.max_drafts)
        distinct: dict[tuple[int, ...], int] = {}
        ends = []
        sources = []
        for row in rows:
            start = tuple(row.sequence[:-1])
            if start not in distinct:
                distinct[start] = len(distinct)
                ends.append(len(row.prompt) - 1)
            sources.append(distinct[start])
        prompts = [list(start) for start in distinct]
        lanes.prefill(prompts, ends, sources, lambda: bool(self._request.asked(rows)))
        return lanes

    def _pass(self, lanes: Lanes, batch: PromptBatch) -> None:
        """Draft, refine, verify, and add what stands to the rows."""
        began, recorded = time.perf_counter(), lanes.recorded
        model, rules = self._model, batch.rules
        k = self._length.choose(batch.room)
        uniform = batch.uniform(k + 1)
        seen = batch.seen(model.config.vocab_size)
        drawn = self._decoder.max_drafts > 0 and not rules.greedy
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
        kept = self._add(batch.rows, verdict, used, sure, k)
        lanes.advance([count + 1 for count in kept])
        seconds = time.perf_counter() - began if lanes.recorded == recorded else None
        self._length.observe(k, kept, seconds)

    def _add(
        self, rows: list[Row], verdict: Verdict, used: Tensor, sure: Tensor, k: int
    ) -> list[int]:
        """What stands goes to the rows; gives how many drafts that were. Waits for the device."""
        measured = torch.stack(
            [verdict.tokens, verdict.logprobs, verdict.entropy, verdict.broken, used, sure], dim=-1
        )  # in float32, token ids to 2^24 are exact
        table, kept = measured.tolist(), verdict.kept.tolist()
        for row, values, count in zip(rows, table, kept, strict=True):
            row.completion.drafted += k
            row.completion.accepted += count
            for token, logprob, entropy, broken, steps, confidence in values[: count + 1]:
                if self._request.add(row, int(token), logprob, entropy, bool(broken)):
                    row.completion.supervision_steps_used += int(steps)
                    row.completion.confidence.append(confidence)
        return kept
