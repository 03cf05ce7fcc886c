"""Batched generation with exact caches, and the plain backbone behind the same interface."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from transformers import DynamicCache

from mathllm.decoding.cache import RecursionCache
from mathllm.decoding.sampling import SamplingConfig, draw
from mathllm.errors import ParameterError
from mathllm.trm import RecursiveLM
from mathllm.trm.backbone import last_hidden
from mathllm.trm.model import positions


@dataclass
class Completion:
    """One sample. `logprobs` and `entropy` are nats per token, the model's own."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    finish_reason: Literal["stop", "length", "deadline"] = "length"
    supervision_steps_used: int = 0


class _Run:
    """The caches of one call of `generate`, and a step over the next columns."""

    def __init__(self, model: RecursiveLM, rows: int, width: int, recursive: bool) -> None:
        self.model = model
        weight = model.halting.weight
        self.recursion = (
            RecursionCache(model.config, rows, width, weight.device, weight.dtype)
            if recursive
            else None
        )
        self.backbone = DynamicCache(config=model.backbone.config)
        self.valid = torch.zeros(rows, 0, dtype=torch.long, device=weight.device)

    def step(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Logits [B, V] after the last of the next tokens [B, S]; `valid` [B, S], 0 at padding."""
        model = self.model
        self.valid = torch.cat([self.valid, valid], dim=1)
        position_ids = positions(self.valid)[:, -tokens.shape[1] :]
        h = last_hidden(
            model.backbone,
            input_ids=tokens,
            attention_mask=self.valid,
            position_ids=position_ids,
            past_key_values=self.backbone,
            use_cache=True,
        )
        y = model.normalise(h)
        if self.recursion is not None:
            self.recursion.open(valid.bool())
            y = model.refine(y, model.rotary(h, position_ids), self.recursion.attend)
        return model.head(y[:, -1])

    def select(self, rows: Tensor) -> None:
        """Keep the rows named by index, which may repeat."""
        self.backbone.batch_select_indices(rows)
        self.valid = self.valid.index_select(0, rows)
        if self.recursion is not None:
            self.recursion.select(rows)


class Decoder:
    """Generates with the recursion. Tokens equal those of the uncached `RecursiveLM.logits`."""

    recursive = True

    def __init__(self, model: RecursiveLM) -> None:
        self.model = model.eval()

    @property
    def max_positions(self) -> int:
        """Prompt and new tokens together, at most."""
        return self.model.config.max_positions

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        config: SamplingConfig,
        seeds: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Completion]]:
        """`config.n` completions for each prompt of token ids, in the order of the prompts.

        `seeds[p][i]` seeds sample i of prompt p; by default they count up from
        `config.seed`. A stop token ends a completion and is part of it. Raises
        ParameterError for no prompts, an empty prompt, an id outside the vocabulary, or a
        prompt that leaves no position for a new token.
        """
        self._check(prompts)
        count = len(prompts) * config.n
        if seeds is None:
            flat = list(range(config.seed, config.seed + count))
        else:
            flat = [seed for row in seeds for seed in row]
            if len(flat) != count:
                raise ParameterError(f"{len(flat)} seeds given for {count} samples: one each")
        streams = [torch.Generator().manual_seed(seed % 2**63) for seed in flat]
        longest = max(map(len, prompts))
        width = min(longest + config.max_new_tokens, self.max_positions)
        device = self.model.halting.weight.device
        tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
        valid = torch.zeros_like(tokens)
        for row, prompt in enumerate(prompts):  # padded on the left
            tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
            valid[row, longest - len(prompt) :] = 1
        run = _Run(self.model, len(prompts), width, self.recursive)
        logits = run.step(tokens.to(device), valid.to(device))
        samples = torch.arange(len(prompts), device=device).repeat_interleave(config.n)
        run.select(samples)  # the samples of a prompt share its prefill
        completions = self._continue(run, logits[samples], streams, config, width - longest)
        return [completions[i : i + config.n] for i in range(0, count, config.n)]

    def _continue(
        self,
        run: _Run,
        logits: Tensor,
        streams: list[torch.Generator],
        config: SamplingConfig,
        room: int,
    ) -> list[Completion]:
        """Draw and step until every row has ended; rows that ended leave the batch."""
        completions = [Completion() for _ in streams]
        live = list(range(len(streams)))
        steps = self.model.config.N_sup if self.recursive else 0
        for left in range(room, 0, -1):
            if config.deadline is not None and time.monotonic() >= config.deadline:
                for row in live:
                    completions[row].finish_reason = "deadline"
                break
            drawn, logprobs, entropy = draw(logits, config, [streams[row] for row in live])
            going = []
            for place, (row, token, logprob, nats) in enumerate(
                zip(live, drawn.tolist(), logprobs.tolist(), entropy.tolist(), strict=True)
            ):
                completion = completions[row]
                completion.tokens.append(token)
                completion.logprobs.append(logprob)
                completion.entropy.append(nats)
                completion.supervision_steps_used += steps
                if token in config.stop_ids:
                    completion.finish_reason = "stop"
                else:
                    going.append(place)
            if not going or left == 1:
                break
            if len(going) < len(live):
                rows = torch.tensor(going, device=drawn.device)
                run.select(rows)
                drawn = drawn[rows]
                live = [live[place] for place in going]
            logits = run.step(drawn[:, None], torch.ones_like(drawn)[:, None])
        return completions

    def _check(self, prompts: Sequence[Sequence[int]]) -> None:
        if not prompts:
            raise ParameterError("no prompts given: at least one list of token ids is needed")
        vocabulary = self.model.config.vocab_size
        for number, prompt in enumerate(prompts):
            if not prompt:
                raise ParameterError(f"prompt {number} is empty: give at least one token id")
            if len(prompt) >= self.max_positions:
                raise ParameterError(
                    f"prompt {number} has {len(prompt)} tokens and the backbone "
                    f"{self.max_positions} positions: shorten it"
                )
            if not 0 <= min(prompt) <= max(prompt) < vocabulary:
                raise ParameterError(
                    f"prompt {number} has token ids outside 0…{vocabulary - 1}: "
                    "use the backbone's own tokenizer"
                )


class BackboneDecoder(Decoder):
    """The frozen backbone alone, through the same code without the recursion."""

    recursive = False
