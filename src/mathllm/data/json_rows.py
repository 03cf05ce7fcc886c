"""Rows of a JSON file: objects one after another, or in an array, however they are laid out."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from mathllm.data.text_lines import text_lines
from mathllm.errors import DataError
from mathllm.wording import shown

_BLANK = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Every object, in order; numbers are the text that was written, NaN and Infinity None.

    The file streams by: in memory is one object, or one line where that is longer. Raises
    DataError, with the line, for what is no object, for a key that stands twice in one, and
    for half of a surrogate pair, which is no character.
    """
    text = _Text(path)
    if not (sign := text.next_sign()):
        raise DataError(f"{path} is empty: fetch it again")
    array = sign == "["
    if array:
        text.skip()
    while (sign := text.next_sign()) and not (array and sign == "]"):
        yield text.take_object()
        if array and text.next_sign() == ",":
            text.skip()
        elif array and text.next_sign() != "]":
            break
    if not array:
        return
    if text.next_sign() != "]":
        raise text.fault("has no , or ] after an object of the array")
    text.skip()
    if text.next_sign():
        raise text.fault("goes on after the array's end")


class _TwiceError(ValueError):
    """A key stands twice in an object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwiceError(next(key for key in keys if keys.count(key) > 1))
    return found


_DECODER = json.JSONDecoder(
    object_pairs_hook=_once, parse_int=str, parse_float=str, parse_constant=lambda _: None
)


class _Text:
    """The part of a file that is being read, and the place reached in it."""

    def __init__(self, path: Path):
        self.path = path
        self.lines = text_lines(path)
        self.text = ""
        self.at = 0
        self.line = 1  # the number of the line that `at` stands in

    def next_sign(self) -> str:
        """The sign after the blanks, not taken yet; "" at the end."""
        while True:
            self._go(_BLANK.match(self.text, self.at).end())
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more(1):
                return ""

    def skip(self) -> None:
        self.at += 1

    def take_object(self) -> dict[str, Any]:
        if self.next_sign() != "{":
            raise self.fault("is no JSON object")
        lines = 1
        while True:
            try:
                found, end = _DECODER.raw_decode(self.text, self.at)
                break
            except json.JSONDecodeError as fault:
                if fault.pos < len(self.text.rstrip()):
                    self._go(max(self.at, self.text.rfind("\n", 0, fault.pos) + 1))
                    raise self.fault("is no JSON object") from None
                if not self._more(lines):
                    raise self.fault("begins an object without an end") from None
                lines *= 2  # so that an object of many lines is not decoded once for each
            except _TwiceError as fault:
                raise self.fault(f"has the key {shown(str(fault))} twice in an object") from None
            except RecursionError:
                raise self.fault("is nested too deep") from None
        if _SURROGATE.search(self.text, self.at, end):
            try:
                json.dumps(found, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                raise self.fault("holds half of a surrogate pair") from None
        self._go(end)
        return found

    def fault(self, what: str) -> DataError:
        """An error that names the line."""
        line = self.text[self.at : self.at + 60].strip().split("\n", 1)[0]
        found = shown(line) if line else "the file's end"
        return DataError(f"{self.path}, line {self.line:,} {what} ({found}): mend or remove it")

    def _go(self, place: int) -> None:
        self.line += self.text.count("\n", self.at, place)
        self.at = place

    def _more(self, count: int) -> bool:
        """Whether there was more: up to `count` lines, and what lies behind is let go."""
        lines = list(islice(self.lines, count))
        self.text, self.at = self.text[self.at :] + "".join(lines), 0
        return bool(lines)
