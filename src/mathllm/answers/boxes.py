"""The last `\\boxed{…}` of a text, with nested braces."""

import re

# 1,234  1{,}234  12\,345  12 345: groups of three after one to three digits.
_SEPARATOR = r"\{,\}|,\\!|,|\{\\,\}|\\,|\\;|\\:|\\ |\\thinspace\s*|~|\s"
NUMBER = re.compile(
    rf"(?:[1-9]\d{{0,2}}(?P<sep>{_SEPARATOR})\d{{3}}(?:(?P=sep)\d{{3}})*(?!\d)|\d+)(?:\.\d*)?|\.\d+",
    re.ASCII,
)
_BRACES = re.compile(
    r"\\{1,2}(?:boxed|fbox)(?![A-Za-z])\s*(?:(?P<box>\{)|(?P<bare>-?" + NUMBER.pattern + r"))"
    r"|\\.|(?P<open>\{)|(?P<close>\})",
    re.ASCII | re.DOTALL,
)


def last_box(text: str) -> str | None:
    """Content of the last finished box that is not empty; of nested ones the outermost."""
    boxes: list[tuple[int, int]] = []  # start, end of the content, in order of their ends
    opened: list[int | None] = []  # start of a box's content, or None for any other group
    for token in _BRACES.finditer(text):
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
