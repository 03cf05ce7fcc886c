"""The results of worked solutions as targets by step."""

import json
import re

import polars as pl
import pytest

from helpers.paths import shared_file
from mathllm.data.worked_steps import answers_alone, results


@pytest.mark.parametrize(
    ("worked", "expected"),
    [
        ("Natalia sold 48/2 = 24 clips in May. 48+24 = 72 in all.", [24, 72]),
        ("She earns 12 * $10 = $120, and 120 + 1,080 = $1,200.", [120, 1200]),
        ("$3x = 12$, so $x = 4$.", [12, 4]),
        ("Half is 5/2=2.5 hours, twice 5*2=10.", [10]),
        ("5 + 3 = 8 + 2 = 10", [10]),  # what goes on is no result yet
        ("It stays 7 = 7, and again x = 7.", [7]),
        ("2^3 = 8 and f(x) = x + 1 and y = -3.", [8, -3]),
        ("no formula at all", []),
        ("x = 3y and t = 4 \\cdot 5", []),
    ],
)
def test_what_formulas_come_to(worked, expected):
    assert results(worked) == expected


ROWS = pl.LazyFrame(
    {
        "id": ["a", "b", "c", "d"],
        "problem": ["p"] * 4,
        "solution": ["1+1=2, 2*3=6.", "1+1=2.", "no sum", "1=1, 2=2, 3=3, 4=4."],
        "answer": ["6", "5", "\\frac12", "4"],
    }
)


def test_rows_keep_their_chain_and_lose_their_words():
    found = answers_alone(ROWS, most=3).collect()
    assert found["id"].to_list() == ["a", "b"]
    assert found["hops"].to_list() == [2, 2]
    assert found["solution"].to_list() == [
        "The answer is $\\boxed{6}$.",
        "The answer is $\\boxed{5}$.",
    ]
    assert found["steps"][1].to_list() == [
        "The answer is $\\boxed{2}$.",
        "The answer is $\\boxed{5}$.",
    ]


def marks(answer: str) -> list[int]:
    """The integer results of GSM8K's calculator marks, a repetition once."""
    found: list[int] = []
    for text in re.findall(r"<<[^<>]*=\s*([^<>=]*)>>", answer):
        value = text.replace(",", "")
        if re.fullmatch(r"-?\d+(\.0+)?", value) and found[-1:] != [int(float(value))]:
            found.append(int(float(value)))
    return found


def within(part: list[int], whole: list[int]) -> bool:
    """Whether one list is another with some left out."""
    rest = iter(whole)
    return all(value in rest for value in part)


@pytest.mark.data
def test_results_are_those_of_gsm8ks_calculator_and_some_that_it_was_not_asked_for():
    """Its marks are removed before anything is read, so they are an independent reading."""
    lines = shared_file("gsm8k", "test.jsonl").read_text().splitlines()
    given = [json.loads(line)["answer"].partition("####") for line in lines]
    found = [results(re.sub(r"<<[^<>]*>>", "", text)) for text, _, _ in given]
    held = [within(marks(text), ours) for (text, _, _), ours in zip(given, found, strict=True)]
    assert sum(held) / len(held) > 0.93
    last = [
        ours[-1:] == [int(stated.replace(",", ""))]
        for (_, _, stated), ours in zip(given, found, strict=True)
    ]
    assert sum(last) / len(last) > 0.97
