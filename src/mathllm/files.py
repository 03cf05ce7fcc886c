"""What every room that writes files needs: sums, JSON, and bytes that are on the disk."""

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR)
_REFUSED += (errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_full(fault: BaseException) -> bool:
    """Whether the fault is a disk or quota that is full; libraries hide it in their own types."""
    number = getattr(fault, "errno", None)
    return number in _FULL or any(f"(os error {code})" in str(fault) for code in _FULL)


def is_refused(fault: BaseException) -> bool:
    """Whether the fault is a place that cannot be used: read-only, no rights, no such kind."""
    return isinstance(fault, OSError) and fault.errno in _REFUSED and fault.filename is not None


def sync(path: Path) -> None:
    """Have a file or folder on the disk itself before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_file(path: Path) -> bool:
    """Path.is_file(), and False for a name that no file can have or a place out of reach."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def parse_json(text: str) -> Any:
    """What a JSON text says. Raises ValueError for what is none, or nested too deep."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_json(path: Path) -> Any:
    """What a JSON file says. Raises OSError, and ValueError for what is none."""
    return parse_json(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all, on the disk before it has its name."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all, on the disk before it has its name."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
