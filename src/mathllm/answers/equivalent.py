"""Whether an answer is right: the same thing as the truth, written in whatever way.

Numbers and lists of numbers are compared exactly by what reading.py and reals.py make of them;
the rest by math-verify within a time limit.

The rules where graders differ:
- Units, currency and degrees are left out, as in MATH: 5 cm, 5 m and 5 are the same.
- Per cent is a unit too, and its meaning counts as well: 50\\% is 50, and it is 0.5; 50 and
  0.5 are not the same. MATH's truths have the sign or not, as the question is put.
- x = 4 and 4 are the same; x = 4 and y = 4 are not.
- 1,2 and {2,1} are the same set; (1,2) is neither (2,1), nor [1,2], nor {1,2}.
- A decimal of six places or more is what rounds to it: 0.333333 is 1/3, and 0.33 is not.
- A numeral with a base is the same only with that base: 2112_6 is neither 2112 nor 476.
- A ratio or a time is the same only part by part: 3:1 is neither 3 nor 6:2.
- Words are the same but for capitals; ABC and CBA are not, though sympy would multiply.
"""

import re
import time
from collections.abc import Iterable, Sequence
from fractions import Fraction

from mathllm.answers import reals, sympy_process
from mathllm.answers.boxes import last_box
from mathllm.answers.expressions import MAX_BITS, Real
from mathllm.answers.extract import behind_thinking, extract_answer
from mathllm.answers.reading import Reading, rational_value, read
from mathllm.answers.sympy_process import normal_text

_BASE = re.compile(r"(?:[A-Za-z]=)?[0-9A-F.]+_(?:\d+|\{[\w\\{}]*\})", re.ASCII)
_RATIO = re.compile(r"[\d.,]+(?::[\d.,]+)+", re.ASCII)
_LISTED = re.compile(r"\\\{[^:|]*,[^:|]*\\\}")
_BRACKETED = re.compile(r"[(\[].*,.*[)\]]", re.DOTALL)
_WORDS = re.compile(r"\\(?:text(?:bf|it|rm)?|mathrm|mbox)\{([^{}]*)\}")
_LETTERS = re.compile(r"[a-z]*[A-Z][A-Za-z]+|[A-Za-z]{3,}|\([A-Z]\)|[A-Z]")
_LONG_DECIMAL = re.compile(r"-?\d*\.(\d{6,})", re.ASCII)


def equivalent(answer: str, truth: str, seconds: float = 5.0) -> bool:
    """Whether `answer` means the same as `truth`; each is LaTeX, or text with a box.

    False if that is not found out within `seconds`.
    """
    deadline = time.monotonic() + seconds
    answer, truth = _content(answer), _content(truth)
    texts = normal_text(answer), normal_text(truth)
    if texts[0] == texts[1] or not all(texts):
        return texts[0] == texts[1] != ""
    for rule in (_by_words, _by_ratio, _by_brackets):
        if (verdict := rule(*texts)) is not None:
            return verdict
    readings = read(answer), read(truth)
    if all(readings):
        verdict = _by_readings(*readings, *texts)
    elif any(map(_BASE.fullmatch, texts)):
        verdict = False
    else:
        verdict = None
    if verdict is None:
        verdict = sympy_process.same(answer, truth, deadline - time.monotonic())
    return verdict


def grade(text: str, truth: str, seconds: float = 5.0) -> bool:
    """Whether a solution's text gives the true answer, in its last box or, where there is
    no box, by a closing phrase with an integer."""
    content = last_box(behind_thinking(text))
    if content is None:
        bound = 1 << MAX_BITS
        value = extract_answer(text, -bound, bound)
        content = "" if value is None else str(value)
    return equivalent(content, truth, seconds)


def _content(text: str) -> str:
    content = last_box(text)
    return text.strip() if content is None else content


def _by_words(answer: str, truth: str) -> bool | None:
    """Where one is nothing but a word or a label in capitals, letters alone decide."""
    words = [_WORDS.sub(r"\1", side) for side in (answer, truth)]
    if not any(_LETTERS.fullmatch(side) for side in words):
        return None
    if all(re.fullmatch(r"\(?[A-Za-z]+\)?", side) for side in words):
        return words[0].strip("()").casefold() == words[1].strip("()").casefold()
    return None


def _by_ratio(answer: str, truth: str) -> bool | None:
    sides = [_RATIO.fullmatch(side) for side in (answer, truth)]
    if not any(sides):
        return None
    if not all(sides):
        return False
    parts = [[rational_value(part) for part in side.split(":")] for side in (answer, truth)]
    return parts[0] == parts[1] and None not in parts[0]


def _by_brackets(answer: str, truth: str) -> bool | None:
    """A set that lists its elements is neither a point nor an interval."""
    for one, other in ((answer, truth), (truth, answer)):
        if _LISTED.fullmatch(one) and _BRACKETED.fullmatch(other):
            return False
    return None


def _by_readings(a: Reading, b: Reading, answer: str, truth: str) -> bool | None:
    """None where it is not found out, and for two different names."""
    if a.base != b.base:
        return False
    if a.name and b.name and a.name != b.name:
        return None
    if len(a.values) == len(b.values) == 1:
        return _same_number(a, b, answer, truth)
    if a.brackets == b.brackets not in ("", "{}"):
        if len(a.values) != len(b.values):
            return False
        return _all(reals.same(x, y) for x, y in zip(a.values, b.values, strict=True))
    if {a.brackets, b.brackets} <= {"", "{}"}:
        return _all((_within(a.values, b.values), _within(b.values, a.values)))
    return False if a.brackets and b.brackets else None


def _same_number(a: Reading, b: Reading, answer: str, truth: str) -> bool | None:
    (x,), (y,) = a.values, b.values
    verdict = reals.same(x, y)
    if verdict is not False:
        return verdict
    if a.percent != b.percent:
        percent, other = (x, y) if a.percent else (y, x)
        verdict = reals.same(reals.divide(percent, Fraction(100)), other)
    return verdict or _rounds(answer, y) or _rounds(truth, x)


def _within(some: Sequence[Real], others: Sequence[Real]) -> bool | None:
    """Whether each of some numbers is among the others."""
    return _all(_any(reals.same(one, other) for other in others) for one in some)


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    found = list(verdicts)
    return False if False in found else None if None in found else True


def _any(verdicts: Iterable[bool | None]) -> bool | None:
    found = list(verdicts)
    return True if True in found else None if None in found else False


def _rounds(decimal: str, value: Real) -> bool:
    """Whether a decimal with six places or more is the value, rounded to those places."""
    places = _LONG_DECIMAL.fullmatch(decimal.strip())
    return bool(places) and reals.rounds_to(value, Fraction(decimal.strip()), len(places[1]))
