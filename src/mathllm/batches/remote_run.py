"""A run on a machine that shares nothing with the batch: an order in, an archive out."""

import io
import tarfile
import tempfile
import time
from pathlib import Path

from mathllm.batches.supervision import Supervised
from mathllm.batches.workdir import ORDER

_LOOK_SECONDS = 0.1


def run_remote(order: bytes, threads: int, minutes: float) -> bytes:
    """Run in a folder of its own; all that the run left, as an archive."""
    with tempfile.TemporaryDirectory(prefix="mathllm-run-") as temporary:
        folder = Path(temporary).resolve()
        (folder / ORDER).write_bytes(order)
        run = Supervised(folder, minutes, threads, None, Path.cwd())
        try:
            while not run.ended():
                time.sleep(_LOOK_SECONDS)
        finally:
            run.end()
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as opened:
            for path in sorted(folder.iterdir()):
                opened.add(path, path.name)
        return archive.getvalue()


def unpack(archive: bytes, folder: Path) -> None:
    """Lay out what `run_remote` has returned. Raises tarfile.TarError where it is no archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        opened.extractall(folder, filter="data")
