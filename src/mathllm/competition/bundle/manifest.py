"""The bundle that goes to Kaggle: laid out, sealed by a manifest, and verified.

    build/datasets/source/     the package
    build/datasets/weights/    backbone/ (or backbone.json, if it is one of Kaggle's models), trm/
    build/datasets/wheels/     packages that the image lacks, if any are locked
    build/kernel/              submission.ipynb, kernel-metadata.json
    build/manifest.json        the SHA-256 sum of every file, and the bundle's identity

Each dataset has dataset-metadata.json, which Kaggle keeps to itself, and contents.json with
the sums of its other files. The sum of contents.json is the dataset's digest. Digests,
notebook, the kernel's metadata and parameters give the identity; the vendored notebook
carries it and the digests.

The same inputs give the same bytes: names are sorted, and no time and no path of this machine
goes in.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathllm.competition.bundle import checks
from mathllm.competition.bundle.notebook import check_notebook, inject
from mathllm.competition.bundle.plan import (
    DATASET_METADATA,
    KERNEL,
    KERNEL_METADATA,
    NOTEBOOK,
    SOURCE,
    STAMP,
    WEIGHTS,
    WHEELS,
    BundleSpec,
    Plan,
    make_plan,
    to_json,
)
from mathllm.competition.kernel import backbone, integrity
from mathllm.errors import BundleError
from mathllm.files import digest as file_digest
from mathllm.files import read_json
from mathllm.wording import shown

__all__ = ["KERNEL", "NOTEBOOK", "SOURCE", "WEIGHTS", "WHEELS", "BundleSpec", "describe", "vendor"]

MANIFEST = "manifest.json"
FORMAT = 2  # of the manifest; a reader refuses what it does not know
MEND = "run `build.py vendor` again"
_CHUNK = 1 << 20  # bytes read at a time: backbones have gigabytes


@dataclass(frozen=True)
class Description:
    """A verified bundle: identity, digest of each dataset by part, the kernel's parameters
    that are not the notebook's own, the model that stands for the backbone ("" without one),
    and path -> SHA-256 sum."""

    identity: str
    digests: dict[str, str]
    parameters: dict[str, Any]
    model: str
    sums: dict[str, str]


def vendor(spec: BundleSpec) -> dict[str, str]:
    """Lay the bundle out in `spec.build`, in place of an older one; whole or not at all.

    Returns path -> SHA-256 sum. Raises WeightsError, ParameterError, and BundleError for what
    must not be uploaded and for a folder that holds anything else than a bundle.
    """
    _check_place(spec.build)
    plan = make_plan(spec)
    spec.build.parent.mkdir(parents=True, exist_ok=True)
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{spec.build.name}-", dir=spec.build.parent))
    except FileNotFoundError:  # as below /proc
        raise BundleError(f"{spec.build.parent} takes no folders: give another --build") from None
    try:
        manifest = _lay_out(plan, staging)
        _write(to_json(manifest), staging / MANIFEST)
        staging.chmod(0o755)  # mkdtemp's is for the owner alone
        _swap(staging, spec.build)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest["files"]


def verify(build: Path) -> dict[str, str]:
    """path -> SHA-256 sum of a bundle that is exactly what was vendored.

    Raises BundleError that names the first file which changed, is missing, or is extra.
    """
    return describe(build).sums


def describe(build: Path) -> Description:
    """What a bundle is, once it is found to be exactly what was vendored. Raises as verify."""
    manifest = _read_manifest(build)
    _check_files(build, manifest["files"])
    return Description(
        identity=manifest["identity"],
        digests=manifest["datasets"],
        parameters=manifest["parameters"],
        model=_model(build),
        sums=manifest["files"],
    )


def read_metadata(build: Path, part: str) -> dict[str, Any]:
    """The metadata of SOURCE, WEIGHTS, WHEELS or KERNEL of a verified bundle."""
    name = KERNEL_METADATA if part == KERNEL else DATASET_METADATA
    return json.loads((build / part / name).read_text(encoding="utf-8"))


def _model(build: Path) -> str:
    """The handle of the model that stands for the backbone, "" without one."""
    path = build / WEIGHTS / backbone.REFERENCE
    return json.loads(path.read_text(encoding="utf-8"))["model"] if path.is_file() else ""


def injected(build: Path) -> dict[str, Any]:
    """The parameters that a verified bundle's notebook carries, the stamp among them.

    Whoever runs the notebook by papermill gives them again: it replaces the cell.
    """
    manifest = _read_manifest(build)
    metadata = {part: read_metadata(build, part) for part in manifest["datasets"]}
    return _values(manifest["identity"], manifest["datasets"], metadata, manifest["parameters"])


def _read_manifest(build: Path) -> dict[str, Any]:
    path = build / MANIFEST
    if not path.is_file():
        raise BundleError(f"{build} holds no bundle: {MANIFEST} is missing; {MEND}")
    try:
        manifest = read_json(path)
        version = manifest["format"]
    except (ValueError, KeyError, TypeError) as fault:
        raise BundleError(f"{path} is not a manifest ({shown(fault)}): {MEND}") from fault
    if version != FORMAT:
        raise BundleError(f"{path} has format {version}, this version reads {FORMAT}: {MEND}")
    if lacking := {"files", "identity", "datasets", "parameters"} - manifest.keys():
        raise BundleError(f"{path} is not a manifest (no {min(lacking)}): {MEND}")
    return manifest


def _check_files(build: Path, sums: dict[str, str]) -> None:
    found = {file.relative_to(build).as_posix() for file in build.rglob("*") if file.is_file()}
    for name in sorted(found - {MANIFEST} | sums.keys()):
        if name not in found:
            raise BundleError(f"{build / name} is missing but stands in the manifest: {MEND}")
        if name not in sums:
            raise BundleError(f"{build / name} is not in the manifest: remove it, or {MEND}")
        if (actual := file_digest(build / name)) != sums[name]:
            raise BundleError(
                f"{build / name} was changed after it was vendored (its SHA-256 is "
                f"{actual[:12]}…, the manifest's {sums[name][:12]}…): {MEND}"
            )


def _check_place(build: Path) -> None:
    """A folder is replaced only if it is a bundle, so that no other folder can be lost."""
    if build.is_symlink() or (build.exists() and not build.is_dir()):
        raise BundleError(f"{build} is not a folder: give a new or empty one with --build")
    if build.is_dir() and not (build / MANIFEST).is_file() and any(build.iterdir()):
        other = min(path.name for path in build.iterdir())
        raise BundleError(
            f"{build} holds {other} and no bundle: give a new or empty folder with --build"
        )


def _lay_out(plan: Plan, staging: Path) -> dict[str, Any]:
    """Write every file of the bundle; returns the content of its manifest."""
    sums: dict[str, str] = {}

    def put(name: str, content: Path | bytes) -> str:
        sums[name] = _write(content, staging / name)
        return sums[name]

    digests = {}
    for part, files in plan.datasets.items():
        listed = {}
        for name, content in files:
            found = put(f"{part}/{name}", content)
            listed[name] = found, (staging / part / name).stat().st_size
        digests[part] = put(f"{part}/{integrity.CONTENTS}", to_json(integrity.listing(listed)))
        put(f"{part}/{DATASET_METADATA}", to_json(plan.metadata[part]))
    notebook = plan.notebook.read_text(encoding="utf-8")
    identity = _identity(plan, notebook, digests)
    vendored = inject(notebook, _values(identity, digests, plan.metadata, plan.parameters))
    checks.check_text(plan.notebook, vendored.encode())
    check_notebook(plan.notebook, vendored)
    put(f"{KERNEL}/{NOTEBOOK}", vendored.encode())
    put(f"{KERNEL}/{KERNEL_METADATA}", to_json(plan.metadata[KERNEL]))
    return {
        "files": sums,
        "format": FORMAT,
        "identity": identity,
        "datasets": digests,
        "parameters": plan.parameters,
    }


def _identity(plan: Plan, notebook: str, digests: dict[str, str]) -> str:
    """One sum for all that makes the kernel's run what it is."""
    makes = {
        "datasets": digests,
        "notebook": hashlib.sha256(notebook.encode()).hexdigest(),
        "metadata": plan.metadata[KERNEL],
        "parameters": plan.parameters,
    }
    return hashlib.sha256(to_json(makes)).hexdigest()


def _values(
    identity: str,
    digests: dict[str, str],
    metadata: dict[str, dict[str, Any]],
    parameters: dict[str, Any],
) -> dict[str, Any]:
    """What is injected into the notebook: the user's parameters, and the stamp."""
    slugs = {metadata[part]["id"].partition("/")[2]: found for part, found in digests.items()}
    return {**parameters, STAMP: integrity.stamp(identity, dict(sorted(slugs.items())))}


def _write(content: Path | bytes, target: Path) -> str:
    """Write content, or copy that of a file (not times or modes); returns its SHA-256 sum."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("xb") as writer:
        if isinstance(content, bytes):
            digest.update(content)
            writer.write(content)
        else:
            with content.open("rb") as reader:
                while chunk := reader.read(_CHUNK):
                    digest.update(chunk)
                    writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _swap(staging: Path, build: Path) -> None:
    """`staging` in place of `build`, by renames: no reader sees a mixture of the two."""
    if not build.exists():
        staging.rename(build)
        return
    old = staging.with_name(f"{staging.name}.old")
    build.rename(old)
    staging.rename(build)
    shutil.rmtree(old)
