"""Tokens in groups: brackets that belong together, and parts between signs outside of them."""

from collections.abc import Iterator, Sequence

from mathllm.answers.latex import Token

OPENING = ("(", "[", "{", r"\{", r"\lfloor", r"\lceil", r"\langle", r"\begin")
CLOSING = (")", "]", "}", r"\}", r"\rfloor", r"\rceil", r"\rangle", r"\end")
EQUAL = ("=", r"\equiv")
IS = ("is", "equals", "are")
RELATIONS = ("<", ">", r"\le", r"\ge", r"\ne", r"\approx", r"\in", r"\notin", r"\ni", r"\sim")
RELATIONS += (r"\simeq", r"\cong", r"\propto", r"\subset", r"\subseteq", r"\supset", r"\mid")
RELATIONS += (r"\supseteq", r"\to", r"\rightarrow", r"\longrightarrow", r"\Rightarrow", r"\iff")
RELATIONS += (r"\Longrightarrow", r"\implies", r"\Leftrightarrow", r"\leftrightarrow", r"\mapsto")
RELATIONS += (r"\because", r"\forall", r"\exists")
SEPARATORS = (",", ";", r"\\")
JOINING = ("and", "or")
_SILENT = (r"\therefore", r"\displaystyle", ":", r"\Rightarrow", r"\implies", r"\rightarrow", "=")
_END = (".", ",", ";", ":", r"\\", "!?", "?", "。")


def bare(content: list[Token]) -> list[Token]:
    """Without signs that say nothing at its ends, and without a bracket around all of it."""
    while content:
        if content[0].text in _SILENT:
            content = content[1:]
        elif content[-1].kind == "sign" and content[-1].text in _END:
            content = content[:-1]
        elif (content[0].text == "{" and group_end(content, 0) == len(content) - 1) or (
            content[0].text in ("(", r"\{")
            and group_end(content, 0) == len(content) - 1
            and any(token.text in EQUAL for token, depth in depths(content) if depth == 1)
        ):
            content = content[1:-1]
        else:
            break
    return content


def depths(content: Sequence[Token]) -> Iterator[tuple[Token, int]]:
    """Each token with the number of groups around it; a bracket counts as outside of its own."""
    depth = 0
    for token in content:
        if token.text in CLOSING:
            depth = max(0, depth - 1)
        yield token, depth
        if token.text in OPENING:
            depth += 1


def group_end(content: Sequence[Token], start: int) -> int:
    """The place of the bracket that closes the one at `start`; past the end without one."""
    for at, (token, depth) in enumerate(depths(content[start:])):
        if at and depth == 0 and token.text in CLOSING:
            return start + at
    return len(content)


def split(
    content: Sequence[Token], signs: Sequence[str], words: Sequence[str]
) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    for token, depth in depths(content):
        if depth == 0 and token.text in (words if token.kind == "word" else signs):
            parts.append([])
        else:
            parts[-1].append(token)
    return parts
