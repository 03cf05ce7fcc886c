"""Generated problems: right by an independent solver, disjoint splits, nothing reserved."""

import math
import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.paths import ROOT, shared_file
from mathllm.data.arithmetic import DIFFICULTIES, FAMILIES, generate, split_of
from mathllm.data.decontaminate import Reserved, fingerprints
from mathllm.data.problems import read_problems
from mathllm.errors import ParameterError


def numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def solve_linear(statement: str) -> int:
    """Tries every x: no algebra shared with the generator."""
    equation = re.search(r"\$([^$]*=[^$]*)\$", statement).group(1).replace(" ", "")
    left, right = re.sub(r"(\d)x", r"\1*x", equation).split("=")
    (x,) = (x for x in range(1000) if eval(left, {}, {"x": x}) == int(right))
    return x


def solve_word(statement: str) -> int:
    a, b, c = numbers(statement)
    if "boxes with" in statement:
        return a * b - c
    if "bags of" in statement:
        return a * b + c
    return (a + b) * c if "times as many" in statement else a + b - c


INDEPENDENT = {
    "add": lambda s: sum(numbers(s)),
    "subtract": lambda s: numbers(s)[0] - numbers(s)[1],
    "multiply": lambda s: math.prod(numbers(s)),
    "divide": lambda s: numbers(s)[0] // numbers(s)[1],
    "linear": solve_linear,
    "remainder": lambda s: numbers(s)[0] % numbers(s)[1],
    "gcd": lambda s: math.gcd(*numbers(s)),
    "power_mod": lambda s: pow(*numbers(s)),
    "word": solve_word,
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("level", DIFFICULTIES)
def test_every_answer_is_right_and_boxed(family, level):
    rows = generate("train", 150, seed=level, families=[family], difficulties=[level])
    for row in rows.iter_rows(named=True):
        assert row["answer"] == INDEPENDENT[family](row["problem"]), row["problem"]
        assert re.findall(r"\\boxed\{(\d+)\}", row["solution"]) == [str(row["answer"])]
        assert 0 <= row["answer"] <= 99999
        assert row["problem"].count("$") % 2 == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_written_step_is_true(family):
    rows = generate("train", 300, seed=9, families=[family])
    for solution in rows["solution"]:
        plain = solution.replace("\\times", "*").replace("\\cdot", "*")
        for formula in re.findall(r"\$([^$]*=[^$]*)\$", plain):
            sides = [side for side in formula.split("=") if re.fullmatch(r"[\d+*\-]+", side)]
            values = {eval(side) for side in sides}
            assert len(values) <= 1, formula


def canonical(family: str, statement: str) -> tuple:
    """The problem behind the wording, read from the statement alone."""
    if family in ("add", "multiply", "gcd"):
        return tuple(sorted(numbers(statement)))
    if family == "linear":
        return (re.search(r"\$([^$]*=[^$]*)\$", statement).group(1).replace(" ", ""),)
    kind = [word for word in ("boxes", "bags", "loses", "times as many") if word in statement]
    return (*kind, *numbers(statement))


@pytest.mark.parametrize("family", FAMILIES)
def test_train_and_test_share_no_problem(family):
    train, test = (
        {canonical(family, p) for p in generate(split, 1_500, seed=1, families=[family])["problem"]}
        for split in ("train", "test")
    )
    assert len(test) > 15
    assert train.isdisjoint(test)


@given(st.sampled_from(list(FAMILIES)), st.tuples(st.integers(0, 99), st.integers(0, 99)))
def test_the_split_depends_on_family_and_operands_alone(family, operands):
    assert split_of(family, operands) == split_of(family, operands)
    assert split_of(family, operands) in ("train", "test")


def test_the_test_share_is_about_a_tenth():
    shares = [split_of("add", (a, b)) == "test" for a in range(100) for b in range(100)]
    assert 0.08 < sum(shares) / len(shares) < 0.12


def test_the_same_seed_gives_the_same_rows():
    assert generate("train", 50, seed=3).equals(generate("train", 50, seed=3))
    assert not generate("train", 50, seed=3).equals(generate("train", 50, seed=4))


def test_difficulty_one_stays_with_small_operands():
    rows = generate("train", 300, seed=0, families=["add", "multiply"], difficulties=[1])
    assert max(n for p in rows["problem"] for n in numbers(p)) <= 12


@pytest.mark.parametrize(
    ("wrong", "named"), [({"families": ["adding"]}, "adding"), ({"difficulties": [4]}, "4")]
)
def test_an_unknown_family_or_difficulty_is_named(wrong, named):
    with pytest.raises(ParameterError, match=named):
        generate("train", 1, seed=0, **wrong)


# Reserved statements


@pytest.mark.parametrize(
    "wording", ["What is $1-1$?", "what is $1 - 1$", "Compute $1-1$.", "Find the value of $1-1$."]
)
def test_a_reserved_problem_is_known_in_other_words(wording):
    assert Reserved(frozenset()).add(["What is $1-1$?"]).holds(wording)


@pytest.mark.parametrize("other", ["What is $1-2$?", "What is $11-1$?", "What is $1+1$?"])
def test_another_problem_is_not_reserved(other):
    assert not Reserved(frozenset()).add(["What is $1-1$?"]).holds(other)


@given(st.text(max_size=200))
def test_every_statement_reserves_itself(statement):
    assert Reserved(frozenset()).add([statement]).holds(statement)
    assert all(len(x) == 64 for x in fingerprints(statement))


def test_no_training_row_is_a_reserved_one():
    reserved = Reserved.read(ROOT / "assets" / "reserved.txt").add(
        read_problems(ROOT / "assets" / "problems.csv")["problem"]
    )
    free = generate("train", 20_000, seed=2, difficulties=[1])
    kept = generate("train", 20_000, seed=2, difficulties=[1], reserved=reserved)
    assert any(map(reserved.holds, free["problem"]))  # they would be drawn, were they not kept out
    assert not any(map(reserved.holds, kept["problem"]))


def test_a_planted_reserved_row_is_refused():
    reserved = Reserved(frozenset()).add(["What is $1-1$?"])
    reserved.check(["What is $2-1$?"])
    with pytest.raises(ParameterError, match=r"row 1.*Compute \$1 - 1\$"):
        reserved.check(["What is $2-1$?", "Compute $1 - 1$."])


@pytest.mark.data
def test_the_competitions_public_problems_are_reserved():
    reserved = Reserved.read(ROOT / "assets" / "reserved.txt")
    for name in ("test.csv", "reference.csv"):
        problems = pl.read_csv(shared_file("aimo3", name))["problem"]
        assert all(map(reserved.holds, problems))
