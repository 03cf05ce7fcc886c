"""The lines of a text file as other tools write them: compressed, with a byte order mark.

UTF-8 is read; whatever else is found is named.
"""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from mathllm.errors import DataError
from mathllm.wording import brief, shown

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_AS_UTF8 = "save it in UTF-8 (in Excel: CSV UTF-8)"
_STARTS = {  # UTF-32's first: its mark begins with one of UTF-16's
    codecs.BOM_UTF32_LE: ("UTF-32", _AS_UTF8),
    codecs.BOM_UTF32_BE: ("UTF-32", _AS_UTF8),
    codecs.BOM_UTF16_LE: ("UTF-16", _AS_UTF8),
    codecs.BOM_UTF16_BE: ("UTF-16", _AS_UTF8),
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "unpack it, or save it as CSV UTF-8"),
    b"\x1f\x8b": ("packed by gzip", "give it a name that ends in .gz"),
    b"\x28\xb5\x2f\xfd": ("packed by zstd", "give it a name that ends in .zst"),
    b"version https://git-lfs": ("a pointer of Git LFS", "fetch the file itself: git lfs pull"),
    b"<!DOCTYPE html": ("a web page", "fetch the file itself, signed in where that is asked"),
    b"PAR1": ("a parquet file", "give it a name that ends in .parquet"),
}


def text_lines(path: Path) -> Iterator[str]:
    """Each line with its end, without the byte order mark.

    Raises DataError for a file that cannot be read or unpacked, and for text in another
    encoding, with its line.
    """
    number = 0
    try:
        with pa.input_stream(str(path), COMPRESSIONS.get(path.suffix.lower())) as stream:
            for number, line in enumerate(io.BufferedReader(stream), 1):
                yield _decoded(path, number, line)
    except (pa.ArrowException, OSError) as fault:
        after = f" after line {number:,}" if number else ""
        raise DataError(
            f"{path} cannot be read{after} ({brief(fault)}): it is truncated or damaged; fetch it "
            "again"
        ) from fault


def _decoded(path: Path, number: int, line: bytes) -> str:
    if number == 1:
        for start, (kind, mend) in _STARTS.items():
            if line.startswith(start):
                raise DataError(f"{path} is {kind}, UTF-8 text was expected: {mend}")
        if b"\0" in line[:4]:
            raise DataError(f"{path} is UTF-16 or UTF-32 without a mark: {_AS_UTF8}")
        line = line.removeprefix(codecs.BOM_UTF8)
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as fault:
        place = shown(line[max(0, fault.start - 20) : fault.end + 10])
        raise DataError(f"{path}, line {number:,} is not UTF-8 (at {place}): {_AS_UTF8}") from None
