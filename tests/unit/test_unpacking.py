"""Archives of every odd kind: unpacked whole, or refused in a line with nothing left behind."""

import errno
import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mathllm import unpacking
from mathllm.unpacking import DamagedError, Limits, UnpackError, untar, unzip


def make(path: Path, *entries: tuple[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def changed(path: Path, field: str, value: int, size: int = 2) -> None:
    """Write into all local and central headers of a zip, behind their signatures."""
    places = {
        "flags": (6, 8),
        "method": (8, 10),
        "crc": (14, 16),
        "size": (22, 24),
    }[field]
    data = bytearray(path.read_bytes())
    for signature, offset in zip((b"PK\3\4", b"PK\1\2"), places, strict=True):
        start = data.find(signature)
        while start >= 0:
            data[start + offset : start + offset + size] = value.to_bytes(size, "little")
            start = data.find(signature, start + 4)
    path.write_bytes(data)


def link(path: Path) -> None:
    entry = zipfile.ZipInfo("a/passwd")
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    make(path, (entry, b"/etc/passwd"))


def device(path: Path) -> None:
    entry = zipfile.ZipInfo("null")
    entry.create_system, entry.external_attr = 3, (stat.S_IFCHR | 0o666) << 16
    make(path, (entry, b""))


def named(*names: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        make(path, *[(name, b"x") for name in names])

    return write


def encrypted(path: Path) -> None:
    make(path, ("a", b"x" * 50))
    changed(path, "flags", 1)


def unknown_compression(path: Path) -> None:
    make(path, ("a", b"x" * 50))
    changed(path, "method", 99)


def truncated(path: Path) -> None:
    make(path, ("a", bytes(range(256)) * 400), kind=zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes()[:50_000])


def spoiled(path: Path) -> None:
    make(path, ("a", b"a long text " * 500))
    data = bytearray(path.read_bytes())
    data[45:55] = b"\xff" * 10
    path.write_bytes(data)


def wrong_sum(path: Path) -> None:
    make(path, ("a", b"x" * 50))
    changed(path, "crc", 7, 4)


def less_than_it_says(path: Path) -> None:
    make(path, ("a", b"x" * 50), kind=zipfile.ZIP_STORED)
    changed(path, "size", 5000, 4)


def more_than_it_says(path: Path) -> None:
    make(path, ("a", b"x" * 5000))
    changed(path, "size", 50, 4)


def zip64(path: Path) -> None:
    """An extra field that claims 2 ** 60 bytes."""
    entry = zipfile.ZipInfo("a")
    entry.extra = struct.pack("<HHQQ", 1, 16, 1 << 60, 3)
    make(path, (entry, b"xyz"), kind=zipfile.ZIP_STORED)
    changed(path, "size", 0xFFFFFFFF, 4)


def bomb(path: Path) -> None:
    make(path, ("a", b"\0" * 3_000_000))


def many(path: Path) -> None:
    make(path, *[(f"f{n}", b"") for n in range(300)])


LIMITS = Limits(files=200, size=10**7, ratio=100, free=10**5)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("write", "words"),
    [
        (encrypted, "is encrypted .'a'"),
        (unknown_compression, "compressed in a way that is not known"),
        (truncated, "was no whole archive"),
        (spoiled, "was no whole archive"),
        (wrong_sum, "was no whole archive .Bad CRC"),
        (less_than_it_says, "(no whole archive|not all)"),
        (more_than_it_says, "(no whole archive|not all)"),
        (zip64, "(more than 0.0 GB|no whole archive)"),
        (bomb, "more than 100 times its size"),
        (many, "has 300 files, more than 200"),
        (link, "has a link or device, 'a/passwd'"),
        (device, "has a link or device, 'null'"),
        (named("/etc/passwd"), "wants to write '/etc/passwd'"),
        (named("a/../../b"), "wants to write 'a/../../b'"),
        (named(".."), "wants to write"),
        (named("a\\..\\b"), "wants to write"),
        (named("C:/windows"), "wants to write 'C:/windows'"),
        (named("a//b"), "wants to write"),
        (named("./a"), "wants to write"),
        (named("a", "b", "a"), "two files for the one name 'a'"),
        (named("Readme", "README"), "two files for the one name"),
        (named("caf\u00e9", "cafe\u0301"), "two files for the one name"),
        (named("a", "a/b"), "'a' as a file and as a folder"),
        (named("a/b/c", "a/b"), "'a/b' as a file and as a folder"),
        (named("a", "A/b"), "as a file and as a folder"),
        (named("n" * 300), "too long"),
        (named("/".join(["d" * 200] * 10)), "too long"),
        (named("a\x1b[31m"), "cannot be printed"),
        (named("a\u202eb"), "cannot be printed"),
        (lambda path: path.write_bytes(b""), "was no whole archive"),
        (lambda path: path.write_bytes(b"PK\5\6" + b"\xff" * 18), "was no whole archive"),
        (lambda path: path.write_text("<html>"), "was no whole archive"),
    ],
    ids=range(32),
)
def test_an_odd_zip_is_refused_in_a_line_and_leaves_nothing(tmp_path, write, words):
    archive = tmp_path / "a.zip"
    write(archive)
    before = archive.read_bytes()
    with pytest.raises(UnpackError, match=words) as caught:
        unzip(archive, tmp_path / "out", LIMITS)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    assert archive.read_bytes() == before


def test_whatever_is_cut_off_or_spoiled_is_refused(tmp_path):
    whole = make(tmp_path / "w.zip", ("a", b"some text " * 9), ("b/c", b"y" * 30)).read_bytes()
    archive = tmp_path / "a.zip"
    for place in range(0, len(whole), 3):
        for data in (whole[:place], whole[:place] + b"\xff\xff" + whole[place + 2 :]):
            archive.write_bytes(data)
            try:
                unzip(archive, tmp_path / "out", LIMITS)
            except UnpackError:
                assert not (tmp_path / "out").exists()
            else:  # a byte that nothing checks, such as of a time, or how many files there are
                found = {p.stat().st_size for p in (tmp_path / "out").rglob("*") if p.is_file()}
                assert found <= {90, 30}
                unpacking.shutil.rmtree(tmp_path / "out")


def test_a_usual_zip_comes_out_whole(tmp_path):
    files = {"test.csv": b"id,problem\n", "kaggle/core/a.py": b"pass\n", "empty": b""}
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        archive = make(tmp_path / "a.zip", ("folder/", b""), *files.items(), kind=kind)
        unzip(archive, tmp_path / "out")
        found = {p for p in (tmp_path / "out").rglob("*") if p.is_file()}
        assert {p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in found} == files
        assert (tmp_path / "out" / "folder").is_dir()
        unpacking.shutil.rmtree(tmp_path / "out")


def test_a_disk_that_fills_up_leaves_nothing(tmp_path, monkeypatch):
    archive = make(tmp_path / "a.zip", ("a", b"x" * 10), ("b/c", b"y" * 10))
    opened = Path.open

    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def full(path: Path, mode: str = "r", **options: object) -> object:
        return Full() if path.name == "c" else opened(path, mode, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        unzip(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path, monkeypatch):
    archive = make(tmp_path / "a.zip", ("a", b"x" * 10_000))
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda _: type("U", (), {"free": 5}))
    with pytest.raises(UnpackError, match=r"0\.0 GB free: make room there"):
        unzip(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def tar(*members: tuple[str, bytes, bytes], mode: str = "w") -> bytes:
    """(name, type, what is in it or where it leads)."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if kind == tarfile.REGTYPE:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                member.linkname = content.decode()
                archive.addfile(member)
    return data.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no whole archive"),
        (b"\x1f\x8b" + b"x" * 100, "no whole archive"),
        (tar(("a", tarfile.REGTYPE, b"x" * 50_000))[:20_000], "no whole archive"),
        (tar(("/etc/x", tarfile.REGTYPE, b"x")), "wants to write '/etc/x'"),
        (tar(("../x", tarfile.REGTYPE, b"x")), "wants to write '../x'"),
        (tar(("x", tarfile.SYMTYPE, b"/etc/passwd")), "cannot be unpacked"),
        (tar(("x", tarfile.SYMTYPE, b"../../y")), "cannot be unpacked"),
        (tar(("x", tarfile.CHRTYPE, b"")), "cannot be unpacked"),
        (tar(("a", tarfile.REGTYPE, b"x"), ("a/b", tarfile.REGTYPE, b"x")), "as a folder"),
        (tar(("a", tarfile.REGTYPE, b"\0" * 3_000_000), mode="w:gz"), "100 times its size"),
        (tar(*[(str(n), tarfile.REGTYPE, b"") for n in range(300)]), "has 300 files|has 201 files"),
    ],
    ids=range(11),
)
def test_an_odd_tar_is_refused_in_a_line(tmp_path, data, words):
    with pytest.raises(UnpackError, match=words) as caught:
        untar(data, tmp_path / "out", LIMITS)
    assert len(str(caught.value).splitlines()) == 1


def test_a_usual_tar_comes_out_whole(tmp_path):
    data = tar(("a", tarfile.REGTYPE, b"x"), ("b/c", tarfile.REGTYPE, b"y"))
    untar(data, tmp_path / "out")
    assert (tmp_path / "out" / "b" / "c").read_bytes() == b"y"


def test_damage_is_told_from_what_is_not_wanted(tmp_path):
    for write, damaged in ((truncated, True), (spoiled, True), (encrypted, False), (link, False)):
        write(tmp_path / "a.zip")
        with pytest.raises(UnpackError) as caught:
            unzip(tmp_path / "a.zip", tmp_path / "out")
        assert isinstance(caught.value, DamagedError) == damaged
