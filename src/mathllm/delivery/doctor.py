"""Whether everything that a delivery needs is there: one line for each thing, with its mend.

Knows what to look at, and that looking must neither change nor show anything: of the
credentials only the place is named.
"""

import importlib.metadata
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mathllm.competition.bundle import contents, manifest
from mathllm.delivery import credentials
from mathllm.delivery.client import Kaggle
from mathllm.delivery.retry import RetryPolicy
from mathllm.errors import TryAgainError, UserError
from mathllm.files import digest
from mathllm.settings import CURRENT

OK, WARNING, FAULT = "ok", "warning", "fault"
LEAST_DISK = 5e9  # bytes: a bundle and its archives, with a backbone of 1.5 billion parameters
_PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^;\s]+)\s*(?:;\s*(?P<marker>.*))?$")


@dataclass(frozen=True)
class Finding:
    level: str
    text: str


def examine(root: Path, build: Path, say: Callable[[str], None], offline: bool = False) -> bool:
    """Say what was found, line by line; True unless there is a fault."""
    levels = []
    for look in _looks(root, build, offline):
        for finding in look():
            levels.append(finding.level)
            say(f"{finding.level:8}{finding.text}")
    counts = [(levels.count(level), level) for level in (FAULT, WARNING)]
    say("\n" + ", ".join(f"{count} {level}{'s' * (count != 1)}" for count, level in counts))
    return FAULT not in levels


def _looks(root: Path, build: Path, offline: bool) -> list[Callable[[], Iterator[Finding]]]:
    return [
        _python,
        lambda: _packages(root / "requirements.txt"),
        _gpu,
        lambda: _disk(root),
        lambda: _pairs(root),
        lambda: _bundle(root, build),
        _credentials,
        *([] if offline else [_kaggle]),
    ]


def _python() -> Iterator[Finding]:
    found = platform.python_version()
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        yield Finding(OK, f"Python {found}")
    else:
        yield Finding(FAULT, f"Python {found}: 3.11 or 3.12 is needed, `make setup PYTHON=…`")


def _packages(requirements: Path) -> Iterator[Finding]:
    """The pinned packages, as far as they are for this Python."""
    from packaging.markers import Marker

    pins = [m for line in requirements.read_text().splitlines() if (m := _PIN.match(line.strip()))]
    pins = [pin for pin in pins if not pin["marker"] or Marker(pin["marker"]).evaluate()]
    missing, other = [], []
    for pin in pins:
        try:
            installed = importlib.metadata.version(pin["name"])
        except importlib.metadata.PackageNotFoundError:
            missing.append(pin["name"])
            continue
        if installed.split("+")[0] != pin["version"]:
            other.append(f"{pin['name']} {installed} (pinned {pin['version']})")
    if missing:
        yield Finding(FAULT, f"packages missing: {', '.join(missing)}; run `make setup`")
    if other:
        yield Finding(WARNING, f"other versions than pinned: {', '.join(other)}; `make setup`")
    if not missing and not other:
        yield Finding(OK, f"{len(pins)} packages as pinned")


def _gpu() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as fault:
        yield Finding(FAULT, f"torch cannot be imported ({fault}): run `make setup`")
        return
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        memory = properties.total_memory / 1e9
        yield Finding(OK, f"GPU {properties.name}, {memory:.0f} GB, CUDA {torch.version.cuda}")
    else:
        yield Finding(WARNING, "no GPU here: the embedded weights run, real ones are slow")


def _disk(root: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(root).free
    if free < LEAST_DISK:
        yield Finding(
            WARNING, f"{free / 1e9:.1f} GB of disk free: a real bundle takes {LEAST_DISK / 1e9:.0f}"
        )
    else:
        yield Finding(OK, f"{free / 1e9:.0f} GB of disk free")


def _pairs(root: Path) -> Iterator[Finding]:
    ran = subprocess.run(
        [sys.executable, ".ci/pairs.py"], cwd=root, capture_output=True, text=True, check=False
    )
    if ran.returncode == 0:
        yield Finding(OK, "every notebook agrees with its .py")
        return
    for line in ran.stderr.strip().splitlines():
        yield Finding(FAULT, line)


def _bundle(root: Path, build: Path) -> Iterator[Finding]:
    if not build.is_dir():
        yield Finding(WARNING, f"no bundle in {build}: run `build.py vendor`")
        return
    try:
        described = manifest.describe(build)
        stale = stale_file(root, described.sums)
    except UserError as fault:
        yield Finding(FAULT, str(fault))
        return
    if stale:
        yield Finding(
            WARNING, f"the bundle is older than {stale} in the clone: run `build.py vendor`"
        )
    else:
        yield Finding(OK, f"bundle {described.identity[:12]}, {len(described.sums)} files, fresh")


def stale_file(root: Path, sums: dict[str, str]) -> str | None:
    """A file of the package that the clone has otherwise than the bundle, None without one."""
    here = {f"{manifest.SOURCE}/{name}": path for name, path in contents.source_files(root)}
    for name, path in here.items():
        if name not in sums or digest(path) != sums[name]:
            return path.relative_to(root).as_posix()
    package = f"{manifest.SOURCE}/mathllm/"
    return next((name for name in sums if name.startswith(package) and name not in here), None)


def _credentials() -> Iterator[Finding]:
    found = credentials.find()
    if found is None:
        yield Finding(FAULT, f"no Kaggle credentials: {credentials.HOW_TO}")
        return
    yield Finding(OK, f"Kaggle credentials in {found.place}")
    if found.readable_by_others:
        yield Finding(WARNING, f"others can read {found.file}: chmod 600 {found.file}")


def _kaggle() -> Iterator[Finding]:
    """Who Kaggle thinks we are, and whether the competition's files may be read."""
    if credentials.find() is None:
        return
    try:
        kaggle = Kaggle(lambda _: None, RetryPolicy(tries=2))
        files = kaggle.competition_files(CURRENT.slug)
        left, made = kaggle.submissions_left(CURRENT.slug)
    except TryAgainError as fault:
        yield Finding(WARNING, f"Kaggle was not reached: {fault}")
        return
    except UserError as fault:
        yield Finding(FAULT, str(fault))
        return
    yield Finding(OK, f"signed in at Kaggle as {kaggle.user}")
    yield Finding(OK, f"the rules of {CURRENT.slug} are accepted: {len(files)} files to be read")
    level = OK if left else WARNING
    yield Finding(level, f"submissions today: {made} made, {left} left")
