"""The rehearsal's own problems, worked again here without the package's solver."""

import csv
import re
from itertools import combinations
from math import gcd

import pytest

from helpers.paths import ROOT
from mathllm.data.arithmetic import split_of

ASSETS = ROOT / "assets"
with (ASSETS / "problems.csv").open(newline="", encoding="utf-8") as file:
    ROWS = list(csv.DictReader(file))


def calm_subsets(top: int, gap: int) -> int:
    """Subsets of {1, …, top} with no two elements `gap` apart, counted one by one."""
    return sum(mask & (mask >> gap) == 0 for mask in range(2**top))


def quotient(a: int, b: int) -> int:
    whole, rest = divmod(a, b)
    assert rest == 0
    return whole


def dividing_pairs(top: int) -> int:
    pairs = combinations(range(1, top + 1), 2)
    return sum(a * b % (a + b) == 0 for a, b in pairs)


# id: the numbers in the statement, in order, and what is asked of them
WORKED = {
    "3f0a1c": ([9, 19], lambda a, b: a + b),
    "b27d84": ([67, 44], lambda a, b: a - b),
    "5ce913": ([12, 13], lambda a, b: a * b),
    "e8460b": ([117, 9], quotient),
    "07bd52": ([7, 37, 142], lambda a, b, c: quotient(c - b, a)),
    "c1f3a6": ([77, 16], lambda a, m: a % m),
    "9a58e0": ([54, 72], gcd),
    "46d2fb": ([4, 15, 3], lambda a, b, c: a * b - c),
    "f70e29": ([7, 5, 19], pow),
    "1d94c7": ([88, 323], lambda a, b: a * b),
    "82ab3e": ([1, 2, 16, 3], lambda _one, _two, top, gap: calm_subsets(top, gap)),
    "d5607a": ([1, 300], lambda _one, top: dividing_pairs(top)),
}
# The generator's families draw these operands for its test split alone.
HELD_OUT = {
    "3f0a1c": ("add", (9, 19)),
    "b27d84": ("subtract", (67, 44)),
    "5ce913": ("multiply", (12, 13)),
    "e8460b": ("divide", (117, 9)),
    "07bd52": ("linear", ("ax+b", 7, 37, 142)),
    "c1f3a6": ("remainder", (77, 16)),
    "9a58e0": ("gcd", (54, 72)),
    "46d2fb": ("word", ("boxes_less", 4, 15, 3)),
    "f70e29": ("power_mod", (7, 5, 19)),
    "1d94c7": ("multiply", (88, 323)),
}


def test_the_file_has_twelve_problems_in_the_competitions_format():
    assert list(ROWS[0]) == ["id", "problem", "answer"]
    assert [row["id"] for row in ROWS] == list(WORKED)
    assert all(re.fullmatch("[0-9a-f]{6}", row["id"]) for row in ROWS)
    assert len({row["problem"] for row in ROWS}) == 12


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_the_answer_is_what_the_statement_asks_for(row):
    numbers, work = WORKED[row["id"]]
    assert [int(n) for n in re.findall(r"\d+", row["problem"])] == numbers
    assert int(row["answer"]) == work(*numbers)
    assert 0 <= int(row["answer"]) <= 99999


@pytest.mark.parametrize(("name", "problem"), HELD_OUT.items())
def test_no_generated_training_problem_has_these_operands(name, problem):
    assert name in WORKED
    assert split_of(*problem) == "test"
