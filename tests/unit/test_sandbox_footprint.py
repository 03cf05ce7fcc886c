"""What a process takes, seen from outside: files however deep, deleted or out of sight."""

import ctypes
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mathllm.sandbox.footprint import DEPTH, FILES, deleted, excess, sees_deleted, threads
from mathllm.sandbox.kernel import _read

LIMIT = 1 << 20
LARGE = bytes(LIMIT + 1)
OWN = os.getpid()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


def test_what_fits(folder: Path) -> None:
    (folder / "some").mkdir()
    (folder / "some" / "file").write_bytes(bytes(1000))
    (folder / "link").symlink_to("/usr")
    (folder / "loop").symlink_to(folder)
    assert excess(folder, LIMIT) is None
    assert excess(folder / "gone", LIMIT) is None


@pytest.mark.parametrize("levels", [0, 1, DEPTH - 1])
def test_bytes_are_counted_in_every_depth(folder: Path, levels: int) -> None:
    """With names of 200 characters: paths that nothing can be opened by."""
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("x" * 200, dir_fd=descriptor)
        below = os.open("x" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    file = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor)
    os.write(file, LARGE)
    os.close(file)
    os.close(descriptor)
    assert excess(folder, 2 * LIMIT) is None
    assert "bytes of files" in excess(folder, LIMIT)
    subprocess.run(["rm", "-rf", str(folder / ("x" * 200))], check=True, timeout=60)


def test_too_many_files_and_too_deep_folders(folder: Path) -> None:
    for n in range(FILES):
        (folder / str(n)).touch()
    assert excess(folder, LIMIT) is None
    (folder / "one more").touch()
    assert f"more than {FILES} files" in excess(folder, LIMIT)
    for n in range(100):
        (folder / str(n)).unlink()
    deep = folder.joinpath(*["x"] * (DEPTH + 1))
    deep.mkdir(parents=True)
    assert excess(folder, LIMIT) == f"more than {DEPTH} folders in folders"


@pytest.mark.skipif(not sees_deleted(OWN), reason="the system does not tell what is open")
def test_deleted_files_count_while_they_are_held(folder: Path) -> None:
    before = excess(folder, LIMIT, deleted(folder, OWN))
    assert before is None
    with (folder / "open").open("wb") as file:
        file.write(LARGE)
        file.flush()
        (folder / "open").unlink()
        assert "bytes of files" in excess(folder, LIMIT, deleted(folder, OWN))
    assert excess(folder, LIMIT, deleted(folder, OWN)) is None
    memory = os.memfd_create("memory")
    os.write(memory, LARGE)
    assert "bytes of files" in excess(folder, LIMIT, deleted(folder, OWN))
    os.close(memory)
    assert excess(folder, LIMIT, deleted(folder, OWN)) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees what a mapping stands for")
def test_deleted_files_count_while_they_are_mapped(folder: Path) -> None:
    file = os.open(folder / "mapped", os.O_RDWR | os.O_CREAT)
    os.write(file, LARGE)
    c = ctypes.CDLL(None)
    c.mmap.restype = ctypes.c_void_p
    # Not by Python's mmap, which keeps the file open too.
    place = c.mmap(None, ctypes.c_size_t(4096), mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
    os.close(file)
    (folder / "mapped").unlink()
    assert "bytes of files" in excess(folder, LIMIT, deleted(folder, OWN))
    c.munmap(ctypes.c_void_p(place), ctypes.c_size_t(4096))
    assert excess(folder, LIMIT, deleted(folder, OWN)) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("mode", [0o000, 0o300, 0o600])
def test_a_folder_that_cannot_be_looked_into_is_too_much(folder: Path, mode: int) -> None:
    """And is deleted all the same; by a user whom rights hold back, as they do not root."""
    folder.chmod(0o777)
    script = f"""
import os, time
from pathlib import Path
from mathllm.sandbox.footprint import excess
from mathllm.sandbox.remover import Remover
os.setgroups([])
os.setresuid(4242, 4242, 4242)
own = Path({str(folder)!r}, "own")
(own / "hidden").mkdir(parents=True)
(own / "hidden" / "file").touch()
(own / "hidden").chmod({mode})
print(excess(own, 1 << 20))
remover = Remover()
remover.add(own)
print(remover.finish(time.monotonic() + 50), own.exists())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout.splitlines() == ["a folder that cannot be looked into", "[] False"], done


def test_a_name_that_is_no_text_hides_no_threads() -> None:
    script = """
import ctypes, sys, threading
ctypes.CDLL(None).prctl(15, b"\\xff\\xfe\\nThreads:\\t0\\n")
threading.Thread(target=sys.stdin.read, daemon=True).start()
print(flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        assert threads(process.pid) == 2
        process.stdin.close()
    assert threads(process.pid) == 0


def test_opening_what_a_program_made_neither_waits_nor_follows(folder: Path) -> None:
    (folder / "file").write_bytes(b"0123456789")
    assert _read(folder / "file", 4) == b"0123"
    assert _read(folder / "file", 4, end=True) == b"6789"
    assert _read(folder / "file", 40, end=True) == b"0123456789"
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to(folder / "file")
    for name in ("pipe", "link", "nothing", "."):
        assert _read(folder / name, 4) == b""
    script = f"""
import fcntl, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = open({str(folder / "file")!r}, "r+")
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print(flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        holder.stdout.readline()
        assert _read(folder / "file", 4) == b""
        holder.stdin.close()
