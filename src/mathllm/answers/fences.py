"""Where a text holds programs and their output, and what of it is prose.

Models write fences in many ways: ``` or ~~~, three signs or more, "python", "Python 3",
"{.python}", ` py` or nothing after them, and an output's fence straight behind the program.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# At a line's start, or behind words on it: "Code: ```python", "print(1)```".
_FENCE = re.compile(
    r"(?:(?P<alone>^)[ \t]*|(?<=[^\s`~])[ \t]*)(?P<signs>`{3,}|~{3,})[ \t]*(?P<info>[^\n`]*)$",
    re.MULTILINE,
)
_LANGUAGE = re.compile(r"[A-Za-z][\w+#-]*", re.ASCII)
PYTHON = "python"
_NAMES_OF_PYTHON = (
    "py",
    "python",
    "python2",
    "python3",
    "py3",
    "ipython",
    "ipython3",
    "sage",
    "pycon",
)
# Blocks in these are set text, in which a person reads an answer.
_PROSE = ("latex", "tex", "math", "katex", "markdown", "md", "text", "txt", "plaintext", "asciidoc")
# A line that is Python's and no sentence: how a block without a language tells what it is.
_STATEMENT = re.compile(
    r"^[ \t]*(?:#|>>>|import[ \t]|from[ \t]+[\w.]+[ \t]+import\b|def[ \t]+\w+\(|class[ \t]+\w"
    r"|print[ \t]*\(|assert[ \t]|return\b|(?:for|while|if|with|try|else|elif)\b[^\n]*:[ \t]*$"
    r"|[A-Za-z_]\w*(?:[ \t]*,[ \t]*\w+)*[ \t]*=(?!=))",
    re.MULTILINE,
)
_TAGS = re.compile(
    r"<(?P<name>tool_call|tool_response|tool_output|code|output|interpreter|execution)>"
    r"|(?P<comment><!--)"
)
_MARKS = re.compile(r"```|~~~|<|%")  # without any of them all is prose
_LATEX_COMMENT = re.compile(r"^[ \t]*%[^\n]*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """`language` in small letters, "python" for all of its names, "" without one; `start` and
    `end` are those of the whole block in its text, fences and all."""

    language: str
    body: str
    start: int
    end: int
    closed: bool

    @property
    def is_prose(self) -> bool:
        """Whether it is set text and neither a program nor what one printed."""
        if self.language:
            return self.language in _PROSE
        return not _STATEMENT.search(self.body)


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks in their order; the last may still be open."""
    opening: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        info = fence["info"].strip()
        behind_words = fence["alone"] is None
        if opening is None:
            if not behind_words or _language(info) == PYTHON:
                opening = fence
        elif fence["signs"].startswith(opening["signs"]) and not info:
            yield _block(text, opening, fence.start(), fence.end(), closed=True)
            opening = None
        elif info and not behind_words and fence["signs"][0] == opening["signs"][0]:
            # A block behind one that nobody has closed: ```python … ```output.
            yield _block(text, opening, fence.start(), fence.start(), closed=True)
            opening = fence
    if opening is not None:
        yield _block(text, opening, len(text), len(text), closed=False)


def prose(text: str) -> str:
    """The text without programs, their output, and comments."""
    if not _MARKS.search(text):
        return text
    kept, at = [], 0
    for block in blocks(text):
        kept.append(text[at : block.start])
        if block.is_prose:
            kept.append(block.body)
        at = block.end
    kept.append(text[at:])
    return _LATEX_COMMENT.sub("", _without_tags("\n".join(kept)))


def _language(info: str) -> str:
    word = _LANGUAGE.search(info)
    language = word[0].lower() if word else ""
    return PYTHON if language in _NAMES_OF_PYTHON else language


def _block(text: str, opening: re.Match[str], body_end: int, end: int, *, closed: bool) -> Block:
    body = text[opening.end() : body_end]
    return Block(_language(opening["info"]), body, opening.start(), end, closed)


def _without_tags(text: str) -> str:
    """Without what stands between tags of tools and in HTML's comments.

    An element without its end is left: text may speak of one.
    """
    kept, at, unclosed = [], 0, set()
    for tag in _TAGS.finditer(text):
        closing = "-->" if tag["comment"] else f"</{tag['name']}>"
        if tag.start() < at or closing in unclosed:
            continue
        end = text.find(closing, tag.end())
        if end < 0:
            unclosed.add(closing)
            continue
        kept.append(text[at : tag.start()])
        at = end + len(closing)
    return "".join([*kept, text[at:]])
