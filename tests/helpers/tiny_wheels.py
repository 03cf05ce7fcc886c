"""Wheels of a few hundred bytes, and clones that lock them: nothing is downloaded."""

import hashlib
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from helpers.paths import ROOT
from mathllm.competition.bundle.wheels import LOCK, Pin

# What vendoring reads of a clone.
CLONE = ("src", "assets", "kernel", "datasets_meta", "LICENSE")


def write_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    requires: Sequence[str] = (),
    tag: str = "py3-none-any",
) -> Path:
    """A wheel with one module of the distribution's name, which has its version."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    files = {
        f"{module}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{module}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(zipfile.ZipInfo(file, (1980, 1, 1, 0, 0, 0)), text)
    return path


def pin(*wheels: Path) -> Pin:
    """The lock's line for the wheels of one version."""
    name, version, *_ = wheels[0].name.split("-")
    sums = tuple(hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels)
    return Pin(name.replace("_", "-"), version, sums)


def clone(folder: Path, *wheels: Path) -> Path:
    """A copy of what vendoring reads, which locks `wheels` and has them in its cache."""
    for name in CLONE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, folder / name)
    cache = folder / ".cache" / "wheels"
    cache.mkdir(parents=True)
    for wheel in wheels:
        shutil.copy2(wheel, cache)
    lock = folder / "datasets_meta" / "wheels" / LOCK
    lock.write_text("".join(f"{pin(wheel)}\n" for wheel in wheels), encoding="utf-8")
    return folder
