"""`build.py check`: each thing that a delivery needs, and what is said where it is missing."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import delivering
from helpers.paths import ROOT
from mathllm.competition.bundle import contents, manifest
from mathllm.delivery import doctor
from mathllm.delivery.doctor import FAULT, OK, WARNING
from mathllm.files import digest
from standin import KaggleStandIn


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleStandIn]:
    with KaggleStandIn() as standin:
        standin.adopt(monkeypatch, tmp_path / "home")
        yield standin


def lines(looks: Iterator[doctor.Finding]) -> list[tuple[str, str]]:
    return [(finding.level, finding.text) for finding in looks]


def examined(build: Path, offline: bool = False) -> tuple[bool, str]:
    said: list[str] = []
    fine = doctor.examine(ROOT, build, said.append, offline)
    return fine, "\n".join(said)


def test_all_is_well_with_an_account(standin: KaggleStandIn, tmp_path: Path) -> None:
    fine, text = examined(tmp_path / "build")
    assert fine, text
    assert "ok      signed in at Kaggle as carl" in text
    assert "ok      Kaggle credentials in KAGGLE_USERNAME and KAGGLE_KEY" in text
    assert "submissions today: 0 made, 1 left" in text
    assert standin.settings.key not in text


def test_rules_that_are_not_accepted(standin: KaggleStandIn, tmp_path: Path) -> None:
    standin.settings.rules_accepted = False
    fine, text = examined(tmp_path / "build")
    assert not fine
    assert "fault   Kaggle says that you may not" in text
    assert "/rules" in text


def test_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    fine, text = examined(tmp_path / "build", offline=True)
    assert not fine
    assert "fault   no Kaggle credentials: make a token" in text


@pytest.mark.usefixtures("standin")
def test_a_kaggle_that_is_not_reached_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    ((level, text),) = lines(doctor._kaggle())
    assert level == WARNING
    assert "was not reached" in text


def test_packages_are_compared_with_the_pins(tmp_path: Path) -> None:
    pins = tmp_path / "requirements.txt"
    pins.write_text("pytest==0.1\nno-such-thing==1.0\nelse==1.0; python_version < '3'\n# no\n")
    found = lines(doctor._packages(pins))
    assert found[0] == (FAULT, "packages missing: no-such-thing; run `make setup`")
    assert found[1][0] == WARNING
    assert "(pinned 0.1)" in found[1][1]


def test_a_bundle_is_fresh_stale_or_broken(tmp_path: Path) -> None:
    build = tmp_path / "build"
    package = {name: path.read_bytes() for name, path in contents.source_files(ROOT)}
    delivering.make_bundle(build, source=package)
    assert lines(doctor._bundle(ROOT, build))[0][0] == OK
    shutil.rmtree(build)
    delivering.make_bundle(build, source=package | {"mathllm/errors.py": b"old"})
    ((level, text),) = lines(doctor._bundle(ROOT, build))
    assert level == WARNING
    assert "older than src/mathllm/errors.py" in text
    shutil.rmtree(build)
    delivering.make_bundle(build, source=package | {"mathllm/gone.py": b""})
    assert "mathllm/gone.py" in lines(doctor._bundle(ROOT, build))[0][1]
    (build / manifest.SOURCE / "mathllm" / "gone.py").write_bytes(b"changed")
    assert lines(doctor._bundle(ROOT, build))[0][0] == FAULT


def test_a_pair_out_of_sync_is_named(tmp_path: Path) -> None:
    for name in ("notebooks", "kernel", ".ci"):
        shutil.copytree(ROOT / name, tmp_path / name)
    script = tmp_path / "notebooks" / "train.py"
    script.write_text(script.read_text() + "\n# %%\nprint('new')\n")
    found = lines(doctor._pairs(tmp_path))
    assert found[0][0] == FAULT
    assert "train.ipynb differs from train.py" in found[0][1]
    assert digest(script) != digest(ROOT / "notebooks" / "train.py")


def test_looking_changes_nothing_on_kaggle(standin: KaggleStandIn, tmp_path: Path) -> None:
    examined(tmp_path / "build")
    assert not standin.datasets
    assert not standin.kernels
    assert not standin.submissions
