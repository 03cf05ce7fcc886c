"""Training rows as token ids, one after another in one array."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

IGNORED = -100  # the label that cross_entropy skips


@dataclass(frozen=True)
class Example:
    """One training row: `tokens` of the whole chat, of which the first `prompt` are masked.

    `steps` [K, labels]: what supervision steps 1 to K have as labels in place of the row's own
    tokens; IGNORED, none. From step `hops` on the row's own answer stands.
    """

    tokens: Sequence[int] | np.ndarray
    prompt: int
    steps: np.ndarray | None = None
    hops: int = 0

    def labels(self, step: int = 0) -> Sequence[int] | np.ndarray:
        """Those of supervision step `step`; for 0, or a row without labels by step, its own."""
        if not step or self.steps is None:
            return self.tokens[self.prompt :]
        return self.steps[min(step, len(self.steps)) - 1]


@dataclass(frozen=True)
class StepLabels:
    """Labels by supervision step of many rows.

    labels: int32, of all rows and their steps one after another; depths, hops: int32 [rows], how
    many steps have labels, 0 where none has, and the one from which on the answer stands.
    """

    labels: np.ndarray
    depths: np.ndarray
    hops: np.ndarray

    @classmethod
    def none(cls, rows: int) -> "StepLabels":
        """Of rows that have one label for all steps."""
        return cls(*(np.zeros(count, dtype=np.int32) for count in (0, rows, rows)))

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "StepLabels":
        """The examples'."""
        steps = [example.steps for example in examples if example.steps is not None]
        depths = [0 if example.steps is None else len(example.steps) for example in examples]
        hops = [example.hops for example in examples]
        flat = np.concatenate([part.ravel() for part in steps]) if steps else []
        return cls(*(np.asarray(part, dtype=np.int32) for part in (flat, depths, hops)))


class TokenSet(Sequence[Example]):
    """Rows as token ids, in memory or mapped from disk.

    lengths, prompts: int32 [rows], tokens of the whole row and of its prompt. `report`
    counts what was read, kept and dropped, and why. `folder` is where the set came from, if
    it came from the disk (mathllm.data.token_store).
    """

    def __init__(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray,
        prompts: np.ndarray,
        key: str,
        report: Mapping[str, int],
        folder: Path | None = None,
        by_step: StepLabels | None = None,
    ) -> None:
        self.tokens, self.lengths, self.prompts = tokens, lengths, prompts
        self.key, self.report, self.folder = key, dict(report), folder
        self.by_step = by_step or StepLabels.none(len(lengths))
        self._ends = np.cumsum(lengths, dtype=np.int64)
        counts = self.by_step.depths * (lengths - prompts)
        self._step_ends = np.cumsum(counts, dtype=np.int64)

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "TokenSet":
        """The examples in memory; the key is the digest of their content."""
        tokens = np.array([t for e in examples for t in e.tokens], dtype=np.int32)
        lengths = np.array([len(e.tokens) for e in examples], dtype=np.int32)
        prompts = np.array([e.prompt for e in examples], dtype=np.int32)
        by_step = StepLabels.of(examples)
        parts = [lengths, prompts, tokens]
        if len(by_step.labels):
            parts += [by_step.depths, by_step.hops, by_step.labels]
        content = b"".join(part.tobytes() for part in parts)
        key = hashlib.sha256(content).hexdigest()[:16]
        return cls(tokens, lengths, prompts, key, {"kept": len(examples)}, by_step=by_step)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Example:
        end, prompt = self._ends[index], int(self.prompts[index])
        tokens = self.tokens[end - self.lengths[index] : end]
        depth = int(self.by_step.depths[index])
        if not depth:
            return Example(tokens, prompt)
        last, count = self._step_ends[index], depth * (len(tokens) - prompt)
        steps = self.by_step.labels[last - count : last].reshape(depth, -1)
        return Example(tokens, prompt, steps, int(self.by_step.hops[index]))

    @property
    def label_share(self) -> float:
        """Label tokens among all tokens."""
        return 1 - float(self.prompts.sum()) / max(1.0, float(self.lengths.sum()))
