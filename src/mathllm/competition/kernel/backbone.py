"""Models that Kaggle has: a backbone in place of one in the weights dataset, and what an endpoint
serves."""

import json
import logging
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from mathllm import paths
from mathllm.errors import ParameterError, WeightsError
from mathllm.files import digest
from mathllm.solving.loading import SERVED, EngineSettings

REFERENCE = "backbone.json"  # {"model": handle, "config": …, "files": {name: {sha256, size}}}
_HANDLE = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){3}/[1-9][0-9]*")
# What makes a config another model's. The rest depends on who saved it, and with what.
_SHAPE = (
    *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"),
    *("num_attention_heads", "num_key_value_heads", "tie_word_embeddings"),
    *("max_position_embeddings", "rms_norm_eps"),
)
_log = logging.getLogger(__name__)


def check_handle(handle: str) -> str:
    """`handle` if it is one of Kaggle's. Raises ParameterError."""
    if not _HANDLE.fullmatch(handle):
        raise ParameterError(
            f"model {handle!r} is no handle of Kaggle's: give owner/model/framework/variation/"
            "version, as qwen-lm/qwen2.5-math/transformers/1.5b-instruct/1"
        )
    return handle


def mount_point(handle: str) -> str:
    """Where Kaggle mounts a model, below `models/`: the framework in lower case."""
    owner, model, framework, variation, version = handle.split("/")
    return f"{owner}/{model}/{framework.lower()}/{variation}/{version}"


def describe(handle: str, backbone: Path) -> dict[str, Any]:
    """The content of backbone.json: the handle, and what the local backbone is made of."""
    files = [backbone / "config.json", *sorted(backbone.glob("*.safetensors"))]
    return {
        "model": handle,
        "config": _config(backbone),
        "files": {f.name: {"sha256": digest(f), "size": f.stat().st_size} for f in files},
    }


def find_backbone(weights: Path, strict: bool) -> Path | None:
    """The folder of the model that stands for <weights>/backbone; None where none has to.

    Raises WeightsError where it is not attached, or, if `strict`, another model is; if not,
    that is logged as a warning: a rerun goes on with what it has. Sums of the weights are
    made if `strict` only, they take seconds for each gigabyte.
    """
    path = weights / REFERENCE
    if (weights / "backbone").is_dir() or not path.is_file():
        return None
    reference = json.loads(path.read_text(encoding="utf-8"))
    handle = reference["model"]
    owner, _, slug = mount_point(handle).partition("/")
    folder = paths.find_input("models", slug, owner)
    if folder is None:
        raise WeightsError(
            f"the backbone {handle} is not under {paths.input_root()}: attach the model {handle} "
            "to the notebook, this very version, or vendor without --model"
        )
    if fault := _difference(reference, folder, sums=strict):
        told = (
            f"{fault}: {handle} is not the backbone that the TRM was trained on; attach the "
            "right model, or vendor without --model"
        )
        if strict:
            raise WeightsError(told)
        _log.warning("%s", told)
    return folder


def find_served(engine: EngineSettings) -> EngineSettings:
    """The settings with the folder of the endpoint's model in place of {served}. Raises
    WeightsError where it is not attached."""
    if not engine.served:
        return engine
    owner, _, slug = mount_point(check_handle(engine.served)).partition("/")
    folder = paths.find_input("models", slug, owner)
    if folder is None:
        raise WeightsError(
            f"the model {engine.served} is not under {paths.input_root()}: attach it to the "
            "notebook, this very version"
        )
    return replace(
        engine,
        served="",
        server=engine.server.replace(SERVED, shlex.quote(str(folder))),
        tokenizer=engine.tokenizer.replace(SERVED, str(folder)),
    )


def _difference(reference: dict[str, Any], folder: Path, sums: bool) -> str | None:
    """What shows that the folder holds another model, None where nothing does."""
    if not (folder / "config.json").is_file():
        return f"{folder} has no config.json"
    expected, found = reference["config"], _config(folder)
    for key in _SHAPE:
        if key in expected and key in found and expected[key] != found[key]:
            return f"{folder / 'config.json'} has {key} {found[key]}, not {expected[key]}"
    for name, entry in reference["files"].items():
        file = folder / name
        # Weights split or stored otherwise cannot be compared, those of one size can.
        same_size = file.is_file() and file.stat().st_size == entry["size"]
        if sums and file.suffix == ".safetensors" and same_size and digest(file) != entry["sha256"]:
            return f"{file} has other weights"
    return None


def _config(backbone: Path) -> dict[str, Any]:
    path = backbone / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise WeightsError(f"{path} is not JSON ({fault}): copy the model again") from fault
