"""A box's content as tokens: numbers, words, letters, commands and signs.

What only dresses it is gone afterwards: fonts, sizes, colours, dollars, quotes, Markdown,
currency. Knows how numbers are written (1{,}234, 12 345, 0.1\\overline{6}, 1.5e3, ½) and that
what stands in \\text{…} is words; nothing of what they mean together.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from mathllm.answers.expressions import MAX_BITS, NoValueError

MAX_CONTENT = 2000  # characters; a longer box holds an essay, not an answer
MAX_DEPTH = 40  # of nested groups, far below Python's recursion limit

# 1,234  1{,}234  1,\\!234  12\,345  12 345: groups of three after one to three digits.
_SEPARATOR = r"(?:\\!)?(?:,|\{,\})(?:\\!)?|\{\\,\}|\\,|\\;|\\:|\\ |\\thinspace\s*|~|\s"
NUMBER = (
    rf"(?:[1-9]\d{{0,2}}(?P<sep>{_SEPARATOR})\d{{3}}(?:(?P=sep)\d{{3}})*(?!\d)|\d+)(?:\.\d*)?|\.\d+"
)
_PLAIN_NUMBER = r"\d+(?:\.\d*)?|\.\d+"  # in brackets: there (1,234) is a pair
_REPEATING = (
    r"(?P<fixed>\d*\.\d*)(?:\\(?:overline|bar|widebar)\s*(?:\{\s*(?P<over>\d+)\s*\}|(?P<one>\d))"
    r"|\((?P<round>\d+)\)|(?P<dotted>\\dot\s*(?:\{\d\}|\d)(?:\d*\\dot\s*(?:\{\d\}|\d))?))"
)
_SCIENTIFIC = r"(?:\d+\.?\d*|\.\d+)[eE][-+]?\d{1,4}(?![\dA-Za-z])"

_WORDS = r"\\(?:text(?:bf|it|rm|sf|tt|sc|up|normal|md)?|mathrm|mbox|hbox|operatorname|emph)"
_DROPPED = (
    r"\\(?:math(?:bf|it|sf|tt|normal)|boldsymbol|bm|boxed|fbox|ensuremath|num"
    r"|displaystyle|textstyle|scriptstyle|limits|bf|rm|it|sf|tt|em|Large|large|LARGE|huge|Huge"
    r"|small|normalsize|centering|checkmark|blacksquare|square|qed|pounds|euro|yen|cent"
    r"|texteuro|textsterling|textyen|textdollar)(?![A-Za-z])|(?<!\^\{)\\underline(?![A-Za-z])|\\(?:left|right|middle"
    r"|[bB]igg?[lrm]?)(?![A-Za-z])\s*\.?|\{\s*\}|\\(?:begin|end)\s*\{(?:aligned|align\*?|split"
    r"|gathered|equation\*?)\}|\\\\[\s&]*(?==)|\\[()\[\]$]|[$€£¥₹₽¢✓✅✔`\"“”«»„「」&]|''"
)
_ARGUMENT_DROPPED = r"\\(?:(?:text)?color|[hv]space\*?|tag|label|phantom)\s*\{[^{}]*\}"
_SPACE = r"(?:\s|~|\\[,;:! ]|\\(?:q?quad|thinspace|hfill|enspace)(?![A-Za-z]))+"
_ORDINAL = r"(?:st|nd|rd|th)"
_DEGREES = (
    r"\^\s*(?:\{\s*(?:\\circ|\\degree|\\text\{o\}|°)\s*\}|\\circ|\\degree)|\\degree(?![A-Za-z])|°"
    rf"|\^\s*\{{\s*{_ORDINAL}\s*\}}|\^\s*\{{\s*{_WORDS}\s*\{{\s*{_ORDINAL}\s*\}}\s*\}}|\\?%"
)
_TOKEN = re.compile(
    rf"(?P<space>{_SPACE})|(?P<drop>{_ARGUMENT_DROPPED}|{_DROPPED})|(?P<words>{_WORDS})\s*\{{"
    rf"|(?P<unit>{_DEGREES})|(?P<repeating>{_REPEATING})|(?P<scientific>{_SCIENTIFIC})"
    rf"|(?P<number>{NUMBER})|(?P<command>\\[A-Za-z]+|\\.)|(?P<letters>[A-Za-z]+)"
    r"|(?P<han>[\u4e00-\u9fff]+)|(?P<dots>\.\.+|…)|(?P<power>\*\*)|(?P<sign>.)",
    re.ASCII | re.DOTALL,
)
_PLAIN = re.compile(_PLAIN_NUMBER, re.ASCII)
_WORD = re.compile(r"[A-Za-z]+(?:['’.-][A-Za-z]+)*\.?", re.ASCII)
_EMPHASIS = re.compile(r"(?<![\w)}\]*])\*\*(?=[^\s*])([^*]*[^\s*])\*\*(?![\w({\[*])")
_SHEATHS = (("`", "`"), ("'", "'"), ("‘", "’"), ("__", "__"), ("*", "*"), ("_", "_"))
# What Python prints in place of a number.
_PRINTED = re.compile(
    r"(?:(?:np|numpy)\.(?:u?int|float)\d*|Integer|mpz|mpf|Decimal|int|float)"
    r"\(\s*'?([-+.\deE]+)'?\s*\)"
)
_PRINTED_FRACTION = re.compile(r"(?:Fraction|Rational|mpq)\(\s*(-?\d+)\s*,\s*(\d+)\s*\)")

_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", "π": r"\pi ", "∞": r"\infty "}
    | {"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv ", "±": r"\pm "}
    | {"⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "：": ":", "，": ","}
    | {"½": r"{\frac12}", "¼": r"{\frac14}", "¾": r"{\frac34}", "⅓": r"{\frac13}"}
    | {"⅔": r"{\frac23}", "（": "(", "）": ")", "＝": "=", "º": "°", "∘": r"\circ "}
    | {chr(0xFF10 + digit): str(digit) for digit in range(10)}
    | dict.fromkeys("\xa0\u2002\u2003\u2007\u2008\u2009\u200a\u202f\u3000", " ")
    | dict.fromkeys("\xad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff", " ")  # of no width
)
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_RAISED_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")

_SAME_COMMAND = {
    r"\dfrac": r"\frac",
    r"\tfrac": r"\frac",
    r"\cfrac": r"\frac",
    r"\dbinom": r"\binom",
    r"\tbinom": r"\binom",
    r"\cdot": "*",
    r"\times": "*",
    r"\ast": "*",
    r"\div": "/",
    r"\lbrace": r"\{",
    r"\rbrace": r"\}",
    r"\lbrack": "[",
    r"\rbrack": "]",
    r"\lvert": "|",
    r"\rvert": "|",
    r"\vert": "|",
    r"\lt": "<",
    r"\gt": ">",
    r"\leq": r"\le",
    r"\leqslant": r"\le",
    r"\geq": r"\ge",
    r"\geqslant": r"\ge",
    r"\neq": r"\ne",
    r"\not": r"\ne",
    r"\newline": r"\\",
    r"\coloneqq": "=",
    r"\triangleq": "=",
    r"\uppi": r"\pi",
}
FUNCTIONS = ("gcd", "lcm", "max", "min", "log", "ln", "lg", "exp", "floor", "ceil", "abs", "sqrt")
FUNCTIONS += ("factorial", "binomial", "binom", "comb")
_COMMAND_FUNCTIONS = tuple("\\" + name for name in ("gcd", "lcm", "max", "min", "log", "ln", "lg"))
# Words of one or two letters that are no variables where they stand apart.
_SHORT = ("at", "if", "in", "is", "or", "of", "to", "as", "by", "on", "so", "we", "us", "rs")
UNITS = ("cm", "mm", "km", "kg", "mg", "ml", "hr", "hrs", "min", "sec", "ft", "yd", "lb", "lbs")
UNITS += ("oz", "mph", "kph", "deg", "rad", "degrees", "usd", "eur", "dollars", "percent")


@dataclass(frozen=True)
class Token:
    """`kind` is number, word (in small letters), letter, unit, command, sign or dots.

    `value` is a number's, None for one that is too long; `spaced`: a space stands before it;
    `in_text`: it stands in \\text{…}, where a single letter may be a unit.
    """

    kind: str
    text: str
    value: Fraction | None = None
    spaced: bool = False
    in_text: bool = False


def tokens(content: str) -> list[Token]:
    """Raises NoValueError for a content that is too long or too deep for an answer."""
    if len(content) > MAX_CONTENT:
        raise NoValueError
    return list(_Lexer().tokens(_undressed(content), in_text=False))


def _undressed(content: str) -> str:
    """Without quotes and Markdown around it; odd signs in the one way that is read here."""
    content = content.translate(_SIGNS).strip()
    content = _RAISED.sub(lambda m: f"^{{{m[0].translate(_RAISED_DIGITS)}}}", content)
    content = _PRINTED_FRACTION.sub(r"\\frac{\1}{\2}", _PRINTED.sub(r"\1", content))
    content = _EMPHASIS.sub(r" \1 ", content)
    for opening, closing in _SHEATHS * 2:
        if (
            len(content) > len(opening) + len(closing)
            and content.startswith(opening)
            and content.endswith(closing)
        ):
            content = content[len(opening) : -len(closing)].strip()
    return content


class _Lexer:
    """Holds how deep in brackets it is: there a comma separates, and makes no thousands."""

    def __init__(self) -> None:
        self.brackets = 0
        self.texts = 0

    def tokens(self, content: str, in_text: bool) -> Iterator[Token]:
        at, spaced, last, mathematics = 0, True, "", not in_text
        while at < len(content):
            match = _TOKEN.match(content, at)
            assert match is not None  # any character is a sign
            kind, at = match.lastgroup, match.end()
            assert kind is not None
            if kind == "space":
                spaced = True
                continue
            if kind == "drop":
                if match[0] == "$":
                    mathematics = not (in_text and mathematics)
                    spaced = True
                continue
            if kind == "words":
                end = _closing(content, at)
                yield from self._text(content[at:end])
                at, spaced, last = end + 1, True, "word"
                continue
            if kind == "number" and self.brackets and match["sep"] == ",":
                match = _PLAIN.match(content, match.start())
                assert match is not None
                at = match.end()
            elif kind == "letters" and not mathematics:
                match = _WORD.match(content, match.start())
                assert match is not None
                at = match.end()
            for token in _made(match, kind, spaced, not mathematics, last):
                if token.text in ("(", "[", r"\{"):
                    self.brackets += 1
                elif token.text in (")", "]", r"\}"):
                    self.brackets -= 1
                yield token
                last = token.text if token.text in (")", "}") else token.kind
            spaced = False

    def _text(self, inner: str) -> Iterator[Token]:
        self.texts += 1
        if self.texts > MAX_DEPTH:
            raise NoValueError
        yield from self.tokens(inner, in_text=True)
        self.texts -= 1


def _closing(content: str, at: int) -> int:
    """Where the group ends whose content begins at `at`; the end of a text that lacks it."""
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(content, at):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if not depth:
            return match.start()
    return len(content)


def _made(
    match: re.Match[str], kind: str, spaced: bool, in_text: bool, last: str
) -> Iterator[Token]:
    text = match[0]
    match kind:
        case "number":
            yield Token("number", text, _number(re.sub(r"[^\d.]", "", text)), spaced, in_text)
        case "scientific":
            yield Token("number", text, _number(*text.lower().split("e")), spaced, in_text)
        case "repeating":
            yield Token("number", text, _repeating(match), spaced, in_text)
        case "letters":
            yield from _letters(text, spaced, in_text, last)
        case "power":  # Python's, or what is left of Markdown
            if last in ("number", "letter", ")"):
                yield Token("sign", "^", None, spaced, in_text)
        case "sign" if text == "'" and last not in ("letter", ")", "}"):
            return  # a quote, or feet; behind a name it is a prime
        case "han":
            yield Token("word", text, None, spaced, in_text)
        case "unit":
            yield Token("unit", "%" if "%" in text else "°", None, spaced, in_text)
        case "command":
            name = _SAME_COMMAND.get(text, text)
            if name in _COMMAND_FUNCTIONS:
                yield Token("word", name[1:], None, spaced, in_text)
            else:
                yield Token("command" if name[0] == "\\" else "sign", name, None, spaced, in_text)
        case _:
            yield Token(kind, text, None, spaced, in_text)


def _letters(run: str, spaced: bool, in_text: bool, last: str) -> Iterator[Token]:
    """One word, or a letter for each variable of a product."""
    small = run.lower()
    apart = spaced or last in ("", "word", "unit", "sign")
    is_word = (
        (in_text and len(run) > 1)
        or run in FUNCTIONS
        or (apart and (len(run) > 2 or small in _SHORT))
        or (last == "number" and small in UNITS)
        or (spaced and small in UNITS)
    )
    if run == "pi":
        yield Token("command", r"\pi", None, spaced, in_text)
    elif is_word:
        yield Token("word", small, None, spaced, in_text)
    else:
        for number, letter in enumerate(run):
            yield Token("letter", letter, None, spaced and not number, in_text)


def _number(digits: str, exponent: str = "0") -> Fraction | None:
    digits = digits.lstrip("0").rstrip(".") or "0"
    if (len(digits) + abs(int(exponent))) * 3 > MAX_BITS:
        return None
    return Fraction(digits) * Fraction(10) ** int(exponent)


def _repeating(match: re.Match[str]) -> Fraction | None:
    """0.1\\overline{6}, 0.1(6), 0.1\\dot{6}: the decimal that goes on for ever."""
    fixed = match["fixed"]
    cycle = match["over"] or match["one"] or match["round"] or re.sub(r"\D", "", match["dotted"])
    if (len(fixed) + len(cycle)) * 3 > MAX_BITS:
        return None
    places = len(fixed.partition(".")[2])
    start = Fraction(fixed.rstrip(".") or "0") if fixed != "." else Fraction(0)
    return start + Fraction(int(cycle), 10**places * (10 ** len(cycle) - 1))
