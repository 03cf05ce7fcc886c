"""What a bundle is made of: the files of each part, and Kaggle's metadata, checked.

Knows the repository's folders, Kaggle's limits on metadata and what a weights folder must
hold. Knows nothing of where a bundle is laid out or how it is sealed.
"""

import json
import re
import string
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mathllm.competition.bundle.walk import check_link, files_below, is_hidden
from mathllm.errors import BundleError, ParameterError, WeightsError

# Names of Kaggle's `machine_shape`; "none" is a CPU notebook.
ACCELERATORS = ("NvidiaH100", "NvidiaL4", "NvidiaTeslaP100", "NvidiaTeslaT4", "none")
# Formats that hold no code; what else lies beside the weights, such as a README, stays behind.
WEIGHT_SUFFIXES = frozenset({".json", ".safetensors", ".txt", ".jinja", ".model"})
# Modules, and the templates of pages.
SOURCE_SUFFIXES = frozenset({".py", ".css", ".j2", ".json"})
# What the notebooks read when they run on Kaggle, and the licence.
BESIDE_THE_PACKAGE = ("LICENSE", "assets/problems.csv", "assets/reserved.txt")

# Kaggle's limits, in characters, both ends included.
DATASET_TITLE, DATASET_SUBTITLE, DATASET_SLUG = (6, 50), (20, 80), (6, 50)
KERNEL_TITLE = (5, 50)
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def source_files(root: Path) -> Iterator[tuple[str, Path]]:
    """(path in the source dataset, file): the package, its licence, notebooks' small assets."""
    package = root / "src" / "mathllm"
    if not (package / "__init__.py").is_file():
        raise BundleError(f"{package} is no package: run build.py from its clone")
    for path in files_below(package, package):
        if path.suffix in SOURCE_SUFFIXES and not is_hidden(path, package):
            yield f"mathllm/{path.relative_to(package).as_posix()}", path
    for name in BESIDE_THE_PACKAGE:
        check_link(root / name, root)
        yield name, root / name


def weight_files(weights: Path, parts: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """(path in the weights dataset, file) of `backbone/`, `trm/`, or both."""
    for part in parts:
        for path in files_below(weights / part, weights):
            wanted = path.suffix in WEIGHT_SUFFIXES or path.name == "LICENSE"
            if wanted and not is_hidden(path, weights):
                yield path.relative_to(weights).as_posix(), path


def check_weights(weights: Path) -> None:
    """Raise WeightsError unless the kernel could load `weights`.

    Reads headers and the TRM, never the backbone's tensors: a model of many gigabytes is
    checked in seconds, on any machine.
    """
    if not weights.is_dir():
        raise WeightsError(f"no weights folder {weights}: give one that holds backbone/ and trm/")
    # Here and not above: torch and transformers take seconds, and `--help` needs neither.
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from mathllm.data.chat import load_tokenizer
    from mathllm.trm import backbone as backbones
    from mathllm.trm import load_checkpoint

    folder = weights / "backbone"
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"{weights} has no backbone: backbone/config.json is missing; copy there what "
            "save_pretrained wrote for the model that the TRM was trained on"
        )
    for path in backbones.weight_files(folder):
        backbones.check_safetensors(path)
    load_tokenizer(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):  # shapes without memory
            backbone = AutoModelForCausalLM.from_config(config)
    except (ValueError, OSError, KeyError) as fault:
        reason = str(fault).strip().splitlines()[0]
        raise WeightsError(f"{folder} is no causal LM ({reason}): copy it again") from fault
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tensors copied to "meta" go nowhere, as meant
            load_checkpoint(backbone, weights / "trm")
    except WeightsError as fault:
        raise WeightsError(f"{weights / 'trm'} does not fit {folder}: {fault}") from fault


def slugify(title: str) -> str:
    """Kaggle's slug of a title: lower case, with a hyphen for every run of other signs."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def placeholders(owner: str, title: str, accelerator: str, competition: str) -> dict[str, str]:
    """What the metadata templates are filled with. Raises ParameterError for bad values."""
    if not _OWNER.fullmatch(owner):
        raise ParameterError(
            f"username {owner!r} is none of Kaggle's: give letters, digits and hyphens only"
        )
    low, high = KERNEL_TITLE
    slug = slugify(title)
    if not (low <= len(title) <= high and len(slug) >= low):
        raise ParameterError(
            f"title {title!r} has {len(title)} characters: Kaggle takes {low} to {high}, "
            f"{low} of them letters or digits"
        )
    if accelerator not in ACCELERATORS:
        raise ParameterError(
            f"accelerator {accelerator!r} is unknown: give one of {', '.join(ACCELERATORS)}"
        )
    return {
        "owner": owner,
        "title": title,
        "slug": slug,
        "accelerator": "" if accelerator == "none" else accelerator,
        "competition": competition,
    }


def _filled(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return string.Template(value).substitute(names)
    if isinstance(value, list):
        return [_filled(item, names) for item in value]
    if isinstance(value, dict):
        return {key: _filled(item, names) for key, item in value.items()}
    return value


def _template(path: Path, names: Mapping[str, str]) -> dict[str, Any]:
    try:
        return _filled(json.loads(path.read_text(encoding="utf-8")), names)
    except (OSError, ValueError, KeyError) as fault:
        raise BundleError(f"{path} is not a metadata template ({fault}): restore it") from fault


def dataset_metadata(path: Path, names: Mapping[str, str], private: bool) -> dict[str, Any]:
    """A dataset's template filled in. Raises BundleError beyond one of Kaggle's limits."""
    metadata = _template(path, names)
    limits = {
        "title": (metadata.get("title", ""), DATASET_TITLE),
        "subtitle": (metadata.get("subtitle", ""), DATASET_SUBTITLE),
        "slug": (metadata.get("id", "").partition("/")[2], DATASET_SLUG),
    }
    for name, (text, (low, high)) in limits.items():
        if not low <= len(text) <= high:
            raise BundleError(
                f"{path}: {name} {text!r} has {len(text)} characters, Kaggle takes {low} to {high}"
            )
    if len(metadata.get("licenses", [])) != 1:
        raise BundleError(f"{path}: Kaggle takes exactly one licence, name one in 'licenses'")
    return metadata | {"isPrivate": private}


def kernel_metadata(
    path: Path, names: Mapping[str, str], datasets: Collection[str], model: str, private: bool
) -> dict[str, Any]:
    """The kernel's template filled in; without an accelerator it asks for no GPU.

    Of its datasets those in `datasets` are attached: one that is not vendored is not on Kaggle.
    """
    metadata = _template(path, names)
    if lost := set(datasets) - set(metadata["dataset_sources"]):
        raise BundleError(f"{path}: {min(lost)} is not in 'dataset_sources': restore it there")
    return metadata | {
        "is_private": private,
        "enable_gpu": bool(names["accelerator"]),
        "dataset_sources": [name for name in metadata["dataset_sources"] if name in datasets],
        "model_sources": [model] if model else [],
    }
