"""One run in its folder, in a process of its own:

    python -m mathllm.batches.running FOLDER

runs the notebooks that FOLDER/run.json holds, one after the other, collects what they
recorded, and writes "done" or "failed" to FOLDER/status.json as the very last thing. The
same on every engine. Ends, with all that it started, when its standard input closes, which
happens however the process that started it ends.
"""

import io
import json
import os
import sys
import tarfile
import tempfile
import threading
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mathllm import metrics, notebooks
from mathllm.batches.local import Supervised, end_marked
from mathllm.batches.plan import OUTPUT, RUN
from mathllm.batches.workdir import DONE, ENVIRONMENT, FAILED, ORDER, write_status
from mathllm.environment import environment
from mathllm.errors import UserError
from mathllm.files import write_json
from mathllm.unpacking import untar


def run(folder: Path) -> bool:
    """Run what `folder` holds; whether all of it went well."""
    order = json.loads((folder / ORDER).read_text(encoding="utf-8"))
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / ENVIRONMENT, environment() | order.get("code", {}))
    seconds: dict[str, float] = {}
    status, message = DONE, ""
    try:
        found: dict[str, Any] = {}
        for step in order["steps"]:
            print(f"{step['name']} begins", flush=True)
            at = time.monotonic()
            found |= _run_step(folder, step)
            seconds[step["name"]] = round(time.monotonic() - at, 2)
        if not found:
            raise UserError(
                f"no step recorded a metric: call mathllm.metrics.record({OUTPUT}, NAME=VALUE)"
            )
        write_json(folder / metrics.METRICS, found)
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        status, message = FAILED, str(mistake)
    except notebooks.NotebookError as fault:
        print(fault, file=sys.stderr)
        status, message = FAILED, fault.summary
    except Exception as fault:
        traceback.print_exc()
        status, message = FAILED, f"{type(fault).__name__}: {fault}"
    total = round(time.monotonic() - began, 2)
    more = {"started": started, "seconds": total, "steps": seconds}
    write_status(folder, status, message, attempt=order.get("attempt", 1), **more)
    return status == DONE


def _run_step(folder: Path, step: dict[str, Any]) -> dict[str, Any]:
    """Execute one notebook into the folder; what it recorded."""
    values = {
        name: value.replace(RUN, str(folder)) if isinstance(value, str) else value
        for name, value in step["parameters"].items()
    }
    recorded = Path(values[OUTPUT]) / metrics.METRICS
    recorded.unlink(missing_ok=True)  # a half-done attempt's
    executed = folder / f"{step['name']}.ipynb"
    pairs = [(name, v if isinstance(v, str) else repr(v)) for name, v in values.items()]
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / executed.name
        source.write_text(step["notebook"], encoding="utf-8")
        try:
            notebooks.run_notebook(source, executed, pairs)
        finally:
            if executed.is_file():
                notebooks.export_html(executed)
    return metrics.read(recorded.parent)


def _end_with_parent(folder: Path) -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock would be held when Python ends
        pass
    end_marked(folder)
    os._exit(1)


def main(folder: Path) -> int:
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    return 0 if run(folder) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))


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
    """Lay out what `run_remote` has returned. Raises UnpackError where it is nothing of it."""
    untar(archive, folder)
