"""A notebook that is done in a moment, batches of it, and the command that runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import yaml

from helpers.paths import ROOT

BUILD = ROOT / "build.py"

# What it measures depends on its parameters alone, on any engine. `witness` gets a line at
# its end, so that a test can count how often it was run.
PARAMETERS = """\
output_dir: str = "runs/light"  # folder: gets metrics.json
width: int = 1  # units of nothing
lr: float = 0.1  # a rate
seed: int = 0  # of the noise
behave: str = "well"  # or raise, mistake, hang, die, nothing
witness: str = ""  # file: gets a line at the end
pause: float = 0.0  # seconds before the end
"""
BODY = """\
import os, random, signal, time
from pathlib import Path
from mathllm.errors import DataError
from mathllm.metrics import record

print(f"width {width} seed {seed}")
if behave == "raise":
    raise ValueError("the seventh gate is shut")
if behave == "mistake":
    raise DataError("no such data: give other data")
if behave == "hang":
    time.sleep(600)
if behave == "die":
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
time.sleep(pause)
if behave != "nothing":
    noise = random.Random(f"{seed} {width}").random()
    record(output_dir, score=width * 10 + noise, loss=lr / width)
if witness:
    with Path(witness).open("a") as file:
        file.write(f"{width} {seed}\\n")
"""


def light_notebook(folder: Path, name: str = "light.ipynb", body: str = BODY) -> Path:
    """Write the notebook; returns its path."""
    cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}, id="given"),
        nbformat.v4.new_code_cell(body, id="body"),
    ]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    path = folder / name
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def write_batch(folder: Path, name: str = "light.yaml", **keys: Any) -> Path:
    """A batch of the light notebook, which is written beside it; `keys` change it."""
    light_notebook(folder)
    content = {
        "notebook": "light.ipynb",
        "minutes": 2,
        "metric": {"name": "score", "better": "higher", "unit": "points"},
    } | keys
    path = folder / name
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return path


def command(path: Path, *arguments: str) -> list[str]:
    """`build.py batch` with everything that it writes beside the file."""
    kept = ["--folder", str(path.parent / "out")]
    return [sys.executable, str(BUILD), "batch", str(path), *kept, *arguments]


def run(path: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a batch to its end."""
    return subprocess.run(
        command(path, *arguments), capture_output=True, text=True, timeout=300, **options
    )


def statuses(path: Path) -> dict[str, dict[str, Any]]:
    """What the batch's folder says of each run."""
    found = (path.parent / "out" / "runs").glob("*/status.json")
    return {p.parent.name: json.loads(p.read_text(encoding="utf-8")) for p in found}


def done(path: Path) -> dict[str, dict[str, Any]]:
    return {run: found for run, found in statuses(path).items() if found["status"] == "done"}


def results(path: Path) -> dict[str, dict[str, Any]]:
    """The metrics of each run that is done."""
    runs = path.parent / "out" / "runs"
    return {run: json.loads((runs / run / "metrics.json").read_text()) for run in done(path)}


def marked(folder: Path) -> list[int]:
    """Processes that still belong to a run of the batch in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        if f"MATHLLM_BATCH_RUN={folder}".encode() in environment:
            found.append(int(process.name))
    return [pid for pid in found if pid != os.getpid()]
