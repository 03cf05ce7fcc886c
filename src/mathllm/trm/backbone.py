"""Loading the frozen backbone, and reading the hidden states that the recursion starts from."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from mathllm.errors import WeightsError


def check_safetensors(path: Path) -> None:
    """Raise WeightsError unless `path` is a whole safetensors file."""
    if not path.is_file():
        raise WeightsError(f"{path} is missing: copy the whole weights folder again")
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError) as fault:
        raise WeightsError(
            f"{path} ({path.stat().st_size:,} bytes) is truncated or corrupt ({fault}): "
            "copy it again"
        ) from fault


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a transformers folder: one, or the shards of its index."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as fault:
        raise WeightsError(f"{index} is not a weight index ({fault}): copy it again") from fault
    return [folder / name for name in sorted(names)]


def load_backbone(
    folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> nn.Module:
    """A frozen causal LM of Qwen2's shape from a transformers folder. Never a download.

    Raises WeightsError when the folder has no model, a file is missing or truncated, or
    the weights do not fill the model that config.json describes.
    """
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"{folder} has no backbone: config.json is missing; give a folder made by "
            "save_pretrained, with config.json, model.safetensors and tokenizer.json"
        )
    for path in weight_files(folder):
        check_safetensors(path)
    try:
        backbone, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except torch.OutOfMemoryError:
        raise  # no fault of the folder's
    except (ValueError, OSError, RuntimeError, KeyError, StrictDataclassError) as fault:
        reason = str(fault).strip().splitlines()[0]
        raise WeightsError(f"{folder} cannot be loaded as a causal LM: {reason}") from fault
    missing = sorted(report["missing_keys"])
    if missing:
        raise WeightsError(
            f"{folder} lacks {len(missing)} tensors of the model that its config.json describes, "
            f"{missing[0]} first: the two do not belong together"
        )
    return backbone.to(device).requires_grad_(False).eval()


@contextmanager
def _input_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what `module` is called with while the context lasts."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0])

    hook = module.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def last_hidden(backbone: nn.Module, **inputs: Any) -> Tensor:
    """h [B, S, D]: the last layer's output before the final norm.

    transformers returns it after the norm only, so it is taken from the norm's input.
    """
    with torch.no_grad(), _input_of(backbone.model.norm) as seen:
        backbone.model(**inputs)
    return seen[-1]
