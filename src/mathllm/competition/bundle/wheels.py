"""The packages that Kaggle's image lacks: locked, and downloaded once.

datasets_meta/wheels/requirements.txt   the lock, in pip's format, a hash for each file
datasets_meta/wheels/image.txt          what the image has, as far as it matters here
.cache/wheels/                          downloads, so that vendoring works offline again
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathllm.competition.bundle.wheel_check import IMAGE, PYTHONS, lines_of, read_image
from mathllm.errors import BundleError
from mathllm.files import digest

LOCK = "requirements.txt"
# Its system is an Ubuntu 22.04 with glibc 2.35: wheels for an older one do.
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
WITHOUT = "`build.py vendor --no-wheels` goes on without them"
_PIN = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?P<hashes>( --hash=sha256:\w{64})+)"
)
_HEADER = """\
# What Kaggle's image lacks, exact to the byte. Written by `build.py wheels {wanted}`.
"""


@dataclass(frozen=True)
class Pin:
    """A line of the lock: one version, and the SHA-256 sums of its wheels."""

    name: str
    version: str
    hashes: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(
            [f"{self.name}=={self.version}", *(f"--hash=sha256:{h}" for h in self.hashes)]
        )


def read_lock(path: Path) -> list[Pin]:
    """The lock's lines. Raises BundleError for one that is no exact pin."""
    return list(_parse_lock(path))


def _parse_lock(path: Path) -> Iterator[Pin]:
    for number, line in lines_of(path):
        if not (match := _PIN.fullmatch(" ".join(line.split()))):
            raise BundleError(
                f"{path}:{number} is no `name==version --hash=sha256:…`: run `build.py wheels "
                "NAME==VERSION` to have it written anew"
            )
        hashes = tuple(re.findall(r"sha256:(\w+)", match["hashes"]))
        yield Pin(match["name"], match["version"], hashes)


def resolve(
    wanted: Sequence[str],
    folder: Path,
    pythons: Sequence[str] = PYTHONS,
    index: Sequence[str] = (),
) -> list[Pin]:
    """Write the lock in `folder` anew: `wanted` with all that they need and the image lacks.

    `index`: further arguments of pip's, such as --find-links FOLDER. Raises BundleError where
    pip finds no wheels for Kaggle's Pythons, or not the same versions for each.
    """
    from packaging.utils import canonicalize_name

    image = read_image(folder / IMAGE)
    versions: dict[str, str] = {}
    hashes: dict[str, set[str]] = {}
    for python in pythons:
        for item in _report(wanted, python, index):
            name, version = item["metadata"]["name"], item["metadata"]["version"]
            if canonicalize_name(name) in image:
                continue
            if versions.setdefault(name, version) != version:
                raise BundleError(
                    f"{name} is {versions[name]} for Python {pythons[0]} and {version} for "
                    f"{python}: name the version, as `build.py wheels {name}=={version}`"
                )
            hashes.setdefault(name, set()).add(
                item["download_info"]["archive_info"]["hashes"]["sha256"]
            )
    pins = [Pin(name, versions[name], tuple(sorted(hashes[name]))) for name in sorted(versions)]
    text = _HEADER.format(wanted=" ".join(wanted)) + "".join(f"{pin}\n" for pin in pins)
    (folder / LOCK).write_text(text, encoding="utf-8")
    return pins


def _report(wanted: Sequence[str], python: str, index: Sequence[str]) -> list[dict[str, Any]]:
    """What pip would install for one of Kaggle's Pythons."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        target = ("--dry-run", "--ignore-installed", "--target", str(Path(folder) / "target"))
        _pip(
            ["install", *target, "--report", str(report), *_for_kaggle(python), *index, *wanted],
            f"pip cannot resolve {', '.join(wanted)} for Python {python}",
            "correct the names, or try again with a network",
        )
        return json.loads(report.read_text(encoding="utf-8"))["install"]


def download(
    lock: Path, cache: Path, pythons: Sequence[str] = PYTHONS, index: Sequence[str] = ()
) -> list[Path]:
    """The lock's wheels from `cache`, after downloading those that are not there.

    Nothing is asked of a network where the cache has all. Raises BundleError where pip cannot
    download them.
    """
    pins = read_lock(lock)
    have = _by_sum(cache)
    missing = [pin for pin in pins if not have.keys() >= set(pin.hashes)]
    if missing:
        _download(missing, cache, pythons, index)
        have = _by_sum(cache)
    wheels = []
    for pin in pins:
        if lost := set(pin.hashes) - have.keys():
            raise BundleError(
                f"{lock}: pip found no wheel of {pin.name} {pin.version} with the sum "
                f"{min(lost)[:12]}…: run `build.py wheels {pin.name}=={pin.version}`, or {WITHOUT}"
            )
        wheels += [have[found] for found in pin.hashes]
    return sorted(wheels)


def _by_sum(cache: Path) -> dict[str, Path]:
    return {digest(path): path for path in sorted(cache.glob("*.whl"))}


def _download(
    pins: Sequence[Pin], cache: Path, pythons: Sequence[str], index: Sequence[str]
) -> None:
    """Into a folder of its own first: what is in the cache is whole."""
    cache.mkdir(parents=True, exist_ok=True)
    names = ", ".join(f"{pin.name}=={pin.version}" for pin in pins)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=cache) as folder:
        wanted = Path(folder) / LOCK
        wanted.write_text("".join(f"{pin}\n" for pin in pins), encoding="utf-8")
        exact = ("--require-hashes", "--no-deps", "--dest", folder, "--requirement", str(wanted))
        for python in pythons:
            _pip(
                ["download", *exact, *_for_kaggle(python), *index],
                f"pip cannot download {names} for Kaggle",
                f"run `build.py vendor` once with a network, {cache} keeps them; or {WITHOUT}",
            )
        for path in Path(folder).glob("*.whl"):
            path.replace(cache / path.name)


def _for_kaggle(python: str) -> list[str]:
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    return ["--only-binary=:all:", "--python-version", python, *platforms]


def _pip(arguments: Sequence[str], what: str, mend: str) -> None:
    quick = ["--quiet", "--disable-pip-version-check", "--no-input", "--retries", "1"]
    command = [sys.executable, "-m", "pip", *arguments, *quick]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise BundleError(f"{what} ({last_error(ran.stderr)}): {mend}")


def last_error(output: str) -> str:
    """The line that says why pip failed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return f"{sys.executable} has no pip: run `{sys.executable} -m ensurepip`"
    errors = [line for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["no reason given"])[-1].removeprefix("ERROR: ")
