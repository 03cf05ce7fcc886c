"""What messages show of values: never more than fits, and never by walking through all of one."""

import time

import pytest

from mathllm.wording import MESSAGE, SHOWN, brief, shown, whole


def bomb(levels: int = 40) -> list:
    """A list that stands for 10 ** levels strings."""
    value: list = ["laugh"] * 10
    for _ in range(levels):
        value = [value] * 10
    return value


def looped() -> dict:
    value: dict = {}
    value["again"] = value
    return value


def nested() -> list:
    value: list = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        bomb(),
        {"a": bomb()},
        looped(),
        nested(),
        "x" * 10_000_000,
        b"x" * 10_000_000,
        10**5000,  # which repr() refuses
        -(10**5000),
        {n: n for n in range(100_000)},
        {frozenset({"a"})},
        ValueError("x" * 100_000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_of_any_size_is_shown_in_a_moment(value):
    began = time.monotonic()
    assert 0 < len(shown(value)) <= SHOWN
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("value", [3, -1.5, True, None, "a b", [1, "x"], {"lr": 3, "width": [2]}])
def test_a_short_value_is_shown_as_python_writes_it(value):
    assert shown(value) == repr(value)


def test_what_a_terminal_would_obey_is_not_shown():
    for said in (
        shown("a\x1b[31m\nb\u202e"),
        brief("a\x1b[31m\nb\u202e"),
        whole("a\x1b[31m\u202e"),
    ):
        assert said.isprintable()
    assert whole("one\ntwo") == "one\ntwo"


def test_a_message_that_is_far_too_long_keeps_its_place_and_its_mend():
    told = whole(f"file.yaml:3: {'x' * 10**6}: mend it there")
    assert len(told) < MESSAGE + 10
    assert told.startswith("file.yaml:3: x")
    assert told.endswith("x: mend it there")
