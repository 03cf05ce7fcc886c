"""A formula of known things only, and the number that it equals.

Sums, products, powers, fractions, roots, factorials, binomials, floors and ceilings, absolute
values, logarithms, gcd, lcm, max, min, π and e; units and words beside the numbers. Whatever
people themselves read in two ways is refused: 2(3), 3\\frac12, 16/2\\sqrt4, \\log_2 8\\cdot 3.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

from mathllm.answers import reals
from mathllm.answers.expressions import NoValueError, Real
from mathllm.answers.latex import MAX_DEPTH, Token
from mathllm.answers.words import LOGARITHMS, is_function, label_end, unit_end

_CLOSING = {"(": ")", "[": "]", "{": "}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
_LISTED: dict[str, Callable[..., Real]] = {
    "gcd": reals.gcd,
    "lcm": reals.lcm,
    "max": reals.maximum,
    "min": reals.minimum,
    "floor": reals.floor,
    "ceil": reals.ceiling,
    "abs": reals.absolute,
    "sqrt": reals.root,
    "exp": reals.exponential,
    "factorial": reals.factorial,
    "binomial": reals.binomial,
    "binom": reals.binomial,
    "comb": reals.binomial,
}
_SEVERAL = ("gcd", "lcm", "max", "min")
# What may follow a factor without a sign between them.
_JOINED = (r"\sqrt", r"\binom", r"\pi", r"\lfloor", r"\lceil")


def value_of(tokens: Sequence[Token]) -> Real:
    """Raises NoValueError where they are no formula of known things, or have no real value."""
    return _Reader(tokens).whole()


class _Reader:
    """Recursive descent; holds the place it has reached."""

    def __init__(self, tokens: Sequence[Token]):
        self.tokens = list(tokens)
        self.at = 0
        self.depth = 0
        self._before = ""  # what kind of factor was read last
        self._open_logarithm = False  # it ends in a logarithm's argument without brackets

    def whole(self) -> Real:
        value = self._sum()
        if self._take(r"\choose"):
            value = reals.binomial(value, self._sum())
        if self.at != len(self.tokens):
            raise NoValueError
        return value

    def _next(self, ahead: int = 0) -> Token | None:
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else None

    def _is(self, *texts: str, ahead: int = 0) -> bool:
        token = self._next(ahead)
        return token is not None and token.kind in ("sign", "command") and token.text in texts

    def _take(self, *texts: str) -> str | None:
        if self._is(*texts):
            self.at += 1
            return self.tokens[self.at - 1].text
        return None

    def _demand(self, text: str) -> None:
        if not self._take(text):
            raise NoValueError

    def _nested(self, rule: Callable[[], Real]) -> Real:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NoValueError
        value = rule()
        self.depth -= 1
        return value

    def _sum(self) -> Real:
        value = self._product()
        while sign := self._take("+", "-"):
            if sign == "-" and self._is("-") and not self.tokens[self.at].spaced:
                raise NoValueError  # 42--43 is a range
            term = self._product()
            value = reals.add(value, term) if sign == "+" else reals.subtract(value, term)
        return value

    def _product(self) -> Real:
        value, divided = self._signed(), False
        while (sign := self._take("*", "/")) or self._joined():
            if self._open_logarithm or (divided and sign is None):
                raise NoValueError
            divided = sign == "/"
            factor = self._signed()
            value = reals.divide(value, factor) if divided else reals.multiply(value, factor)
        return value

    def _joined(self) -> bool:
        """Whether a factor comes next that needs no sign before it."""
        token = self._next()
        if token is None:
            return False
        if token.kind == "word":
            return is_function(self.tokens, self.at)
        if token.kind == "letter":
            return token.text == "e"
        if token.kind == "number":
            after_exponent = self._before == "power" and self.tokens[self.at - 1].text == "}"
            return self._before == "!" or after_exponent  # 3!4, 2^{5}3^{2}
        if token.text == r"\frac":
            return self._before != "number"
        if token.text == "(":
            if self._before == "number" and (token.spaced or not self._has_operator()):
                return False
            return self._before != "unit"
        return token.text in _JOINED or token.text == "√"

    def _has_operator(self) -> bool:
        """Whether the bracket that comes next holds more than one number."""
        depth = 0
        for token in self.tokens[self.at :]:
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            if not depth:
                return False
            if depth == 1 and token.text in ("+", "-", "*", "/"):
                return True
        return False

    def _signed(self) -> Real:
        negative = False
        while sign := self._take("+", "-"):
            negative ^= sign == "-"
        value = self._power()
        return reals.multiply(Fraction(-1), value) if negative else value

    def _power(self) -> Real:
        self.at = label_end(self.tokens, self.at)
        self._open_logarithm = False
        value = self._nested(self._atom)
        if self._take("!"):
            value, self._before = reals.factorial(value), "!"
        if self._take("^"):
            if self._before == "number" and self._is("!", ahead=1):  # 2^3!
                raise NoValueError
            value, self._before = reals.power(value, self._nested(self._exponent)), "power"
        if self._is("!"):  # 5!!
            raise NoValueError
        if (end := unit_end(self.tokens, self.at)) > self.at:
            self.at, self._before = end, "unit"
        return value

    def _exponent(self) -> Real:
        if self._take("{"):
            value = self._sum()
            self._demand("}")
            return self._power_of(value)
        return self._signed()

    def _power_of(self, exponent: Real) -> Real:
        """Of a braced exponent its own, where one follows: 2^{3}^2 is TeX's error."""
        if self._is("^"):
            raise NoValueError
        return exponent

    def _atom(self) -> Real:
        token = self._next()
        if token is None:
            raise NoValueError
        self.at += 1
        if token.kind == "number":
            return self._number(token)
        if token.kind == "word":
            return self._function(token.text)
        if token.kind == "letter" and token.text == "e":
            self._before = "letter"
            return reals.E
        if token.kind not in ("sign", "command"):
            raise NoValueError
        self._before = token.text
        match token.text:
            case r"\pi":
                return reals.PI
            case r"\frac":
                value = reals.divide(self._argument(), self._argument())
            case r"\binom":
                value = reals.binomial(self._argument(), self._argument())
            case r"\sqrt":
                value = self._root()
            case "√":
                value = reals.root(self._nested(self._atom))
            case "|":
                value = reals.absolute(self._sum())
                self._demand("|")
            case "(" | "[" | "{" | r"\lfloor" | r"\lceil":
                value = self._group(token.text)
            case _:
                raise NoValueError
        self._before = token.text
        return value

    def _number(self, token: Token) -> Real:
        self._before = "number"
        if token.value is None or self._is("_"):
            raise NoValueError
        if (dots := self._next()) and (dots.kind == "dots" or dots.text in (r"\ldots", r"\dots")):
            raise NoValueError  # digits that go on
        return token.value

    def _group(self, opening: str) -> Real:
        value = self._sum()
        if opening == "{" and self._take(r"\choose"):
            value = reals.binomial(value, self._sum())
        self._demand(_CLOSING[opening])
        self._open_logarithm = False
        return {r"\lfloor": reals.floor, r"\lceil": reals.ceiling}.get(opening, lambda v: v)(value)

    def _root(self) -> Real:
        index = 2
        if self._take("["):
            found = self._sum()
            if not isinstance(found, Fraction) or found.denominator != 1:
                raise NoValueError
            index = found.numerator
            self._demand("]")
        token = self._next()
        if token is not None and token.kind == "number" and len(token.text) > 1:
            raise NoValueError  # \sqrt16: TeX and its writer read it differently
        return reals.root(self._argument(), index)

    def _argument(self) -> Real:
        """Of a command: a group, a command, or one digit or letter as TeX reads it."""
        token = self._next()
        if token is None:
            raise NoValueError
        if token.kind == "number" and token.text.isdigit():
            rest = token.text[1:]
            self.tokens[self.at : self.at + 1] = [
                replace(token, text=part, value=Fraction(int(part)))
                for part in (token.text[0], rest)
                if part and len(part) < 1000
            ]
            self.at += 1
            return Fraction(int(token.text[0]))
        if token.text in ("{", r"\pi", r"\sqrt", r"\frac") or token.kind == "letter":
            return self._nested(self._atom)
        raise NoValueError

    def _function(self, name: str) -> Real:
        if name in LOGARITHMS:
            return self._logarithm(name)
        self._before = "function"
        closing = {"(": ")", r"\{": r"\}", "{": "}"}.get(self._take("(", r"\{", "{") or "")
        if name not in _LISTED or not closing:
            raise NoValueError
        values = [self._nested(self._sum)]
        while self._take(","):
            values.append(self._nested(self._sum))
        self._demand(closing)
        self._open_logarithm = False
        self._before = "function"
        wanted = 2 if _LISTED[name] is reals.binomial else 1
        if len(values) != wanted and name not in _SEVERAL:
            raise NoValueError
        return _LISTED[name](*values)

    def _logarithm(self, name: str) -> Real:
        """Without a base, log is the common one where that is rational, and refused elsewhere."""
        base: Real | None = {"log": Fraction(10), "lg": Fraction(10)}.get(name)
        common = name == "log" and not self._is("_")
        if self._take("_"):
            base = self._argument()
        bracketed = self._is("(", "{")
        argument = self._nested(self._atom if bracketed else self._power)
        if bracketed and self._is("!", "^"):
            raise NoValueError
        self._open_logarithm, self._before = not bracketed, "function"
        value = reals.logarithm(argument, base)
        if common and not isinstance(value, Fraction):
            raise NoValueError
        return value
