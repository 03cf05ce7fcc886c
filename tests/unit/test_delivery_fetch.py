"""Fetching what is not what it should be: said in a line or two, nothing half-written left."""

import errno
import io
import zipfile
from pathlib import Path

import pytest

from mathllm import cli
from mathllm.cli.main import USER_ERROR, main
from mathllm.delivery.fetch import fetch
from mathllm.errors import DeliveryError
from mathllm.settings import CURRENT

ARCHIVE = f"{CURRENT.slug}.zip"


def zipped(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(name, b"some text " * 50)
    return data.getvalue()


class Served:
    """A Kaggle whose competition's archive is these bytes."""

    def __init__(self, data: bytes):
        self.data = data

    def competition_files(self, slug: str) -> list[tuple[str, int]]:
        return [(slug, 1)]

    def download_competition(self, slug: str, folder: Path) -> Path:
        path = folder / f"{slug}.zip"
        if not path.exists():
            path.write_bytes(self.data)
        return path


def refused(data: bytes, folder: Path, words: str) -> str:
    with pytest.raises(DeliveryError, match=words) as caught:
        fetch(Served(data), folder)
    assert len(str(caught.value).splitlines()) <= 2
    assert not list(folder.glob(".*"))
    return str(caught.value)


def test_a_damaged_archive_is_removed_and_fetched_again(tmp_path):
    refused(zipped("a")[:-30], tmp_path, "no whole archive.*is removed: repeat the command")
    assert not list(tmp_path.iterdir())
    assert len(fetch(Served(zipped("a", "b")), tmp_path)) == 2


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a\\..\\b", "n" * 300])
def test_an_odd_archive_is_kept_to_be_looked_at(tmp_path, name):
    refused(
        zipped("good", name), tmp_path, f"{ARCHIVE} .*\n.*nothing of it was unpacked: remove it"
    )
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]


def test_an_archive_with_a_password_is_said(tmp_path):
    data = bytearray(zipped("a"))
    data[6] |= 1
    data[data.find(b"PK\1\2") + 8] |= 1
    refused(bytes(data), tmp_path, "is encrypted")


def test_what_was_there_stays_when_the_new_one_is_refused(tmp_path):
    fetch(Served(zipped("test.csv")), tmp_path)
    (tmp_path / ARCHIVE).unlink()
    refused(zipped("../test.csv"), tmp_path, "wants to write")
    assert (tmp_path / "files" / "test.csv").is_file()


def test_a_file_where_the_folder_goes_is_said(tmp_path):
    (tmp_path / ARCHIVE).write_bytes(zipped("a"))
    (tmp_path / "files").write_text("mine")
    refused(zipped("a"), tmp_path, "files is no folder of this command's: move it away")
    (tmp_path / "files").unlink()
    (tmp_path / "files").symlink_to("/etc")
    refused(zipped("a"), tmp_path, "files is no folder of this command's: move it away")


@pytest.mark.parametrize("place", ["mkdir", "open", "rename", "close"])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch, place):
    usual = {"mkdir": Path.mkdir, "open": Path.open, "rename": Path.rename}
    fault = OSError(errno.ENOSPC, "No space left on device")

    class Full(io.BytesIO):
        def close(self) -> None:
            raise fault

    def full(path: Path, *arguments: object, **options: object) -> object:
        if "part" in str(path):
            if place == "close":
                return Full()
            raise fault
        return usual["open" if place == "close" else place](path, *arguments, **options)

    monkeypatch.setattr(Path, "open" if place == "close" else place, full)
    refused(zipped("a/b"), tmp_path, "cannot be written .No space left on device.: mend that")
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]


def test_a_full_disk_in_any_command_is_no_traceback(tmp_path, monkeypatch, capsys):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr(cli.bundle, "run_wheels", full)
    assert main(tmp_path, ["wheels"]) == USER_ERROR
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert f"the disk is full ([Errno 28] No space left on device: '{tmp_path}/x')" in said
