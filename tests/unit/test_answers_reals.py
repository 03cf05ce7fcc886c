"""Closed numbers: against mpmath's decimals, and where decimals do not tell."""

from fractions import Fraction
from math import comb, factorial

import mpmath
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mathllm.answers import reals
from mathllm.answers.equivalent import equivalent
from mathllm.answers.extract import extract_answer
from mathllm.answers.reading import rational_value, read

DIGITS = 60
mpmath.mp.dps = DIGITS


def formulas():
    """LaTeX of a real number, and the number to DIGITS digits by other means."""
    numbers = st.integers(1, 30).map(lambda n: (str(n), mpmath.mpf(n)))
    leaves = st.one_of(
        numbers,
        st.just((r"\pi", +mpmath.pi)),
        st.just((r"\mathrm{e}", +mpmath.e)),
        st.integers(0, 9).map(lambda n: (f"{n}!", mpmath.mpf(factorial(n)))),
        st.tuples(st.integers(0, 20), st.integers(0, 20)).map(
            lambda nk: (rf"\binom{{{nk[0]}}}{{{nk[1]}}}", mpmath.mpf(comb(*nk)))
        ),
    )

    def grown(inner):
        two = st.tuples(inner, inner)
        return st.one_of(
            two.map(
                lambda p: (rf"\left({p[0][0]}\right)+\left({p[1][0]}\right)", p[0][1] + p[1][1])
            ),
            two.map(lambda p: (f"({p[0][0]})-({p[1][0]})", p[0][1] - p[1][1])),
            two.map(lambda p: (rf"({p[0][0]}) \cdot ({p[1][0]})", p[0][1] * p[1][1])),
            two.filter(lambda p: abs(p[1][1]) > 1e-9).map(
                lambda p: (rf"\dfrac{{{p[0][0]}}}{{{p[1][0]}}}", p[0][1] / p[1][1])
            ),
            two.map(lambda p: (rf"\max({p[0][0]}, {p[1][0]})", max(p[0][1], p[1][1]))),
            inner.filter(lambda f: f[1] > 1e-9).map(
                lambda f: (rf"\sqrt{{{f[0]}}}", mpmath.sqrt(f[1]))
            ),
            inner.filter(lambda f: f[1] > 1e-9).map(lambda f: (rf"\ln({f[0]})", mpmath.log(f[1]))),
            inner.map(lambda f: (rf"({f[0]})^{{3}}", f[1] ** 3)),
            inner.filter(lambda f: f[1] > 1e-9).map(
                lambda f: (rf"\sqrt[3]{{{f[0]}}}", mpmath.cbrt(f[1]))
            ),
        )

    return st.recursive(leaves, grown, max_leaves=6)


@given(formulas())
def test_the_floor_of_any_formula_is_that_of_its_decimals(formula):
    latex, value = formula
    assume(abs(value) < 10**15)
    assume(abs(value - mpmath.nint(value)) > mpmath.mpf(10) ** -20)
    found = extract_answer(rf"\boxed{{\lfloor {latex} \rfloor}}", -(10**20), 10**20)
    assert found == int(mpmath.floor(value))


@given(
    st.fractions(max_denominator=10**6),
    st.one_of(
        st.fractions(max_denominator=10**6), st.integers(1, 60).map(lambda n: Fraction(10) ** -n)
    ),
)
def test_two_rationals_are_equal_where_they_are_the_same(value, other):
    other = value + other if abs(other) < 1 else other
    one, two = (rf"\frac{{{f.numerator}}}{{{f.denominator}}}" for f in (value, other))
    assert equivalent(one, two) is (value == other)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 200))
def test_nested_roots_are_told_from_anything_near_them(a, b, places):
    denested = rf"\sqrt{{{a}}}+\sqrt{{{b}}}"
    nested = rf"\sqrt{{{a + b}+2\sqrt{{{a * b}}}}}"
    assert equivalent(nested, denested)
    assert not equivalent(nested, rf"{denested}+10^{{-{places}}}")


@given(st.integers(1, 99), st.integers(2, 99), st.integers(1, 12))
def test_conjugates_make_an_integer(a, b, n):
    """(a + √b)^n + (a - √b)^n, by its recurrence."""
    x, y = 2, 2 * a
    for _ in range(n - 1):
        x, y = y, 2 * a * y - (a * a - b) * x
    latex = rf"({a}+\sqrt{{{b}}})^{{{n}}}+({a}-\sqrt{{{b}}})^{{{n}}}"
    assert rational_value(latex) == y


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(1, 6))
def test_a_repeating_decimal_is_its_fraction(whole, cycle, length):
    digits = str(cycle).zfill(length)
    expected = whole + Fraction(int(digits), 10 ** len(digits) - 1)
    assert rational_value(rf"{whole}.\overline{{{digits}}}") == expected


@given(st.integers(1, 400), st.integers(2, 40), st.integers(-8, 8), st.integers(1, 8))
def test_a_logarithm_is_rational_exactly_where_a_power_says_so(a, b, p, q):
    value = reals.logarithm(Fraction(a), Fraction(b))
    rational = value if isinstance(value, Fraction) else None
    if Fraction(b) ** p == Fraction(a) ** q:
        assert rational == Fraction(p, q)
    if rational is not None:
        assert Fraction(b) ** rational.numerator == Fraction(a) ** rational.denominator


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (r"\pi+\pi", r"2\pi"),
        (r"\frac{\pi\mathrm{e}}{\mathrm{e}}", r"\pi"),
        (r"(\pi+1)(\pi-1)", r"\pi^2-1"),
        (r"\sqrt{\pi^2+2\pi+1}", r"\pi+1"),
        (r"\ln 12", r"2\ln 2+\ln 3"),
        (r"\log_2 6", r"1+\log_2 3"),
        (r"\mathrm{e}^{2}\cdot\mathrm{e}", r"\mathrm{e}^{3}"),
        (r"\frac{1}{\sqrt{\pi}}", r"\frac{\sqrt{\pi}}{\pi}"),
    ],
)
def test_identities_in_constants_hold_and_their_neighbours_do_not(a, b):
    one, other = read(a).values[0], read(b).values[0]
    assert reals.same(one, other) is True
    assert reals.same(one, reals.add(other, Fraction(1, 10**300))) is False


def test_what_is_not_found_out_is_said_to_be_so():
    e, one = reals.E, Fraction(1)
    quotient = reals.divide(
        reals.subtract(reals.power(e, Fraction(2)), one), reals.subtract(e, one)
    )
    a, b = reals.logarithm(reals.add(e, one)), reals.logarithm(quotient)
    assert reals.same(a, b) is None
    assert reals.same(a, reals.add(b, Fraction(1, 10**300))) is False
