"""What stands beside a value and is none itself: conditions, moduli, bases, labels, brackets.

Each is taken off here, with a check that it does not hold a second answer.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction

from mathllm.answers import reals
from mathllm.answers.expressions import NoValueError, Real
from mathllm.answers.formula import value_of
from mathllm.answers.groups import (
    EQUAL,
    IS,
    JOINING,
    RELATIONS,
    SEPARATORS,
    bare,
    depths,
    group_end,
    split,
)
from mathllm.answers.latex import Token
from mathllm.answers.names import name_of
from mathllm.answers.words import changes

_CONDITIONS = ("where", "when", "whenever", "at", "for", "if", "with", "given", "such", "assuming")
_CONDITIONS += ("since", "because", "as", "provided", "unless", "while", "using", "subject")
_CONDITIONS += ("iff", "suppose", "let", "whereas", "once", "当", "其中", "若", "如果")
_OTHERWISE = ("otherwise", "else", "elsewhere")
_MODULI = (r"\pmod", r"\bmod", r"\mod", r"\pod")
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
_BASES |= {"nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "sixteen": 16}
_NUMERALS = {"binary": 2, "ternary": 3, "octal": 8, "decimal": 10, "hexadecimal": 16, "hex": 16}
UNKNOWN = reals.PI  # stands for a modulus that is no number, as p; none is irrational


def cut_condition(content: list[Token]) -> tuple[list[Token], list[Token]]:
    """What stands before the first word that begins a condition, and the condition."""
    for at, (_, depth) in enumerate(depths(content)):
        if depth == 0 and begins_condition(content, at):
            before = content[:at]
            while before and before[-1].text in (",", ";", ":", "and"):
                before = before[:-1]
            return before, content[at:]
    return content, []


def begins_condition(content: Sequence[Token], at: int) -> bool:
    token = content[at]
    following = content[at + 1].text.rstrip(".") if at + 1 < len(content) else ""
    return (
        token.kind == "word"
        and token.text.rstrip(".") in _CONDITIONS
        and following not in ("least", "most")
        and (token.text != "such" or following in ("that", "as"))  # "all such n" names something
    )


def after_condition(content: list[Token]) -> list[Token]:
    """What follows a condition that stands first: "when y = 3, x = 5"; "the rest when N is
    divided by 7 is 5"."""
    for at, (token, depth) in enumerate(depths(content)):
        if depth == 0 and token.text in (",", ":", "then"):
            rest = content[at + 1 :]
            return rest[1:] if rest and rest[0].text == "then" else rest
    verbs = [at for at, (token, depth) in enumerate(depths(content)) if _is_verb(token, depth)]
    joined = any(token.text in JOINING for token in content)
    conditions = sum(begins_condition(content, at) for at in range(len(content)))
    if len(verbs) == 2 and not joined and conditions == 1:
        return content[verbs[1] + 1 :]
    raise NoValueError


def _is_verb(token: Token, depth: int) -> bool:
    return depth == 0 and token.kind == "word" and token.text in IS


def check_condition(condition: list[Token], name: str) -> None:
    """Raise NoValueError where a condition holds another answer."""
    if not condition:
        return
    pieces = split(condition[1:], SEPARATORS, JOINING)
    for number, piece in enumerate(pieces):
        words = [token.text.rstrip(".") for token in piece if token.kind == "word"]
        if any(word in _OTHERWISE for word in words):
            raise NoValueError
        stated = any(t.text in EQUAL or t.text in RELATIONS or t.text in IS for t in piece)
        digits = any(token.kind == "number" for token in piece)
        if number and (
            (digits and not stated)
            or any(begins_condition(piece, at) for at in range(1, len(piece)))
            or (name and stated and name_of(split(piece, EQUAL, IS)[0]) == name)
        ):
            raise NoValueError


def without_modulus(side: list[Token], congruent: bool) -> tuple[list[Token], Real | None]:
    """A side without "mod m" in any of its forms, and m; UNKNOWN for one that is no number."""
    for at, (token, depth) in enumerate(depths(side)):
        if depth:
            continue
        if token.text in _MODULI or (token.kind == "word" and token.text in ("mod", "modulo")):
            return side[:at], _modulus(side[at + 1 :])
        if token.text in ("(", "[") and (end := group_end(side, at)) == len(side) - 1 and at:
            inner = side[at + 1 : end]
            if inner and inner[0].text in (*_MODULI, "mod", "modulo"):
                return side[:at], _modulus(inner[1:])
            if congruent and len(inner) == 1 and inner[0].kind == "number":  # 97 ≡ 3 (47)
                return side[:at], _modulus(inner)
    return side, None


def _modulus(content: list[Token]) -> Real:
    try:
        value = value_of(bare(content))
    except NoValueError:
        return UNKNOWN
    if isinstance(value, Fraction) and value > 0:
        return value
    raise NoValueError


def without_label(content: list[Token]) -> list[Token]:
    """Without a choice's letter or words with a colon before the value: (B) 42, Option B: 42."""
    for at, token in enumerate(content):
        if token.text == ":" and 0 < at < len(content) - 1:
            return without_label(content[at + 1 :])
        if token.kind not in ("word", "letter") or changes(token):
            break
    if len(content) > 3 and [t.text for t in content[:3:2]] == ["(", ")"]:
        return content[3:] if content[1].kind == "letter" else content
    if len(content) > 2 and content[0].kind == "letter" and content[1].text in (".", ")"):
        return content[2:]
    return content


def remark_start(content: list[Token]) -> int | None:
    """Where a bracket begins that ends a side and only remarks on it."""
    if len(content) < 4 or content[-1].text not in (")", "]"):
        return None
    for at, (token, depth) in enumerate(depths(content)):
        if depth == 0 and token.text in ("(", "[") and at:
            if group_end(content, at) != len(content) - 1:
                continue
            inner = content[at + 1 : -1]
            stated = any(
                depth == 0 and (t.text in EQUAL or t.text in RELATIONS)
                for t, depth in depths(inner)
            )
            digits = any(t.kind == "number" for t in inner)
            conditional = begins_condition(inner, 0) if inner else False
            if conditional:
                check_condition(inner, "")
            changing = any(map(changes, inner))
            words = all(t.kind in ("word", "letter", "unit") for t in inner)
            one_letter = sum(t.kind == "letter" for t in inner) <= 1
            if inner and (
                stated or conditional or (words and one_letter and not digits and not changing)
            ):
                return at
    return None


def without_base(content: list[Token]) -> tuple[list[Token], int]:
    """2112_6, 2112_{\\text{six}}, 2112 (base 6), 2112 base six, 1010 in binary: numeral and base.

    Base ten is left out wherever it stands.
    """
    content = list(_without_ten(content))
    for at, token in enumerate(content):
        if token.text != "_" and token.kind != "word":
            continue
        head, tail, last = content[:at], content[at + 1 :], content[at - 1]
        if token.text == "_" and at and (last.kind == "letter" or _is_end(last)):
            base = _base(tail)
            if base and all(t.kind in ("number", "letter") or t.text in "()" for t in head):
                return [t for t in head if t.text not in "()"], base
            return content, 10
        named = token.text in _NUMERALS and all(t.text in (")", "]") for t in tail)
        if token.kind == "word" and (token.text == "base" or named) and at:
            if head[-1].text in ("(", "["):
                head, tail = head[:-1], tail[:-1]
            while head and head[-1].kind == "word":  # "in base 10"
                head = head[:-1]
            base = _NUMERALS[token.text] if named else _base(tail)
            if base is None:
                raise NoValueError
            return head, base
    return content, 10


def _without_ten(content: list[Token]) -> Iterator[Token]:
    at = 0
    while at < len(content):
        token = content[at]
        if token.text == "_" and at and _is_end(content[at - 1]):
            end = group_end(content, at + 1) if content[at + 1 : at + 2] else at
            index = content[at + 1 : end + 1] if end < len(content) else content[at + 1 : at + 2]
            if _base(index) == 10:
                at += 1 + len(index)
                continue
        yield token
        at += 1


def _is_end(token: Token) -> bool:
    """Whether an index behind it may be a numeral's base."""
    return token.kind == "number" or token.text in (")", "}")


def _base(content: list[Token]) -> int | None:
    inner = [t for t in content if t.text not in ("{", "}", "(", ")", "base")]
    if len(inner) != 1:
        return None
    text = inner[0].text.rstrip(".")
    base = int(text) if text.isascii() and text.isdigit() and len(text) < 3 else _BASES.get(text)
    return base if base and 2 <= base <= 36 else None
