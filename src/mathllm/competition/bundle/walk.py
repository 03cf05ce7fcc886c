"""The files below a folder, in one order everywhere, links included.

Knows links: one that stays inside the folder's tree stands for what it leads to, any other is
refused, since it would bring to Kaggle what nobody meant to be there.
"""

from collections.abc import Iterator
from pathlib import Path

from mathllm.errors import BundleError


def files_below(folder: Path, tree: Path) -> Iterator[Path]:
    """Every file below `folder`, sorted; nothing in caches, that is hidden folders and
    __pycache__. Raises BundleError for a link that leads out of `tree`, nowhere, or round.
    """
    check_link(folder, tree)
    if not folder.is_dir():
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as fault:
        raise BundleError(f"{folder} cannot be read ({fault.strerror}): mend that") from fault
    for path in entries:
        if path.name == "__pycache__" or (path.name.startswith(".") and path.is_dir()):
            continue
        check_link(path, tree)
        if path.is_dir():
            yield from files_below(path, tree)
        elif path.is_file():
            yield path


def check_link(path: Path, tree: Path) -> None:
    """Raise BundleError if `path` is a link that the bundle must not follow."""
    if not path.is_symlink():
        return
    target = path.resolve()
    link = f"{path} is a link to {path.readlink()}"
    if not target.is_relative_to(tree.resolve()):
        raise BundleError(f"{link}, outside of {tree}: put a copy there in place of the link")
    if not target.exists():
        raise BundleError(f"{link}, which is missing: remove the link or restore its target")
    if path.parent.resolve().is_relative_to(target):
        raise BundleError(f"{link}, a folder that it is in: remove it")


def is_hidden(path: Path, root: Path) -> bool:
    """Whether the path below `root` has a part such as .cache: editors and tools put it there."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)
