"""Formulas of a few known things, rewritten so that they can be read in one way only.

Knows the grammar of what sympy may be asked: sums, products, powers, factorials, roots,
binomials, floors and ceilings, logarithms, gcd, lcm, max, min, π. Computes nothing.

math-verify guesses where LaTeX leaves a choice, and not always well (measured, 0.9.0):
\\binom{4}{2}\\binom{6}{3} is 26 to it, a sum, as in mixed numbers; 2(3) is 5; 12\\,345 is 357;
5!! is (5!)!; \\log_2 8 \\cdot 3 is \\log_2 24. Here every bracket and product sign is written
out, and whatever people themselves read in two ways is refused.
"""

import re

from mathllm.answers.values import LABEL, MAX_DEPTH, SPACE, formula_of

_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_BINOMIALS = ("\\binom", "\\dbinom", "\\tbinom")
_FRACTIONS = ("\\frac", "\\dfrac", "\\tfrac", "\\cfrac")
_LISTED = ("\\gcd", "\\lcm", "\\max", "\\min")
_ROUNDED = {"\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
_DIGITS = tuple("0123456789")
_NAMED = re.compile(r"\\(?:operatorname|mathrm|text)\{(gcd|lcm|max|min)\}")
# What may follow a factor without a sign between; 2(3) and 3\frac12 may not, 3!7! may.
_JOINED = (*_BINOMIALS, *_LISTED, *_ROUNDED, "\\sqrt", "\\pi", "\\log")


def explicit(content: str) -> str | None:
    """A box's content with nothing left to guess, or None.

    None also where it is plain arithmetic: values.py reads that, and has its reasons where
    it does not.
    """
    formula = formula_of(_NAMED.sub(r"\\\1", content))
    if formula is None or ("\\" not in formula and "!" not in formula):
        return None
    writer = _Writer(formula.strip(LABEL + " "))
    try:
        written = writer.whole()
    except _AmbiguousError:
        return None
    return written if writer.functions else None


class _AmbiguousError(Exception):
    """The formula holds something unknown, or can be read in two ways."""


class _Writer:
    """Recursive descent that copies what it reads; holds the place it has reached."""

    def __init__(self, formula: str):
        self.formula = formula
        self.at = 0
        self.depth = 0
        self.functions = 0  # anything but plain arithmetic
        self._open_logarithm = False  # the last factor ends in one without brackets

    def whole(self) -> str:
        written = self._sum()
        if self._next() or self.at != len(self.formula):
            raise _AmbiguousError
        return written

    def _next(self) -> str:
        """The command or sign that comes next after spaces, not taken yet."""
        if space := SPACE.match(self.formula, self.at):
            self.at = space.end()
        if command := _COMMAND.match(self.formula, self.at):
            return command[0]
        length = 2 if self.formula.startswith("\\", self.at) else 1
        return self.formula[self.at : self.at + length]

    def _take(self, *signs: str) -> str | None:
        if (sign := self._next()) and sign in signs:
            self.at += len(sign)
            return sign
        return None

    def _demand(self, sign: str) -> None:
        if not self._take(sign):
            raise _AmbiguousError

    def _sum(self) -> str:
        written = self._product()
        while sign := self._take("+", "-"):
            written += sign + self._product()
        return written

    def _product(self) -> str:
        written, divided, logarithm = self._signed(), False, self._open_logarithm
        while (sign := self._take("*", "/")) or self._joined():
            if logarithm or (divided and sign is None):  # \log_2 8 \cdot 3, 16/2\sqrt4
                raise _AmbiguousError
            divided = sign == "/"
            factor = self._signed()
            written = f"({written})/({factor})" if divided else f"({written})*({factor})"
            logarithm = self._open_logarithm
        return written

    def _joined(self) -> bool:
        """Whether a factor comes next that needs no sign before it."""
        after_factorial = self.formula[self.at - 1] == "!"
        sign = self._next()
        return sign in _JOINED or (after_factorial and (sign == "(" or sign in _DIGITS))

    def _signed(self) -> str:
        if sign := self._take("+", "-"):
            factor = self._power()
            return f"(0-{factor})" if sign == "-" else factor
        return self._power()

    def _power(self) -> str:
        self.depth += 1  # every way into a group or an argument leads through here
        if self.depth > MAX_DEPTH:
            raise _AmbiguousError
        self._open_logarithm = False
        written = self._logarithm() if self._take("\\log") else self._raised()
        self.depth -= 1
        return written

    def _raised(self) -> str:
        written = self._atom()
        if self._take("!"):
            self.functions += 1
            written = f"(({written})!)"
        if self._take("^"):
            written = f"({written})^{{{self._exponent()}}}"
        if self._next() in ("!", "^"):  # 5!!, 2^3!, 2^3^2
            raise _AmbiguousError
        return written

    def _exponent(self) -> str:
        if self._take("{"):
            return self._until("}")
        return self._number()

    def _logarithm(self) -> str:
        """Open if its argument has no brackets: what follows might belong to it."""
        self.functions += 1
        base = "10"
        if self._take("_"):
            base = self._argument()
        if opening := self._take("(", "{"):
            argument = self._until(")" if opening == "(" else "}")
            if self._next() in ("!", "^"):
                raise _AmbiguousError
        else:
            argument = self._power()
            self._open_logarithm = True
        return f"(\\log_{{{base}}}({argument}))"

    def _atom(self) -> str:
        for opening, closing in (("(", ")"), ("{", "}"), ("[", "]")):
            if self._take(opening):
                return f"({self._until(closing)})"
        if self._take(*_FRACTIONS):
            return f"(({self._argument()})/({self._argument()}))"
        command = self._take(*_JOINED)
        if not command:
            return self._number()
        self.functions += 1
        if command == "\\pi":
            return "\\pi"
        if command == "\\sqrt":
            index = f"[{self._until(']')}]" if self._take("[") else ""
            return f"\\sqrt{index}{{{self._argument()}}}"
        if command in _BINOMIALS:
            return f"\\binom{{{self._argument()}}}{{{self._argument()}}}"
        if command in _ROUNDED:
            return f"{command} {self._until(_ROUNDED[command])} {_ROUNDED[command]}"
        return f"{command}({self._list()})"

    def _until(self, closing: str) -> str:
        written = self._sum()
        if closing == "}" and self._take("\\choose"):
            self.functions += 1
            written = f"\\binom{{{written}}}{{{self._sum()}}}"
        self._demand(closing)
        self._open_logarithm = False
        return written

    def _list(self) -> str:
        closing = {"(": ")", "\\{": "\\}", "{": "}"}.get(self._take("(", "\\{", "{") or "")
        if not closing:
            raise _AmbiguousError
        written = self._sum()
        while self._take(","):
            written += "," + self._sum()
        self._demand(closing)
        self._open_logarithm = False
        return written

    def _argument(self) -> str:
        """Of a command: a group, or one digit as TeX reads it."""
        if self._take("{"):
            return self._until("}")
        if digit := self._take(*_DIGITS):
            return digit
        raise _AmbiguousError

    def _number(self) -> str:
        self._next()
        number = _NUMBER.match(self.formula, self.at)
        if not number:
            raise _AmbiguousError
        self.at = number.end()
        return number[0]
