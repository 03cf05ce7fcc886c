"""Folders and variables as a Kaggle session has them.

Knows the newer layout of Kaggle's input folder and what a process of the session may see.
Knows nothing of what is run there.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mathllm import paths
from mathllm.competition.bundle import manifest
from mathllm.competition.kernel.backbone import mount_point
from mathllm.settings import CURRENT

_KEPT_BY_KAGGLE = manifest.DATASET_METADATA  # not among the files that a notebook sees
# Of the user's variables: credentials, other Pythons' paths, and what this project sets itself.
_LEFT_OUT = ("KAGGLE_", "MATHLLM_", "PYTHON", "HF_", "HUGGING", "JUPYTER_", "IPYTHON", "PAPERMILL_")


@dataclass(frozen=True)
class KaggleFolders:
    """A folder with `input/` (as /kaggle/input) and a working folder for each process."""

    folder: Path

    @property
    def input_root(self) -> Path:
        return self.folder / "input"

    @property
    def test_file(self) -> Path:
        return paths.mount(self.input_root, "competitions", CURRENT.slug) / CURRENT.test_file

    def dataset(self, identifier: str) -> Path:
        """Where a dataset's files stand; `identifier` is owner/slug."""
        return paths.mount(self.input_root, "datasets", identifier)

    def model(self, handle: str) -> Path:
        """Where a model's files stand."""
        return paths.mount(self.input_root, "models", mount_point(handle))

    def working(self, name: str) -> Path:
        """A new, empty working folder."""
        folder = self.folder / "working" / name
        folder.mkdir(parents=True)
        return folder


def lay_out_folders(
    folder: Path,
    build: Path,
    problems: Path,
    backbone: Path | None = None,
    competition: Path | None = None,
) -> KaggleFolders:
    """Lay out the input root from a verified bundle and a file of problems, nothing else but

    `backbone`, the files of the model that the bundle names, if it names one, and those of
    `competition`, apart from its own test file.
    """
    folders = KaggleFolders(folder)
    for dataset in sorted((build / manifest.SOURCE).parent.iterdir()):
        part = dataset.relative_to(build).as_posix()
        target = folders.dataset(manifest.read_metadata(build, part)["id"])
        if part == manifest.WEIGHTS:
            _link(dataset, target)
        else:
            shutil.copytree(dataset, target, ignore=shutil.ignore_patterns(_KEPT_BY_KAGGLE))
    for handle in manifest.read_metadata(build, manifest.KERNEL)["model_sources"]:
        target = folders.model(handle)
        target.parent.mkdir(parents=True)
        target.symlink_to(backbone.resolve(), target_is_directory=True)
    folders.test_file.parent.mkdir(parents=True)
    for file in sorted(competition.iterdir()) if competition else []:
        if file.name != folders.test_file.name:
            (folders.test_file.parent / file.name).symlink_to(file.resolve(), file.is_dir())
    # The file as it is: with answers, if it has them, as the real gateway sends reference.csv's.
    shutil.copyfile(problems, folders.test_file)
    return folders


def _link(dataset: Path, target: Path) -> None:
    """A dataset whose folders may have many gigabytes: linked, not copied."""
    target.mkdir(parents=True)
    for part in sorted(dataset.iterdir()):
        if part.name != _KEPT_BY_KAGGLE:
            (target / part.name).symlink_to(part.resolve(), target_is_directory=part.is_dir())


def session_environment(
    folders: KaggleFolders, working: Path, rerun: bool, user: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The variables of a Kaggle session, with those of the `user` that do no harm."""
    kept = {name: value for name, value in user.items() if not name.startswith(_LEFT_OUT)}
    return {
        **kept,
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
        **({paths.RERUN_VARIABLE: "1"} if rerun else {}),
        paths.INPUT_ROOT_VARIABLE: str(folders.input_root),
        paths.WORKING_DIR_VARIABLE: str(working),
        # The input is read-only on Kaggle, so Python leaves no bytecode there.
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        # No start-up files and settings of the user's own Jupyter.
        "IPYTHONDIR": str(folders.folder / "ipython"),
        "JUPYTER_CONFIG_DIR": str(folders.folder / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(folders.folder / "jupyter-runtime"),
    }
