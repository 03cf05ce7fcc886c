"""The kernel's side of the wheels: what the image lacks is installed without a network.

The packages go to a temporary folder at the END of the import path: what the image has wins, so
that nothing that works there is replaced. Processes that are started with this process' import
path see them too.
"""

import atexit
import importlib
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mathllm import children
from mathllm.competition.bundle.wheels import LOCK, Pin, last_error, read_lock
from mathllm.errors import BundleError

PIP_SECONDS = 300.0  # a few megabytes; beyond that it hangs


def install(dataset: Path) -> dict[str, Any]:
    """Install what of `dataset` is not there already; a journal's words of what was done.

    Raises BundleError where that fails.
    """
    present, missing = [], []
    for pin in read_lock(dataset / LOCK):
        found = _version(pin.name)
        (missing if found is None else present).append((pin, found or pin.version))
    folder = _install([pin for pin, _ in missing], dataset) if missing else None
    return {
        "installed": [f"{pin.name} {found}" for pin, found in missing],
        "present": [f"{pin.name} {found}" for pin, found in present],
        "folder": str(folder or ""),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _install(pins: list[Pin], dataset: Path) -> Path:
    place = children.temporary_folder("wheels")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    wanted, target = place / LOCK, place / "packages"
    wanted.write_text("".join(f"{pin}\n" for pin in pins), encoding="utf-8")
    # Isolated: settings of the image's pip, such as an index, must not count.
    pip = ["-m", "pip", "--isolated", "--disable-pip-version-check", "--no-cache-dir", "--quiet"]
    where = ["--no-index", "--no-deps", "--find-links", str(dataset), "--target", str(target)]
    command = [sys.executable, *pip, "install", *where, "--requirement", str(wanted)]
    names = ", ".join(f"{pin.name} {pin.version}" for pin in pins)
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PIP_SECONDS
        )
        why = last_error(ran.stderr) if ran.returncode else None
    except (OSError, subprocess.TimeoutExpired) as fault:
        why = str(fault)
    if why:
        raise BundleError(
            f"pip cannot install {names} from {dataset} ({why}): attach the newest version of "
            "that dataset, or run `build.py vendor` and push again"
        )
    sys.path.append(str(target))
    importlib.invalidate_caches()
    return target
