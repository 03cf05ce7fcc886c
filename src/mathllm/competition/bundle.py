"""The bundle that goes to Kaggle: laid out, sealed by a manifest, and verified.

    build/datasets/source/     the package, dataset-metadata.json
    build/datasets/weights/    backbone/, trm/, dataset-metadata.json
    build/kernel/              submission.ipynb, kernel-metadata.json
    build/manifest.json        the SHA-256 sum of every file above

Knows folders, sums and how to leave nothing half-written. Knows nothing of what the files
mean (contents.py does) or of Kaggle's client. The same inputs give the same bytes: names are
sorted, and no time and no path of this machine goes in.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathllm.competition import contents
from mathllm.competition.settings import CURRENT
from mathllm.errors import BundleError
from mathllm.files import digest as file_digest

MANIFEST = "manifest.json"
FORMAT = 1  # of the manifest; a reader refuses what it does not know
SOURCE, WEIGHTS, KERNEL = "datasets/source", "datasets/weights", "kernel"
DATASET_METADATA, KERNEL_METADATA = "dataset-metadata.json", "kernel-metadata.json"
NOTEBOOK = "submission.ipynb"
_CHUNK = 1 << 20  # bytes read at a time: backbones have gigabytes


@dataclass(frozen=True)
class Order:
    """What to vendor, and for whom: `root` is the clone, `build` the folder to lay out."""

    root: Path
    weights: Path
    build: Path
    owner: str
    title: str
    accelerator: str


def vendor(order: Order) -> dict[str, str]:
    """Lay the bundle out in `order.build`, in place of an older one; whole or not at all.

    Returns path -> SHA-256 sum. Raises WeightsError, ParameterError, and BundleError for a
    folder that holds anything else than a bundle.
    """
    _check_place(order.build)
    names = contents.placeholders(order.owner, order.title, order.accelerator, CURRENT.slug)
    contents.check_weights(order.weights)
    order.build.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{order.build.name}-", dir=order.build.parent))
    try:
        sums = dict(_lay_out(order, names, staging))
        _write_json(staging / MANIFEST, {"files": sums, "format": FORMAT})
        staging.chmod(0o755)  # mkdtemp's is for the owner alone
        _swap(staging, order.build)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return sums


def verify(build: Path) -> dict[str, str]:
    """path -> SHA-256 sum of a bundle that is exactly what was vendored.

    Raises BundleError that names the first file which changed, is missing, or is extra.
    """
    path = build / MANIFEST
    mend = "run `build.py vendor` again"
    if not path.is_file():
        raise BundleError(f"{build} holds no bundle: {MANIFEST} is missing; {mend}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        sums, version = dict(manifest["files"]), manifest["format"]
    except (ValueError, KeyError, TypeError) as fault:
        raise BundleError(f"{path} is not a manifest ({fault!r}): {mend}") from fault
    if version != FORMAT:
        raise BundleError(f"{path} has format {version}, this version reads {FORMAT}: {mend}")
    found = {file.relative_to(build).as_posix() for file in build.rglob("*") if file.is_file()}
    for name in sorted(found - {MANIFEST} | sums.keys()):
        if name not in found:
            raise BundleError(f"{build / name} is missing but stands in the manifest: {mend}")
        if name not in sums:
            raise BundleError(f"{build / name} is not in the manifest: remove it, or {mend}")
        if (actual := file_digest(build / name)) != sums[name]:
            raise BundleError(
                f"{build / name} was changed after it was vendored (its SHA-256 is "
                f"{actual[:12]}…, the manifest's {sums[name][:12]}…): {mend}"
            )
    return sums


def read_metadata(build: Path, part: str) -> dict[str, Any]:
    """The metadata of SOURCE, WEIGHTS or KERNEL of a verified bundle."""
    name = KERNEL_METADATA if part == KERNEL else DATASET_METADATA
    return json.loads((build / part / name).read_text(encoding="utf-8"))


def _check_place(build: Path) -> None:
    """A folder is replaced only if it is a bundle, so that no other folder can be lost."""
    if build.is_symlink() or (build.exists() and not build.is_dir()):
        raise BundleError(f"{build} is not a folder: give a new or empty one with --build")
    if build.is_dir() and not (build / MANIFEST).is_file() and any(build.iterdir()):
        other = min(path.name for path in build.iterdir())
        raise BundleError(
            f"{build} holds {other} and no bundle: give a new or empty folder with --build"
        )


def _lay_out(order: Order, names: dict[str, str], staging: Path) -> Iterator[tuple[str, str]]:
    """Write every file of the bundle; yields (path, SHA-256 sum) of each."""
    parts = {
        SOURCE: contents.source_files(order.root),
        WEIGHTS: contents.weight_files(order.weights),
        KERNEL: [(NOTEBOOK, order.root / "kernel" / NOTEBOOK)],
    }
    for part, files in parts.items():
        for name, file in files:
            if not file.is_file():
                raise BundleError(f"{file} is missing: restore it")
            yield f"{part}/{name}", _copy(file, staging / part / name)
    for part in (SOURCE, WEIGHTS):
        template = order.root / "datasets_meta" / Path(part).name / DATASET_METADATA
        metadata = contents.dataset_metadata(template, names)
        yield (
            f"{part}/{DATASET_METADATA}",
            _write_json(staging / part / DATASET_METADATA, metadata),
        )
    metadata = contents.kernel_metadata(order.root / "kernel" / KERNEL_METADATA, names)
    yield (
        f"{KERNEL}/{KERNEL_METADATA}",
        _write_json(staging / KERNEL / KERNEL_METADATA, metadata),
    )


def _copy(source: Path, target: Path) -> str:
    """Copy the content (not times or modes) and return its SHA-256 sum."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _write_json(path: Path, content: dict[str, Any]) -> str:
    data = (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as writer:
        writer.write(data)
        writer.flush()
        os.fsync(writer.fileno())
    return hashlib.sha256(data).hexdigest()


def _swap(staging: Path, build: Path) -> None:
    """`staging` in place of `build`, by renames: no reader sees a mixture of the two."""
    if not build.exists():
        staging.rename(build)
        return
    old = staging.with_name(f"{staging.name}.old")
    build.rename(old)
    staging.rename(build)
    shutil.rmtree(old)
