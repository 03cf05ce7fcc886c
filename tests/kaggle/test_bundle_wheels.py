"""Wheels: locked, downloaded once, complete, and installed without a network."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT
from helpers.tiny_wheels import pin, write_wheel
from mathllm.competition.bundle import wheel_check, wheels
from mathllm.competition.bundle.wheel_check import check_closure, read_wheel
from mathllm.competition.bundle.wheels import LOCK, download, read_lock, resolve
from mathllm.competition.kernel import install
from mathllm.errors import BundleError

META = ROOT / "datasets_meta" / "wheels"


@pytest.fixture
def index(tmp_path: Path) -> tuple[str, ...]:
    """pip's arguments for a folder in place of a network: probe needs helper, and numpy."""
    folder = tmp_path / "index"
    write_wheel(folder, "probe", requires=["helper>=2", "numpy", 'lost; python_version < "3"'])
    write_wheel(folder, "helper", "2.1")
    write_wheel(folder, "numpy", "2.0")
    return ("--no-index", "--find-links", str(folder))


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    folder = tmp_path / "meta"
    folder.mkdir()
    (folder / wheel_check.IMAGE).write_text("numpy>=1.26  # with torch\n", encoding="utf-8")
    return folder


def lock(folder: Path, *pins: object) -> Path:
    path = folder / LOCK
    path.write_text("# a comment\n" + "".join(f"{p}\n" for p in pins), encoding="utf-8")
    return path


@pytest.mark.slow
def test_resolving_locks_what_is_needed_and_the_image_lacks(meta, index):
    pins = resolve(["probe==1.0"], meta, index=index)
    assert [(p.name, p.version, len(p.hashes)) for p in pins] == [
        ("helper", "2.1", 1),
        ("probe", "1.0", 1),
    ]
    assert read_lock(meta / LOCK) == pins
    first = (meta / LOCK).read_bytes()
    resolve(["probe==1.0"], meta, index=index)
    assert (meta / LOCK).read_bytes() == first


def test_a_package_with_a_wheel_for_each_python_is_locked_with_both(meta, tmp_path, index):
    folder = tmp_path / "index"
    built = [
        write_wheel(folder, "native", tag=f"cp{v}-cp{v}-manylinux_2_17_x86_64") for v in (311, 312)
    ]
    (found,) = resolve(["native"], meta, index=index)
    assert set(found.hashes) == set(pin(*built).hashes)
    got = download(meta / LOCK, tmp_path / "cache", index=index)
    assert [path.name for path in got] == sorted(path.name for path in built)
    check_closure([read_wheel(path) for path in got], meta / wheel_check.IMAGE)


def test_resolving_what_no_index_has_is_refused_by_name(meta, index):
    with pytest.raises(BundleError, match=r"absent.*Python 3\.11.*network"):
        resolve(["absent"], meta, index=index)
    assert not (meta / LOCK).exists()


@pytest.mark.slow
def test_what_was_downloaded_once_needs_no_index_again(meta, tmp_path, index):
    resolve(["probe"], meta, index=index)
    cache = tmp_path / "cache"
    got = download(meta / LOCK, cache, index=index)
    assert [path.name.split("-")[0] for path in got] == ["helper", "probe"]
    assert sorted(cache.iterdir()) == got
    assert download(meta / LOCK, cache, index=("--no-index",)) == got


def test_a_download_that_fails_names_packages_and_the_way_without(meta, tmp_path, index):
    resolve(["probe"], meta, index=index)
    with pytest.raises(BundleError, match=r"helper==2\.1, probe==1\.0.*--no-wheels") as caught:
        download(meta / LOCK, tmp_path / "cache", index=("--no-index",))
    assert len(str(caught.value).splitlines()) == 1
    assert not list((tmp_path / "cache").iterdir())


def test_a_wheel_with_another_sum_is_not_taken(meta, tmp_path, index):
    other = wheels.Pin("helper", "2.1", ("0" * 64,))
    with pytest.raises(BundleError, match=r"helper==2\.1"):
        download(lock(meta, other), tmp_path / "cache", index=index)


def test_a_lock_without_sums_is_refused_by_line(meta):
    with pytest.raises(BundleError, match=rf"{LOCK}:2 .*build\.py wheels"):
        read_lock(lock(meta, "helper==2.1"))


def test_an_empty_lock_has_nothing_to_download(meta, tmp_path):
    assert download(lock(meta), tmp_path / "cache", index=("--no-index",)) == []


def test_without_pip_it_is_said(meta, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(bare_python(tmp_path)))
    with pytest.raises(BundleError, match="has no pip: run"):
        resolve(["probe"], meta)


def bare_python(tmp_path: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    return tmp_path / "bare" / "bin" / "python"


@pytest.mark.parametrize(
    ("requires", "words"),
    [
        (["absent"], "requires absent.*neither a wheel nor the image"),
        (["numpy>=2.5"], r"requires numpy>=2\.5.*the image may have 1\.26"),
        (["helper>=3"], r"requires helper>=3.*the wheel there is 2\.1"),
        (['absent; python_version >= "3.12"'], r"absent.*Python 3\.12"),
        (['absent; sys_platform == "linux"'], "absent.*Python 3.11"),
    ],
)
def test_what_a_wheel_requires_and_nobody_has_is_named(meta, tmp_path, requires, words):
    probe = write_wheel(tmp_path, "probe", requires=requires)
    helper = write_wheel(tmp_path, "helper", "2.1")
    with pytest.raises(BundleError, match=words) as caught:
        check_closure([read_wheel(probe), read_wheel(helper)], meta / wheel_check.IMAGE)
    assert str(probe) in str(caught.value)
    assert "build.py wheels probe==1.0" in str(caught.value)


def test_requirements_of_other_systems_and_of_extras_do_not_count(meta, tmp_path):
    unneeded = ['a; sys_platform == "win32"', 'b; extra == "test"', 'c; python_version < "3.8"']
    probe = write_wheel(tmp_path, "probe", requires=[*unneeded, "numpy", "Helper<3"])
    helper = write_wheel(tmp_path, "helper", "2.1")
    check_closure([read_wheel(probe), read_wheel(helper)], meta / wheel_check.IMAGE)


def test_a_wheel_for_another_python_is_refused(meta, tmp_path):
    old = write_wheel(tmp_path, "old", tag="cp310-cp310-manylinux_2_17_x86_64")
    with pytest.raises(BundleError, match=r"old-1\.0.*not for Kaggle's Python 3\.11"):
        check_closure([read_wheel(old)], meta / wheel_check.IMAGE)


def test_a_file_that_is_no_wheel_is_refused(tmp_path):
    path = tmp_path / "probe-1.0-py3-none-any.whl"
    path.write_bytes(b"no zip")
    with pytest.raises(BundleError, match=r"probe-1\.0.*no wheel"):
        read_wheel(path)


def test_the_kernel_needs_no_wheels():
    """Whoever locks one has it vendored, installed offline and rehearsed; see above."""
    assert read_lock(META / LOCK) == []


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """As attached: a package that is not here, one that is, and the lock."""
    folder = tmp_path / "mathllm-wheels"
    absent = write_wheel(folder, "mathllm-absent")
    present = write_wheel(folder, "numpy", "1.0")
    lock(folder, pin(absent), pin(present))
    return folder


@pytest.fixture
def import_path(monkeypatch):
    """Put back afterwards."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    return sys.path


def test_what_is_lacking_is_installed_at_the_end_of_the_path(dataset, import_path):
    before = [*import_path]
    done = install.install(dataset)
    assert done["installed"] == ["mathllm-absent 1.0"]
    assert [text.split()[0] for text in done["present"]] == ["numpy"]
    assert import_path == [*before, done["folder"]]
    found = importlib.util.find_spec("mathllm_absent")
    assert Path(found.origin).is_relative_to(done["folder"])
    # Nothing is asked of an index, and nothing is left to do the second time.
    assert install.install(dataset)["installed"] == []


def test_a_wheel_that_is_not_whole_is_not_installed(dataset, import_path):
    before = [*import_path]
    (wheel,) = dataset.glob("mathllm_absent*")
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    with pytest.raises(BundleError, match=r"mathllm-absent 1\.0.*mathllm-wheels.*push again"):
        install.install(dataset)
    assert import_path == before


def test_a_kernel_without_pip_says_so(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(bare_python(tmp_path)))
    with pytest.raises(BundleError, match="has no pip"):
        install.install(dataset)
