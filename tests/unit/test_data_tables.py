"""A file's columns as text: nothing is lost, in whatever format, and no row breaks another."""

import csv
import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mathllm.data import csv_rows, tables
from mathllm.data.tables import collected, find_column, open_table, scan_table, text_of
from mathllm.errors import DataError

FORMATS = ("csv", "tsv", "jsonl", "json", "parquet")
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    TEXTS,
    st.lists(st.integers(0, 9), max_size=3),
    st.dictionaries(TEXTS, st.integers(0, 9), max_size=2),
)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            delimiter = "," if path.suffix == ".csv" else "\t"
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", FORMATS)
@given(st.lists(st.tuples(TEXTS.filter(str.strip), TEXTS), min_size=1, max_size=8))
def test_a_text_survives_every_format(tmp_path_factory, suffix, pairs):
    rows = [{"one": one, "two": two} for one, two in pairs]
    path = write(tmp_path_factory.mktemp("rows") / f"a.{suffix}", rows)
    assert collected(scan_table(path)).rows() == pairs


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
@given(st.lists(st.dictionaries(st.sampled_from("abc"), VALUES), min_size=1, max_size=8))
def test_no_value_breaks_the_rows_around_it(tmp_path_factory, suffix, rows):
    marked = [{"place": place} | row for place, row in enumerate(rows)]
    path = write(tmp_path_factory.mktemp("rows") / f"a.{suffix}", marked)
    table = collected(scan_table(path))
    assert table["place"].to_list() == [str(place) for place in range(len(rows))]
    for name in table.columns[1:]:
        assert table[name].to_list() == [text_of(row.get(name)) for row in rows]


@given(st.integers(0, 50), st.integers(1, 20), st.integers(1, 20))
def test_rows_are_the_same_however_many_are_read_at_once(tmp_path_factory, count, one, other):
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    path.write_text("a,b\n" + "".join(f"{i},x\n" for i in range(count)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "ROWS_AT_ONCE", one)
        rows = scan_table(path)
        assert collected(rows)["a"].to_list() == [str(i) for i in range(count)]
        assert collected(rows.select(pl.len())).item() == count
        assert collected(rows.head(other))["a"].to_list() == [str(i) for i in range(count)][:other]
        kept = collected(rows.filter(pl.col("a") == "3"))
        assert kept["b"].to_list() == ["x"] * (count > 3)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        (True, "true"),
        (12, "12"),
        (12.0, "12.0"),
        (float("nan"), None),
        (float("-inf"), None),
        (10**40, str(10**40)),
        (["x"], "x"),
        ([None], None),
        ([], None),
        (["x", "y"], None),
        ([["x"]], None),
        ({"a": 1}, None),
        (b"x", "x"),
    ],
)
def test_a_value_is_one_text_or_none(value, text):
    assert text_of(value) == text


def damaged_parquet(path: Path) -> None:
    texts = [f"What is {i} times {i * 7919 % 1000}?" for i in range(40_000)]
    pl.DataFrame({"q": texts}).write_parquet(path, row_group_size=1_000)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4_000] = bytes(4_000)
    path.write_bytes(content)


def late_quote(path: Path) -> None:
    path.write_text("q\n" + "x\n" * 30_000 + '"y\n')


@pytest.mark.parametrize(
    ("name", "damage", "place"),
    [("a.parquet", damaged_parquet, r"after row \d+,"), ("a.csv", late_quote, "line 30,002")],
)
@pytest.mark.parametrize("count", [False, True])
def test_damage_that_is_met_late_names_file_and_place(tmp_path, name, damage, place, count):
    damage(tmp_path / name)
    rows = scan_table(tmp_path / name).filter(pl.col("q") != "")
    with pytest.raises(DataError, match=rf"{name}.*{place}"):
        collected(rows.select(pl.len()) if count else rows)


def test_a_column_of_a_parquet_file_that_stands_twice_is_named(tmp_path):
    file, values = tmp_path / "a.parquet", [pa.array([text]) for text in ("x", "1", "2", "3")]
    pq.write_table(pa.Table.from_arrays(values, names=["q", "a", "a", "a"]), file)
    with pytest.raises(DataError, match="the column 'a' stands twice"):
        collected(scan_table(file).select("a"))
    assert open_table(file).read(["q"]).to_dicts() == [{"q": "x"}]


def test_what_polars_meets_is_said_in_a_line():
    rows = pl.LazyFrame({"a": ["x"]}).select(pl.col("a").cast(pl.Int64))
    with pytest.raises(
        DataError, match=r"the rows cannot be read .*fetch the files again"
    ) as fault:
        collected(rows)
    assert len(str(fault.value).splitlines()) == 1


def test_long_texts_and_many_lines_are_read(tmp_path):
    text = "word " * 100_000  # more than csv's own limit
    for suffix in FORMATS:
        path = write(tmp_path / f"a.{suffix}", [{"q": text.strip(), "a": "1"}])
        assert open_table(path).read(["q"]).item() == text.strip()
    (tmp_path / "b.json").write_text('[{"q": [\n' + "1,\n" * 50_000 + "1\n]}]")
    assert open_table(tmp_path / "b.json").names == ["q"]


def test_a_column_is_found_in_any_case():
    assert find_column("f", ["Problem", "problem"], "problem") == "problem"
    assert find_column("f", ["id", " Problem"], "problem") == " Problem"
    assert find_column("f", ["id"], "problem") is None
    with pytest.raises(DataError, match="f: both 'A' and 'a ' may be the column 'a'"):
        find_column("f", ["A", "a "], "a")


@given(st.sampled_from(csv_rows.SEPARATORS), st.lists(st.text("ab ", min_size=1), min_size=2))
def test_the_separator_is_the_headers(tmp_path_factory, separator, fields):
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    names = [f"n{i}" for i in range(len(fields))]
    fields[0] = "x"
    path.write_text(f"{separator.join(names)}\n{separator.join(fields)}\n", newline="")
    assert open_table(path).read(names).row(0) == tuple(fields)
