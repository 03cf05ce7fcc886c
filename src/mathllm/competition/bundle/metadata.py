"""Kaggle's rules for the metadata of datasets and kernels, and the templates filled in.

What Kaggle or its client would refuse, change or misread is refused here, before anything is
uploaded: the client looks at a kernel's metadata only after all datasets have gone up. Sources:
the client's kernels_push and dataset_create_new (kaggle 2.2), docs/kernels.md,
docs/kernels_metadata.md and docs/datasets_metadata.md of github.com/Kaggle/kaggle-cli.
"""

import json
import re
import string
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mathllm.competition.kernel.backbone import check_handle
from mathllm.errors import BundleError, ParameterError
from mathllm.files import read_json
from mathllm.paths import WHEELS_SLUG
from mathllm.settings import CURRENT
from mathllm.wording import brief, shown

# Names of Kaggle's `machine_shape` (docs/kernels.md, September 2026), and the GB of one of its
# cards; "none" is a CPU notebook.
CARD_GB = {
    "NvidiaH100": 80,
    "NvidiaL4": 24,
    "NvidiaL4X1": 24,
    "NvidiaRtxPro6000": 96,
    "NvidiaTeslaA100": 40,
    "NvidiaTeslaT4": 16,
    "NvidiaTeslaT4Highmem": 16,
}
ACCELERATORS = (*CARD_GB, "none")
# kaggle-cli#1192: the server silently runs something else in its place.
RETIRED = {"NvidiaTeslaP100": "NvidiaTeslaT4 or NvidiaL4"}

# Kaggle's limits, in characters, both ends included.
DATASET_TITLE, DATASET_SUBTITLE, DATASET_SLUG = (6, 50), (20, 80), (6, 50)
KERNEL_TITLE = (5, 50)
LICENCES = (
    *("CC0-1.0", "CC-BY-3.0", "CC-BY-3.0-IGO", "CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-4.0"),
    *("CC-BY-NC-SA-3.0-IGO", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-SA-3.0"),
    *("CC-BY-SA-4.0", "CDLA-Permissive-1.0", "CDLA-Sharing-1.0", "DbCL-1.0", "ODC-BY-1.0"),
    *("ODbL-1.0", "PDDL", "AGPL-3.0", "GPL-2.0", "GPL-3.0", "LGPL-3.0", "FDL-1.3"),
    *("apache-2.0", "EU-ODP-Legal-Notice", "US-Government-Works", "copyright-authors"),
    *("other", "unknown"),
)
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
# In other titles the client's slug, Kaggle's and ours may be three.
_TITLE = re.compile(r"[A-Za-z0-9 _.:-]*")
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")  # the client's _validate_slug_syntax
_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*/[a-z0-9-]{3,}(/[1-9][0-9]*)?")
_KERNEL_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*/[a-z0-9-]{5,}")
_OPTIONAL = {"keywords", "docker_image", "docker_image_pinning_type"}
_PINNING = (None, "original", "latest")


def slugify(title: str) -> str:
    """Kaggle's slug of a title: lower case, with a hyphen for every run of other signs."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def placeholders(owner: str, title: str, accelerator: str, competition: str) -> dict[str, str]:
    """What the metadata templates are filled with. Raises ParameterError for bad values."""
    if not _OWNER.fullmatch(owner):
        raise ParameterError(
            f"username {shown(owner)} is none of Kaggle's: give letters, digits and hyphens only"
        )
    low, high = KERNEL_TITLE
    slug = slugify(title)
    if not (low <= len(title) <= high and len(slug) >= low):
        raise ParameterError(
            f"title {shown(title)} has {len(title)} characters: Kaggle takes {low} to {high}, "
            f"{low} of them letters or digits"
        )
    if not _TITLE.fullmatch(title):
        raise ParameterError(
            f"title {shown(title)} may become another address on Kaggle than {slug}: give "
            "unaccented letters, digits, spaces and . : _ - only"
        )
    if accelerator in RETIRED:
        raise ParameterError(
            f"accelerator {accelerator} is retired, Kaggle runs something else in its place: "
            f"give {RETIRED[accelerator]}"
        )
    if accelerator not in ACCELERATORS:
        raise ParameterError(
            f"accelerator {shown(accelerator)} is unknown: give one of {', '.join(ACCELERATORS)}"
        )
    return {
        "owner": owner,
        "title": title,
        "slug": slug,
        "accelerator": "" if accelerator == "none" else accelerator,
        "competition": competition,
    }


def dataset_metadata(
    path: Path, names: Mapping[str, str], private: bool, slug: str | None = None
) -> dict[str, Any]:
    """A dataset's template filled in; `slug` is the one by which the kernel looks for it, if
    it does. Raises BundleError for what Kaggle would refuse, after the upload."""
    metadata = _template(path, names)
    owner, _, own = str(metadata.get("id", "")).partition("/")
    limits = {
        "title": (str(metadata.get("title", "")), DATASET_TITLE),
        "subtitle": (str(metadata.get("subtitle", "")), DATASET_SUBTITLE),
        "slug": (own, DATASET_SLUG),
    }
    for name, (text, (low, high)) in limits.items():
        if not low <= len(text) <= high:
            raise BundleError(
                f"{path}: {name} {shown(text)} has {len(text)} characters, Kaggle takes {low} "
                f"to {high}"
            )
    if owner != names["owner"] or not _SLUG.fullmatch(own):
        raise BundleError(
            f"{path}: id is {shown(metadata.get('id'))}, Kaggle takes $owner/ and lower-case "
            "letters, digits and single hyphens: mend it"
        )
    if slug not in (None, own):
        raise BundleError(
            f"{path}: id is {shown(metadata.get('id'))}, the kernel looks for {slug}: restore it"
        )
    licences = metadata.get("licenses", [])
    if not (isinstance(licences, list) and len(licences) == 1 and isinstance(licences[0], dict)):
        raise BundleError(f"{path}: Kaggle takes exactly one licence, name one in 'licenses'")
    if (name := licences[0].get("name")) not in LICENCES:
        raise BundleError(
            f"{path}: licence {shown(name)} is none of Kaggle's: give one of its names, as "
            "apache-2.0, CC-BY-4.0 or other (docs/datasets_metadata.md of its client has them all)"
        )
    return metadata | {"isPrivate": private}


def kernel_metadata(
    path: Path,
    names: Mapping[str, str],
    datasets: Collection[str],
    models: Sequence[str],
    private: bool,
) -> dict[str, Any]:
    """The kernel's template filled in; without an accelerator it asks for no GPU.

    `datasets` are those that are vendored, `models` those that are attached. Wheels that are not
    vendored are left out, and every other source that the template names is kept. Raises
    BundleError for what Kaggle would refuse or take for something else.
    """
    metadata = _template(path, names)
    _check_fields(path, metadata, names)
    sources = {kind: _sources(path, metadata, kind) for kind in ("dataset", "kernel", "model")}
    if lost := set(datasets) - set(sources["dataset"]):
        raise BundleError(f"{path}: {min(lost)} is not in 'dataset_sources': restore it there")
    wheels = f"{names['owner']}/{WHEELS_SLUG}"
    return metadata | {
        "is_private": private,
        "enable_gpu": bool(names["accelerator"]),
        "dataset_sources": [
            name for name in sources["dataset"] if name in datasets or name != wheels
        ],
        "kernel_sources": sources["kernel"],
        "model_sources": list(dict.fromkeys([*models, *sources["model"]])),
    }


def _check_fields(path: Path, metadata: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Every field is what the kernel needs, and why is said where it is not."""
    internet = f"{CURRENT.name} takes such notebooks only, and the client sends true without it"
    wanted = {
        "id": (f"{names['owner']}/{names['slug']}", "it is the title's address"),
        "title": (names["title"], "Kaggle makes the address of it"),
        "code_file": ("submission.ipynb", "that is what is vendored"),
        "language": ("python", "the notebook is in it"),
        "kernel_type": ("notebook", "the file would be run as a script"),
        "enable_tpu": (False, "the kernel has no use for it"),
        "enable_internet": (CURRENT.internet, internet),
        "competition_sources": ([names["competition"]], "test.csv comes from there"),
        "machine_shape": (names["accelerator"], "--accelerator chooses it"),
    }
    for field, (value, why) in wanted.items():
        found = metadata.get(field)
        if found != value or type(found) is not type(value):
            there = brief(json.dumps(found)) if field in metadata else "missing"
            raise BundleError(f"{path}: {field} is {there}, not {json.dumps(value)}: {why}")
    if "id_no" in metadata:
        raise BundleError(
            f"{path}: id_no {shown(metadata['id_no'])} would push over the kernel with that "
            "number, whatever the id: take it out"
        )
    if metadata.get("docker_image_pinning_type") not in _PINNING:
        raise BundleError(f"{path}: docker_image_pinning_type is neither original nor latest")
    kinds = {f"{kind}_sources" for kind in ("dataset", "kernel", "model")}
    known = wanted.keys() | kinds | _OPTIONAL | {"is_private", "enable_gpu"}
    if unknown := metadata.keys() - known:
        raise BundleError(
            f"{path}: {brief(min(unknown))} is no field that Kaggle reads: take it out"
        )


def _sources(path: Path, metadata: Mapping[str, Any], kind: str) -> list[str]:
    """The names of `kind`_sources, each of Kaggle's form."""
    field = f"{kind}_sources"
    names = metadata.get(field, [])
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise BundleError(f"{path}: {field} is no list of names: mend it")
    for name in names:
        if kind == "model":
            try:
                check_handle(name)
            except ParameterError as fault:
                raise BundleError(f"{path}: {field}: {fault}") from fault
        elif not (_SOURCE if kind == "dataset" else _KERNEL_SOURCE).fullmatch(name):
            raise BundleError(
                f"{path}: {field} has {shown(name)}, Kaggle takes OWNER/SLUG: mend it"
            )
    return names


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
        return dict(_filled(read_json(path), names))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as fault:
        raise BundleError(
            f"{path} is not a metadata template ({brief(fault)}): restore it"
        ) from fault
