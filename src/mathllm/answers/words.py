"""Words and units beside a number: which leave it what it is, and which make another of it."""

import re
from collections.abc import Sequence

from mathllm.answers.expressions import NoValueError
from mathllm.answers.groups import group_end
from mathllm.answers.latex import FUNCTIONS, Token

LOGARITHMS = ("log", "ln", "lg")

# What makes another number of the one beside it, or no number at all, on either side of it.
_VAGUE = ("or", "and", "than", "least", "most", "about", "approximately", "approx", "roughly")
_VAGUE += ("around", "nearly", "almost", "under", "over", "above", "below", "except", "less")
_VAGUE += ("fewer", "none", "unknown", "undefined", "undetermined")
_SCALES = ("half", "halves", "quarter", "quarters", "thirds", "fourths", "fifths", "sixths")
_SCALES += ("sevenths", "eighths", "ninths", "tenths", "hundredths", "thousandths", "tens", "dozen")
_SCALES += ("dozens", "hundred", "hundreds", "thousand", "thousands", "million", "millions")
_SCALES += ("billion", "billions", "bn", "trillion", "trillions", "lakh", "lakhs", "crore")
_SCALES += ("crores", "googol")
_OPERATIONS = ("minus", "negative", "plus", "times", "squared", "cubed", "factorial", "choose")
_OPERATIONS += ("mod", "modulo", "base", "point", "inverse", "double", "twice", "triple", "halved")
_OPERATIONS += ("doubled", "tripled", "reduced", "increased", "decreased", "divided", "multiplied")
_OPERATIONS += ("raised",)
_CHANGING = frozenset(_VAGUE + _SCALES + _OPERATIONS)
_CHANGING_HAN = re.compile(
    r"[十万亿半或约负倍除超无近]|百(?!分)|千(?![克米瓦])|余(?!数)|不(?!同)|左右|分之|至[少多]|最[少多]"
    r"|[大小多少高低]于|以[上下内]|多(?:[个名人]|$)"
    r"|的[平立]方|[平立]方根"
)
# What does it directly before a number only: "of 42", "root 16", "forty 2", "Problem 42".
_PREPOSITIONS = ("of", "to", "by", "but", "from", "per", "on", "until", "till", "within", "without")
_PREPOSITIONS += ("beyond", "before", "past", "near", "circa", "ca", "excluding", "exceeds")
_PREPOSITIONS += ("exceeding", "versus", "vs", "no", "neither")
_FUNCTIONS = ("root", "sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos")
_FUNCTIONS += ("arctan", "sinh", "cosh", "tanh")
_NUMERALS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMERALS += ("eleven", "twelve", "twenty", "thirty", "forty", "fifty", "sixty", "seventy")
_NUMERALS += ("eighty", "ninety", "binary", "ternary", "octal", "hex", "hexadecimal")
_REFERENCES = ("problem", "question", "equation", "eq", "eqn", "theorem", "thm", "lemma", "figure")
_REFERENCES += ("fig", "section", "chapter", "page", "ref", "example", "exercise", "step", "case")
_CHANGING_BEFORE = frozenset(_PREPOSITIONS + _FUNCTIONS + _NUMERALS + _REFERENCES)
# But a total of 42 is 42, and so is what is equal to 42.
_AMOUNTS = ("total", "value", "answer", "maximum", "minimum", "max", "min", "remainder", "area")
_AMOUNTS += ("length", "sum", "count", "score", "perimeter", "volume", "result", "cost")
_EQUAL_TO = ("", "equal", "sum", "add", "amount", "come", "equivalent", "congruent", "simplify")
_CHANGING_BEHIND = ("to", "root")  # 42 to 50, 2 to the tenth
_ALONE = ("times", "point")  # 42 times; 42 times two is another number


def changes(token: Token) -> bool:
    """Whether a word may make another number of the one beside it."""
    word = token.text.rstrip(".")
    changing = denies(token) or word in _CHANGING or bool(_CHANGING_HAN.search(word))
    return token.kind == "word" and changing


def denies(token: Token) -> bool:
    return token.text in ("not", "never", "cannot", "不") or token.text.endswith(("n't", "n’t"))


def is_function(tokens: Sequence[Token], at: int) -> bool:
    text = tokens[at].text
    opened = at + 1 < len(tokens) and tokens[at + 1].text in ("(", r"\{", "_", "{")
    return text in LOGARITHMS or (text in FUNCTIONS and opened)


def label_end(tokens: Sequence[Token], at: int) -> int:
    """Where the words before a number end. Raises NoValueError where they make another of it."""
    words = [""]
    while _is_label(tokens, at) and not is_function(tokens, at):
        _check(tokens[at])
        words.append(tokens[at].text.rstrip("."))
        at += 1
        if at < len(tokens) and tokens[at].kind == "sign" and tokens[at].text in (":", "."):
            words, at = [""], at + 1
    before, last = words[-2:] if len(words) > 1 else ("", "")
    amount = (last == "of" and before in _AMOUNTS) or (
        last == "to" and (before in _EQUAL_TO or before.endswith("s"))
    )
    called = bool(last) and at < len(tokens) and tokens[at].text == "("
    if called or (last in _CHANGING_BEFORE and not amount):
        raise NoValueError
    return at


def unit_end(tokens: Sequence[Token], at: int) -> int:
    """Where the words, per cent and degrees end that begin at `at`, behind a number; exponents
    and quotients are those of the unit. Raises NoValueError where they make another number of it.
    """
    if at < len(tokens) and tokens[at].kind == "word" and tokens[at].text in _CHANGING_BEHIND:
        raise NoValueError
    while (end := _one_unit(tokens, at)) > at:
        at = end
    return at


def _one_unit(tokens: Sequence[Token], at: int) -> int:
    if at < len(tokens) and tokens[at].text == r"\frac":
        return _fraction_end(tokens, at)
    if at < len(tokens) and tokens[at].text == "(" and tokens[at].in_text:
        return _bracket_end(tokens, at)  # 42 (ordered) pairs
    if at + 1 < len(tokens) and tokens[at].text == "/" and tokens[at + 1].kind == "word":
        _check(tokens[at + 1])  # $140/week
        return at if is_function(tokens, at + 1) else _exponent_end(tokens, at + 2)
    if not _is_unit(tokens, at) or (tokens[at].kind == "word" and is_function(tokens, at)):
        return at
    if tokens[at].text not in _ALONE or at + 1 < len(tokens):
        _check(tokens[at])
    at = _exponent_end(tokens, at + 1)
    while at < len(tokens) and tokens[at].text == "/" and _is_unit(tokens, at + 1, quotient=True):
        at = _exponent_end(tokens, at + 2)
    return at


def _fraction_end(tokens: Sequence[Token], start: int) -> int:
    """\\frac{\\text{km}}{\\text{h}}"""
    at = start + 1
    for _ in range(2):
        end = group_end(tokens, at) if tokens[at : at + 1] else at
        inner = tokens[at + 1 : end]
        if not inner or unit_end(inner, 0) != len(inner):
            return start
        at = end + 1
    return at


def _bracket_end(tokens: Sequence[Token], start: int) -> int:
    end = group_end(tokens, start)
    inner, behind = tokens[start + 1 : end], tokens[end + 1 : end + 2]
    if not inner or not behind or any(token.kind != "word" for token in (*inner, *behind)):
        return start
    for token in inner:
        _check(token)
    return end + 1


def _exponent_end(tokens: Sequence[Token], at: int) -> int:
    """\\text{cm}^2 squares the unit, not the number."""
    texts = [token.text for token in tokens[at : at + 5]]
    if texts[:1] != ["^"]:
        return at
    rest = [text for text in texts[1:] if text not in ("{", "-")]
    if not rest or len(rest[0]) != 1 or not rest[0].isdigit():
        raise NoValueError
    end = texts.index(rest[0])
    if "{" not in texts[:end]:
        return at + end + 1
    if texts[end + 1 : end + 2] != ["}"]:
        raise NoValueError
    return at + end + 2


def _is_label(tokens: Sequence[Token], at: int) -> bool:
    if at >= len(tokens):
        return False
    token, following = tokens[at], tokens[at + 1 : at + 2]
    article = token.in_text and token.text in "aA" and following and following[0].kind == "word"
    return token.kind == "word" or bool(article)


def _is_unit(tokens: Sequence[Token], at: int, quotient: bool = False) -> bool:
    if at >= len(tokens):
        return False
    token = tokens[at]
    if token.kind == "letter":
        return (token.in_text and token.text not in "ei") or quotient
    return token.kind in ("word", "unit")


def _check(token: Token) -> None:
    if changes(token):
        raise NoValueError
