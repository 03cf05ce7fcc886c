"""What a box says: a value, a name's value, a chain of equal things, or a list of values; and
beside it remarks, which never become the answer.

    content   = [condition ("," | ":")] statement [condition]
    statement = piece {("," | ";" | "and" | "or") piece}
    piece     = {side ("=" | "is" | "≡")} side
    side      = (value | name) [remark]
    value     = what formula.py reads, or several such in brackets
    remark    = unit | "(" words ")" | "(" condition ")" | "mod" modulus | "_" base
    condition = ("where" | "when" | "at" | "for" | "if" | …) …

Where two readings are possible there is none: 42 \\bmod 10 is 2 or 42; x + 1 = 5 states a value
of x + 1 or asks for x; "5 when y = 3, 7 when y = 4" has two answers.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from mathllm.answers import reals
from mathllm.answers.formula import CHANGING, value_of
from mathllm.answers.latex import Token, tokens
from mathllm.answers.reals import NoValueError, Real

_CONDITIONS = ("where", "when", "whenever", "at", "for", "if", "with", "given", "such", "assuming")
_CONDITIONS += ("since", "because", "as", "provided", "unless", "while", "using", "subject")
_CONDITIONS += ("suppose", "let", "whereas", "once", "当", "其中", "若", "如果")
_OTHERWISE = ("otherwise", "else", "elsewhere")
_OPENING = ("(", "[", "{", r"\{", r"\lfloor", r"\lceil", r"\langle", r"\begin")
_CLOSING = (")", "]", "}", r"\}", r"\rfloor", r"\rceil", r"\rangle", r"\end")
_EQUAL = ("=", r"\equiv")
_IS = ("is", "equals", "are")
_RELATIONS = ("<", ">", r"\le", r"\ge", r"\ne", r"\approx", r"\in", r"\notin", r"\ni", r"\sim")
_RELATIONS += (r"\simeq", r"\cong", r"\propto", r"\subset", r"\subseteq", r"\supset", r"\mid")
_RELATIONS += (r"\supseteq", r"\to", r"\rightarrow", r"\longrightarrow", r"\Rightarrow", r"\iff")
_RELATIONS += (r"\Longrightarrow", r"\implies", r"\Leftrightarrow", r"\leftrightarrow", r"\mapsto")
_RELATIONS += (r"\because", r"\forall", r"\exists")
_SEPARATORS = (",", ";", r"\\")
_JOINING = ("and", "or")
_EVALUATED = (r"\sum", r"\prod", r"\int", r"\lim", r"\iint", r"\oint", r"\bigcup", r"\bigcap")
_UNKNOWNS = tuple("xyztuvw")  # in front of a bracket they are factors, and no functions
_MODULI = (r"\pmod", r"\bmod", r"\mod", r"\pod")
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
_BASES |= {"nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "sixteen": 16}
_SILENT = (r"\therefore", r"\displaystyle", ":", r"\Rightarrow", r"\implies", r"\rightarrow", "=")
_END = (".", ",", ";", ":", r"\\", "!?", "?", "。")
# The 20 of "June 20" is no value. Capitals only, so that a word such as "may" is a word.
_MONTH = re.compile(
    r"(?<![A-Za-z])(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)(?![A-Za-z])"
)


@dataclass(frozen=True)
class Reading:
    """`values` are more than one for a list, whose `brackets` are "" for none, else "()", "[)",
    "{}" …; `name` is what stands on the left, "" for nothing. Of a numeral that is not decimal
    `base` is the base. `percent`: with that sign."""

    values: tuple[Real, ...]
    brackets: str = ""
    name: str = ""
    base: int = 10
    percent: bool = False


def read(content: str) -> Reading | None:
    """What a box's content says, or None where that is no number or list of numbers, or not
    to be said for certain."""
    try:
        if _MONTH.search(content):
            return None
        return _statement(tokens(content))
    except NoValueError:
        return None


def rational_value(content: str) -> Fraction | None:
    """The rational number that a box's content equals, of any form; else None."""
    reading = read(content)
    if reading is None or len(reading.values) != 1 or reading.base != 10:
        return None
    return reals.rational(reading.values[0])


def integer_value(content: str) -> int | None:
    """The integer that a box's content equals, of any size within the limits, else None."""
    value = rational_value(content)
    return value.numerator if value is not None and value.denominator == 1 else None


def _statement(content: list[Token]) -> Reading:
    content = _bare(content)
    before, condition = _cut(content)
    if condition and not _has_value(before):
        before, condition = _cut(_after_condition(content))
    pieces = _split(_bare(before), _SEPARATORS, _JOINING)
    readings = [_piece(piece) for piece in pieces if piece]
    if not readings:
        raise NoValueError
    name = readings[0].name
    if any(other.name not in ("", name) for other in readings[1:]):
        raise NoValueError
    if len(readings) > 1:
        if any(r.base != 10 or len(r.values) > 1 or r.percent for r in readings):
            raise NoValueError
        found = Reading(tuple(r.values[0] for r in readings), name=name)
    else:
        found = readings[0]
    _check_condition(condition, name)
    return found


def _bare(content: list[Token]) -> list[Token]:
    """Without signs that say nothing at its ends, and without a bracket around all of it."""
    while content:
        if content[0].text in _SILENT:
            content = content[1:]
        elif content[-1].kind == "sign" and content[-1].text in _END:
            content = content[:-1]
        elif (content[0].text == "{" and _group_end(content, 0) == len(content) - 1) or (
            content[0].text in ("(", r"\{")
            and _group_end(content, 0) == len(content) - 1
            and any(token.text in _EQUAL for token, depth in _depths(content) if depth == 1)
        ):
            content = content[1:-1]
        else:
            break
    return content


def _depths(content: Sequence[Token]) -> Iterator[tuple[Token, int]]:
    """Each token with the number of groups around it; a bracket counts as outside of its own."""
    depth = 0
    for token in content:
        if token.text in _CLOSING:
            depth = max(0, depth - 1)
        yield token, depth
        if token.text in _OPENING:
            depth += 1


def _group_end(content: Sequence[Token], start: int) -> int:
    """The place of the bracket that closes the one at `start`; past the end without one."""
    for at, (token, depth) in enumerate(_depths(content[start:])):
        if at and depth == 0 and token.text in _CLOSING:
            return start + at
    return len(content)


def _split(
    content: Sequence[Token], signs: Sequence[str], words: Sequence[str]
) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    for token, depth in _depths(content):
        if depth == 0 and token.text in (words if token.kind == "word" else signs):
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _cut(content: list[Token]) -> tuple[list[Token], list[Token]]:
    """What stands before the first word that begins a condition, and the condition."""
    for at, (_, depth) in enumerate(_depths(content)):
        if depth == 0 and _begins_condition(content, at):
            before = content[:at]
            while before and before[-1].text in (",", ";", ":", "and"):
                before = before[:-1]
            return before, content[at:]
    return content, []


def _begins_condition(content: Sequence[Token], at: int) -> bool:
    token = content[at]
    following = content[at + 1].text if at + 1 < len(content) else ""
    return (
        token.kind == "word"
        and token.text.rstrip(".") in _CONDITIONS
        and following.rstrip(".") not in ("least", "most")
    )


def _has_value(content: Sequence[Token]) -> bool:
    return any(token.kind in ("number", "command") or token.text in _EQUAL for token in content)


def _after_condition(content: list[Token]) -> list[Token]:
    """What follows a condition that stands first: "when y = 3, x = 5"."""
    for at, (token, depth) in enumerate(_depths(content)):
        if depth == 0 and token.text in (",", ":", "then"):
            rest = content[at + 1 :]
            return rest[1:] if rest and rest[0].text == "then" else rest
    raise NoValueError


def _check_condition(condition: list[Token], name: str) -> None:
    """Raise NoValueError where a condition holds another answer."""
    if not condition:
        return
    pieces = _split(condition[1:], _SEPARATORS, _JOINING)
    for number, piece in enumerate(pieces):
        words = [token.text.rstrip(".") for token in piece if token.kind == "word"]
        if any(word in _OTHERWISE for word in words):
            raise NoValueError
        stated = any(t.text in _EQUAL or t.text in _RELATIONS or t.text in _IS for t in piece)
        digits = any(token.kind == "number" for token in piece)
        if number and (
            (digits and not stated)
            or any(_begins_condition(piece, at) for at in range(1, len(piece)))
            or (name and stated and _name(_split(piece, _EQUAL, _IS)[0]) == name)
        ):
            raise NoValueError


def _piece(content: list[Token]) -> Reading:
    """A chain of sides: the value of the last, if all that have one agree."""
    if any(depth == 0 and token.text in _RELATIONS for token, depth in _depths(content)):
        raise NoValueError
    congruent = any(depth == 0 and t.text == r"\equiv" for t, depth in _depths(content))
    sides = [side for side in _split(content, _EQUAL, _IS) if side]
    modulus: Real | None = None
    readings: list[Reading] = []
    name = ""
    for number, side in enumerate(sides):
        last = number == len(sides) - 1
        side, of = _without_modulus(side, congruent)
        if of is not None and last:
            modulus = of
        found = _side(side) if not _is_plain_name(side, len(sides)) else None
        if found is not None and of is not None and not last:
            found = Reading((_residue(found, of),))
        if found is not None:
            readings.append(found)
        else:
            _check_name(side)
            name = name or _name(side)
    if not readings:
        raise NoValueError
    found = _agreed(readings, modulus if congruent else None, congruent)
    if modulus is not None:
        _check_residue(found, modulus)
    return Reading(found.values, found.brackets, name, found.base, found.percent)


def _agreed(readings: list[Reading], modulus: Real | None, congruent: bool) -> Reading:
    """The last of the sides. Raises NoValueError where another one is something else."""
    decimal = [reading for reading in readings if reading.base == 10]
    found = decimal[-1] if decimal else readings[-1]
    for other in readings:
        if other is found or (congruent and modulus is None):
            continue
        if other.brackets != found.brackets or len(other.values) != len(found.values):
            raise NoValueError
        for a, b in zip(other.values, found.values, strict=True):
            if congruent and isinstance(modulus, Fraction):
                difference = reals.rational(reals.subtract(a, b))
                if difference is None or (difference / modulus).denominator != 1:
                    raise NoValueError
            elif not reals.same(a, b):
                raise NoValueError
    return found


_UNKNOWN = reals.PI  # stands for a modulus that is no number, as p; none is irrational


def _without_modulus(side: list[Token], congruent: bool) -> tuple[list[Token], Real | None]:
    """A side without "mod m" in any of its forms, and m; _UNKNOWN for one that is no number."""
    for at, (token, depth) in enumerate(_depths(side)):
        if depth:
            continue
        if token.text in _MODULI or (token.kind == "word" and token.text in ("mod", "modulo")):
            return side[:at], _modulus(side[at + 1 :])
        if token.text in ("(", "[") and (end := _group_end(side, at)) == len(side) - 1 and at:
            inner = side[at + 1 : end]
            if inner and inner[0].text in (*_MODULI, "mod", "modulo"):
                return side[:at], _modulus(inner[1:])
            if congruent and len(inner) == 1 and inner[0].kind == "number":  # 97 ≡ 3 (47)
                return side[:at], _modulus(inner)
    return side, None


def _modulus(content: list[Token]) -> Real:
    try:
        value = value_of(_bare(content))
    except NoValueError:
        return _UNKNOWN
    if isinstance(value, Fraction) and value > 0:
        return value
    raise NoValueError


def _residue(found: Reading, modulus: Real) -> Real:
    value = reals.rational(found.values[0]) if len(found.values) == 1 else None
    if value is None or not isinstance(modulus, Fraction):
        raise NoValueError
    return value % modulus


def _check_residue(found: Reading, modulus: Real) -> None:
    """Raise NoValueError unless the number is its own remainder, so that both readings of
    "a mod m" agree: the remark and the operation."""
    if modulus == _UNKNOWN:
        return
    if _residue(found, modulus) != found.values[0]:
        raise NoValueError


def _side(content: list[Token]) -> Reading | None:
    """A side that is a value or several in brackets; None for anything else."""
    content, base = _without_base(_without_label(content))
    if base is not None and base != 10:
        return _numeral(content, base)
    percent = any(token.text == "%" for token in content)
    try:
        return Reading((value_of(content),), percent=percent)
    except NoValueError:
        pass
    if (listed := _listed(content)) is not None:
        return listed
    remark = _remark_start(content)
    if remark is None:
        return None
    found = _side(content[:remark])
    inner = content[remark + 1 : -1]
    if found is not None and inner[0].text == "=":  # 42 (= 6·7)
        found = _agreed([_piece(inner[1:]), found], None, congruent=False)
    return found


def _listed(content: list[Token]) -> Reading | None:
    """Values between brackets; a single one is what it is: [42], \\{42\\}, (42,)."""
    if not content or content[0].text not in ("(", "[", r"\{"):
        return None
    if _group_end(content, 0) != len(content) - 1:
        return None
    brackets = (content[0].text + content[-1].text).replace("\\", "")
    parts = [part for part in _split(content[1:-1], (",", ";"), ("and",)) if part]
    try:
        values = tuple(value_of(part) for part in parts)
    except NoValueError:
        return None
    if not values:
        return None
    return Reading(values, brackets if len(values) > 1 else "")


def _without_label(content: list[Token]) -> list[Token]:
    """Without a choice's letter or words with a colon before the value: (B) 42, Option B: 42."""
    for at, token in enumerate(content):
        if token.text == ":" and 0 < at < len(content) - 1:
            return _without_label(content[at + 1 :])
        if token.kind not in ("word", "letter") or token.text in CHANGING:
            break
    if len(content) > 3 and [t.text for t in content[:3:2]] == ["(", ")"]:
        return content[3:] if content[1].kind == "letter" else content
    if len(content) > 2 and content[0].kind == "letter" and content[1].text in (".", ")"):
        return content[2:]
    return content


def _remark_start(content: list[Token]) -> int | None:
    """Where a bracket begins that ends a side and only remarks on it."""
    if len(content) < 4 or content[-1].text not in (")", "]"):
        return None
    for at, (token, depth) in enumerate(_depths(content)):
        if depth == 0 and token.text in ("(", "[") and at:
            if _group_end(content, at) != len(content) - 1:
                continue
            inner = content[at + 1 : -1]
            stated = any(
                depth == 0 and (t.text in _EQUAL or t.text in _RELATIONS)
                for t, depth in _depths(inner)
            )
            digits = any(t.kind == "number" for t in inner)
            conditional = _begins_condition(inner, 0) if inner else False
            if conditional:
                _check_condition(inner, "")
            changing = any(t.kind == "word" and t.text in CHANGING for t in inner)
            words = all(t.kind in ("word", "letter", "unit") for t in inner)
            one_letter = sum(t.kind == "letter" for t in inner) <= 1
            if inner and (
                stated or conditional or (words and one_letter and not digits and not changing)
            ):
                return at
    return None


def _without_base(content: list[Token]) -> tuple[list[Token], int | None]:
    """97_{10}, 97_{\\text{ten}}, (97)_{10}, 97 (base 10), 97 base ten: the numeral, its base."""
    for at, token in enumerate(content):
        if token.text == "_" and at and content[at - 1].kind in ("number", "letter", "sign"):
            head, tail = content[:at], content[at + 1 :]
            base = _base(tail)
            if base and all(t.kind in ("number", "letter") or t.text in "()" for t in head):
                return [t for t in head if t.text not in "()"], base
            return content, None
        if token.kind == "word" and token.text == "base" and at:
            head, tail = content[:at], content[at + 1 :]
            if head[-1].text in ("(", "["):
                head, tail = head[:-1], tail[:-1]
            while head and head[-1].kind == "word":  # "in base 10"
                head = head[:-1]
            base = _base(tail)
            if base is None:
                raise NoValueError
            return head, base
    return content, None


def _base(content: list[Token]) -> int | None:
    inner = [t for t in content if t.text not in ("{", "}", "(", ")", "base")]
    if len(inner) != 1:
        return None
    text = inner[0].text.rstrip(".")
    base = int(text) if text.isascii() and text.isdigit() and len(text) < 3 else _BASES.get(text)
    return base if base and 2 <= base <= 36 else None


def _numeral(content: list[Token], base: int) -> Reading:
    digits = "".join(token.text for token in content)
    try:
        return Reading((Fraction(int(digits, base)),), base=base)
    except ValueError:
        raise NoValueError from None


def _is_plain_name(side: list[Token], sides: int) -> bool:
    """e = 42: a letter beside a value names it, also one that is a number elsewhere."""
    return sides > 1 and len(side) == 1 and side[0].kind == "letter"


def _name(side: Sequence[Token]) -> str:
    return "".join(token.text for token in side)


def _check_name(side: list[Token]) -> None:
    """Raise NoValueError for the side of an equation that has to be solved: 3x, x^2, x + 1.

    Numbers and powers may stand in indices, in a function's brackets and among words only.
    """
    if not side:
        raise NoValueError
    if side[0].text in _EVALUATED:
        return
    groups = [False]  # whether each open group is an index or a function's bracket
    before = Token("sign", "")
    for token in _without_inverses(side):
        named = groups[-1] or before.text == "_"
        if token.text in _OPENING:
            call = token.text in ("(", "[", r"\{") and (
                before.kind in ("word", "command")
                or before.text in ("}", "'")
                or (before.kind == "letter" and before.text not in _UNKNOWNS)
            )
            groups.append(named or call)
        elif token.text in _CLOSING:
            groups[1:] = groups[1:-1]
        elif not named:
            among_words = token.in_text or before.kind == "word"
            if (token.kind == "number" and not among_words) or (
                token.text in ("^", "!", r"\pm", *_SEPARATORS)
            ):
                raise NoValueError
        before = token


def _without_inverses(side: list[Token]) -> Iterator[Token]:
    """f^{-1} is a name as f is."""
    inverse = ["^", "{", "-", "1", "}"]
    at = 0
    while at < len(side):
        if [token.text for token in side[at : at + 5]] == inverse:
            at += 5
        else:
            yield side[at]
            at += 1
