"""What a bundle is to hold, decided and audited before anything is written."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from mathllm import paths
from mathllm.competition.bundle import checks, contents, wheel_check, wheels
from mathllm.competition.bundle.combinations import check_combination
from mathllm.competition.bundle.kernel_parameters import Machine, check_parameters, effective
from mathllm.competition.bundle.metadata import (
    CARD_GB,
    dataset_metadata,
    kernel_metadata,
    placeholders,
)
from mathllm.competition.kernel import backbone
from mathllm.errors import ParameterError
from mathllm.parameters import parse_parameters, read_declarations
from mathllm.settings import CURRENT

SOURCE, WEIGHTS, WHEELS = "datasets/source", "datasets/weights", "datasets/wheels"
KERNEL = "kernel"
NOTEBOOK = "submission.ipynb"
DATASET_METADATA, KERNEL_METADATA = "dataset-metadata.json", "kernel-metadata.json"
# By which the kernel looks for datasets.
_SLUGS = {WEIGHTS: paths.WEIGHTS_SLUG, WHEELS: paths.WHEELS_SLUG}
_SOURCES = ("dataset_sources", "kernel_sources", "model_sources")
STAMP = "bundle"  # the kernel's parameter that says what it was vendored with
CACHE = ".cache/wheels"  # in the clone


@dataclass(frozen=True)
class BundleSpec:
    """What to vendor, and for whom: `root` is the clone, `build` the folder to lay out.

    `private`: whether only the owner sees datasets and kernel. `model`: a handle of Kaggle's
    for the backbone, which then is not in the bundle; `weights` must have it all the same, to
    be checked. `parameters`: the kernel's, as (name, text) pairs. `wheels`: whether to bring
    the packages that the image lacks.
    """

    root: Path
    weights: Path
    build: Path
    owner: str
    title: str
    accelerator: str
    private: bool = True
    model: str = ""
    parameters: Sequence[tuple[str, str]] = ()
    wheels: bool = True


@dataclass(frozen=True)
class Plan:
    """The files of each dataset as (path there, file or content), all metadata, the notebook."""

    datasets: dict[str, list[tuple[str, Path | bytes]]]
    metadata: dict[str, dict[str, Any]]
    notebook: Path
    parameters: dict[str, Any]


def make_plan(spec: BundleSpec) -> Plan:
    """Raises WeightsError, ParameterError and BundleError for what must not be vendored."""
    names = placeholders(spec.owner, spec.title, spec.accelerator, CURRENT.slug)
    notebook = spec.root / "kernel" / NOTEBOOK
    parameters = _parameters(spec, notebook)
    source = list(contents.source_files(spec.root))
    checks.check_tree(spec.root / "src" / "mathllm", spec.root / "src" / "mathllm")
    packages, brought, there = _packages(spec)
    card = None if parameters.get("endpoint") else CARD_GB.get(spec.accelerator)
    datasets = {
        SOURCE: [*source],
        WEIGHTS: _weights(spec, card),
        **({WHEELS: packages} if packages else {}),
    }
    for files in datasets.values():
        checks.check_files(files)
    checks.check_imports(notebook, source, there)
    given = (spec.model, parameters.get("served", ""))
    models = [backbone.check_handle(name) for name in given if name]
    metadata = {part: _dataset_metadata(spec, part, names) for part in datasets}
    metadata[KERNEL] = kernel_metadata(
        spec.root / "kernel" / KERNEL_METADATA,
        names,
        [metadata[part]["id"] for part in datasets],
        models,
        spec.private,
    )
    checks.check_text(spec.root / "kernel" / KERNEL_METADATA, to_json(metadata[KERNEL]))
    sources = [name for kind in _SOURCES for name in metadata[KERNEL][kind]]
    ours = {*models, *(metadata[part]["id"] for part in datasets)}
    machine = Machine(
        gpu=metadata[KERNEL]["enable_gpu"],
        programs={program for wheel in brought for program in wheel.programs},
        distributions=there,
        files=[
            f"{metadata[part]['id'].partition('/')[2]}/{name}"
            for part, files in datasets.items()
            for name, _ in files
        ],
        more=not ours.issuperset(sources),
    )
    check_parameters(notebook, parameters, machine)
    check_combination(effective(notebook, parameters), spec.accelerator)
    return Plan(datasets, metadata, notebook, parameters)


def to_json(content: Any) -> bytes:
    """The one way in which a bundle writes JSON."""
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _parameters(spec: BundleSpec, notebook: Path) -> dict[str, Any]:
    if any(name == STAMP for name, _ in spec.parameters):
        raise ParameterError(f"parameter {STAMP} is written by vendoring: leave it out")
    return parse_parameters(spec.parameters, read_declarations(notebook))


def _weights(spec: BundleSpec, card_gb: int | None) -> list[tuple[str, Path | bytes]]:
    parts = ("trm",) if spec.model else ("backbone", "trm")
    if spec.model:
        backbone.check_handle(spec.model)
    for part in parts:
        checks.check_tree(spec.weights / part, spec.weights, weights=True)
    contents.check_weights(spec.weights, card_gb)
    files: list[tuple[str, Path | bytes]] = [*contents.weight_files(spec.weights, parts)]
    if spec.model:
        described = backbone.describe(spec.model, spec.weights / "backbone")
        files.append((backbone.REFERENCE, to_json(described)))
    return files


def _packages(
    spec: BundleSpec,
) -> tuple[list[tuple[str, Path | bytes]], list[wheel_check.Wheel], set[str]]:
    """The files of the wheels' dataset, the wheels, and what can be imported on Kaggle."""
    folder = spec.root / "datasets_meta" / Path(WHEELS).name
    lock, image = folder / wheels.LOCK, folder / wheel_check.IMAGE
    there: set[str] = {*wheel_check.read_image(image)}
    if not spec.wheels:
        return [], [], there
    found = [wheel_check.read_wheel(w) for w in wheels.download(lock, spec.root / CACHE)]
    wheel_check.check_closure(found, image)
    for wheel in found:
        there |= wheel.modules | {canonicalize_name(wheel.name)}
    files = [(wheel.path.name, wheel.path) for wheel in found]
    return ([(wheels.LOCK, lock), *files] if files else []), found, there


def _dataset_metadata(spec: BundleSpec, part: str, names: dict[str, str]) -> dict[str, Any]:
    template = spec.root / "datasets_meta" / Path(part).name / DATASET_METADATA
    metadata = dataset_metadata(template, names, spec.private, _SLUGS.get(part))
    checks.check_text(template, to_json(metadata))
    return metadata
