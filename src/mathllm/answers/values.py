"""The last `\\boxed{…}` of a text, and the rational number that a formula equals.

Knows LaTeX as models write numbers: separators, units, words, simple arithmetic. Nothing is
evaluated as code, and every call is linear in the text with bounded arithmetic after that, so
no text can hang it.
"""

import re
from collections.abc import Callable
from fractions import Fraction

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


MAX_CONTENT = 2000  # characters; a longer box holds an essay, not an integer
MAX_BITS = 4096  # of any intermediate value, so that 9^{9^9} costs nothing
MAX_DEPTH = 40  # of nested groups, far below Python's recursion limit

LABEL = "\x1f"  # stands for words set in \text{…}: may precede or follow a value
_EXPONENT = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|\d))?"
_COLOUR = re.compile(r"\\(?:text)?color\s*\{[^{}]*\}")
_WORDS = r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mathrm|mbox|hbox|operatorname)(?![A-Za-z])"
_TEXT = re.compile(
    _WORDS + r"\s*\{(?P<inner>(?:[^{}]|\{[^{}]*\})*)\}(?P<exponent>" + _EXPONENT + ")"
)
_COMMAND_OR_WORD = re.compile(rf"\\[A-Za-z]+|(?P<word>[A-Za-z][A-Za-z.]*{_EXPONENT}[:,]?)")
_DEGREES = re.compile(rf"\^\s*(?:\{{\s*(?:\\circ|\\degree|{LABEL})\s*\}}|\\circ|\\degree)|\\degree")
_SILENT = re.compile(
    _WORDS
    + r"|\\(?:math(?:bf|it|sf|tt|normal)|boldsymbol|bm|underline|boxed|fbox|displaystyle|textstyle"
    r"|left|right|[bB]igg?[lr]?|bf|rm|it|quad|qquad|Large|large|huge|Huge)(?![A-Za-z])"
    r"|\\[()\[\]$%]|[$%°]"
)
_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/"}
    | dict.fromkeys("\xa0\u2009\u202f", " ")
)
_OPERATORS = re.compile(r"\\(?:cdot|times|ast|div)(?![A-Za-z])")

# A plain word after a number is a unit if it is one of these or clearly a word of its own;
# one or two other letters are variables (2n, 3ab), and those are not integers.
_UNITS = "cm|mm|km|kg|mg|ml|hr|hrs|min|sec|ft|yd|lb|lbs|oz|mph|kph|deg|rad"
_UNIT = re.compile(rf"(?:(?:{_UNITS})(?![A-Za-z])|(?<=\s)[A-Za-z]{{3,}})(?:/[A-Za-z]+)?{_EXPONENT}")
SPACE = re.compile(r"(?:\s|~|\\[,;:! ]|\\thinspace(?![A-Za-z]))+")
_TAIL = re.compile(r"(?:\\[,;:! ]|[.,;:\s~])+$")
# Left of an equals sign: lists, bounds, and terms such as 3x or x^2, which make it an
# equation; m + n and f(3) name the number on the right.
_NOT_A_NAME = re.compile(r"[,;<>!]|\\(?:le|ge|ne)|\d\s*[A-Za-z]|[A-Za-z]\s*\^")
_FRACTION = re.compile(r"\\[dtc]?frac(?![A-Za-z])")
# The 20 of "June 20" is no value. Capitals only, so that a word such as "may" is a word.
_MONTH = re.compile(
    r"(?<![A-Za-z])(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)(?![A-Za-z])"
)
_GROUPS = {"{": "}", "(": ")", "[": "]", "\\{": "\\}"}


def integer_value(content: str) -> int | None:
    """The integer that a box's content equals, of any size up to MAX_BITS, else None."""
    value = rational_value(content)
    return value.numerator if value is not None and value.denominator == 1 else None


def rational_value(content: str) -> Fraction | None:
    """The rational number that a box's content equals, else None."""
    formula = formula_of(content)
    if formula is None:
        return None
    try:
        return _Reader(formula).whole()
    except _NoValueError:
        return None


def formula_of(content: str) -> str | None:
    """What of a box's content is to be computed: no words or fonts, right of the last "=".

    None where it is a date, an equation, a list or a bound, or longer than a number is. The
    words that were set as text have left LABEL in their places.
    """
    if len(content) > MAX_CONTENT or _MONTH.search(content):
        return None
    return _right_side(_plain(content))


def _plain(content: str) -> str:
    """The content without fonts, colours, words, degrees, currency and punctuation."""
    formula = _COLOUR.sub("", content.translate(_SIGNS))
    for _ in range(MAX_DEPTH):  # \text{…} may stand in \textbf{…}
        formula, count = _TEXT.subn(_words_to_label, formula)
        if not count:
            break
    formula = _DEGREES.sub("", formula)
    formula = _OPERATORS.sub(lambda m: "/" if m[0] == "\\div" else "*", formula)
    formula = _SILENT.sub("  ", formula)  # two: one could make a thousands separator
    return _TAIL.sub("", formula).strip()


def _words_to_label(match: re.Match[str]) -> str:
    """What is left of `\\text{…}` with a label for each word."""
    inner = _COMMAND_OR_WORD.sub(lambda m: LABEL if m["word"] else m[0], match["inner"])
    if re.search(r"\d", inner, re.ASCII):
        return LABEL + inner + LABEL + match["exponent"]
    return LABEL  # with its exponent: \text{cm}^2 squares the unit, not the number


def _right_side(formula: str) -> str | None:
    """What stands after the last equals sign; None for an equation, a list or a bound.

    A modulus after a number is a remark ("3 \\pmod 7"); after anything else it would have
    to be carried out, which is not done here.
    """
    left, _, right = formula.replace("\\equiv", "=").rpartition("=")
    right, modulus, _ = right.partition("\\pmod")
    if modulus and not NUMBER.fullmatch(right.strip()):
        return None
    if _NOT_A_NAME.search(re.sub(r"\([^()]*\)", "", left)):
        return None
    while right.endswith("}") and right.count("}") > right.count("{"):
        right = right[:-1]  # the group that held the whole equation
    return right.strip()


class _NoValueError(Exception):
    """The formula has no value that this reader can give."""


class _Reader:
    """Recursive descent over a formula; holds the place it has reached."""

    def __init__(self, formula: str):
        self.formula = formula
        self.at = 0
        self.depth = 0
        self.brackets = 0  # open ( [ \{ : inside, "1,234" is a pair and not a number

    def whole(self) -> Fraction:
        value = self._sum()
        self._skip()
        if self.at != len(self.formula):
            raise _NoValueError
        return value

    def _skip(self) -> None:
        if space := SPACE.match(self.formula, self.at):
            self.at = space.end()

    def _take(self, *signs: str) -> str | None:
        """The sign that comes next after spaces, if it is one of these."""
        self._skip()
        for sign in signs:
            if self.formula.startswith(sign, self.at):
                self.at += len(sign)
                return sign
        return None

    def _sum(self) -> Fraction:
        value = self._product()
        while sign := self._take("+", "-"):
            term = self._product()
            value = _bounded(value + term if sign == "+" else value - term)
        return value

    def _product(self) -> Fraction:
        value = self._signed()
        while sign := self._take("*", "/"):
            value = _divide(value, self._signed()) if sign == "/" else value * self._signed()
            value = _bounded(value)
        return value

    def _signed(self) -> Fraction:
        negative = False
        while sign := self._take("+", "-"):
            negative ^= sign == "-"
        value = self._power()
        return -value if negative else value

    def _power(self) -> Fraction:
        base = self._value()
        if not self._take("^"):
            return base
        return _raise(base, self._nested(self._signed))  # 2^2^2^… recurses without a group

    def _value(self) -> Fraction:
        while self._take(LABEL):
            pass
        if fraction := _FRACTION.match(self.formula, self.at):
            self.at = fraction.end()
            value = _divide(self._argument(), self._argument())
        elif opening := self._take(*_GROUPS):
            value = self._group(opening)
        else:
            value = self._number()
        while self._take(LABEL) or self._unit():
            pass
        return value

    def _argument(self) -> Fraction:
        """One argument of \\frac: a group, or a single digit as TeX reads it."""
        if self._take("{"):
            return self._group("{")
        if (digit := self.formula[self.at : self.at + 1]) in set("0123456789"):
            self.at += 1
            return Fraction(int(digit))
        raise _NoValueError

    def _group(self, opening: str) -> Fraction:
        self.brackets += opening != "{"
        value = self._nested(self._sum)
        self.brackets -= opening != "{"
        if not self._take(_GROUPS[opening]):
            raise _NoValueError
        return value

    def _nested(self, rule: Callable[[], Fraction]) -> Fraction:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _NoValueError
        value = rule()
        self.depth -= 1
        return value

    def _number(self) -> Fraction:
        number = NUMBER.match(self.formula, self.at)
        if not number or (self.brackets and number["sep"] == ","):
            raise _NoValueError
        self.at = number.end()
        digits = re.sub(r"[^\d.]", "", number[0]).lstrip("0") or "0"
        if len(digits) * 3 > MAX_BITS:
            raise _NoValueError
        return Fraction(digits.rstrip(".") or "0")

    def _unit(self) -> bool:
        unit = _UNIT.match(self.formula, self.at)
        self.at = unit.end() if unit else self.at
        return unit is not None


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise _NoValueError
    return value


def _divide(above: Fraction, below: Fraction) -> Fraction:
    if not below:
        raise _NoValueError
    return _bounded(above / below)


def _raise(base: Fraction, exponent: Fraction) -> Fraction:
    """base ** exponent, refused before it is computed where it would be huge."""
    if exponent.denominator != 1 or (not base and exponent <= 0):
        raise _NoValueError
    if abs(base) != 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if base and bits * abs(exponent) > MAX_BITS:
            raise _NoValueError
        return base**exponent.numerator
    return Fraction(1) if exponent.numerator % 2 == 0 else base
