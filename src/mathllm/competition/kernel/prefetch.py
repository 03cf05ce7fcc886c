"""Weight files read into the system's page cache, side by side, while their server starts.

A dataset's disk gives one reader a small part of what it gives many, and a server reads alone.
"""

import os
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

READERS = 8
BLOCK = 1 << 24  # bytes
SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt")
MEMORY_SHARE = 0.8  # of the memory that is free: what is beyond would push out what was read
REPORT_SECONDS = 10.0


def weight_files(command: str) -> list[Path]:
    """Those that a server's command line names: files, or all in a folder; in order."""
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    found = []
    for word in words:
        path = Path(word.partition("=")[2] if word.startswith("--") else word)
        if path.is_file():
            found += [path] if path.suffix in SUFFIXES else []
        elif path.is_dir() and path.name:
            found += sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
    return found


class Prefetch:
    """Reads files once, in the background; `report` gets a line about every REPORT_SECONDS, and
    `done(files, bytes, seconds)` is called at the end. What cannot be read is left to the server.
    """

    def __init__(
        self,
        files: Sequence[Path],
        report: Callable[[str], None],
        done: Callable[[int, int, float], None],
    ) -> None:
        self._files, self._report, self._done = list(files), report, done
        self._blocks: list[tuple[Path, int]] = []
        self._read = 0
        self._lock, self._stopped = threading.Lock(), threading.Event()

    def start(self) -> None:
        """Returns at once."""
        threading.Thread(target=self._run, name="prefetch", daemon=True).start()

    def stop(self) -> None:
        """No more is read: whoever wanted it has it."""
        self._stopped.set()

    def _run(self) -> None:
        began = time.monotonic()
        room = MEMORY_SHARE * _free_memory()
        total = 0
        for path in self._files:
            try:
                size = path.stat().st_size
            except OSError:
                continue
            if total + size > room:
                self._report(f"{path.name} and what follows is not read ahead: no memory for it")
                break
            total += size
            self._blocks += [(path, start) for start in range(0, size, BLOCK)]
        self._blocks.reverse()
        readers = [
            threading.Thread(target=self._read_blocks, name="reader", daemon=True)
            for _ in range(min(READERS, len(self._blocks)))
        ]
        for reader in readers:
            reader.start()
        told = began
        for reader in readers:
            while reader.is_alive():
                reader.join(0.2)
                if (now := time.monotonic()) - told >= REPORT_SECONDS:
                    told = now
                    read, rate = self._read / 1e9, self._read / (now - began) / 1e9
                    self._report(f"weights  {read:.1f} of {total / 1e9:.1f} GB, {rate:.2f} GB/s")
        self._done(len(self._files), self._read, time.monotonic() - began)

    def _read_blocks(self) -> None:
        buffer = bytearray(BLOCK)
        while not self._stopped.is_set():
            with self._lock:
                if not self._blocks:
                    return
                path, start = self._blocks.pop()
            try:
                with path.open("rb", buffering=0) as file:
                    count = os.preadv(file.fileno(), [buffer], start)
            except OSError:
                continue
            with self._lock:
                self._read += count


def _free_memory() -> float:
    """In bytes; all that there is where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024.0 * next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return float("inf")
