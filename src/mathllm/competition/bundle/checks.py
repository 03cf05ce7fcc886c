"""What a bundle is refused for before it exists: each refusal names the file and the mend.

Metadata has metadata.py, notebooks notebook.py, parameters kernel_parameters.py.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from mathllm.competition.bundle import imports, secrets
from mathllm.competition.bundle.contents import files_below, is_hidden
from mathllm.competition.bundle.notebook import programs
from mathllm.errors import BundleError

# kaggle.com/docs/datasets, technical specifications: 200 GB for a dataset, and as much for
# all private ones together; 50 files in a dataset's top folder.
DATASET_BYTES = 200 * 10**9
TOP_FILES = 50
NAME_BYTES = 255  # of a part of a path: a file system's limit, Kaggle's too
# What Kaggle refuses in a name is published nowhere; maintainers and users have named @ and &
# (kaggle-cli#430, #524). A dataset then fails while it is processed, after the upload.
_NAME = re.compile(r"[A-Za-z0-9._+-]+")

Files = Iterable[tuple[str, Path | bytes]]
Content = TypeVar("Content")


def check_tree(folder: Path, tree: Path, weights: bool = False) -> None:
    """Refuse private files, links out of `tree`, and, among `weights`, pickles.

    Also those that would stay behind: whoever put them there believes that they are used.
    """
    for path in files_below(folder, tree):
        if secrets.private_name(path):
            raise BundleError(
                f"{path} looks like credentials by its name: keep it outside of what is vendored"
            )
        if weights and not is_hidden(path, tree) and _read(path, secrets.is_pickle):
            raise BundleError(
                f"{path} is a pickle, which runs code when it is loaded: convert it to "
                "safetensors (save_pretrained writes that), or remove it"
            )


def check_files(files: Files) -> None:
    """Refuse credentials in the files of a dataset, names and sizes that Kaggle has no place
    for, and files that cannot be read."""
    total, top = 0, set()
    for name, file in files:
        _check_name(name, file)
        top.add(name.partition("/")[0])
        if isinstance(file, bytes):
            total += len(file)
            continue
        if not file.is_file():
            raise BundleError(f"{file} is missing: restore it")
        size = file.stat().st_size
        total += size
        if total > DATASET_BYTES:
            raise BundleError(
                f"{file} makes a dataset of more than {DATASET_BYTES / 1e9:.0f} GB, Kaggle's most: "
                "use a smaller backbone, or name one of Kaggle's models with --model"
            )
        check_text(file, _read(file, secrets.scanned))
    if len(top) >= TOP_FILES:  # the list of contents is one more
        raise BundleError(
            f"{min(top)} is one of {len(top)} files of a dataset's top folder, Kaggle takes "
            f"{TOP_FILES}: put them into a folder"
        )


def check_imports(
    notebook: Path, source: Iterable[tuple[str, Path]], there: Collection[str]
) -> None:
    """Refuse what imports something that is neither in the source dataset nor in `there`,
    the names of what Kaggle's image and the wheels have."""
    files = [(name, path) for name, path in source if path.suffix == ".py"]
    ours = {name.partition("/")[0] for name, _ in files}
    beside: Mapping[Path, set[str]] = {path.parent: set() for _, path in files}
    for _, path in files:
        beside[path.parent].add(path.stem)
    for _, path in files:
        try:
            imported = imports.of_text(path.read_text(encoding="utf-8"))
        except SyntaxError as fault:
            raise BundleError(
                f"{path}:{fault.lineno} is no Python ({fault.msg}): mend it"
            ) from fault
        # Programs that run as a file, such as the sandbox's, import what is beside them.
        siblings = ours | (beside[path.parent] if path.with_name("__main__.py").exists() else set())
        if found := imports.missing(imported, there, siblings):
            raise _lacking(f"{path}:{found.line}", found.module)
    for number, program in programs(notebook, notebook.read_text(encoding="utf-8")):
        if found := imports.missing(imports.of_program(program), there, ours):
            raise _lacking(f"{notebook}: cell {number}, line {found.line}", found.module)


def _lacking(place: str, module: str) -> BundleError:
    return BundleError(
        f"{place} imports {module}, a missing dependency on Kaggle: run `build.py wheels` with "
        "all packages that are needed, or name it in datasets_meta/wheels/image.txt if the image "
        "has it"
    )


def check_text(path: Path, data: bytes) -> None:
    """Refuse credentials in a text."""
    if found := secrets.secret_in(data):
        line, kind = found
        raise BundleError(f"{path}:{line} holds {kind}: take it out before anything is uploaded")


def _check_name(name: str, file: Path | bytes) -> None:
    """Refuse a name that Kaggle would refuse or change, so that its file was not found again."""
    for part in name.split("/"):
        if not _NAME.fullmatch(part) or len(part) > NAME_BYTES:
            raise BundleError(
                f"{str(file)!r}: Kaggle may not take the name {part[:60]!r}; rename it: letters, "
                f"digits and . _ + - only, at most {NAME_BYTES} of them"
            )


def _read(path: Path, what: Callable[[Path], Content]) -> Content:
    try:
        return what(path)
    except OSError as fault:
        raise BundleError(f"{path} cannot be read ({fault.strerror}): mend that") from fault
