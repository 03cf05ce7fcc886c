"""The competition's files on this machine, the real evaluation package among them."""

import shutil
from pathlib import Path

from mathllm.delivery.client import Kaggle
from mathllm.errors import DeliveryError
from mathllm.settings import CURRENT
from mathllm.unpacking import DamagedError, UnpackError, unzip

FILES = "files"


def fetch(kaggle: Kaggle, folder: Path) -> list[Path]:
    """Download and unpack the competition's files into `folder`; returns their paths.

    An interrupted download goes on; what is up to date is not loaded again. A folder that
    this did not make is left alone.
    """
    archive = folder / f"{CURRENT.slug}.zip"
    try:
        _check_place(folder, archive)
        kaggle.competition_files(CURRENT.slug)  # a plain word where the rules are not accepted
        folder.mkdir(parents=True, exist_ok=True)
        kaggle.download_competition(CURRENT.slug, folder)
        return _unpack(archive, folder / FILES)
    except OSError as fault:
        if fault.strerror is None:  # the client's, of the connection
            raise
        raise DeliveryError(
            f"{fault.filename or folder} cannot be written ({fault.strerror}): mend that, or give "
            "another folder with --into"
        ) from fault


def _check_place(folder: Path, archive: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise DeliveryError(f"{folder} is a file: give another folder with --into")
    strangers = [] if archive.exists() or not folder.exists() else sorted(folder.iterdir())
    fetched = len(strangers) == 1 and (folder / FILES / CURRENT.test_file).is_file()
    if strangers and not fetched and not any(p.name.startswith(archive.name) for p in strangers):
        raise DeliveryError(
            f"{folder} holds {strangers[0].name} and no download: give another folder with --into"
        )
    files = folder / FILES
    if files.is_symlink() or (files.exists() and not files.is_dir()):
        raise DeliveryError(f"{files} is no folder of this command's: move it away")


def _unpack(archive: Path, target: Path) -> list[Path]:
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a command that was killed
    try:
        unzip(archive, part)
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
    except DamagedError as fault:
        archive.unlink(missing_ok=True)
        raise DeliveryError(f"{archive} {fault} and is removed: repeat the command") from fault
    except UnpackError as fault:
        raise DeliveryError(
            f"{archive} {fault}\nnothing of it was unpacked: remove it to download it again, or "
            "look at it on the competition's page"
        ) from fault
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return sorted(path for path in target.rglob("*") if path.is_file())
