"""Real numbers in closed form and their arithmetic: rationals, roots, π, e, logarithms.

A number is a Fraction as long as it can be one, and an expression (`Node`) otherwise. All is
exact and bounded: what would need more than MAX_BITS, or cannot be decided, is refused.
"""

import math
from collections.abc import Iterator
from fractions import Fraction

from mathllm.answers.expressions import (
    MAX_BITS,
    Node,
    NoValueError,
    Real,
    make_node,
    nearest_integer,
    sign_of,
)

MAX_ROOT = 64  # the index of a root, and the denominator of an exponent

PI, E = make_node("pi"), make_node("e")


def bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise NoValueError
    return value


def add(a: Real, b: Real) -> Real:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return bounded(a + b)
    if 0 in (a, b):
        return b if a == 0 else a
    return make_node("+", (a, b))


def multiply(a: Real, b: Real) -> Real:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return bounded(a * b)
    if 0 in (a, b) or 1 in (a, b):
        return (b if a == 1 else a) if 1 in (a, b) else Fraction(0)
    return make_node("*", (a, b))


def subtract(a: Real, b: Real) -> Real:
    return add(a, multiply(Fraction(-1), b))


def divide(a: Real, b: Real) -> Real:
    if is_zero(b) is not False:
        raise NoValueError
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return bounded(a / b)
    return make_node("/", (a, b))


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
    return make_node("root", (value,), index)


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
    if isinstance(value, Fraction) and max(abs(value.numerator), value.denominator) <= MAX_ROOT:
        return power(E, value)  # so that e^2 and e·e are one
    return make_node("exp", (value,))


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
    if isinstance(value, Node):
        return make_node("log", (value,))
    total: Real = Fraction(0)
    for part, factor in ((value.numerator, 1), (value.denominator, -1)):
        for prime, exponent in _factors(part):
            log = make_node("log", (Fraction(prime),))
            total = add(total, multiply(Fraction(factor * exponent), log))
    return total


def _factors(n: int) -> Iterator[tuple[int, int]]:
    """n as powers of small primes and of what is left, so that ln 4 and 2 ln 2 are one."""
    for prime in range(2, 1000):
        exponent = 0
        while n % prime == 0:
            n, exponent = n // prime, exponent + 1
        if exponent:
            yield prime, exponent
    if n > 1:
        yield n, 1


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
    near = nearest_integer(value)
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
    verdict = sign_of(value)
    if verdict is None:
        raise NoValueError
    return verdict


def is_zero(value: Real) -> bool | None:
    """None where that is not found out within the limits."""
    if isinstance(value, Fraction):
        return value == 0
    verdict = sign_of(value)
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
            near = Fraction(nearest_integer(multiply(Fraction(denominator), value)), denominator)
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
