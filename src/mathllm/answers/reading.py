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
from dataclasses import dataclass
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
from mathllm.answers.latex import Token, tokens
from mathllm.answers.names import check_name, name_of
from mathllm.answers.remarks import (
    UNKNOWN,
    after_condition,
    check_condition,
    cut_condition,
    remark_start,
    without_base,
    without_label,
    without_modulus,
)

# The 20 of "June 20" is no value, nor is 2026-11-26 a difference. Capitals only, so that a word
# such as "may" is a word.
_DATE = re.compile(
    r"(?<![A-Za-z])(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)(?![A-Za-z])"
    r"|(?<![\d.-])(?:1[5-9]|20)\d\d-(?:0\d|1[0-2])-[0-3]\d(?![\d.-])",
    re.ASCII,
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
        if _DATE.search(content):
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
    content = bare(content)
    before, condition = cut_condition(content)
    if condition and all(token.kind == "word" for token in before):  # "For n = 3, 42"
        before, condition = cut_condition(after_condition(content))
    before = bare(before)
    pieces = [before] if _names_several(before) else split(before, SEPARATORS, JOINING)
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
    check_condition(condition, name)
    return found


def _names_several(content: list[Token]) -> bool:
    """The sum of m and n is 42: "and" stands inside of a name."""
    texts = [token.text for token, depth in depths(content) if depth == 0]
    verbs = [at for at, text in enumerate(texts) if text in EQUAL or text in IS]
    if texts.count("and") != 1 or len(verbs) != 1 or {"or", *SEPARATORS} & set(texts):
        return False
    joined = texts.index("and")
    return joined < verbs[0] and not {"of", "between"}.isdisjoint(texts[:joined])


def _piece(content: list[Token]) -> Reading:
    """A chain of sides: the value of the last, if all that have one agree."""
    if any(depth == 0 and token.text in RELATIONS for token, depth in depths(content)):
        raise NoValueError
    congruent = any(depth == 0 and t.text == r"\equiv" for t, depth in depths(content))
    sides = [side for side in split(content, EQUAL, IS) if side]
    modulus: Real | None = None
    readings: list[Reading] = []
    name = ""
    for number, side in enumerate(sides):
        last = number == len(sides) - 1
        side, of = without_modulus(side, congruent)
        if of is not None and last:
            modulus = of
        found = _side(side) if not _is_letter(side, len(sides)) else None
        if found is not None and of is not None and not last:
            found = Reading((_residue(found, of),))
        if found is not None:
            readings.append(found)
        else:
            check_name(side)
            name = name or name_of(side)
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


def _residue(found: Reading, modulus: Real) -> Real:
    value = reals.rational(found.values[0]) if len(found.values) == 1 else None
    if value is None or not isinstance(modulus, Fraction):
        raise NoValueError
    return value % modulus


def _check_residue(found: Reading, modulus: Real) -> None:
    """Raise NoValueError unless the number is its own remainder, so that both readings of
    "a mod m" agree: the remark and the operation."""
    if modulus == UNKNOWN:
        return
    if not reals.same(_residue(found, modulus), found.values[0]):
        raise NoValueError


def _side(content: list[Token]) -> Reading | None:
    """A side that is a value or several in brackets; None for anything else."""
    content, base = without_base(without_label(content))
    if base != 10:
        return _numeral(content, base)
    percent = any(token.text == "%" for token in content)
    try:
        return Reading((value_of(content),), percent=percent)
    except NoValueError:
        pass
    if (listed := _listed(content)) is not None:
        return listed
    remark = remark_start(content)
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
    if group_end(content, 0) != len(content) - 1:
        return None
    brackets = (content[0].text + content[-1].text).replace("\\", "")
    parts = [part for part in split(content[1:-1], (",", ";"), ("and",)) if part]
    try:
        values = tuple(value_of(part) for part in parts)
    except NoValueError:
        return None
    if not values or (len(values) == 1 and brackets in ("(]", "[)")):
        return None
    return Reading(values, brackets if len(values) > 1 else "")


def _numeral(content: list[Token], base: int) -> Reading:
    digits = "".join(token.text for token in content)
    try:
        return Reading((Fraction(int(digits, base)),), base=base)
    except ValueError:
        raise NoValueError from None


def _is_letter(side: list[Token], sides: int) -> bool:
    """e = 42: a letter beside a value names it, also one that is a number elsewhere."""
    return sides > 1 and len(side) == 1 and side[0].kind == "letter"
