"""Generated arithmetic problems: statement in LaTeX, worked steps, boxed answer.

Every answer is in the competition's range. A problem belongs to the train or the test split by
a hash of its family and operands, never of its wording, so that the two splits are disjoint by
construction and a reworded test problem is still a test problem.
"""

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import polars as pl

from mathllm.data.decontaminate import Reserved
from mathllm.errors import ParameterError
from mathllm.settings import CURRENT
from mathllm.wording import shown

Split = Literal["train", "test"]
DIFFICULTIES = (1, 2, 3)
TEST_SHARE = 0.1
SCHEMA = {  # of all that is generated
    "id": pl.String,
    "source": pl.String,
    "problem": pl.String,
    "solution": pl.String,
    "answer": pl.Int64,
    "level": pl.Int64,
    "subject": pl.String,
}


@dataclass(frozen=True)
class Item:
    """One problem. `operands` identify it within its family, whatever the wording."""

    statement: str
    steps: str
    answer: int
    operands: tuple


def split_of(family: str, operands: tuple) -> Split:
    """The split that a problem belongs to, from family and operands alone."""
    digest = hashlib.sha256(f"{family}:{operands}".encode()).digest()
    return "test" if int.from_bytes(digest[:4], "big") < TEST_SHARE * 2**32 else "train"


def generate(
    split: Split,
    count: int,
    seed: int,
    families: Iterable[str] = (),
    difficulties: Iterable[int] = (),
    reserved: Reserved | None = None,
) -> pl.DataFrame:
    """`count` problems, families and difficulties drawn evenly; none named means all.

    Columns: id, source, problem, solution, answer, level, subject; `level` is the
    difficulty (1: operands to 12, 2: to two digits, 3: to three digits) and `subject` the
    family. Rows that `reserved` holds are never drawn.
    """
    names, levels = list(families) or list(FAMILIES), list(difficulties) or list(DIFFICULTIES)
    if unknown := sorted(set(names) - set(FAMILIES)):
        raise ParameterError(
            f"families: {shown(unknown[0])} is unknown; known: {', '.join(FAMILIES)}"
        )
    if unknown := sorted(set(levels) - set(DIFFICULTIES)):
        raise ParameterError(f"unknown difficulty {shown(unknown[0])}; known: 1, 2, 3")
    if count < 1:
        raise ParameterError(f"{count} problems asked for: ask for at least 1")
    rng = random.Random(f"{split}:{seed}")
    low, high = CURRENT.answer_min, CURRENT.answer_max
    rows = []
    while len(rows) < count:
        family, level = rng.choice(names), rng.choice(levels)
        item = FAMILIES[family](rng, level)
        if split_of(family, item.operands) != split or not low <= item.answer <= high:
            continue
        if reserved is not None and reserved.holds(item.statement):
            continue
        solution = f"{item.steps} The answer is $\\boxed{{{item.answer}}}$."
        ident = f"{family}-{split}-{seed}-{len(rows)}"
        rows.append((ident, "arithmetic", item.statement, solution, item.answer, level, family))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _operand(rng: random.Random, level: int, low: int = 0) -> int:
    """An integer of the level's size; few digits are drawn as often as many."""
    top = {1: 12, 2: 99, 3: 999}[level]
    return rng.randint(low, rng.choice([t for t in (12, 99, 999) if t <= top]))


def _quotient_steps(dividend: int, divisor: int) -> tuple[str, int, int]:
    """Long division, one written step for each digit of the quotient."""
    steps, quotient, current = [], 0, 0
    for digit in str(dividend):
        current = 10 * current + int(digit)
        q = current // divisor
        if q or quotient:
            product = divisor * q
            steps.append(f"${divisor}\\times{q}={product}$, ${current}-{product}=")
            current -= product
            steps[-1] += f"{current}$."
        quotient = 10 * quotient + q
    return " ".join(steps) or f"${dividend}<{divisor}$.", quotient, current


def _product_steps(a: int, b: int) -> str:
    """The product by the decimal places of b: 47×36 = 47×30 + 47×6."""
    places = [int(d) * 10**i for i, d in reversed(list(enumerate(reversed(str(b))))) if d != "0"]
    if len(places) < 2 or a < 10:
        return f"${a}\\times{b}={a * b}$."
    parts = [a * p for p in places]
    text = f"${a}\\times{b}=" + "+".join(f"{a}\\times{p}" for p in places)
    while len(parts) > 1:  # one addition a time, as one would on paper
        text += "=" + "+".join(map(str, parts))
        parts = [parts[0] + parts[1], *parts[2:]]
    return f"{text}={parts[0]}$."


def _ask(rng: random.Random, expression: str, *named: str) -> str:
    """An expression in one of the usual wordings, or one of the family's own."""
    spaced = expression
    if rng.random() < 0.3:
        for sign in ("+", "-", "\\times", "\\cdot", "\\div"):
            spaced = spaced.replace(sign, f" {sign} ")
    forms = [f"{verb} ${spaced}$." for verb in ("Compute", "Evaluate", "Calculate", "Find")]
    forms += [f"What is ${spaced}$?"] * 3 + [f"What is the value of ${spaced}$?"]
    forms += [f"Find the value of ${spaced}$.", f"${spaced}=$ ?"]
    return rng.choice(forms + list(named) * 2)


def _add(rng: random.Random, level: int) -> Item:
    a, b = _operand(rng, level), _operand(rng, level)
    named = f"What is the sum of ${a}$ and ${b}$?"
    return Item(_ask(rng, f"{a}+{b}", named), f"${a}+{b}={a + b}$.", a + b, tuple(sorted((a, b))))


def _subtract(rng: random.Random, level: int) -> Item:
    b, a = sorted((_operand(rng, level), _operand(rng, level)))
    named = f"What is the difference of ${a}$ and ${b}$?"
    return Item(_ask(rng, f"{a}-{b}", named), f"${a}-{b}={a - b}$.", a - b, (a, b))


def _multiply(rng: random.Random, level: int) -> Item:
    a, b = _operand(rng, level), _operand(rng, min(level, 2))
    sign = rng.choice(["\\times", "\\times", "\\cdot"])
    named = f"What is the product of ${a}$ and ${b}$?"
    statement = _ask(rng, f"{a}{sign}{b}", named)
    return Item(statement, _product_steps(a, b), a * b, tuple(sorted((a, b))))


def _divide(rng: random.Random, level: int) -> Item:
    top = {1: 12, 2: 99, 3: 999}[level]
    b = rng.randint(1, min(rng.choice([9, top]), 99))
    q = rng.randint(0, top if level == 1 else top // b)
    form = rng.choice([f"{b * q}\\div{b}", f"\\frac{{{b * q}}}{{{b}}}"])
    named = f"What is the quotient when ${b * q}$ is divided by ${b}$?"
    return Item(_ask(rng, form, named), _quotient_steps(b * q, b)[0], q, (b * q, b))


def _linear(rng: random.Random, level: int) -> Item:
    """a x ± b = c, and its one-step forms, with a whole solution."""
    x, b = _operand(rng, level), _operand(rng, level)
    a = rng.randint(2, {1: 9, 2: 12, 3: 30}[level])
    form = rng.choice(["x+b", "b+x", "x-b", "ax", "ax+b", "ax-b", "ax+b"])
    a = a if "a" in form else 1
    if "b" not in form:
        b = 0
    elif form.endswith("-b"):
        b = min(b, a * x)
    right = a * x - b if form.endswith("-b") else a * x + b
    equation = form.replace("a", str(a)).replace("b", str(b)) + f"={right}"
    steps = []
    if "b" in form:
        undo = "+" if form.endswith("-b") else "-"
        steps.append(f"${f'{a}x' if a > 1 else 'x'}={right}{undo}{b}={a * x}$.")
    if a > 1:
        steps += [_quotient_steps(a * x, a)[0], f"$x={x}$."]
    if rng.random() < 0.3:
        equation = equation.replace("+", " + ").replace("-", " - ").replace("=", " = ")
    forms = [
        f"Solve ${equation}$ for $x$.",
        f"Solve for $x$: ${equation}$.",
        f"If ${equation}$, what is $x$?",
        f"Find $x$ such that ${equation}$.",
        f"What value of $x$ satisfies ${equation}$?",
    ]
    return Item(rng.choice(forms), " ".join(steps), x, (form, a, b, right))


def _remainder(rng: random.Random, level: int) -> Item:
    a = _operand(rng, level)
    m = rng.randint(2, {1: 9, 2: 20, 3: 50}[level])
    steps, _, r = _quotient_steps(a, m)
    forms = [
        f"What is the remainder when ${a}$ is divided by ${m}$?",
        f"Find the remainder when ${a}$ is divided by ${m}$.",
        f"Compute ${a} \\bmod {m}$.",
        f"What is the remainder of ${a}$ modulo ${m}$?",
    ]
    return Item(rng.choice(forms), f"{steps} The remainder is ${r}$.", r, (a, m))


def _gcd(rng: random.Random, level: int) -> Item:
    g = rng.randint(1, {1: 6, 2: 12, 3: 30}[level])
    top = {1: 24, 2: 99, 3: 300}[level] // g
    a, b = g * rng.randint(1, top), g * rng.randint(1, top)
    high, low = max(a, b), min(a, b)
    steps = []
    while low:
        q = high // low
        steps.append(f"${low}\\times{q}={low * q}$, ${high}-{low * q}={high - low * q}$.")
        high, low = low, high - low * q
    forms = [
        f"What is the greatest common divisor of ${a}$ and ${b}$?",
        f"Find $\\gcd({a},{b})$.",
        f"Compute $\\gcd({a}, {b})$.",
        f"Find the greatest common divisor of ${a}$ and ${b}$.",
    ]
    return Item(rng.choice(forms), " ".join(steps), high, tuple(sorted((a, b))))


def _power_mod(rng: random.Random, level: int) -> Item:
    """Repeated multiplication, reduced modulo m after each."""
    m = rng.randint(3, {1: 9, 2: 13, 3: 20}[level])
    a = rng.randint(2, {1: 9, 2: 12, 3: 20}[level])
    k = rng.randint(2, {1: 3, 2: 4, 3: 5}[level])
    value = a % m
    steps = [f"${a}^1={value}$." if a < m else f"${a}-{m}\\times{a // m}={value}$."]
    base = value
    for power in range(2, k + 1):
        product = value * base
        q, rest = divmod(product, m)
        steps.append(
            f"${a}^{power}$: ${value}\\times{base}={product}$, "
            f"${m}\\times{q}={m * q}$, ${product}-{m * q}={rest}$."
        )
        value = rest
    forms = [
        f"What is the remainder when ${a}^{{{k}}}$ is divided by ${m}$?",
        f"Compute ${a}^{{{k}}} \\bmod {m}$.",
        f"Find ${a}^{{{k}}}$ modulo ${m}$.",
        f"Find the remainder when ${a}^{{{k}}}$ is divided by ${m}$.",
    ]
    return Item(rng.choice(forms), " ".join(steps), value, (a, k, m))


_NAMES = ("Anna", "Ben", "Clara", "David", "Eva", "Felix", "Grace", "Hugo", "Iris", "Jonas")
_THINGS = ("apples", "books", "coins", "marbles", "pencils", "stamps", "cards", "shells")


def _word(rng: random.Random, level: int) -> Item:
    """Two operations told as a story."""
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    a, b, c = (_operand(rng, min(level, 2), low=2) for _ in range(3))
    kind = rng.choice(["boxes_less", "boxes_more", "gain_loss", "groups"])
    if kind == "boxes_less":
        c = min(c, a * b)
        text = (
            f"{name} has ${a}$ boxes with ${b}$ {thing} in each box and gives away ${c}$ {thing}. "
            f"How many {thing} are left?"
        )
        steps, answer = f"{_product_steps(a, b)} ${a * b}-{c}={a * b - c}$.", a * b - c
    elif kind == "boxes_more":
        text = (
            f"{name} buys ${a}$ bags of ${b}$ {thing} each and finds ${c}$ more. "
            f"How many {thing} does {name} have now?"
        )
        steps, answer = f"{_product_steps(a, b)} ${a * b}+{c}={a * b + c}$.", a * b + c
    elif kind == "gain_loss":
        c = min(c, a + b)
        text = (
            f"{name} has ${a}$ {thing}, gets ${b}$ more and then loses ${c}$. "
            f"How many {thing} does {name} have in the end?"
        )
        steps, answer = f"${a}+{b}={a + b}$. ${a + b}-{c}={a + b - c}$.", a + b - c
    else:
        c = rng.randint(2, 9)
        text = (
            f"{name} has ${a}$ red and ${b}$ blue {thing}. A shop has ${c}$ times as many "
            f"{thing}. How many {thing} does the shop have?"
        )
        steps, answer = f"${a}+{b}={a + b}$. {_product_steps(a + b, c)}", (a + b) * c
    return Item(text, steps, answer, (kind, a, b, c))


FAMILIES: dict[str, Callable[[random.Random, int], Item]] = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "divide": _divide,
    "linear": _linear,
    "remainder": _remainder,
    "gcd": _gcd,
    "power_mod": _power_mod,
    "word": _word,
}
SINGLE_OPERATION = ("add", "subtract", "multiply", "divide")
