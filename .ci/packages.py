"""The packages of requirements.txt, exact to the byte.

    .ci/packages.py lock       write requirements.lock: each pin with the SHA-256 sums of its wheels
    .ci/packages.py check      whether lock and pins agree
    .ci/packages.py install    install what is locked into this Python, if the lock is for it
    .ci/packages.py complete   once torch is there, install what is missing of the rest

torch is left out: TORCH_INDEX chooses among builds of one version, which differ. The lock is for
Linux with glibc 2.28 or newer on x86_64 and aarch64, and macOS 14 or newer on arm64, with Python
3.11 and 3.12; elsewhere `make setup` installs the same versions unchecked, and it is said.
"""

import json
import platform
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
PINS, LOCK = ROOT / "requirements.txt", ROOT / "requirements.lock"
PYTHONS = ("3.11", "3.12")
GLIBC, MACOS = (2, 28), (14, 0)
OLDER = [f"manylinux_2_{minor}" for minor in range(GLIBC[1], 4, -1)]
LINUX = [*OLDER, "manylinux2014", "manylinux2010", "manylinux1"]
PLATFORMS = {
    "Linux x86_64": [f"{name}_x86_64" for name in LINUX],
    "Linux aarch64": [f"{name}_aarch64" for name in LINUX],
    "Darwin arm64": [f"macosx_{MACOS[0]}_{MACOS[1]}_arm64"],
}
HEADER = "# Written by .ci/packages.py lock, of requirements.txt: change that, then run it again.\n"
UNCHECKED = "UNCHECKED=yes"
QUIET = ["--quiet", "--disable-pip-version-check"]


def pins(path: Path = PINS) -> list[str]:
    """The lines of requirements.txt but torch's, comments aside."""
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("torch==")]


def read_lock(path: Path = LOCK) -> dict[str, list[str]]:
    """pin -> sums."""
    text = path.read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {
        line.partition(" --hash=")[0].strip(): re.findall(r"--hash=sha256:(\w{64})", line)
        for line in lines
    }


def faults(pinned: list[str], locked: dict[str, list[str]]) -> list[str]:
    """What of the lock is not what is pinned."""
    found = [f"{pin} is not in the lock" for pin in pinned if pin not in locked]
    found += [f"{pin} is locked and not pinned" for pin in locked if pin not in pinned]
    return found + [f"{pin} has no sums" for pin, sums in locked.items() if not sums]


def lock() -> None:
    """Ask the index which wheels each platform and Python would get, without loading them."""
    sums: dict[str, set[str]] = {}
    for name, tags in PLATFORMS.items():
        for python in PYTHONS:
            wanted = [pin for pin in pins() if _is_for(pin, python)]
            for item in _report(wanted, tags, python):
                key = _key(f"{item['metadata']['name']}=={item['metadata']['version']}")
                found = item["download_info"]["archive_info"]["hashes"]["sha256"]
                sums.setdefault(key, set()).add(found)
            print(f"{name}, Python {python}: {len(wanted)} packages")
    lines = [
        " \\\n".join([pin, *(f"    --hash=sha256:{s}" for s in sorted(sums[_key(pin)]))])
        for pin in pins()
    ]
    LOCK.write_text(HEADER + "\n".join(lines) + "\n", "utf-8")


def _key(pin: str) -> str:
    return re.sub(r"[-_.]+", "-", pin.partition(";")[0].partition("==")[0].strip().lower())


def _is_for(pin: str, python: str) -> bool:
    """The one marker that requirements.txt has."""
    return "python_version >=" not in pin or f'>= "{python}"' in pin


def _report(wanted: list[str], tags: list[str], python: str) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        names = [pin.partition(";")[0].strip() for pin in wanted]
        target = ["--dry-run", "--ignore-installed", "--no-deps", "--target", folder]
        target += ["--only-binary=:all:", "--python-version", python, "--report", str(report)]
        target += [word for tag in tags for word in ("--platform", tag)]
        command = [sys.executable, "-m", "pip", "install", *QUIET, *target, *names]
        subprocess.run(command, check=True)
        return json.loads(report.read_text("utf-8"))["install"]


def covers(system: str, machine: str, python: tuple[int, int], version: str) -> bool:
    """Whether the lock is for such a machine; `version` is glibc's, or that of macOS."""
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    least = {"Linux": GLIBC, "Darwin": MACOS}.get(system, (0, 0))
    here = f"{system} {machine}" in PLATFORMS and numbers >= least and bool(numbers)
    return here and "{}.{}".format(*python) in PYTHONS


def _is_covered() -> bool:
    system, version = platform.system(), platform.mac_ver()[0]
    if system == "Linux":
        library, version = platform.libc_ver()
        version = version if library == "glibc" else ""
    return covers(system, platform.machine(), sys.version_info[:2], version)


def install(unchecked: bool) -> int:
    """Install what is locked, without what it requires: that is locked as well, or it is torch
    or another system's own, which `make setup` brings afterwards. Returns an exit status."""
    why = UNCHECKED if unchecked else None if _is_covered() else "the lock is for other machines"
    if why:
        print(f"warning: packages are installed without checking their sums ({why})")
        return 0
    command = [sys.executable, "-m", "pip", "install", *QUIET]
    exact = ["--require-hashes", "--no-deps", "--only-binary=:all:", "--requirement", str(LOCK)]
    ran = subprocess.run([*command, *exact], stderr=subprocess.PIPE, text=True, check=False)
    if ran.returncode and "DO NOT MATCH THE HASHES" in ran.stderr:
        print(f"{_mismatch(ran.stderr)}\n{MEND}", file=sys.stderr)
        return 2
    print(ran.stderr, end="", file=sys.stderr)
    return ran.returncode


MEND = (
    "nothing was installed: somebody changed it on its way, or your index builds its own wheels; "
    f"if you trust that one, repeat with {UNCHECKED}"
)


def _mismatch(said: str) -> str:
    package = re.search(r"^ +(\S+==\S+) from (\S+)", said, re.MULTILINE)
    what = f"{package[1]} from {package[2].partition('#')[0]}" if package else "a package"
    return f"error: {what} has another SHA-256 sum than in requirements.lock"


def complete() -> int:
    """All of requirements.txt where it was not installed from the lock, and what a system needs
    beside it. Returns an exit status."""
    pip = [sys.executable, "-m", "pip"]
    if all(map(_is_there, pins())):  # a look takes a third of the time that installing takes
        looked = subprocess.run([*pip, "check"], capture_output=True, check=False)
        if not looked.returncode:
            return 0
    command = [*pip, "install", *QUIET, "--requirement", str(PINS)]
    return subprocess.run(command, check=False).returncode


def _is_there(pin: str) -> bool:
    name, _, version = pin.partition(";")[0].strip().partition("==")
    try:
        return metadata.version(name) == version
    except metadata.PackageNotFoundError:
        return not _is_for(pin, "{}.{}".format(*sys.version_info[:2]))


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["lock"]:
        lock()
    elif arguments[:1] == ["check"]:
        found = faults(pins(), read_lock())
        for fault in found:
            print(f"{LOCK.name}: {fault}: run .ci/packages.py lock", file=sys.stderr)
        return 1 if found else 0
    elif arguments[:1] == ["install"]:
        return install("--unchecked" in arguments)
    elif arguments[:1] == ["complete"]:
        return complete()
    else:
        print(__doc__)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
