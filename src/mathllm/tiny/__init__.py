"""The embedded default: its tokenizer and its pre-training."""
