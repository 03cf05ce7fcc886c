"""Files of problems: what is read as it stands, and what is refused with its mend."""

from pathlib import Path

import polars as pl
import pytest

from helpers.paths import shared_file
from mathllm.competition.protocol.gateway import read_as_sent
from mathllm.data.problems import plain_csv, read_problems
from mathllm.errors import ProblemFileError


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "problems.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("id_", ["0e644e", "000123", "0e6441", "1e5", "007", " a ", "null", "-1"])
def test_ids_stay_as_they_are_written(tmp_path: Path, id_: str) -> None:
    frame = read_problems(write(tmp_path, f"id,problem\n{id_},x\n"))
    assert frame["id"].to_list() == [id_]
    assert frame.schema == {"id": pl.String, "problem": pl.String}


def test_texts_keep_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    frame = read_problems(write(tmp_path, 'id,problem\na,"$f(x,y)$\n""q"" \\frac12"\n'))
    assert frame["problem"].item() == '$f(x,y)$\n"q" \\frac12'


def test_numbers_are_texts_and_an_absent_text_is_empty(tmp_path: Path) -> None:
    frame = read_problems(write(tmp_path, 'id,problem\na,12\nb,\nc,""\n'))
    assert frame["problem"].to_list() == ["12", "", ""]


def test_columns_come_in_one_order_and_others_are_left_out(tmp_path: Path) -> None:
    frame = read_problems(write(tmp_path, "answer,source,problem,id\n 5 ,web,p,a\n"))
    assert frame.columns == ["id", "problem", "answer"]
    assert frame.row(0) == ("a", "p", 5)


def test_columns_without_a_name_are_no_column_twice(tmp_path: Path) -> None:
    frame = read_problems(write(tmp_path, "id,problem,,\na,p,,\n"))
    assert frame.row(0) == ("a", "p")
    frame = read_problems(write(tmp_path, "id,problem,problem_duplicated_0\na,p,q\n"))
    assert frame.row(0) == ("a", "p")


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    frame = read_problems(write(tmp_path, "\ufeffid,problem,answer\r\na,p,99999\r\n"))
    assert frame.row(0) == ("a", "p", 99999)


def test_the_range_of_answers_is_the_callers(tmp_path: Path) -> None:
    path = write(tmp_path, "id,problem,answer\na,p,-5\n")
    assert read_problems(path, answer_min=-10)["answer"].item() == -5


REFUSED = {
    "an empty file": ("", "empty: a header and rows were expected"),
    "a header only": ("id,problem\n", "no problems, only a header"),
    "no id": ("name,problem\na,b\n", "no column 'id'; .* found 'name', 'problem'"),
    "no problem": ("id,text\na,b\n", "no column 'problem'"),
    "neither": ("a;b\n1;2\n", "'id' and 'problem'; expected id, problem and .*, found 'a', 'b'"),
    "two of one name": ("Id,ID,Problem\na,b,c\n", "both 'Id' and 'ID' may be the column 'id'"),
    "a column twice": ("id,problem,answer,problem\na,x,1,y\n", "column 'problem' stands twice"),
    "another twice": ("id,problem,note,note\na,x,1,y\n", "column 'note' stands twice; leave one"),
    "twice in quotes": ('"id","problem","id"\na,x,b\n', "column 'id' stands twice"),
    "twice and more": ("\n\nid,problem,id,id\na,x,b,c\n", "column 'id' stands twice"),
    "a repeated id": ("id,problem\na,x\nb,y\na,z\n", "id 'a' stands at problems 1 and 3"),
    "an absent id": ("id,problem\na,x\n,y\n", "problem 2 has no id"),
    "a blank id": ('id,problem\n"  ",x\n', "problem 1 has no id"),
    "a text answer": ("id,problem,answer\na,x,ten\n", "answer of problem 'a' is 'ten'; expected"),
    "a fraction": ("id,problem,answer\na,x,1.5\n", "'1.5'; expected an integer in 0…99999"),
    "a float": ("id,problem,answer\na,x,336.50\n", "'336.50'"),
    "no answer": ("id,problem,answer\na,x,1\nb,x,\n", "problem 'b' is nothing"),
    "too large": ("id,problem,answer\na,x,100000\n", "'100000'; expected an integer in 0…99999"),
    "negative": ("id,problem,answer\na,x,-1\n", "'-1'"),
    "an endless number": (f"id,problem,answer\na,x,{'9' * 5000}\n", "'9{40}…'"),
    "other digits": ("id,problem,answer\na,x,٣\n", "expected an integer"),
    "an open quote": ('id,problem\na,"x\nb,y\n', "line 2 begins no row of a CSV.*quotes around"),
    "too many fields": ("id,problem\na,x,y\n", "line 2 has 3 fields, .*quotes around"),
    "not UTF-8": (b"id,problem\na,\xff\xfe\n", "line 2 is not UTF-8 .*save it in UTF-8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_named_with_file_and_mend(tmp_path: Path, name: str) -> None:
    content, message = REFUSED[name]
    path = write(tmp_path, content)
    with pytest.raises(ProblemFileError, match=message) as caught:
        read_problems(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_an_absent_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProblemFileError, match=r"absent\.csv: does not exist"):
        read_problems(tmp_path / "absent.csv")
    with pytest.raises(ProblemFileError, match="is a folder"):
        read_problems(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "Id;Problem;Answer\r\na;$f(x, y)$;12.0\r\n;;\r\n",
        'id,problem,answer\na,"$f(x, y)$",12\n,,\n',
        '"id", "problem", "answer"\n"a", "$f(x, y)$", "12"\n',
        '{"id": "a", "problem": "$f(x, y)$", "answer": 12}',
    ],
)
def test_a_file_of_another_form_is_written_anew_for_other_readers(tmp_path: Path, content: str):
    path = tmp_path / ("problems.csv" if content[0] != "{" else "problems.jsonl")
    path.write_bytes(content.encode())
    other = pl.read_csv(plain_csv(path))
    assert other.rows(named=True) == [{"id": "a", "problem": "$f(x, y)$", "answer": 12}]
    assert read_as_sent(path).equals(other)


@pytest.mark.parametrize(
    "content", ["id,problem\na,x\n", '\ufeffid,note,problem\r\n"a",,"x, y"\r\n']
)
def test_a_file_that_others_read_alike_is_sent_as_it_is(tmp_path: Path, content: str) -> None:
    path = write(tmp_path, content)
    assert plain_csv(path) == path.read_bytes()


@pytest.mark.data
def test_the_competitions_own_files_are_read_whole() -> None:
    test = read_problems(shared_file("aimo3", "test.csv"))
    assert test["id"].to_list() == ["000aaa", "111bbb", "222ccc"]
    reference = read_problems(shared_file("aimo3", "reference.csv"))
    assert (len(reference), reference.columns) == (10, ["id", "problem", "answer"])
    assert reference.row(0, named=True)["id"] == "0e644e"
    assert reference.row(0, named=True)["answer"] == 336


def test_a_device_is_no_file():
    with pytest.raises(ProblemFileError, match="/dev/null: is no file"):
        read_problems("/dev/null")
