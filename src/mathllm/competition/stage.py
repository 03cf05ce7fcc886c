"""The stage that a rehearsal plays on: folders and variables as a Kaggle session has them.

Knows the newer layout of Kaggle's input folder and what a process of the session may see.
Knows nothing of what is run there.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mathllm.competition import bundle
from mathllm.competition.settings import CURRENT

# Of the user's variables: credentials, other Pythons' paths, and what this project sets itself.
_LEFT_OUT = ("KAGGLE_", "MATHLLM_", "PYTHON", "HF_", "HUGGING", "JUPYTER_", "IPYTHON", "PAPERMILL_")


@dataclass(frozen=True)
class Stage:
    """A folder with `input/` (as /kaggle/input) and a working folder for each process."""

    folder: Path

    @property
    def input_root(self) -> Path:
        return self.folder / "input"

    @property
    def test_file(self) -> Path:
        return self.input_root / "competitions" / CURRENT.slug / "test.csv"

    def dataset(self, identifier: str) -> Path:
        """Where a dataset's files stand; `identifier` is owner/slug."""
        return self.input_root / "datasets" / identifier

    def working(self, name: str) -> Path:
        """A new, empty working folder."""
        folder = self.folder / "working" / name
        folder.mkdir(parents=True)
        return folder


def set_stage(folder: Path, build: Path, problems: Path) -> Stage:
    """Lay out the input root from a verified bundle and a file of problems, nothing else."""
    stage = Stage(folder)
    source = stage.dataset(bundle.read_metadata(build, bundle.SOURCE)["id"])
    weights = stage.dataset(bundle.read_metadata(build, bundle.WEIGHTS)["id"])
    # Kaggle keeps the metadata file to itself.
    shutil.copytree(
        build / bundle.SOURCE, source, ignore=shutil.ignore_patterns(bundle.DATASET_METADATA)
    )
    # A backbone may have many gigabytes, so its folders are linked, not copied.
    weights.mkdir(parents=True)
    for part in sorted((build / bundle.WEIGHTS).iterdir()):
        if part.is_dir():
            (weights / part.name).symlink_to(part.resolve(), target_is_directory=True)
    stage.test_file.parent.mkdir(parents=True)
    # The file as it is: with answers, if it has them, as the real gateway sends reference.csv's.
    shutil.copyfile(problems, stage.test_file)
    return stage


def session_environment(
    stage: Stage, working: Path, rerun: bool, user: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The variables of a Kaggle session, with those of the `user` that do no harm."""
    kept = {name: value for name, value in user.items() if not name.startswith(_LEFT_OUT)}
    return {
        **kept,
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
        **({"KAGGLE_IS_COMPETITION_RERUN": "1"} if rerun else {}),
        "MATHLLM_INPUT_ROOT": str(stage.input_root),
        "MATHLLM_WORKING_DIR": str(working),
        # The input is read-only on Kaggle, so Python leaves no bytecode there.
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        # No start-up files and settings of the user's own Jupyter.
        "IPYTHONDIR": str(stage.folder / "ipython"),
        "JUPYTER_CONFIG_DIR": str(stage.folder / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(stage.folder / "jupyter-runtime"),
    }
