"""Folders that appear whole or not at all: who may remove what."""

import errno

import pytest

from mathllm.data.staging import locked, publish, staging
from mathllm.files import digest, is_full


def test_a_staging_folder_is_hidden_empty_and_gone_in_the_end(tmp_path):
    with staging(tmp_path / "new" / "place") as folder:
        assert folder.parent == tmp_path / "new" / "place"
        assert folder.name.startswith(".")
        assert not list(folder.iterdir())
        (folder / "inside").write_text("x")
    assert not list((tmp_path / "new" / "place").iterdir())


def test_a_staging_folder_is_gone_after_a_failure_too(tmp_path):
    def fail():
        with staging(tmp_path) as folder:
            (folder / "inside").write_text("x")
            raise ValueError("as it must")

    with pytest.raises(ValueError, match="as it must"):
        fail()
    assert not list(tmp_path.iterdir())


def test_only_what_nobody_holds_is_removed(tmp_path):
    abandoned = tmp_path / ".staging-killed"
    abandoned.mkdir()
    (abandoned / "tokens").write_text("half")
    (tmp_path / "published").mkdir()
    with staging(tmp_path) as first:
        assert not abandoned.exists()
        with staging(tmp_path) as second:
            assert first != second
            assert first.is_dir()
        assert not second.exists()
        assert first.is_dir()
    assert [p.name for p in tmp_path.iterdir()] == ["published"]


def test_a_lock_is_held_once_and_let_go(tmp_path):
    with locked(tmp_path) as first, locked(tmp_path, wait=False) as second:
        assert (first, second) == (True, False)
    with locked(tmp_path, wait=False) as again:
        assert again


def test_what_was_published_first_stays(tmp_path):
    for content in ("first", "second"):
        with staging(tmp_path) as folder:
            (folder / "set").mkdir()
            (folder / "set" / "file").write_text(content)
            publish(folder / "set", tmp_path / "target")
    assert [p.name for p in tmp_path.iterdir()] == ["target"]
    assert (tmp_path / "target" / "file").read_text() == "first"


def test_a_target_that_cannot_be_is_an_error(tmp_path):
    (tmp_path / "target").write_text("a file")
    with staging(tmp_path) as folder:
        (folder / "set").mkdir()
        with pytest.raises(OSError, match="target"):
            publish(folder / "set", tmp_path / "target")


@pytest.mark.parametrize(
    ("fault", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (RuntimeError("parquet: IO error: No space left on device (os error 28)"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (RuntimeError("unexpected page of 28 bytes"), False),
    ],
)
def test_a_full_disk_is_told_from_other_faults(fault, full):
    assert is_full(fault) == full


def test_a_digest_is_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(tmp_path / "file") == expected
