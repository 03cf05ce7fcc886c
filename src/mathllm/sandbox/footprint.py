"""What a kernel's process takes: threads, files in its folder, files that it deleted and holds.

All of it was made by a program that may be hostile and goes on meanwhile: a look is bounded,
follows no link, opens nothing but folders, and says in words where there is too much.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

FILES = 1000  # of a session; folders, and deleted files that are still open, are among them
DEPTH = 64  # folders in folders
FOLDER_ONLY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
BLOCK = 512  # bytes, what st_blocks counts in


def threads(pid: int) -> int:
    """Threads of a process; 0 where the system does not tell."""
    # Bytes: the first line is the process's name, which may be any.
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"Threads:"):
            return int(line[8:])
    return 0


def excess(folder: Path, limit: int, held: tuple[int, int] = (0, 0)) -> str | None:
    """Why files are too many or too large, `limit` in bytes; None where they fit.

    All below a folder, and those that are `held` though they were deleted.
    """
    count, size = held
    try:
        with closing(_entries(folder)) as entries:
            for depth, found in entries:
                count += 1
                size += found.st_blocks * BLOCK
                if depth > DEPTH:
                    return f"more than {DEPTH} folders in folders"
                if count > FILES or size > limit:
                    break
    except PermissionError:
        return "a folder that cannot be looked into"
    if count > FILES or size > limit:
        return f"more than {FILES} files or {limit} bytes of files"
    return None


def deleted(folder: Path, pid: int) -> tuple[int, int]:
    """Number and bytes of the files that a process holds in no folder, and that yet take room.

    Those that are open, memory files among them, and those of `folder` that are mapped.
    """
    held = _open(pid)
    within = os.fsencode(folder) + b"/"
    for line in _read(f"/proc/{pid}/maps").splitlines():
        if line.endswith(b" (deleted)") and within in line:
            held.append(Path(f"/proc/{pid}/map_files", line.split(maxsplit=1)[0].decode()))
    sizes = {}
    for path in held:
        with suppress(OSError):
            found = path.stat()  # of what it stands for; nothing is opened
            if stat.S_ISREG(found.st_mode) and not found.st_nlink:
                sizes[found.st_dev, found.st_ino] = found.st_blocks * BLOCK
    return len(sizes), sum(sizes.values())


def sees_deleted(pid: int) -> bool:
    """Whether the system lets us see what a process has open."""
    return bool(_open(pid))


def _entries(folder: Path) -> Iterator[tuple[int, os.stat_result]]:
    """Everything below a folder: how deep it lies, and what the system says of it.

    By descriptors: below 4,096 characters of path nothing can be opened by its name.
    """
    try:
        levels = [(os.open(folder, FOLDER_ONLY), ["."])]
    except FileNotFoundError:
        return
    try:
        while levels:
            above, waiting = levels[-1]
            if not waiting:
                os.close(levels.pop()[0])
                continue
            try:
                here = os.open(waiting.pop(), FOLDER_ONLY, dir_fd=above)
            except (FileNotFoundError, NotADirectoryError):
                continue  # gone since its name was read, or a link by now
            folders: list[str] = []
            levels.append((here, folders))
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
                    with suppress(FileNotFoundError):
                        yield len(levels) - 1, entry.stat(follow_symlinks=False)
    finally:
        for descriptor, _ in levels:
            os.close(descriptor)


def _open(pid: int) -> list[Path]:
    """What a process has open; nothing where the system does not let us see."""
    try:
        return list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return []


def _read(path: str) -> bytes:
    """A file of /proc; nothing where there is none, or none to see."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
