"""Training rows never meet what is measured on."""

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.paths import shared_file
from mathllm.data.decontaminate import Reserved, decontaminate, index, runs, shared_run
from mathllm.data.selection import select_rows
from mathllm.data.sources import Filters, load_problems
from mathllm.errors import DataError, ParameterError

NOTHING = Reserved(frozenset())
WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=12)


def naive_share(one: list[str], two: list[str], n: int) -> bool:
    """Whether two statements share n words in a row, or are the same short ones."""
    if len(one) < n or len(two) < n:
        return one == two
    return any(
        one[i : i + n] == two[j : j + n]
        for i in range(len(one) - n + 1)
        for j in range(len(two) - n + 1)
    )


@given(WORDS, WORDS, st.integers(1, 5))
def test_a_shared_run_is_found_as_by_comparing_all(one, two, n):
    found = shared_run(" ".join(one), index([" ".join(two)], n), n)
    assert (found is not None) == naive_share(one, two, n)


def test_signs_and_case_do_not_hide_a_run():
    known = index(["Find the sum $1+2+3$, if $x=4$!"], n=4)
    assert shared_run("FIND  the\nsum (1, 2)", known, 4) == "find the sum 1"
    assert list(runs("Two words", 4)) == ["two words"]


def frame(statements: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"id": [f"r{i}" for i in range(len(statements))], "problem": statements})


def test_dropped_rows_are_counted_and_a_few_shown():
    held = "one two three four five"
    rows = frame(["zero one two three", "nothing alike here at all", "two three four five six"])
    kept, report = decontaminate(rows.lazy(), [held], n=3)
    assert kept.collect()["id"].to_list() == ["r1"]
    assert (report.rows, report.dropped) == (3, 2)
    assert report.examples[0] == ("r0", "zero one two three", "one two three")


def test_nothing_shared_drops_nothing():
    rows = frame(["a b c", "d e f"])
    kept, report = decontaminate(rows.lazy(), ["x y z"], n=2)
    assert kept.collect().equals(rows)
    assert (report.rows, report.dropped, report.examples) == (2, 0, [])


def written(tmp_path, count: int):
    path = tmp_path / "train.jsonl"
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
    lines = [
        {
            "question": f"Count {' '.join(words[(i * k) % 10] for k in range(1, 20))} {i} times?",
            "answer": f"It is {i}.\n#### {i}",
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_held_out_rows_and_reserved_ones_are_not_trained_on(tmp_path):
    path = written(tmp_path, 60)
    everything = load_problems("gsm8k", path=path)
    # Words repeat after ten rows, so each held-out row takes its like out of training.
    reserved = NOTHING.add([everything["problem"][7]])
    chosen = select_rows("gsm8k", reserved, 0, 5, seed=3, path=path)
    train = chosen.train.collect()
    assert len(chosen.held_out) == 5
    assert not set(train["id"]) & set(chosen.held_out["id"])
    known = index(chosen.held_out["problem"])
    assert not any(shared_run(p, known) for p in train["problem"])
    assert everything["id"][7] not in train["id"].to_list()
    assert chosen.contamination.dropped > 0
    assert chosen.dropped["read"] == 60


def test_statements_that_are_named_are_never_trained_on(tmp_path):
    path = written(tmp_path, 30)
    never = load_problems("gsm8k", path=path)["problem"].to_list()[4:5]
    chosen = select_rows("gsm8k", NOTHING, 0, 1, seed=0, path=path, never=never)
    assert never[0] not in chosen.train.collect()["problem"].to_list()


def test_generated_rows_take_difficulties_as_levels():
    chosen = select_rows("arithmetic", NOTHING, 30, 5, 0, Filters(levels=["2"]))
    assert set(chosen.train.collect()["level"].cast(pl.String)) == {"2"}
    assert len(chosen.held_out) == 5


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("arithmetic", 0, 5), ParameterError, "num_samples is 0"),
        (("arithmetic", 5, 0), ParameterError, "held_out is 0"),
        (("gsm8k", 0, 500), DataError, "no row is left of 20"),
        (("arithmetics", 5, 5), DataError, "did you mean 'arithmetic'"),
    ],
)
def test_numbers_that_cannot_be_are_named(tmp_path, arguments, error, said):
    dataset, num_samples, held_out = arguments
    with pytest.raises(error, match=said):
        select_rows(dataset, NOTHING, num_samples, held_out, 0, path=written(tmp_path, 20))


@pytest.mark.data
def test_math_test_without_math500_leaves_none_of_it():
    rows = load_problems("math", "test", path=shared_file("math", "test.jsonl"))
    held = load_problems("math", "test", path=shared_file("math", "math500.jsonl"))
    kept, report = decontaminate(rows.lazy(), held["problem"].to_list())
    left = kept.collect()
    assert not set(left["problem"]) & set(held["problem"])
    assert report.dropped >= 500
    assert len(left) + report.dropped == 5000
