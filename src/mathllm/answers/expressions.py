"""Expressions for real numbers that are no fractions, and on which side of zero they lie.

That is decided, never guessed by decimals:

- intervals of growing precision separate the number from zero, or
- it is algebraic, and closer to zero than its separation bound allows a number to be that is
  not zero (Burnikel, Funke, Mehlhorn, Schirra, Schmitt, "A separation bound for real algebraic
  expressions", 2001), or
- it stays zero, by that bound, with rationals drawn near them in place of π, e and logarithms:
  an identity in them (Schwartz and Zippel: a false one would not hold at POINTS drawn places), or
- nothing is said (None).
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_BITS = 4096  # of any rational on the way, so that 9^{9^9} costs nothing
MAX_PRECISION = 8192  # bits of an interval
MAX_NESTING = 200  # of an expression, below Python's recursion limit
FORMAL_PRECISION = 512  # bits at which a number that is not separated is taken for an identity
POINTS = 3
DRAWN_BITS = 24  # of the rationals that are drawn
MAX_EXPONENT = 12  # bits of what stands in an exponential

Interval = tuple  # mpmath's: a pair of raw numbers (low, high)


class NoValueError(Exception):
    """The formula has no real value that can be given within the limits."""


@dataclass(frozen=True, eq=False)
class Node:
    """`kind` is + * / root pi e log exp; a root has its index in `index`, log is natural.

    Made by `make_node` only: two of the same form are one object. `depth` counts the longest way
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
def make_node(kind: str, parts: tuple[Real, ...] = (), index: int = 0) -> Node:
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


def nearest_integer(value: Node) -> int:
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


def sign_of(value: Node) -> int | None:
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
        if precision == FORMAL_PRECISION and _is_identity(value):
            return 0
    return None


def _is_identity(value: Node) -> bool:
    """Whether an expression that is not algebraic is zero whatever its constants are."""
    return value.sizes is None and all(
        _zero_at(value, random.Random(point)) for point in range(POINTS)
    )


def _zero_at(value: Node, draw: random.Random) -> bool:
    """Whether it is zero with a rational number near each constant in its place."""
    from mpmath import libmp

    placed: dict[Node, Real] = {}

    def of(part: Real) -> Real:
        if isinstance(part, Fraction) or part.sizes is not None:
            return part
        if part not in placed:
            if part.kind in ("pi", "e", "log", "exp"):
                low, _ = _interval(part, 4 * DRAWN_BITS)
                near = Fraction(*libmp.to_rational(low)).limit_denominator(1 << DRAWN_BITS // 2)
                placed[part] = near + Fraction(draw.getrandbits(DRAWN_BITS), 1 << 2 * DRAWN_BITS)
            else:
                placed[part] = make_node(part.kind, tuple(map(of, part.parts)), part.index)
        return placed[part]

    return sign_of(of(value)) == 0


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
