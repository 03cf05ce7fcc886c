"""Chains: every value by an independent reading of the statement, splits without a shared one."""

import re

import polars as pl
import pytest

from helpers.paths import ROOT
from mathllm.data.chains import FAMILIES, LONGEST, generate
from mathllm.data.chat import load_tokenizer
from mathllm.data.decontaminate import Reserved, fingerprints
from mathllm.data.token_store import open_tokens, prepare
from mathllm.errors import DataError, ParameterError

HOPS = tuple(range(1, LONGEST + 1))


def boxed(text: str) -> int:
    return int(re.search(r"\\boxed\{(\d)\}", text).group(1))


def asked(statement: str) -> int:
    """How often something is done: digits or strokes before "time"."""
    count = re.search(r"\$(\d+|\|+)\$ times?", statement).group(1)
    return int(count) if count.isdigit() else len(count)


def solve_mapping(statement: str) -> list[int]:
    follow = {int(a): int(b) for a, b in re.findall(r"(\d)\\to(\d)", statement)}
    value = int(re.findall(r"\$(\d)\$", statement)[-1])
    if (last := re.search(r"(\d)\$\?$|(\d)\$\.$", statement)) is not None:
        value = int(last.group(1) or last.group(2))
    values = []
    for _ in range(asked(statement)):
        values.append(value := follow[value])
    return values


def solve_keys(statement: str) -> list[int]:
    doors, keys = {}, {}
    for name, door, owner in re.findall(
        r"(\w+)(?:, at| \()?,? ?door \$(\d)\$[),]* (?:holds|has) (\w+)'s key", statement
    ):
        doors[name], keys[name] = int(door), owner
    person = re.search(r"Begin with (\w+)", statement).group(1)
    values = []
    for _ in range(asked(statement)):
        person = keys[person]
        values.append(doors[person])
    return values


def solve_definitions(statement: str) -> list[int]:
    modulus = int(re.search(r"Modulo \$(\d+)\$", statement).group(1))
    formulas = dict(re.findall(r"([a-z])=([\w+-]+)", statement))
    name = re.search(r"What is \$(\w)\$", statement).group(1)
    formula, operations = formulas[name], []
    while not formula.isdigit():
        operations.append(formula[1:])
        formula = formulas[formula[0]]
    value, values = int(formula), []
    for operation in reversed(operations):
        values.append(value := eval(f"{value}{operation}") % modulus)
    return values


def solve_tree(statement: str) -> list[int]:
    """By rewriting the innermost operation until a digit is left."""
    text = re.search(r"\$([^$]*\(.*\))\$", statement).group(1)
    signs = {
        "+": lambda a, b: (a + b) % 10,
        "-": lambda a, b: (a - b) % 10,
        "\\times": lambda a, b: (a * b) % 10,
        "\\land": min,
        "\\lor": max,
        "\\oplus": lambda a, b: int(a != b),
    }
    values = []
    while not text.isdigit():
        inner = re.search(r"(\+|-|\\[a-z]+)\((\d),(\d)\)", text)
        values.append(signs[inner.group(1)](int(inner.group(2)), int(inner.group(3))))
        text = text[: inner.start()] + str(values[-1]) + text[inner.end() :]
    return values


SOLVERS = {
    "permutation": solve_mapping,
    "function": solve_mapping,
    "keys": solve_keys,
    "definitions": solve_definitions,
    "arithmetic_tree": solve_tree,
    "boolean_tree": solve_tree,
}


@pytest.mark.parametrize("counts", ["digits", "strokes"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_value_on_the_way_is_what_the_statement_says(family, counts):
    rows = generate("train", 200, 1, [family], HOPS, counts)
    assert set(rows["level"]) == set(HOPS)
    for row in rows.iter_rows(named=True):
        k, values = row["hops"], SOLVERS[family](row["problem"])
        assert row["level"] == k == len(values)
        assert [boxed(step) for step in row["steps"][:k]] == values, row["problem"]
        assert row["solution"] == row["steps"][k - 1]
        assert row["answer"] == values[-1]
        assert len(row["steps"]) == LONGEST


@pytest.mark.parametrize("family", FAMILIES)
def test_worked_solutions_write_each_hop_and_have_no_labels_by_step(family):
    direct = generate("test", 100, 2, [family], HOPS)
    worked = generate("test", 100, 2, [family], HOPS, worked=True)
    assert direct["problem"].equals(worked["problem"])
    for plain, row in zip(direct.iter_rows(named=True), worked.iter_rows(named=True), strict=True):
        *written, _ = re.split(r"(?<=\$\.) ", row["solution"])
        said = [int(re.search(r"(\d)\$\.$", step).group(1)) for step in written]
        assert said == [boxed(step) for step in plain["steps"][: plain["hops"]]]
        assert row["solution"].endswith(plain["solution"])
        assert (row["hops"], row["steps"]) == (0, [])


@pytest.mark.parametrize("family", ["permutation", "function", "keys"])
def test_values_do_not_come_back_within_the_longest_walk(family):
    """Nor the start, else an answer could be right too early, and stay right by chance."""
    for row in generate("train", 100, 3, [family], [LONGEST]).iter_rows(named=True):
        if family == "keys":
            person = re.search(r"Begin with (\w+)", row["problem"]).group(1)
            start = int(re.search(rf"{person}\W+(?:at )?door \$(\d)", row["problem"]).group(1))
        else:
            start = int(re.findall(r"\$(\d)\$", row["problem"])[-1])
        assert len({start, *(boxed(step) for step in row["steps"])}) == LONGEST + 1


def structure(family: str, statement: str) -> object:
    """What a problem is apart from start, hops and wording, read from its statement."""
    if family in ("permutation", "function"):
        return frozenset(re.findall(r"(\d)\\to(\d)", statement))
    if family == "keys":
        found = re.findall(r"(\w+)\W+(?:at )?door \$(\d)\$\W+(?:holds|has) (\w+)'s", statement)
        return frozenset(found)
    if family == "definitions":
        formulas = dict(re.findall(r"([a-z])=([\w+-]+)", statement))
        (name,) = (n for n, formula in formulas.items() if formula.isdigit())
        following = {f[0]: (n, f[1:]) for n, f in formulas.items() if not f.isdigit()}
        operations = [re.search(r"Modulo \$(\d+)", statement).group(1)]
        while name in following:
            name, operation = following[name]
            operations.append(operation)
        return tuple(operations)
    return statement


@pytest.mark.parametrize("family", FAMILIES)
def test_no_structure_is_in_two_splits(family):
    hops = HOPS if "tree" not in family else (5, 6, 7)
    seen = [
        {structure(family, text) for text in generate(split, 600, 4, [family], hops)["problem"]}
        for split in ("train", "development", "test")
    ]
    assert all(len(one) > 100 for one in seen)
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_the_same_seed_gives_the_same_rows_and_another_split_others():
    assert generate("train", 50, 5).equals(generate("train", 50, 5))
    assert not generate("train", 50, 5)["problem"].equals(generate("train", 50, 6)["problem"])


def test_reserved_problems_are_not_drawn():
    held = generate("test", 20, 7, ["boolean_tree"], [1])["problem"].unique()
    reserved = Reserved(frozenset(key for text in held for key in fingerprints(text)))
    drawn = generate("test", 20, 8, ["boolean_tree", "keys"], [1], reserved=reserved)["problem"]
    assert not set(held) & set(drawn)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"split": "valid"}, "split is 'valid'"),
        ({"families": ["maze"]}, "families: 'maze' is unknown; known: permutation"),
        ({"hops": [0, 1]}, r"hops are \[0, 1\]: give integers of 1 to 8"),
        ({"hops": [9]}, "1 to 8"),
        ({"hops": []}, "1 to 8"),
        ({"hops": [True]}, "1 to 8"),
        ({"counts": "words"}, "it must be digits or strokes"),
        ({"count": 0}, "ask for at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_named(wrong, named):
    with pytest.raises(ParameterError, match=named):
        generate(**({"split": "train", "count": 5, "seed": 0} | wrong))


TOKENIZER = load_tokenizer(ROOT / "assets/tiny/backbone")


def test_labels_by_step_go_through_the_token_store(tmp_path):
    rows = generate("train", 80, 9, hops=HOPS)
    data = prepare(rows.lazy(), TOKENIZER, tmp_path, 1024, progress=False)
    again = open_tokens(data.folder)
    for row, example in zip(rows.iter_rows(named=True), again, strict=True):
        assert example.hops == row["hops"]
        assert [TOKENIZER.decode(example.labels(n)).partition("<|im_end|>")[0] for n in HOPS] == (
            row["steps"]
        )
        assert list(example.labels(example.hops)) == list(example.labels())
    changed = rows["steps"].to_list()
    other = 0 if rows["hops"][3] > 1 else 1
    changed[3][other] = changed[3][other].replace(str(boxed(changed[3][other])), "x")
    frame = rows.with_columns(pl.Series("steps", changed)).lazy()
    assert prepare(frame, TOKENIZER, tmp_path, 1024, progress=False).key != data.key


TWELVE = {"id": "a", "problem": "p", "solution": "The 12.", "steps": ["The 3.", "The 12."]}


@pytest.mark.parametrize(
    ("changes", "aligned", "named"),
    [
        ({}, True, "row 'a': step 1, 'The 3.', has 5 tokens and the solution 6"),
        ({"hops": 1}, False, "not what step 1 of 2 gives"),
        ({"hops": 0}, False, "not what step 0 of 2 gives"),
        ({"hops": 3}, False, "not what step 3 of 2 gives"),
        ({"steps": ["The 12.", ""]}, False, "row 'a': step 2 is empty"),
        ({"steps": ["The 12.", None]}, False, "row 'a': step 2 is empty"),
    ],
)
def test_steps_that_cannot_be_labels_are_refused_by_row(tmp_path, changes, aligned, named):
    frame = pl.LazyFrame([TWELVE | changes], schema_overrides={"steps": pl.List(pl.String)})
    with pytest.raises(DataError, match=named):
        prepare(frame, TOKENIZER, tmp_path, 1024, progress=False, aligned=aligned)


def test_steps_of_other_lengths_are_cut_or_end_early_where_that_is_allowed(tmp_path):
    longer = TWELVE | {"solution": "The 7.", "steps": ["The 12.", "The 7."]}
    data = prepare(
        pl.LazyFrame([TWELVE, longer | {"id": "b"}]), TOKENIZER, tmp_path, 1024, None, False, False
    )
    assert [label == -100 for label in data[0].labels(1)] == [False] * 5 + [True]
    assert TOKENIZER.decode([t for t in data[0].labels(1) if t >= 0]) == "The 3.<|im_end|>"
    assert TOKENIZER.decode(data[1].labels(1)) == "The 12."
