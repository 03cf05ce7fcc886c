"""Where the files of a data set are: a path, a folder under Kaggle's inputs, or the hub."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from mathllm import paths
from mathllm.data.tables import FORMATS, KNOWN, format_of, reason
from mathllm.errors import DataError
from mathllm.wording import shown


def files_at(path: Path, split: str) -> list[Path]:
    """The file, a folder's files of the split, or those that fit a pattern; DataError if none."""
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            if files := files_in(path, split):
                return files
            raise DataError(f"{path} has no file of the split {shown(split)} ({KNOWN})")
        found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        if files := [file for file in found if file.is_file()]:
            return files
    except (ValueError, OSError) as fault:  # a name that no file can have, ** within a name
        raise DataError(
            f"{shown(str(path))} names no file ({reason(fault)}): give a file, folder or pattern"
        ) from None
    what = "is no file" if path.exists() else "does not exist"
    raise DataError(f"{path} {what}: give a file, a folder or a pattern")


def files_in(folder: Path, split: str) -> list[Path]:
    """Files of one format whose name, or folder's name, begins with the split's."""
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if (file.name.startswith(split) or file.parent.name == split) and file.is_file()
    ]
    by_format = ([f for f in files if format_of(f) == wanted] for wanted in FORMATS)
    return next(filter(None, by_format), [])


def find_files(source: str, hub: str, split: str, roots: Sequence[Path]) -> list[Path | str]:
    """Files of a known source: in a folder under `roots` whose name has the source's, else
    those of the hub. Raises DataError with what was tried."""
    tried = []
    for root in roots:
        for folder in paths.datasets(root):
            if source in folder.name.lower() and folder.is_dir():
                tried.append(str(folder))
                if files := files_in(folder, split):
                    return files
        tried.append(f"{root}/*{source}*")
    try:
        pl.scan_parquet(hub, storage_options={"max_retries": "1"}).collect_schema()
    except Exception as fault:  # no network, no such split: polars has many types for it
        raise DataError(
            f"{source} ({split}) was not found; tried {', '.join(tried) or 'no folder'} and "
            f"{hub} ({reason(fault)})\ngive data_path, or attach a dataset whose name has "
            f"{shown(source)}"
        ) from fault
    return [hub]
