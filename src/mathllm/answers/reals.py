"""Real numbers in closed form, compared exactly: rationals, roots, π, e, logarithms.

A number is a Fraction as long as it can be one, and an expression (`Node`) otherwise. Whether
an expression is zero is decided, never guessed by decimals:

- intervals of growing precision separate it from zero, or
- it is algebraic, and closer to zero than its separation bound allows a number to be that is
  not zero (Burnikel, Funke, Mehlhorn, Schirra, Schmitt, "A separation bound for real algebraic
  expressions", 2001), or
- nothing is said (None).

Everything is bounded: a number that would need more than MAX_BITS or MAX_PRECISION is refused.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_BITS = 4096  # of any rational on the way, so that 9^{9^9} costs nothing
MAX_PRECISION = 8192  # bits of an interval
MAX_NESTING = 200  # of an expression, below Python's recursion limit
MAX_EXPONENT = 12  # bits of what stands in an exponential
MAX_ROOT = 64  # the index of a root, and the denominator of an exponent

Interval = tuple  # mpmath's: a pair of raw numbers (low, high)


class NoValueError(Exception):
    """The formula has no real value that can be given within the limits."""


@dataclass(frozen=True, eq=False)
class Node:
    """`kind` is + * / root pi e log exp; a root has its index in `index`, log is natural.

    Made by `_node` only: two of the same form are one object. `depth` counts the longest way
    down, `roots` are the roots in it. `sizes` are log2 of u and l of the paper (it is a quotient
    of two algebraic integers whose conjugates are at most u and l), None unless it is algebraic.
    """

    kind: str
    parts: tuple["Real", ...] = ()
    index: int = 0
    depth: int = 0
    roots: frozenset["Node"] = frozenset()
    sizes: tuple[float, float] | None = None


Real = Fraction | Node


@lru_cache(maxsize=10_000)
def _node(kind: str, parts: tuple[Real, ...] = (), index: int = 0) -> Node:
    inner = [part for part in parts if isinstance(part, Node)]
    depth = 1 + max((part.depth for part in inner), default=0)
    if depth > MAX_NESTING:
        raise NoValueError
    roots = frozenset().union(*(part.roots for part in inner))
    node = Node(kind, parts, index, depth, roots, _sizes(kind, [_size(p) for p in parts], index))
    if kind == "root":
        object.__setattr__(node, "roots", roots | {node})
    return node


def _size(value: Real) -> tuple[float, float] | None:
    if isinstance(value, Node):
        return value.sizes
    above = math.log2(abs(value.numerator)) if value else 0.0
    return above, math.log2(value.denominator)


def _sizes(
    kind: str, parts: list[tuple[float, float] | None], k: int
) -> tuple[float, float] | None:
    if kind not in ("+", "*", "/", "root") or None in parts:
        return None
    u, l = parts[0]  # noqa: E741
    if kind == "root":
        return ((u + (k - 1) * l) / k, l) if u >= l else (u, ((k - 1) * u + l) / k)
    v, m = parts[1]
    if kind == "+":
        return max(u + m, l + v) + 1, l + m
    return (u + v, l + m) if kind == "*" else (u + m, l + v)


PI, E = _node("pi"), _node("e")


def bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise NoValueError
    return value


def add(a: Real, b: Real) -> Real:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return bounded(a + b)
    if 0 in (a, b):
        return b if a == 0 else a
    return _node("+", (a, b))


def multiply(a: Real, b: Real) -> Real:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return bounded(a * b)
    if 0 in (a, b) or 1 in (a, b):
        return (b if a == 1 else a) if 1 in (a, b) else Fraction(0)
    return _node("*", (a, b))


def subtract(a: Real, b: Real) -> Real:
    return add(a, multiply(Fraction(-1), b))


def divide(a: Real, b: Real) -> Real:
    if is_zero(b) is not False:
        raise NoValueError
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return bounded(a / b)
    return _node("/", (a, b))


def power(base: Real, exponent: Real) -> Real:
    """base ** exponent, refused before it is computed where it would be huge."""
    exponent = rational(exponent)
    if exponent is None:
        raise NoValueError
    if exponent.denominator != 1:
        if exponent.denominator > MAX_ROOT or sign(base) < 0:
            raise NoValueError
        return power(root(base, exponent.denominator), Fraction(exponent.numerator))
    if isinstance(base, Node):
        return _node_power(base, exponent.numerator)
    if not base and exponent <= 0:
        raise NoValueError
    if abs(base) == 1:
        return Fraction(1) if exponent.numerator % 2 == 0 else base
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if base and bits * abs(exponent) > MAX_BITS:
        raise NoValueError
    return base**exponent.numerator


def _node_power(base: Node, exponent: int) -> Real:
    if base == E:
        return exponential(Fraction(exponent))
    if abs(exponent) > MAX_ROOT:
        raise NoValueError
    result: Real = Fraction(1)
    for digit in f"{abs(exponent):b}":
        result = multiply(result, result)
        result = multiply(result, base) if digit == "1" else result
    return divide(Fraction(1), result) if exponent < 0 else result


def root(value: Real, index: int = 2) -> Real:
    """The real root; of a negative number only where the index is odd."""
    if not 2 <= index <= MAX_ROOT:
        raise NoValueError
    below = sign(value)
    if below == 0:
        return Fraction(0)
    if below < 0:
        if index % 2 == 0:
            raise NoValueError
        return multiply(Fraction(-1), root(multiply(Fraction(-1), value), index))
    if isinstance(value, Fraction):
        above, under = (_integer_root(n, index) for n in (value.numerator, value.denominator))
        if above is not None and under is not None:
            return Fraction(above, under)
    return _node("root", (value,), index)


def _integer_root(n: int, index: int) -> int | None:
    """The exact root of n ≥ 0, None where it is no integer."""
    if index == 2:
        found = math.isqrt(n)
    else:
        low, high = 0, 1 << (n.bit_length() // index + 1)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if middle**index <= n else (low, middle - 1)
        found = low
    return found if found**index == n else None


def exponential(value: Real) -> Real:
    if is_zero(value):
        return Fraction(1)
    return _node("exp", (value,))


def logarithm(value: Real, base: Real | None = None) -> Real:
    """To a base, or the natural one; rational wherever it is."""
    if sign(value) <= 0 or (base is not None and sign(base) <= 0):
        raise NoValueError
    above = _natural(value)
    if base is None:
        return above
    below = _natural(base)
    if is_zero(below) is not False:
        raise NoValueError
    a, b = rational(value), rational(base)
    if a is not None and b is not None and (found := _rational_logarithm(a, b)) is not None:
        return found
    return divide(above, below)


def _natural(value: Real) -> Real:
    if value == E:
        return Fraction(1)
    if isinstance(value, Node) and value.kind == "exp":
        return value.parts[0]
    return Fraction(0) if value == 1 else _node("log", (value,))


def _rational_logarithm(a: Fraction, b: Fraction) -> Fraction | None:
    """p/q with b^p = a^q, for q up to MAX_ROOT."""
    if a == 1:
        return Fraction(0)
    logs = [math.log(x.numerator) - math.log(x.denominator) for x in (a, b)]
    if not logs[1]:
        return None
    near = Fraction(logs[0] / logs[1]).limit_denominator(MAX_ROOT)
    try:
        same = power(a, Fraction(near.denominator)) == power(b, Fraction(near.numerator))
    except NoValueError:
        return None
    return near if same else None


def factorial(value: Real) -> Real:
    n = _integer(value)
    if not 0 <= n <= 500:  # 500! has 3767 bits
        raise NoValueError
    return Fraction(math.factorial(n))


def binomial(above: Real, below: Real) -> Real:
    n, k = _integer(above), _integer(below)
    if not (n >= 0 <= k) or min(k, abs(n - k)) * n.bit_length() > 4 * MAX_BITS:
        raise NoValueError
    return bounded(Fraction(math.comb(n, k)))


def floor(value: Real) -> Real:
    """Refused where it cannot be told on which side of an integer the number lies."""
    if isinstance(value, Fraction):
        return Fraction(math.floor(value))
    near = _nearest_integer(value)
    return Fraction(near if sign(subtract(value, Fraction(near))) >= 0 else near - 1)


def ceiling(value: Real) -> Real:
    return multiply(Fraction(-1), floor(multiply(Fraction(-1), value)))


def absolute(value: Real) -> Real:
    return multiply(Fraction(-1), value) if sign(value) < 0 else value


def gcd(*values: Real) -> Real:
    return Fraction(math.gcd(*map(_integer, values)))


def lcm(*values: Real) -> Real:
    return bounded(Fraction(math.lcm(*map(_integer, values))))


def maximum(*values: Real) -> Real:
    best = values[0]
    for value in values[1:]:
        best = value if sign(subtract(value, best)) > 0 else best
    return best


def minimum(*values: Real) -> Real:
    return multiply(Fraction(-1), maximum(*(multiply(Fraction(-1), v) for v in values)))


def sign(value: Real) -> int:
    """-1, 0 or 1. Raises NoValueError where that is not found out."""
    if isinstance(value, Fraction):
        return (value > 0) - (value < 0)
    verdict = _separated(value)
    if verdict is None:
        raise NoValueError
    return verdict


def is_zero(value: Real) -> bool | None:
    """None where that is not found out within the limits."""
    if isinstance(value, Fraction):
        return value == 0
    verdict = _separated(value)
    return None if verdict is None else verdict == 0


def same(a: Real, b: Real) -> bool | None:
    """Whether two numbers are equal; None where that is not found out."""
    if a == b:
        return True
    try:
        return is_zero(subtract(a, b))
    except NoValueError:
        return None


def rational(value: Real) -> Fraction | None:
    """The rational number that it is, as far as its denominator is small; else None."""
    if isinstance(value, Fraction):
        return value
    for denominator in (1, 2, 3, 4, 5, 6, 8, 10, 12):
        try:
            near = Fraction(_nearest_integer(multiply(Fraction(denominator), value)), denominator)
        except NoValueError:
            return None
        if same(value, near):
            return near
    return None


def rounds_to(value: Real, decimal: Fraction, places: int) -> bool:
    """Whether a decimal with so many places is the value, rounded."""
    half = Fraction(1, 2 * 10**places)
    try:
        return sign(subtract(absolute(subtract(value, decimal)), half)) <= 0
    except NoValueError:
        return False


def _integer(value: Real) -> int:
    found = rational(value)
    if found is None or found.denominator != 1:
        raise NoValueError
    return found.numerator


def _nearest_integer(value: Node) -> int:
    from mpmath import libmp

    for precision in _precisions():
        low, high = _interval(value, precision)
        if low in (libmp.fninf, libmp.fnan) or high in (libmp.finf, libmp.fnan):
            continue
        if libmp.mpf_lt(libmp.mpf_sub(high, low, 53), libmp.from_rational(1, 8, 53)):
            middle = libmp.mpf_shift(libmp.mpf_add(low, high, precision), -1)
            if _magnitude(middle) > MAX_BITS:
                break
            return int(libmp.to_int(middle, "n"))
    raise NoValueError


def _precisions() -> list[int]:
    return [1 << n for n in range(7, MAX_PRECISION.bit_length())]


def _separated(value: Node) -> int | None:
    """The sign, by intervals down to the separation bound; None where they do not tell."""
    from mpmath import libmp

    bound = _bound(value)
    for precision in _precisions():
        low, high = _interval(value, precision)
        if libmp.mpf_gt(low, libmp.fzero):
            return 1
        if libmp.mpf_lt(high, libmp.fzero):
            return -1
        if bound is not None and libmp.fnan not in (low, high):
            limit = libmp.mpf_shift(libmp.fone, -bound)
            if libmp.mpf_gt(low, libmp.mpf_neg(limit)) and libmp.mpf_lt(high, limit):
                return 0
    return None


def _bound(value: Node) -> int | None:
    """Bits b such that the number is zero or at least 2^-b; None where none is known."""
    if value.sizes is None:
        return None
    upper, lower = value.sizes
    degree = math.prod(node.index for node in value.roots)
    bits = upper * (degree - 1) + lower + 1
    return math.ceil(bits) if bits < MAX_PRECISION else None


def _interval(value: Real, precision: int) -> Interval:
    """An interval that holds the number."""
    known: dict[Real, Interval] = {}  # a part may come many times

    def of(number: Real) -> Interval:
        if number not in known:
            known[number] = _evaluated(number, precision, of)
        return known[number]

    return of(value)


def _evaluated(number: Real, precision: int, of: Callable[[Real], Interval]) -> Interval:
    # Here and not above: only answers beyond fractions need it.
    from mpmath import libmp

    if isinstance(number, Fraction):
        above, below = number.numerator, number.denominator
        return (
            libmp.from_rational(above, below, precision, "f"),
            libmp.from_rational(above, below, precision, "c"),
        )
    parts = [of(part) for part in number.parts]
    match number.kind:
        case "pi":
            return libmp.mpf_pi(precision, "f"), libmp.mpf_pi(precision, "c")
        case "e":
            return libmp.mpi_exp((libmp.fone, libmp.fone), precision)
        case "+":
            return libmp.mpi_add(*parts, precision)
        case "*":
            return libmp.mpi_mul(*parts, precision)
        case "/":
            return libmp.mpi_div(*parts, precision)
        case "exp":
            if max(map(_magnitude, parts[0])) > MAX_EXPONENT:
                raise NoValueError
            return libmp.mpi_exp(parts[0], precision)
        case "log":
            return libmp.mpi_log(_positive(parts[0]), precision)
        case _:
            low, high = _positive(parts[0])
            return (
                libmp.mpf_nthroot(low, number.index, precision, "f"),
                libmp.mpf_nthroot(high, number.index, precision, "c"),
            )


def _magnitude(number: tuple) -> int:
    """Bits in front of the point of one of mpmath's raw numbers."""
    _, mantissa, exponent, bits = number
    return exponent + bits if mantissa else 0


def _positive(interval: Interval) -> Interval:
    """Of a number that is known to be positive."""
    from mpmath import libmp

    low, high = interval
    return (low if libmp.mpf_gt(low, libmp.fzero) else libmp.fzero), high
