"""The competition's files on this machine, the real evaluation package among them."""

import shutil
import zipfile
from pathlib import Path

from mathllm.delivery.client import Kaggle
from mathllm.errors import DeliveryError
from mathllm.settings import CURRENT


def fetch(kaggle: Kaggle, folder: Path) -> list[Path]:
    """Download and unpack the competition's files into `folder`; returns their paths.

    An interrupted download goes on; what is up to date is not loaded again. A folder that
    this did not make is left alone.
    """
    archive = folder / f"{CURRENT.slug}.zip"
    if folder.exists() and not folder.is_dir():
        raise DeliveryError(f"{folder} is a file: give another folder with --into")
    strangers = [] if archive.exists() or not folder.exists() else sorted(folder.iterdir())
    if strangers and not any(p.name.startswith(archive.name) for p in strangers):
        raise DeliveryError(
            f"{folder} holds {strangers[0].name} and no download: give another folder with --into"
        )
    kaggle.competition_files(CURRENT.slug)  # a plain word where the rules are not accepted
    folder.mkdir(parents=True, exist_ok=True)
    kaggle.download_competition(CURRENT.slug, folder)
    return _unpack(archive, folder / "files")


def _unpack(archive: Path, target: Path) -> list[Path]:
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                if name.startswith("/") or ".." in Path(name).parts:
                    raise DeliveryError(f"{archive} wants to write {name} outside of its folder")
            opened.extractall(part)
    except (zipfile.BadZipFile, EOFError) as fault:
        archive.unlink(missing_ok=True)
        raise DeliveryError(
            f"{archive} was no whole archive ({fault}) and is removed: repeat the command"
        ) from fault
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    return sorted(path for path in target.rglob("*") if path.is_file())
