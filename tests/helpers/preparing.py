"""Preparing tokens in a process of its own, which a test may kill.

A small module: a process starts as fast as this can be imported.
"""

import multiprocessing
from pathlib import Path

from helpers.paths import ROOT
from mathllm.data.arithmetic import generate
from mathllm.data.chat import load_tokenizer
from mathllm.data.token_store import prepare
from mathllm.tokens.rows import TokenSet

BACKBONE = ROOT / "assets" / "tiny" / "backbone"
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["torch", "transformers", "mathllm.data.token_store"])


def prepare_rows(folder: Path, count: int, begun: Path) -> TokenSet:
    """Generated rows to a token set; touches `begun` right before."""
    frame = generate("train", count, seed=0).lazy()
    tokenizer = load_tokenizer(BACKBONE)
    begun.touch()
    return prepare(frame, tokenizer, folder, max_length=300, progress=False)
