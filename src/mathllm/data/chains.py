"""Problems that need depth: the answer is reached in k steps, each from the last one's value.

Every value on the way is one digit, and a row tells them all, so that a recursion can be taught
one in each pass. A problem belongs to the train, the development or the test split by a hash of its
structure (which function, which definitions), never of its start, its number of hops or its
wording: no structure is in two of them.
"""

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import polars as pl

from mathllm.data import arithmetic
from mathllm.data.decontaminate import Reserved
from mathllm.errors import ParameterError
from mathllm.wording import shown

Split = Literal["train", "development", "test"]
SHARES = {"test": 0.1, "development": 0.1}  # of the structures; training has the rest
SPLITS = ("train", *SHARES)
LONGEST = 8  # hops
HOPS = (1, 2, 3, 4, 5, 6)  # asked for, by default
COUNTS = ("digits", "strokes")  # how a number of hops is written
SCHEMA = arithmetic.SCHEMA | {"hops": pl.Int64, "steps": pl.List(pl.String)}


@dataclass(frozen=True)
class Chain:
    """One problem. `values` are the digits after 1 to LONGEST hops, `written` the hops in full.

    `structure` is the same for problems that differ in start, hops and wording alone.
    """

    statement: str
    values: list[int]
    written: list[str]
    structure: tuple[Any, ...]


def split_of(family: str, structure: tuple[Any, ...]) -> Split:
    """The split that a problem belongs to, from its family and structure alone."""
    digest = hashlib.sha256(f"{family}:{structure}".encode()).digest()
    place = int.from_bytes(digest[:4], "big") / 2**32
    if place < SHARES["test"]:
        return "test"
    return "development" if place < sum(SHARES.values()) else "train"


def generate(
    split: Split,
    count: int,
    seed: int,
    families: Iterable[str] = (),
    hops: Iterable[int] = HOPS,
    counts: str = "digits",
    worked: bool = False,
    reserved: Reserved | None = None,
) -> pl.DataFrame:
    """`count` problems, families (all, if none is named) and numbers of hops drawn evenly.

    Columns: those of any problems, `level` the number of hops and `subject` the family; hops again,
    and `steps`, what the solution would be after 1 to LONGEST hops. The solution is the answer
    alone, or `worked`, hop by hop: it then has no steps and 0 hops. Rows that `reserved` holds are
    never drawn. Raises ParameterError.
    """
    names, lengths = list(families) or list(FAMILIES), list(hops)
    if split not in SPLITS:
        raise ParameterError(f"split is {shown(split)}: it must be {', '.join(SPLITS)}")
    if unknown := sorted(set(names) - set(FAMILIES)):
        raise ParameterError(
            f"families: {shown(unknown[0])} is unknown; known: {', '.join(FAMILIES)}"
        )
    if not lengths or any(type(k) is not int or not 1 <= k <= LONGEST for k in lengths):
        raise ParameterError(f"hops are {shown(lengths)}: give integers of 1 to {LONGEST}")
    if counts not in COUNTS:
        raise ParameterError(f"counts is {shown(counts)}: it must be {' or '.join(COUNTS)}")
    if count < 1:
        raise ParameterError(f"{count} problems asked for: ask for at least 1")
    rng = random.Random(f"chains:{split}:{seed}")
    rows: list[tuple[Any, ...]] = []
    while len(rows) < count:
        family, k = rng.choice(names), rng.choice(lengths)
        times = f"${k}$ {'time' if k == 1 else 'times'}"
        chain = FAMILIES[family](rng, k, times if counts == "digits" else f"${'|' * k}$ times")
        if split_of(family, chain.structure) != split:
            continue
        if reserved is not None and reserved.holds(chain.statement):
            continue
        answer = chain.values[k - 1]
        steps = [f"The answer is $\\boxed{{{value}}}$." for value in chain.values]
        solution = " ".join([*chain.written[:k], steps[k - 1]]) if worked else steps[k - 1]
        ident = f"{family}-{split}-{seed}-{len(rows)}"
        told = (ident, "chains", chain.statement, solution, answer, k, family)
        rows.append((*told, 0, []) if worked else (*told, k, steps))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _mapping(
    rng: random.Random, follow: dict[int, int], start: int, times: str, name: str
) -> Chain:
    """A function that is told by its pairs, in an order that says nothing."""
    pairs = list(follow.items())
    rng.shuffle(pairs)
    table = ",".join(f"{a}\\to{b}" for a, b in pairs)
    told = rng.choice(["The {} $f$ is ${}$.", "Let $f$ be the {} ${}$.", "A {} $f$: ${}$."])
    asked = rng.choice(
        [
            f"Apply $f$ {times}, beginning with ${start}$.",
            f"What comes of $f$, applied {times} to ${start}$?",
        ]
    )
    walked = [start]
    for _ in range(LONGEST):
        walked.append(follow[walked[-1]])
    return Chain(
        f"{told.format(name, table)} {asked}",
        walked[1:],
        [f"$f({a})={b}$." for a, b in pairwise(walked)],
        structure_of(follow),
    )


def cycle(rng: random.Random) -> list[int]:
    """LONGEST + 1 digits, each followed by the next, the last by the first: a permutation of one
    cycle, where LONGEST hops meet neither the start nor any value twice."""
    return rng.sample(range(10), LONGEST + 1)


def structure_of(follow: dict[int, int]) -> tuple[tuple[int, int], ...]:
    """A function's structure, for `split_of`."""
    return tuple(sorted(follow.items()))


def _permutation(rng: random.Random, k: int, times: str) -> Chain:  # noqa: ARG001
    digits = cycle(rng)
    follow = dict(zip(digits, digits[1:] + digits[:1], strict=True))
    return _mapping(rng, follow, digits[0], times, "permutation")


def _function(rng: random.Random, k: int, times: str) -> Chain:  # noqa: ARG001
    """Any function of the ten digits on which a walk of LONGEST hops meets no digit twice."""
    digits = rng.sample(range(10), 10)
    follow = dict(pairwise(digits[: LONGEST + 1]))
    follow |= {digit: rng.randrange(10) for digit in digits[LONGEST:]}
    return _mapping(rng, follow, digits[0], times, "function")


_NAMES = ("Ann", "Bo", "Cy", "Dan", "Eve", "Flo", "Gus", "Hal", "Ida", "Jo", "Kim", "Lou")


def _keys(rng: random.Random, k: int, times: str) -> Chain:  # noqa: ARG001
    """A ring of people, each with the next one's key; the digit is the number of a door."""
    people = rng.sample(_NAMES, LONGEST + 1)
    doors = rng.sample(range(10), LONGEST + 1)
    owners = people[1:] + people[:1]
    forms = ("{}, at door ${}$, holds {}'s key.", "{} (door ${}$) has {}'s key.")
    told = [
        rng.choice(forms).format(person, door, owner)
        for person, door, owner in zip(people, doors, owners, strict=True)
    ]
    rng.shuffle(told)
    asked = f"Begin with {people[0]} and go {times} from a key to its owner. Which door is that?"
    values = doors[1:]
    return Chain(
        f"{' '.join(told)} {asked}",
        values,
        [
            f"{a} has {b}'s key, door ${v}$."
            for a, b, v in zip(people, owners, values, strict=False)
        ],
        tuple(sorted(zip(people, owners, doors, strict=True))),
    )


def _definitions(rng: random.Random, k: int, times: str) -> Chain:  # noqa: ARG001
    """Variables defined by each other, modulo m, in shuffled order; the k-th is asked."""
    modulus = rng.choice([7, 10])
    names = rng.sample("abcdefghjkmnpqrstuvwxyz", LONGEST + 1)
    start = rng.randrange(modulus)
    value, values, told, written, structure = start, [], [f"{names[0]}={start}"], [], [modulus]
    for before, name in pairwise(names):
        sign, number = rng.choice("+-"), rng.randint(1, modulus - 1)
        following = (value + number if sign == "+" else value - number) % modulus
        told.append(f"{name}={before}{sign}{number}")
        written.append(f"${name}={value}{sign}{number}={following}$.")
        structure.append((sign, number))
        values.append(value := following)
    rng.shuffle(told)
    statement = f"Modulo ${modulus}$, ${','.join(told)}$. What is ${names[k]}$?"
    return Chain(statement, values, written, tuple(structure))


_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: (a + b) % 10,
    "-": lambda a, b: (a - b) % 10,
    "\\times": lambda a, b: a * b % 10,
}
_CONNECTIVES: dict[str, Callable[[int, int], int]] = {
    "\\land": lambda a, b: a & b,
    "\\lor": lambda a, b: a | b,
    "\\oplus": lambda a, b: a ^ b,
}


def _prefix(
    rng: random.Random, k: int, signs: dict[str, Callable[[int, int], int]], size: int, told: str
) -> Chain:
    """A tree of k operations in prefix form, each on a digit and what is inside; the value stays
    once the outermost is done."""
    value = rng.randrange(size)
    text, values, written, structure = str(value), [], [], [value]
    for depth in range(k):
        sign, digit = rng.choice(list(signs)), rng.randrange(size)
        first = depth == 0 or rng.random() < 0.5  # the innermost is one text in one structure
        text = f"{sign}({digit},{text})" if first else f"{sign}({text},{digit})"
        pair = (digit, value) if first else (value, digit)
        value = signs[sign](*pair)
        values.append(value)
        written.append(f"${sign}({pair[0]},{pair[1]})={value}$.")
        structure.append((sign, digit, first))
    values += [value] * (LONGEST - k)
    return Chain(f"{told} ${text}$.", values, written, tuple(structure))


def _arithmetic_tree(rng: random.Random, k: int, times: str) -> Chain:  # noqa: ARG001
    return _prefix(rng, k, _OPERATIONS, 10, "Compute, modulo $10$,")


def _boolean_tree(rng: random.Random, k: int, times: str) -> Chain:  # noqa: ARG001
    return _prefix(rng, k, _CONNECTIVES, 2, "With $1$ for true and $0$ for false, evaluate")


FAMILIES: dict[str, Callable[[random.Random, int, str], Chain]] = {
    "permutation": _permutation,
    "function": _function,
    "keys": _keys,
    "definitions": _definitions,
    "arithmetic_tree": _arithmetic_tree,
    "boolean_tree": _boolean_tree,
}
