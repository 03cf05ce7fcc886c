"""Training rows as token ids, one after another in one array."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Example:
    """One training row: `tokens` of the whole chat, of which the first `prompt` are masked."""

    tokens: Sequence[int] | np.ndarray
    prompt: int


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
    ) -> None:
        self.tokens, self.lengths, self.prompts = tokens, lengths, prompts
        self.key, self.report, self.folder = key, dict(report), folder
        self._ends = np.cumsum(lengths, dtype=np.int64)

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "TokenSet":
        """The examples in memory; the key is the digest of their content."""
        tokens = np.array([t for e in examples for t in e.tokens], dtype=np.int32)
        lengths = np.array([len(e.tokens) for e in examples], dtype=np.int32)
        prompts = np.array([e.prompt for e in examples], dtype=np.int32)
        content = b"".join(part.tobytes() for part in (lengths, prompts, tokens))
        key = hashlib.sha256(content).hexdigest()[:16]
        return cls(tokens, lengths, prompts, key, {"kept": len(examples)})

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Example:
        end = self._ends[index]
        return Example(self.tokens[end - self.lengths[index] : end], int(self.prompts[index]))

    @property
    def label_share(self) -> float:
        """Label tokens among all tokens."""
        return 1 - float(self.prompts.sum()) / max(1.0, float(self.lengths.sum()))
