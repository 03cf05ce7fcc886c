"""Rows of every source in one schema, and what is said of files that are not right."""

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.paths import shared_file
from mathllm.answers.boxes import last_box
from mathllm.data.conversions import SCHEMA, plain
from mathllm.data.sources import (
    Filters,
    drawn,
    drop_report,
    filtered,
    load_problems,
    read_statements,
    scan_problems,
)
from mathllm.errors import DataError

GSM8K = [
    {
        "question": "Ann’s dog eats 2 – 1 cups. How many in 48 days?",
        "answer": "It eats 2-1=<<2-1=1>>1.\nSo 1*48=<<1*48=48>>48 cups.\n#### 48",
    },
    {"question": "How many?", "answer": "Many: <<1200+34=1234>>1,234.\n#### 1,234"},
]
MATH = [
    {
        "problem": "Find $x$.",
        "solution": "It is $\\boxed{1}$, no: $\\boxed{\\frac{1}{2}}$.",
        "level": "Level 3",
        "type": "Algebra",
    },
    {"problem": "Prove it.", "solution": "Clear.", "level": "Level 5", "type": "Geometry"},
    {"problem": "Sum?", "solution": "$\\boxed{7}$", "level": "Level 5", "type": "Geometry"},
]


def jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_gsm8k_ends_in_a_box_without_calculator_marks(tmp_path):
    rows = load_problems("gsm8k", path=jsonl(tmp_path / "train.jsonl", GSM8K))
    assert tuple(rows.columns) == SCHEMA
    first, second = rows.iter_rows(named=True)
    assert first["problem"] == "Ann's dog eats 2 - 1 cups. How many in 48 days?"
    assert first["solution"] == ("It eats 2-1=1.\nSo 1*48=48 cups.\nThe answer is $\\boxed{48}$.")
    assert (first["answer"], second["answer"]) == ("48", "1234")
    assert second["solution"].endswith("The answer is $\\boxed{1234}$.")


def test_math_has_its_last_box_as_answer_and_rows_without_one_are_counted(tmp_path):
    path = jsonl(tmp_path / "train.jsonl", MATH)
    rows = load_problems("math", path=path)
    assert rows["answer"].to_list() == ["\\frac{1}{2}", "7"]
    assert rows["level"].to_list() == ["3", "5"]
    assert rows["subject"].to_list() == ["Algebra", "Geometry"]
    filters = Filters(levels=["5"], subjects=["Geometry"], integer_answers=True)
    report = drop_report(scan_problems("math", path=path), filters)
    assert list(report.values()) == [3, 1, 1, 0, 0, 1]
    assert load_problems("math", path=path, filters=filters)["answer"].to_list() == ["7"]


def test_numina_comes_from_shards_and_keeps_its_sources(tmp_path):
    for shard in range(2):
        frame = pl.DataFrame(
            {
                "source": ["olympiads", "synthetic_math"],
                "problem": [f"Problem {shard}", f"Other {shard}"],
                "solution": [f"So $\\boxed{{{shard}}}$.", "No box."],
                "messages": [[{"content": "x", "role": "user"}]] * 2,
            }
        )
        frame.write_parquet(tmp_path / f"train-0000{shard}-of-00002.parquet")
    rows = load_problems("numina", path=tmp_path)
    assert rows["answer"].to_list() == ["0", "1"]
    assert rows["source"].to_list() == ["olympiads"] * 2
    with pytest.raises(DataError, match=r"no row is left of 4: .*4 source not synthetic"):
        load_problems(
            "numina", path=tmp_path, filters=Filters(sources=["synthetic"], complete=False)
        )


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_any_file_is_read_with_its_columns_named(tmp_path, suffix):
    frame = pl.DataFrame({"q": ["One?", "Two?"], "a": ["1", "2"], "how": ["Easy.", "$\\boxed{2}$"]})
    path = tmp_path / f"data.{suffix}"
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[suffix](
        path
    )
    columns = {"problem": "q", "answer": "a", "solution": "how"}
    rows = load_problems("file", path=path, columns=columns)
    assert rows["problem"].to_list() == ["One?", "Two?"]
    assert rows["solution"].to_list() == ["Easy.\nThe answer is $\\boxed{1}$.", "$\\boxed{2}$"]
    with pytest.raises(DataError, match="no column 'z'; found q, a, how"):
        load_problems("file", path=path, columns=columns | {"level": "z"})


def test_kaggles_inputs_are_searched_by_name(tmp_path):
    jsonl(tmp_path / "datasets" / "me" / "my-gsm8k" / "main" / "train.jsonl", GSM8K)
    assert len(load_problems("gsm8k", roots=[tmp_path])) == 2


def test_what_was_tried_is_listed_when_nothing_is_found(tmp_path, monkeypatch):
    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(pl, "scan_parquet", no_network)
    with pytest.raises(DataError) as fault:
        load_problems("numina", roots=[tmp_path])
    assert f"{tmp_path}/*numina*" in str(fault.value)
    assert "hf://datasets/AI-MO/NuminaMath-CoT" in str(fault.value)
    assert "no network" in str(fault.value)


def truncated_parquet(path: Path) -> None:
    pl.DataFrame({"question": ["?"] * 500, "answer": ["#### 1"] * 500}).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("a.parquet", truncated_parquet, r"a\.parquet cannot be read .*truncated or damaged"),
        ("a.jsonl", lambda p: p.write_text('{"question": "?"}\n{"quest'), "line 2 is no JSON obj"),
        ("a.jsonl", lambda p: p.write_text("[1, 2]\n"), "line 1 is no JSON object"),
        ("a.jsonl", lambda p: p.write_text(""), r"a\.jsonl is empty"),
        ("a.csv", lambda p: p.write_text(""), r"a\.csv is empty"),
        ("a.csv", lambda p: p.write_text("x,y\n1,2\n"), "no column 'question'; found x, y"),
        (
            "a.csv",
            lambda p: p.write_text("question,answer,question\n1,2,3\n"),
            "the column 'question' stands twice; leave one",
        ),
        ("a.jsonl", lambda p: p.write_text("[" * 100_000), "line 1 is no JSON object"),
        ("a**b.csv", lambda _: None, r"a\*\*b\.csv' names no file .*give a file"),
        ("a.txt", lambda p: p.write_text("hello"), r"a file ends in one of \.parquet"),
        ("a.jsonl", lambda _: None, r"a\.jsonl does not exist"),
        ("a", lambda p: p.mkdir(), "has no file of the split 'train'"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, name, make, said):
    make(tmp_path / name)
    with pytest.raises(DataError, match=said):
        load_problems("gsm8k", path=tmp_path / name)


def test_an_unknown_source_or_column_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no data source 'numnia'.*did you mean 'numina'"):
        load_problems("numnia")
    path = jsonl(tmp_path / "x.jsonl", GSM8K)
    with pytest.raises(DataError, match="'text' is none of id, source"):
        load_problems("file", path=path, columns={"text": "question"})
    with pytest.raises(DataError, match="needs a path, and columns"):
        load_problems("file", path=path)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 10), st.none() | st.integers(0, 3))
def test_parts_are_disjoint_and_of_the_size_asked_for(first, second, offset, seed):
    rows = pl.DataFrame({"n": range(20)}).lazy()
    one, two = (
        part.collect()["n"].to_list() for part in drawn(rows, [first, second], offset, seed)
    )
    left = max(0, 20 - offset)
    assert len(one) == (min(first, left) if first else left)
    assert len(two) == (min(second, left - len(one)) if second else left - len(one))
    assert not set(one) & set(two)
    assert set(one) | set(two) <= set(range(offset, 20))
    assert one == sorted(one)
    again = drawn(rows, [first, second], offset, seed)[0].collect()["n"].to_list()
    assert again == one


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("7", True),
        ("1,234", True),
        ("12\\,345", True),
        ("10{,}000", True),
        ("-1", False),
        ("100000", False),
        ("\\frac{1}{2}", False),
        ("x", False),
        ("99999999999999999999", False),
    ],
)
def test_integer_answers_are_those_in_range(answer, kept):
    frame = pl.DataFrame({"problem": ["?"], "solution": ["!"], "answer": [answer]}).lazy()
    assert filtered(frame, Filters(integer_answers=True)).collect().height == kept


def test_statements_are_read_from_any_file_that_has_them(tmp_path):
    assert read_statements(jsonl(tmp_path / "a.jsonl", GSM8K))[1] == "How many?"
    path = tmp_path / "b.csv"
    path.write_text("id,problem\n1,One?\n2,\n")
    assert read_statements(path) == ["One?"]
    path.write_text("id,text\n1,One?\n")
    with pytest.raises(DataError, match="no column 'problem' or 'question'; found id, text"):
        read_statements(path)


def test_typography_becomes_ascii():
    frame = pl.DataFrame({"t": ["  “It’s”\xa05 − 2\u200b "]})
    assert frame.select(plain(pl.col("t"))).item() == '"It\'s" 5 - 2'


@pytest.mark.data
def test_every_real_gsm8k_row_is_clean_and_boxed():
    rows = pl.concat(
        load_problems("gsm8k", s, path=shared_file("gsm8k", f"{s}.jsonl"))
        for s in ("train", "test")
    )
    assert len(rows) == 7473 + 1319
    text = rows["problem"] + rows["solution"]
    assert not text.str.contains("<<|####|[‘’“”]").any()
    boxes = rows["solution"].map_elements(last_box, return_dtype=pl.String)
    assert boxes.equals(rows["answer"])
    assert rows["answer"].cast(pl.Int64).is_not_null().all()


@pytest.mark.data
def test_every_real_math_row_has_the_answer_of_its_box():
    rows = load_problems("math", "test", path=shared_file("math", "test.jsonl"))
    assert len(rows) == 5000
    assert rows["level"].is_in(list("12345")).all()
    named = load_problems("math", "test", path=shared_file("math", "math500.jsonl"))
    same = named.join(rows, on="problem", suffix="_box")
    assert len(same) == 500
    # MATH-500 states its answers; a few are written another way than in the solution's box.
    assert (same["answer"] == same["answer_box"]).mean() > 0.98


def test_rows_of_the_hub_are_text_too(monkeypatch):
    rows = {"problem": ["p"], "solution": ["$\\boxed{2}$"], "level": [4], "tags": [["a", "b"]]}
    monkeypatch.setattr(pl, "scan_parquet", lambda *_, **__: pl.LazyFrame(rows))
    found = load_problems("math")
    assert found.row(0, named=True)["level"] == "4"
    assert found["answer"].to_list() == ["2"]
