"""The last `\\boxed{…}` of a text, in time linear in the text."""

import re

from mathllm.answers.fences import prose
from mathllm.answers.latex import NUMBER

_TOKENS = re.compile(
    r"\\{1,2}(?:boxed|fbox)(?![A-Za-z])\s*(?:(?P<box>\{)|(?P<bare>-?" + NUMBER + r"))"
    r"|\\.|(?P<open>\{)|(?P<close>\})",
    re.ASCII | re.DOTALL,
)
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")


def last_box(text: str) -> str | None:
    """Content of the last finished box that is not empty; of nested ones the outermost.

    Boxes in programs, in what they print and in comments are none.
    """
    return last_box_of_prose(prose(text)) if _BOX.search(text) else None


def last_box_of_prose(text: str) -> str | None:
    boxes: list[tuple[int, int]] = []  # start, end of the content, in order of their ends
    opened: list[int | None] = []  # start of a box's content, or None for any other group
    for token in _TOKENS.finditer(text):
        if token["box"]:
            opened.append(token.end())
        elif token["bare"]:
            boxes.append(token.span("bare"))
        elif token["open"]:
            opened.append(None)
        elif token["close"] and opened and (start := opened.pop()) is not None:
            boxes.append((start, token.start()))
    for start, end in reversed(boxes):
        if content := text[start:end].strip():
            return content
    return None


def mentions_box(text: str) -> bool:
    """Whether there is a box at all, finished or not, empty or not."""
    return _BOX.search(text) is not None
