"""A whole weights folder with random numbers in it, made in a second: see `write_weights`."""

from pathlib import Path

from conftest import make_backbone

from mathllm.tiny.tokenizer import train_tokenizer
from mathllm.trm import RecursiveLM, TRMConfig, save_checkpoint

VOCABULARY = 300


def write_weights(folder: Path, **sizes: object) -> Path:
    """`folder` with backbone/ (tokenizer included) and trm/, both of these sizes."""
    backbone = make_backbone(vocab_size=VOCABULARY, **sizes)
    backbone.save_pretrained(folder / "backbone")
    texts = ["Please reason step by step, and put your final answer within a box."] * 2
    train_tokenizer(texts, VOCABULARY).save_pretrained(folder / "backbone")
    config = TRMConfig.for_backbone(backbone.config, n=1, T=1, N_sup=1, layers=1)
    save_checkpoint(RecursiveLM(backbone, config), folder / "trm")
    return folder
