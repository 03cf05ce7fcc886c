"""What may stand beside a value as its name: x, m + n, f(3), |S|, a_{1,2}, "the area"."""

import re
from collections.abc import Iterator, Sequence

from mathllm.answers.expressions import NoValueError
from mathllm.answers.groups import CLOSING, OPENING, SEPARATORS
from mathllm.answers.latex import Token
from mathllm.answers.words import denies

_EVALUATED = (r"\sum", r"\prod", r"\int", r"\lim", r"\iint", r"\oint", r"\bigcup", r"\bigcap")
_DECORATION = re.compile(r"\^(?:\{-1\}|\*|\{\*\}|\{?\\prime\}?|\{\(\w+\)\})")
_DOTS = (r"\dots", r"\cdots", r"\ldots", r"\dotsb")
_UNKNOWNS = tuple("xyztuvw")  # in front of a bracket they are factors, and no functions


def name_of(side: Sequence[Token]) -> str:
    return "".join(token.text for token in side)


def check_name(side: list[Token]) -> None:
    """Raise NoValueError for the side of an equation that has to be solved: 3x, x^2, x + 1.

    Numbers and powers may stand in indices, in a function's brackets and among words only.
    """
    if not side:
        raise NoValueError
    if side[0].text in _EVALUATED or _is_written_out(side):
        return
    if side[0].text == "-" or denies(side[0]) or denies(side[-1]):
        raise NoValueError
    groups = [False]  # whether each open group is an index or a function's bracket
    before = Token("sign", "")
    for token in _undecorated(side):
        named = groups[-1] or before.text == "_"
        if token.text in OPENING:
            call = token.text in ("(", "[", r"\{") and (
                before.kind in ("word", "command")
                or before.text in ("}", "'")
                or (before.kind == "letter" and before.text not in _UNKNOWNS)
            )
            groups.append(named or call)
        elif token.text in CLOSING:
            groups[1:] = groups[1:-1]
        elif not named:
            among_words = token.in_text or before.kind == "word"
            if (token.kind == "number" and not among_words) or (
                token.text in ("^", "!", r"\pm", *SEPARATORS)
            ):
                raise NoValueError
        before = Token("sign", "}") if before.text == "_" and token.kind == "number" else token


def _is_written_out(side: list[Token]) -> bool:
    """1 + 2 + … + 8: numbers, signs and dots between signs."""
    dots = [at for at, token in enumerate(side) if token.kind == "dots" or token.text in _DOTS]
    known = all(token.kind in ("number", "sign", "dots", "command") for token in side)
    return known and any(at and side[at - 1].text in ("+", "*") for at in dots)


def _undecorated(side: list[Token]) -> Iterator[Token]:
    """f^{-1}, x^*, f^{(3)} are names as f and x are."""
    at = 0
    while at < len(side):
        decoration = _DECORATION.match("".join(token.text for token in side[at : at + 7]))
        length = len(decoration[0]) if decoration else 0
        skipped = 0
        while length > 0:
            length -= len(side[at + skipped].text)
            skipped += 1
        if skipped:
            at += skipped
        else:
            yield side[at]
            at += 1
