"""TRM weights on disk: model.safetensors and config.json, never pickle."""

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mathllm.errors import ParameterError, WeightsError
from mathllm.files import read_json, sync
from mathllm.trm.backbone import check_safetensors
from mathllm.trm.config import TRMConfig
from mathllm.trm.model import RecursiveLM
from mathllm.wording import brief, shown

FORMAT = 2  # of config.json; a reader refuses what it does not know


def save_checkpoint(model: RecursiveLM, folder: Path) -> None:
    """Write the TRM (not its backbone) to `folder`; an older checkpoint there is replaced.

    Whole or not at all: written beside `folder`, synced, and renamed into place.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        tensors = {name: p.detach().cpu().contiguous() for name, p in model.trm_parameters()}
        save_file(tensors, staging / "model.safetensors")
        description = {"format": FORMAT, "trm": asdict(model.config)}
        text = json.dumps(description, indent=2, sort_keys=True) + "\n"
        (staging / "config.json").write_text(text, encoding="utf-8")
        staging.chmod(0o755)  # mkdtemp's is for the owner alone
        for path in (*staging.iterdir(), staging):
            sync(path)
        if folder.exists():
            old = staging.with_name(staging.name + ".old")
            folder.rename(old)
            staging.rename(folder)
            shutil.rmtree(old)
        else:
            staging.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def read_config(folder: Path) -> TRMConfig:
    """The TRMConfig of a checkpoint. Raises WeightsError if there is none to be read."""
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(
            f"{folder} has no TRM: config.json is missing; train one with notebooks/train.ipynb"
        )
    try:
        description = read_json(path)
        if description["format"] != FORMAT:
            raise WeightsError(
                f"{path} has format {shown(description['format'])}, this version reads {FORMAT}: "
                "use the version of mathllm that wrote it"
            )
        return TRMConfig(**description["trm"])
    except (OSError, ValueError, KeyError, TypeError, ParameterError) as fault:
        why = brief(fault, 200)
        raise WeightsError(f"{path} is not a TRM config ({why}): copy it again") from fault


def load_checkpoint(
    backbone: nn.Module, folder: Path, dtype: torch.dtype = torch.float32
) -> RecursiveLM:
    """The TRM in `folder` over `backbone`, on the backbone's device, in `dtype`.

    Training wants float32, decoding on a GPU the backbone's 16 bits. Raises WeightsError when
    files are missing, truncated or do not belong together, or when the TRM was trained for a
    backbone of another size.
    """
    folder = Path(folder)
    model = RecursiveLM(backbone, read_config(folder))
    path = folder / "model.safetensors"
    check_safetensors(path)
    tensors = load_file(path)
    expected = dict(model.trm_parameters())
    if odd := sorted(set(tensors) ^ set(expected)):
        raise WeightsError(
            f"{path} and its config.json do not belong together: {odd[0]} is in only one of them"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise WeightsError(
                f"{path}: {name} is {list(tensor.shape)}, its config.json says "
                f"{list(expected[name].shape)}: they do not belong together"
            )
    model.load_state_dict(tensors, strict=False)  # the backbone is already loaded
    for _, parameter in model.trm_parameters():
        parameter.data = parameter.data.to(dtype)
    return model.eval()
