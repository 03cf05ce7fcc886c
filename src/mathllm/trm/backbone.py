"""Loading the frozen backbone, and reading the hidden states that the recursion starts from."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import is_accelerate_available, is_bitsandbytes_available

from mathllm.errors import ParameterError, WeightsError
from mathllm.pretrained import MODEL, check_files, weight_files
from mathllm.wording import brief, shown

QUANTISED = {
    "int8": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
}
# Least compute capability of bitsandbytes' kernels, by its installation guide: T4, P100.
QUANTISED_FROM = {"int8": (7, 5), "nf4": (6, 0)}


def check_safetensors(path: Path) -> None:
    """Raise WeightsError unless `path` is a whole safetensors file."""
    if not path.is_file():
        raise WeightsError(f"{path} is missing: copy the whole weights folder again")
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError) as fault:
        raise WeightsError(
            f"{path} ({path.stat().st_size:,} bytes) is truncated or corrupt "
            f"({brief(fault, 200)}): copy it again"
        ) from fault


def check_quantisable(bits: str, capability: tuple[int, int] | None = None) -> None:
    """Raise ParameterError unless layers can be loaded in `bits` here.

    `capability`: the GPU's compute capability; None: no GPU, where bitsandbytes is slow.
    """
    if bits not in QUANTISED:
        raise ParameterError(
            f"backbone_precision is {shown(bits)}: quantised it must be {' or '.join(QUANTISED)}"
        )
    there = {"bitsandbytes": is_bitsandbytes_available(), "accelerate": is_accelerate_available()}
    if missing := [name for name, found in there.items() if not found]:
        raise ParameterError(
            f"backbone_precision {bits!r} needs {missing[0]}, which is missing here or too old: "
            f"pip install -U {missing[0]}, or use 'bf16' or 'fp16'"
        )
    least = QUANTISED_FROM[bits]
    if capability is not None and capability < least:
        others = [name for name, theirs in QUANTISED_FROM.items() if capability >= theirs]
        raise ParameterError(
            f"backbone_precision {bits!r} needs a GPU of compute capability {least[0]}.{least[1]}, "
            f"this one has {capability[0]}.{capability[1]}: use {' or '.join([*others, 'fp16'])}"
        )


def _quantisation(bits: str, device: str, dtype: torch.dtype) -> Any:
    """What transformers wants in order to load linear layers in 8 or 4 bits."""
    on_gpu = torch.device(device).type == "cuda"
    check_quantisable(bits, torch.cuda.get_device_capability(device) if on_gpu else None)
    # By default nf4 would be multiplied in float32, whatever `dtype` says.
    return BitsAndBytesConfig(**QUANTISED[bits], bnb_4bit_compute_dtype=dtype)


def read_backbone_config(folder: Path) -> Any:
    """The transformers config of a backbone's folder. Raises WeightsError without one."""
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"{folder} has no backbone: config.json is missing; give a folder made by "
            "save_pretrained, with config.json, model.safetensors and tokenizer.json"
        )
    check_files(folder, MODEL)
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, LookupError, TypeError, AttributeError) as fault:
        raise _no_model(folder, fault) from fault
    except StrictDataclassError as fault:
        raise _no_model(folder, fault) from fault


def _no_model(folder: Path, fault: Exception) -> WeightsError:
    return WeightsError(f"{folder} cannot be loaded as a causal LM: {brief(fault, 200)}")


def load_backbone(
    folder: Path,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    quantised: str | None = None,
) -> nn.Module:
    """A frozen causal LM of Qwen2's shape from a transformers folder. Never a download.

    `quantised`: "int8" (Dettmers et al., 2208.07339) or "nf4" (2305.14314) for the layers;
    embeddings and head stay in `dtype`. Raises WeightsError when the folder has no model, a
    file is missing or truncated, or the weights do not fill the model that config.json
    describes, and ParameterError for a GPU that is not there, and when bitsandbytes is wanted
    and missing, or not for this GPU.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ParameterError(f"device is {shown(device)} and torch sees no GPU here: use 'cpu'")
    read_backbone_config(folder)
    for path in weight_files(folder):
        check_safetensors(path)
    try:
        # bitsandbytes places its own tensors: a model of its cannot be moved afterwards.
        options = {"device_map": {"": device}} if quantised else {}
        backbone, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            quantization_config=_quantisation(quantised, device, dtype) if quantised else None,
            **options,
        )
    except torch.OutOfMemoryError:
        raise  # no fault of the folder's
    except (ValueError, OSError, RuntimeError, LookupError, TypeError, AttributeError) as fault:
        raise _no_model(folder, fault) from fault
    except StrictDataclassError as fault:
        raise _no_model(folder, fault) from fault
    missing = sorted(report["missing_keys"])
    if missing:
        raise WeightsError(
            f"{folder} lacks {len(missing)} tensors of the model that its config.json describes, "
            f"{missing[0]} first: the two do not belong together"
        )
    backbone = backbone if quantised else backbone.to(device)
    return backbone.requires_grad_(False).eval()


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


def run_backbone(backbone: nn.Module, **inputs: Any) -> tuple[Tensor, Tensor]:
    """h [B, S, D], the last layer's output, before and after the final norm.

    transformers returns it after the norm only, so the other is taken from the norm's input.
    """
    with torch.no_grad(), _input_of(backbone.model.norm) as seen:
        normed = backbone.model(**inputs).last_hidden_state
    return seen[-1], normed


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BFLOAT16_FROM = (8, 0)  # compute capability: Ampere on; T4 is (7, 5), P100 (6, 0)


def best_precision(kind: str, capability: tuple[int, int] = (0, 0)) -> str:
    """fp32 on a CPU; on a GPU bf16 where it has it, else fp16."""
    if kind != "cuda":
        return "fp32"
    return "bf16" if capability >= BFLOAT16_FROM else "fp16"


def best_dtype(device: str | torch.device) -> torch.dtype:
    """The dtype of best_precision for a device that is there."""
    device = torch.device(device)
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    return DTYPES[best_precision(device.type, capability)]


def resolve(precision: str, device: torch.device) -> str:
    """fp32, bf16 or fp16 for a setting that may be "auto".

    Raises ParameterError for any other name.
    """
    if precision == "auto":
        capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
        return best_precision(device.type, capability)
    if precision not in DTYPES:
        raise ParameterError(
            f"precision is {shown(precision)}: it must be auto, {', '.join(DTYPES)}"
        )
    return precision


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype for torch.autocast; None for no autocast at all."""
    dtype = DTYPES[resolve(precision, device)]
    return None if dtype is torch.float32 else dtype
