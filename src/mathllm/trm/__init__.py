"""The network: a tiny recursive model over a frozen backbone.

Knows token ids and tensors. Knows nothing of text, of sampling or of Kaggle.
"""

from mathllm.trm.backbone import load_backbone
from mathllm.trm.checkpoint import load_checkpoint, save_checkpoint
from mathllm.trm.config import TRMConfig
from mathllm.trm.model import RecursiveLM

__all__ = ["RecursiveLM", "TRMConfig", "load_backbone", "load_checkpoint", "save_checkpoint"]
