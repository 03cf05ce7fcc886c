"""The lock of the packages that `make setup` installs, and what becomes of one that differs."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT
from helpers.tiny_wheels import write_wheel
from mathllm.files import digest

SCRIPT = ROOT / ".ci" / "packages.py"
_spec = importlib.util.spec_from_file_location("packages", SCRIPT)
packages = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(packages)


def test_the_lock_is_what_is_pinned():
    assert packages.faults(packages.pins(), packages.read_lock()) == []


def test_whatever_differs_is_named():
    locked = {"a==1": ["0" * 64], "b==2": [], "c==3": ["0" * 64]}
    assert packages.faults(["a==1", "b==2", "d==4"], locked) == [
        "d==4 is not in the lock",
        "c==3 is locked and not pinned",
        "b==2 has no sums",
    ]


def test_torch_is_not_locked_since_its_builds_differ():
    assert not any(pin.startswith("torch==") for pin in packages.read_lock())
    assert "torch==" in packages.PINS.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("system", "machine", "python", "version", "covered"),
    [
        ("Linux", "x86_64", (3, 11), "2.35", True),
        ("Linux", "aarch64", (3, 12), "2.28", True),
        ("Darwin", "arm64", (3, 12), "14.1", True),
        ("Darwin", "arm64", (3, 11), "13.6.1", False),
        ("Darwin", "x86_64", (3, 11), "14.1", False),
        ("Linux", "x86_64", (3, 11), "2.17", False),
        ("Linux", "x86_64", (3, 11), "", False),  # musl
        ("Linux", "x86_64", (3, 13), "2.35", False),
        ("Linux", "riscv64", (3, 11), "2.35", False),
        ("Windows", "AMD64", (3, 11), "", False),
    ],
)
def test_the_lock_is_used_where_it_is_for(system, machine, python, version, covered):
    assert packages.covers(system, machine, python, version) == covered


def test_what_is_missing_or_another_version_is_known():
    version = importlib.metadata.version("polars")
    assert packages._is_there(f"polars=={version}")
    assert not packages._is_there("polars==0.0.1")
    assert not packages._is_there("no-such-thing==1")
    assert packages._is_there('no-such-thing==1; python_version >= "3.99"')


class Clone:
    """A clone of one package, an index that has it, and a folder that it is installed into."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("index", "target", "main/.ci"):
            (folder / name).mkdir(parents=True)
        self.script = folder / "main" / ".ci" / "packages.py"
        self.script.write_text(SCRIPT.read_text(encoding="utf-8"), encoding="utf-8")
        self.wheel = write_wheel(folder / "index", "small-thing", "1.0")
        (folder / "main" / "requirements.txt").write_text("torch==9.9\nsmall-thing==1.0  # why\n")

    def lock(self, total: str) -> None:
        lock = f"# written\nsmall-thing==1.0 \\\n    --hash=sha256:{total}\n"
        (self.folder / "main" / "requirements.lock").write_text(lock)

    def install(self, *options: str) -> subprocess.CompletedProcess[str]:
        pip = {"NO_INDEX": "1", "FIND_LINKS": str(self.folder / "index")}
        pip |= {"TARGET": str(self.folder / "target"), "CONFIG_FILE": os.devnull}
        pip |= {"CONSTRAINT": "", "NO_DEPS": "1", "ROOT_USER_ACTION": "ignore"}
        return subprocess.run(
            [sys.executable, str(self.script), "install", *options],
            env=os.environ | {f"PIP_{name}": value for name, value in pip.items()},
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def installed(self) -> list[str]:
        return [path.name for path in (self.folder / "target").glob("*.dist-info")]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this environment has no pip")
    if not packages._is_covered():
        pytest.skip("the lock is not for this machine")
    return Clone(tmp_path)


@pytest.mark.slow
def test_what_has_its_sum_is_installed(clone):
    clone.lock(digest(clone.wheel))
    ran = clone.install()
    assert ran.returncode == 0, ran.stderr
    assert clone.installed == ["small_thing-1.0.dist-info"]
    assert "warning" not in ran.stdout


@pytest.mark.slow
def test_what_has_another_sum_stops_the_set_up_with_words(clone):
    clone.lock("0" * 64)
    ran = clone.install()
    assert ran.returncode == 2
    assert clone.installed == []
    first, second = ran.stderr.splitlines()
    assert first.startswith("error: small-thing==1.0 from file:///")
    assert first.endswith("has another SHA-256 sum than in requirements.lock")
    assert second.endswith("if you trust that one, repeat with UNCHECKED=yes")


@pytest.mark.slow
def test_an_index_with_its_own_builds_is_warned_of_and_left_to_pip(clone):
    clone.lock("0" * 64)
    ran = clone.install("--unchecked")
    assert ran.returncode == 0
    assert clone.installed == []
    assert "warning: packages are installed without checking their sums" in ran.stdout


@pytest.mark.slow
def test_a_package_that_is_nowhere_is_pips_to_explain(clone):
    clone.lock(digest(clone.wheel))
    clone.wheel.unlink()
    ran = clone.install()
    assert ran.returncode not in (0, 2)
    assert "No matching distribution" in ran.stderr
