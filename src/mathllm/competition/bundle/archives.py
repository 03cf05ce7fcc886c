"""A bundle as files to upload, since Kaggle's client leaves folders out."""

import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mathllm.competition.bundle import manifest
from mathllm.competition.kernel.integrity import CONTENTS
from mathllm.errors import BundleError
from mathllm.files import sync

EPOCH = (1980, 1, 1, 0, 0, 0)  # of every file in an archive: the oldest time that zips know
SECONDS = 315532800  # the same, since 1970: of every file that is uploaded
PART = ".part"  # of a file that is being written
_CHUNK = 1 << 20  # bytes copied at a time


def archive(folder: Path, target: Path, without: str = "") -> Path:
    """`folder`'s files as a zip, stored and not compressed: weights do not get smaller.

    The same files give the same bytes; `without` names one that is left out. The target is
    there whole or not at all.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != without)
    with _settled(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as zipped:
        for path in files:
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), EPOCH)
            entry.create_system = 3  # Unix, whatever this is
            entry.external_attr = 0o644 << 16
            entry.file_size = path.stat().st_size  # so that what needs 64 bits gets them
            with path.open("rb") as reader, zipped.open(entry, "w") as writer:
                shutil.copyfileobj(reader, writer, _CHUNK)
    return target


def stage_upload(build: Path, part: str, target: Path) -> Path:
    """What Kaggle's client is to send of a dataset of a verified bundle, in `target`.

    Files as they are, each folder as NAME.zip, which Kaggle unpacks into a folder of that
    name. What was staged before for the same content is kept, so that an upload which was
    broken off goes on. Raises BundleError where the disk is too full.
    """
    source = build / part
    listed = (source / CONTENTS).read_bytes()
    if not (target / CONTENTS).is_file() or (target / CONTENTS).read_bytes() != listed:
        shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)
    for left in target.glob(f"*{PART}"):
        left.unlink()
    wanted = {_upload_name(path): path for path in source.iterdir()}
    kept = {name for name in wanted if (target / name).is_file()} - {manifest.DATASET_METADATA}
    missing = {name: path for name, path in wanted.items() if name not in kept}
    _check_space(missing.values(), target)
    # The list first: it says what the other files are of.
    for name, path in sorted(missing.items(), key=lambda item: (item[0] != CONTENTS, item[0])):
        if path.is_dir():
            archive(path, target / name)
        else:
            with _settled(target / name) as copy:
                shutil.copyfile(path, copy)
    for name in wanted:
        # The client tells files by name, size and time when an upload goes on.
        os.utime(target / name, (SECONDS, SECONDS))
    return target


def zip_bundle(build: Path, target: Path) -> list[Path]:
    """A verified bundle for Kaggle's web page: a zip for each dataset, and the notebook."""
    target.mkdir(parents=True, exist_ok=True)
    parts = manifest.describe(build).digests
    _check_space([build / part for part in parts], target)
    made = []
    for part in parts:
        slug = manifest.read_metadata(build, part)["id"].partition("/")[2]
        zipped = target / f"{slug}.zip"
        made.append(archive(build / part, zipped, without=manifest.DATASET_METADATA))
    notebook = target / manifest.NOTEBOOK
    with _settled(notebook) as part:
        shutil.copyfile(build / manifest.KERNEL / manifest.NOTEBOOK, part)
    return [*made, notebook]


def _upload_name(path: Path) -> str:
    return f"{path.name}.zip" if path.is_dir() else path.name


@contextmanager
def _settled(target: Path) -> Iterator[Path]:
    """Where to write what gets the name `target` once it is on the disk, or is removed."""
    part = target.with_name(target.name + PART)
    try:
        yield part
        sync(part)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _check_space(paths: Iterable[Path], target: Path) -> None:
    files = [f for path in paths for f in ([path] if path.is_file() else path.rglob("*"))]
    needed = sum(file.stat().st_size for file in files if file.is_file())
    free = shutil.disk_usage(target).free
    if needed > free:
        raise BundleError(
            f"{target} needs {needed / 1e9:.1f} GB and its disk has {free / 1e9:.1f} GB free: make "
            "room there"
        )
