"""Folders and variables as a Kaggle session has them."""

import json
import os
import shutil
import site
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mathllm import paths
from mathllm.competition.bundle import manifest
from mathllm.competition.kernel.backbone import mount_point
from mathllm.data.problems import plain_csv
from mathllm.settings import CURRENT

_KEPT_BY_KAGGLE = manifest.DATASET_METADATA  # not among the files that a notebook sees
# Of the user's variables, what is the machine's. Whatever else a kernel reads, Kaggle has not.
_KEPT = ("PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH")
_KEPT_KINDS = ("LC_", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_")
# By which papermill finds the one kernel of Kaggle's image that a notebook may name.
_KERNEL = {
    "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
    "display_name": "Python 3",
    "language": "python",
}


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

    def notebook(self, identifier: str) -> Path:
        """Where the output of another notebook stands."""
        return self.input_root / "notebooks" / identifier

    @property
    def read_only(self) -> list[Path]:
        """What nothing may be written in: the input, and what its links lead to."""
        found = [path for path in self.input_root.rglob("*") if path.is_symlink()]
        return [self.input_root, *sorted(path.resolve() for path in found)]

    def input_state(self) -> dict[str, tuple[int, int]]:
        """Path -> bytes and time in ns of every file of the input, links followed."""
        state = {}
        for folder, _, names in os.walk(self.input_root, followlinks=True):
            state[folder] = (0, 0)
            for name in names:
                seen = Path(folder, name).stat()
                state[f"{folder}/{name}"] = (seen.st_size, seen.st_mtime_ns)
        return state

    def working(self, name: str) -> Path:
        """A new, empty working folder."""
        folder = self.folder / "working" / name
        folder.mkdir(parents=True)
        return folder


def lay_out_folders(
    folder: Path,
    build: Path,
    problems: Path,
    competition: Path | None = None,
    attached: Mapping[str, Path] = MappingProxyType({}),
) -> KaggleFolders:
    """Lay out the input root from a verified bundle and a file of problems, nothing else but
    the files of `competition`, apart from its own test file, and `attached`: the kernel's other
    sources by name, each with a folder of its files.
    """
    folders = KaggleFolders(folder)
    for dataset in sorted((build / manifest.SOURCE).parent.iterdir()):
        part = dataset.relative_to(build).as_posix()
        target = folders.dataset(manifest.read_metadata(build, part)["id"])
        if part == manifest.WEIGHTS:
            _link(dataset, target)
        else:
            shutil.copytree(dataset, target, ignore=shutil.ignore_patterns(_KEPT_BY_KAGGLE))
    metadata = manifest.read_metadata(build, manifest.KERNEL)
    for name, files in attached.items():
        if name in metadata["model_sources"]:
            target = folders.model(name)
        elif name in metadata["kernel_sources"]:
            target = folders.notebook(name)
        else:
            target = folders.dataset("/".join(name.split("/")[:2]))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(files.resolve(), target_is_directory=True)
    _lay_out_session(folders)
    folders.test_file.parent.mkdir(parents=True)
    for file in sorted(competition.iterdir()) if competition else []:
        if file.name != folders.test_file.name:
            (folders.test_file.parent / file.name).symlink_to(file.resolve(), file.is_dir())
    # The file as it is: with answers, if it has them, as the real gateway sends reference.csv's.
    folders.test_file.write_bytes(plain_csv(problems))
    return folders


def other_sources(build: Path) -> list[str]:
    """What a verified bundle's kernel attaches that the bundle has not got: another's datasets,
    notebooks, and models, the one that stands for the backbone among them."""
    metadata = manifest.read_metadata(build, manifest.KERNEL)
    parts = (manifest.SOURCE, manifest.WEIGHTS, manifest.WHEELS)
    ours = {manifest.read_metadata(build, part)["id"] for part in parts if (build / part).is_dir()}
    kinds = ("dataset_sources", "kernel_sources", "model_sources")
    return [name for kind in kinds for name in metadata[kind] if name not in ours]


def _lay_out_session(folders: KaggleFolders) -> None:
    """An empty home, and Jupyter's data with the one kernel."""
    for name in ("home", "tmp"):
        (folders.folder / name).mkdir(parents=True)
    kernel = folders.folder / "jupyter-data" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps(_KERNEL), encoding="utf-8")


def _link(dataset: Path, target: Path) -> None:
    """A dataset whose folders may have many gigabytes: linked, not copied."""
    target.mkdir(parents=True)
    for part in sorted(dataset.iterdir()):
        if part.name != _KEPT_BY_KAGGLE:
            (target / part.name).symlink_to(part.resolve(), target_is_directory=part.is_dir())


def session_environment(
    folders: KaggleFolders, working: Path, rerun: bool, user: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The variables of a Kaggle session, with those of the `user` that are the machine's."""
    kept = {n: v for n, v in user.items() if n in _KEPT or n.startswith(_KEPT_KINDS)}
    # Where the running Python has its packages in the user's home, it needs them.
    if site.getusersitepackages() in sys.path:
        kept["PYTHONUSERBASE"] = site.getuserbase()
    return {
        **kept,
        "HOME": str(folders.folder / "home"),
        "TMPDIR": str(folders.folder / "tmp"),
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
        **({paths.RERUN_VARIABLE: "1"} if rerun else {}),
        paths.INPUT_ROOT_VARIABLE: str(folders.input_root),
        paths.WORKING_DIR_VARIABLE: str(working),
        # The input is read-only on Kaggle, so Python leaves no bytecode there.
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        # No start-up files and settings of the user's own Jupyter.
        "IPYTHONDIR": str(folders.folder / "ipython"),
        "JUPYTER_PATH": str(folders.folder / "jupyter-data"),
        "JUPYTER_CONFIG_DIR": str(folders.folder / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(folders.folder / "jupyter-runtime"),
    }
