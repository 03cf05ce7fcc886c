"""Archives: the same bytes every time, whole or not at all, staged so that uploads go on."""

import errno
import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest

from helpers.models import write_weights
from helpers.tiny_wheels import clone, write_wheel
from mathllm.competition.bundle import archives, manifest
from mathllm.competition.bundle.archives import archive, stage_upload, zip_bundle
from mathllm.errors import BundleError


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    order = manifest.BundleSpec(
        root=clone(folder / "clone", write_wheel(folder, "tiny-probe")),
        weights=write_weights(folder / "weights"),
        build=folder / "build",
        owner="somebody",
        title="MathLLM submission",
        accelerator="none",
    )
    manifest.vendor(order)
    return order.build


def sums(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_files_give_the_same_archive(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        order = ("b.txt", "deep/a.bin", "ä.json")
        for file in order if name == "one" else reversed(order):
            (tmp_path / name / file).write_bytes(file.encode() * 100)
    (tmp_path / "two" / "b.txt").chmod(0o700)
    first = archive(tmp_path / "one", tmp_path / "one.zip").read_bytes()
    assert first == archive(tmp_path / "two", tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as zipped:
        entries = zipped.infolist()
    assert [entry.filename for entry in entries] == ["b.txt", "deep/a.bin", "ä.json"]
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert {(entry.date_time, entry.extra) for entry in entries} == {(archives.EPOCH, b"")}


@pytest.mark.parametrize("part", [manifest.SOURCE, manifest.WEIGHTS, manifest.WHEELS])
def test_what_is_staged_unpacks_to_the_dataset(build, tmp_path, part):
    staged = stage_upload(build, part, tmp_path / "staged")
    assert not [path for path in staged.iterdir() if path.is_dir()]
    unpacked = tmp_path / "unpacked"
    for path in staged.iterdir():
        if path.suffix == ".zip":
            shutil.unpack_archive(path, unpacked / path.stem)
        else:
            unpacked.mkdir(exist_ok=True)
            shutil.copy2(path, unpacked)
    assert sums(unpacked) == sums(build / part)


def test_staging_again_keeps_what_is_whole_and_mends_the_rest(build, tmp_path, monkeypatch):
    target = tmp_path / "staged"
    stage_upload(build, manifest.WEIGHTS, target)
    before = {path.name: (path.stat().st_mtime, path.stat().st_size) for path in target.iterdir()}
    assert {time for time, _ in before.values()} == {archives.SECONDS}
    content = sums(target)
    (target / "trm.zip").unlink()
    (target / f"trm.zip{archives.PART}").write_bytes(b"half")
    made = []
    whole = archives.archive
    monkeypatch.setattr(archives, "archive", lambda *a: made.append(a[1].name) or whole(*a))
    stage_upload(build, manifest.WEIGHTS, target)
    assert made == ["trm.zip"]
    assert sums(target) == content
    after = {path.name: (path.stat().st_mtime, path.stat().st_size) for path in target.iterdir()}
    assert after == before


def test_what_was_staged_for_other_content_is_made_anew(build, tmp_path):
    target = tmp_path / "staged"
    stage_upload(build, manifest.WHEELS, target)
    (target / "left.zip").write_bytes(b"of another bundle")
    stage_upload(build, manifest.SOURCE, target)
    assert {path.name for path in target.iterdir()} == {
        *("LICENSE", "assets.zip", "contents.json", "dataset-metadata.json", "mathllm.zip")
    }


def test_a_full_disk_is_said_before_anything_is_written(build, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(BundleError, match=r"needs \d+\.\d GB and its disk has 0\.0 GB free"):
        stage_upload(build, manifest.WEIGHTS, tmp_path / "staged")
    assert not list((tmp_path / "staged").iterdir())
    with pytest.raises(BundleError, match="make room"):
        zip_bundle(build, tmp_path / "zips")


def test_a_bundle_for_the_web_page_is_a_zip_for_each_dataset_and_the_notebook(build, tmp_path):
    made = zip_bundle(build, tmp_path / "zips")
    assert [path.name for path in made] == [
        *("mathllm-source.zip", "mathllm-weights.zip", "mathllm-wheels.zip", "submission.ipynb")
    ]
    with zipfile.ZipFile(made[1]) as zipped:
        names = zipped.namelist()
    assert "trm/model.safetensors" in names
    assert "contents.json" in names
    assert "dataset-metadata.json" not in names
    first = sums(tmp_path / "zips")
    zip_bundle(build, tmp_path / "zips")
    assert sums(tmp_path / "zips") == first


def test_a_disk_that_fills_up_leaves_no_part_of_an_archive(build, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space"):
        zip_bundle(build, tmp_path / "zips")
    monkeypatch.setattr(archives.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        stage_upload(build, manifest.SOURCE, tmp_path / "staged")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_disk_that_fills_up_leaves_the_older_bundle(build, monkeypatch):
    order = manifest.BundleSpec(
        root=build.parent / "clone",
        weights=build.parent / "weights",
        build=build,
        owner="somebody",
        title="Another submission",
        accelerator="none",
    )
    before, beside = sums(build), sorted(build.parent.iterdir())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(manifest.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        manifest.vendor(order)
    assert sums(build) == before
    assert sorted(build.parent.iterdir()) == beside
