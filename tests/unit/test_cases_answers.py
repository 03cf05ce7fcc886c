"""Answers as models and people write them: each line of tests/cases/answers.jsonl is a test.

A line has `call` (one of CALLS), `input`, `expected`, `kind` (the class of inputs that it stands
for) and `met` (where it was met). Adding a case is adding a line.
"""

import importlib.util
import json
from collections.abc import Callable
from typing import Any

import pytest

from helpers.paths import TESTS
from mathllm.answers.equivalent import equivalent
from mathllm.answers.extract import extract_answer

SECONDS = 20.0  # a busy machine's share for one comparison, far above what it takes
CALLS: dict[str, Callable[[Any], Any]] = {
    "extract_answer": extract_answer,
    "equivalent": lambda pair: equivalent(*pair, SECONDS),
}
KEYS = {"call", "input", "expected", "kind", "met"}
LINES = (TESTS / "cases" / "answers.jsonl").read_text(encoding="utf-8").splitlines()
CASES = [json.loads(line) for line in LINES]


@pytest.mark.parametrize("case", CASES, ids=range(1, len(CASES) + 1))
def test_the_input_gives_what_is_expected(case):
    assert set(case) == KEYS
    if case["call"] == "equivalent" and importlib.util.find_spec("math_verify") is None:
        pytest.skip("math-verify is not installed")
    assert CALLS[case["call"]](case["input"]) == case["expected"], case["kind"]
