"""Problems from files, rows to chat, chat to tokens, tokens to batches."""

from mathllm.data.sources import load_problems

__all__ = ["load_problems"]
