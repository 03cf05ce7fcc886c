"""Archives that others made, unpacked whole and within limits, or not at all.

What an archive says of itself is not believed: bytes are counted as they come.
"""

import errno
import gzip
import io
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

try:
    from lzma import LZMAError
except ImportError:  # a Python that was built without it, which zipfile does without as well
    LZMAError = zlib.error

# What zipfile raises for a file that is damaged, or that it cannot read. RuntimeError is a
# password, NotImplementedError a compression or version that it does not know.
ZIP_FAULTS = (
    *(zipfile.BadZipFile, zlib.error, LZMAError, struct.error, EOFError, ValueError),
    *(OverflowError, RuntimeError, NotImplementedError, KeyError, IndexError),
)
PART_BYTES, PATH_BYTES = 255, 1000  # of a name, of all of a path: what file systems take
_CHUNK = 1 << 20


class UnpackError(Exception):
    """Why an archive is not unpacked, in words that follow "ARCHIVE "."""


class DamagedError(UnpackError):
    """The archive is not whole: to fetch it again may help."""


@dataclass(frozen=True)
class Limits:
    """Files, bytes of all of them, and how many times larger than the archive they may be;
    `ratio` does not count up to `free` bytes."""

    files: int = 20_000
    size: int = 100 * 10**9
    ratio: float = 200.0
    free: int = 200 * 10**6

    def check(self, files: int, size: int, packed: int) -> None:
        """Raise UnpackError for what is beyond."""
        if files > self.files:
            raise UnpackError(f"has {files:,} files, more than {self.files:,}")
        if size > self.size:
            raise UnpackError(f"unpacks to more than {self.size / 1e9:,.1f} GB")
        if size > max(self.free, self.ratio * packed):
            raise UnpackError(f"unpacks to more than {self.ratio:g} times its size")


def check_names(names: Iterable[tuple[str, bool]]) -> None:
    """Refuse (name, whether a folder) that would leave the folder, or stand for two things.

    Raises UnpackError. Names that differ in case alone are one on some systems.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name, is_folder in names:
        parts = _parts(name)
        keys = ["/".join(parts[:n]).casefold() for n in range(1, len(parts) + 1)]
        keys = [unicodedata.normalize("NFC", key) for key in keys]
        if not is_folder:
            own = keys.pop()
            if own in files:
                raise UnpackError(f"has two files for the one name {_quoted(name)}")
            files[own] = name
        folders.update(dict.fromkeys(keys, name))
    if both := files.keys() & folders.keys():
        raise UnpackError(f"has {_quoted(files[min(both)])} as a file and as a folder")


def _parts(name: str) -> list[str]:
    """The parts of a path that stays where it belongs."""
    parts = name.removesuffix("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or ":" in parts[0]:
        raise UnpackError(f"wants to write {_quoted(name)}, which may lie outside of its folder")
    if not name.isprintable():
        raise UnpackError(f"has the name {_quoted(name)}, with signs that cannot be printed")
    if len(name.encode()) > PATH_BYTES or any(len(p.encode()) > PART_BYTES for p in parts):
        raise UnpackError(f"has the name {_quoted(name)}, which is too long")
    return parts


def _quoted(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:60]}…")


def unzip(archive: Path, target: Path, limits: Limits | None = None) -> None:
    """Unpack a zip into `target`, which must not be there yet and is removed on any fault.

    Raises UnpackError, DamagedError, and OSError for what the disk refuses.
    """
    limits = limits or Limits()
    try:
        try:
            with zipfile.ZipFile(archive) as opened:
                _unzip(opened, archive.stat().st_size, target, limits)
        except ZIP_FAULTS as fault:
            raise _explained(fault) from fault
        except OSError as fault:
            if fault.errno != errno.EINVAL:  # a place in the archive that no file has
                raise
            raise _explained(fault) from fault
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _unzip(opened: zipfile.ZipFile, packed: int, target: Path, limits: Limits) -> None:
    entries = opened.infolist()
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UnpackError(f"has a link or device, {_quoted(entry.filename)}")
        if entry.flag_bits & 1:
            raise UnpackError(f"is encrypted ({_quoted(entry.filename)})")
    limits.check(len(entries), sum(entry.file_size for entry in entries), packed)
    check_names((entry.orig_filename, entry.is_dir()) for entry in entries)
    check_space(sum(entry.file_size for entry in entries), target.parent)
    target.mkdir(parents=True)
    total = 0
    for entry in entries:
        path = target / PurePosixPath(entry.filename)
        if entry.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        written = 0
        with opened.open(entry) as reader, path.open("xb") as writer:
            while chunk := reader.read(_CHUNK):
                written += len(chunk)
                limits.check(len(entries), total + written, packed)
                writer.write(chunk)
        if written != entry.file_size:
            raise DamagedError(f"has {written:,} bytes of {_quoted(entry.filename)}, not all")
        total += written


def check_space(size: int, folder: Path) -> None:
    """Raise UnpackError where `size` bytes do not fit on the folder's disk."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UnpackError(
            f"needs {size / 1e9:,.1f} GB, and {folder} has {free / 1e9:,.1f} GB free: make room "
            "there"
        )


def _explained(fault: Exception) -> UnpackError:
    words = " ".join(str(fault).split())[:200] or type(fault).__name__
    if isinstance(fault, NotImplementedError):
        return UnpackError(f"is compressed in a way that is not known here ({words})")
    if isinstance(fault, RuntimeError):
        return UnpackError(f"cannot be unpacked ({words})")
    return DamagedError(f"was no whole archive ({words})")


def untar(data: bytes, target: Path, limits: Limits | None = None) -> None:
    """Unpack a tar into the folder `target`; links only where they stay inside of it.

    Raises UnpackError, DamagedError, and OSError for what the disk refuses.
    """
    limits = limits or Limits()
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as opened:
            members, size = [], 0
            for member in opened:
                members.append(member)
                size += member.size
                limits.check(len(members), size, len(data))
            check_names((m.name.removeprefix("./"), m.isdir()) for m in members)
            opened.extractall(target, members, filter="data")
    except tarfile.FilterError as fault:
        raise UnpackError(f"cannot be unpacked ({' '.join(str(fault).split())[:200]})") from fault
    except (tarfile.TarError, gzip.BadGzipFile, *ZIP_FAULTS) as fault:
        raise _explained(fault) from fault
