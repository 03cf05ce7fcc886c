"""A report of result files: the committed one comes about again, and what cannot be is refused."""

import argparse
from pathlib import Path

import polars as pl
import pytest

from helpers.pages import Page, check_alone
from helpers.paths import ROOT
from mathllm.cli.evaluation import add_commands
from mathllm.errors import ParameterError, ResultsError, UserError
from mathllm.evaluation.figures import groups_reading
from mathllm.evaluation.groups import read_groups
from mathllm.evaluation.results import RESULTS, SCHEMA, Header
from mathllm.settings import CURRENT

RECORD = ROOT / "docs" / "RESULTS.md"


def report(*arguments: object) -> int:
    """`build.py report` without the rest of it."""
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(), ROOT, CURRENT)
    options = parser.parse_args(["report", *map(str, arguments)])
    return options.function(options)


def write(
    path: Path,
    right: list[list[bool]],
    engine: str = "TRM",
    weights: str = "w" * 16,
    problems: str = "p" * 64,
    start: int = 0,
    **settings,
) -> Path:
    """A result file of `right`, a list for each problem; even problems are algebra, level 5."""
    rows = [
        {"id": f"p{i}", "problem": f"What is $x_{{{i}}}$?", "truth": "1", "sample": number}
        | {"subject": ("algebra", "Counting & Probability")[i % 2], "level": "53"[i % 2]}
        | {"answer": "1" if is_right else "2", "right": is_right, "finish_reason": "stop"}
        | {"engine": engine, "seed": 0, "prompt": "p", "text": "<b>$1+1$</b>"}
        | {"tokens": 10 + i, "seconds": 0.5}
        for i, samples in enumerate(right, start)
        for number, is_right in enumerate(samples)
    ]
    settings = {"n_samples": len(right[0]) if right else 1, "temperature": 0.0} | settings
    header = Header(engine, weights, "math", "test", problems, settings)
    RESULTS.write(path, header, pl.DataFrame(rows, schema=SCHEMA))
    return path


GREEDY = [[True], [False], [True], [False]]
DRAWN = [[True, True, False], [False, False, False], [True, True, True], [False, True, False]]


def test_the_committed_record_comes_about_again(tmp_path, capsys):
    """The same text from the same files; a picture may differ with the version of what draws."""
    assert report(ROOT / "docs" / "results", "--output", tmp_path / "RESULTS.md") == 0
    assert "plots beside it" in capsys.readouterr().out
    assert (tmp_path / "RESULTS.md").read_text("utf-8") == RECORD.read_text("utf-8")
    made = {path.name for path in (tmp_path / "results").iterdir()}
    assert made == {path.name for path in (ROOT / "docs" / "results").glob("*.png")}
    assert sum(p.stat().st_size for p in (ROOT / "docs/results").glob("*.parquet")) < 1_500_000


def test_the_same_files_give_the_same_bytes(tmp_path):
    files = [write(tmp_path / f"{name}.parquet", DRAWN, name, temperature=1.0) for name in "ab"]
    for name in ("first", "second"):
        report(*files, "--output", tmp_path / name / "r.md", "--html", tmp_path / name / "r.html")
    names = {p.relative_to(tmp_path / "first") for p in (tmp_path / "first").rglob("*.*")}
    assert len(names) > 5
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_each_kind_of_evaluation_has_its_chapter(tmp_path):
    write(tmp_path / "a.parquet", GREEDY, "backbone", supervision_steps=None)
    write(tmp_path / "b.parquet", [[True]] * 4, supervision_steps=2)
    for engine in ("backbone", "TRM"):
        write(tmp_path / f"c-{engine}.parquet", DRAWN, engine, temperature=0.7)
    for steps in (4, 1, 2):
        write(
            tmp_path / f"d-{steps}.parquet", GREEDY, f"TRM-{steps}", problems="q" * 64,
            supervision_steps=steps,
        )  # fmt: skip
    report(tmp_path, "--output", tmp_path / "out" / "Said.md")
    text = (tmp_path / "out" / "Said.md").read_text(encoding="utf-8")
    first, second, third = text.split("\n## ")[1:]
    assert first.startswith("1. math (test), 4 problems, greedy\n")
    assert "| algebra | 2 | 2, 100.0 (34.2–100.0) | 2, 100.0 (34.2–100.0) | 0 | 0 | 1 |" in first
    assert "| Counting & Probability | 2 | 0, 0.0 (0.0–65.8) |" in first
    assert "TRM wins 2 and loses 0 of 4 problems against backbone: +50.0" in first
    assert "which may be luck (p = 0.5)" in first
    assert "### By level" in first
    assert "of 50 points expected" in first
    assert "### Votes" not in first
    assert second.startswith("2. math (test), 4 problems, 3 samples at temperature 0.7\n")
    assert "| backbone: k | pass@k, % (95 %) |" in second
    assert "effective votes" in second
    assert third.startswith("3. math (test), 4 problems, greedy, by depth\n")
    assert [line[:5] for line in third.splitlines() if line[2:3].isdigit()][-3:] == [
        "| 1 |",
        "| 2 |",
        "| 4 |",
    ]
    pictures = {path.name for path in (tmp_path / "out" / "said").iterdir()}
    assert {"1-subject.png", "1-cost.png", "2-votes-trm.png", "3-depth.png"} <= pictures
    for name in pictures:
        assert f"](said/{name})" in text


def test_two_weights_under_one_name_are_told_apart(tmp_path):
    files = [
        write(tmp_path / f"{letter}.parquet", GREEDY, weights=letter * 16, supervision_steps=2)
        for letter in "ab"
    ]
    (group,) = read_groups(files)
    assert list(group.results) == ["TRM (aaaaaa)", "TRM (bbbbbb)"]
    assert not group.depths
    assert not group.only_depth


def test_the_page_has_the_wrong_answers_and_needs_no_network(tmp_path):
    file = write(tmp_path / "a.parquet", GREEDY, "a|b_*<i>")
    report(file, "--output", tmp_path / "r.md", "--html", tmp_path / "r.html", "--wrong", 1)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    check_alone(page)
    assert "<summary>Wrong samples of a|b_*&lt;i&gt; (2)</summary>" in page
    assert "and 1 more" in page
    assert "<math" in page
    assert "&lt;b&gt;" in page
    assert {"i", "b"}.isdisjoint(tag for tag, _ in Page(page).elements)
    assert r"a\|b\_\*\<i\>" in (tmp_path / "r.md").read_text(encoding="utf-8")


def test_the_sentence_on_groups_counts_them():
    rows = [("x", "a", 5, 50.0), ("y", "a", 5, 50.0), ("x", "b", 6, 60.0), ("y", "b", 4, 40.0)]
    table = pl.DataFrame(rows, schema=["subject", "engine", "right", "percent"], orient="row")
    assert groups_reading(table) == (
        "b has most right in subject x (60 %) and fewest in y (40 %); it has more right than a "
        "in 1 of 2 groups and fewer in 1."
    )


def another_version(folder: Path) -> list[Path]:
    path = write(folder / "a.parquet", GREEDY)
    pl.read_parquet(path).write_parquet(path, metadata={RESULTS.key: '{"version": 2}'})
    return [path]


def no_result_file(folder: Path) -> list[Path]:
    pl.DataFrame({"a": [1]}).write_parquet(folder / "a.parquet")
    return [folder / "a.parquet"]


def other_problems(folder: Path) -> list[Path]:
    return [
        write(folder / f"{name}.parquet", GREEDY, name, problems=name * 64, start=start)
        for name, start in (("a", 0), ("b", 9))
    ]


def unfinished(folder: Path) -> list[Path]:
    return [
        write(folder / f"{name}.parquet", GREEDY[:count], name)
        for name, count in (("a", 4), ("b", 2))
    ]


@pytest.mark.parametrize(
    ("make", "kind", "named"),
    [
        (another_version, ResultsError, r"a\.parquet has format version 2 and this program"),
        (no_result_file, ResultsError, r"a\.parquet is no result file"),
        (other_problems, ResultsError, r"a\.parquet and .*b\.parquet are over different problems"),
        (unfinished, ResultsError, r"b\.parquet has 2 problems and .*a\.parquet 4 .*did not end"),
        (lambda d: [write(d / "a.parquet", [])], ResultsError, r"a\.parquet has no rows"),
        (lambda d: [d / "a.parquet"], ResultsError, r"a\.parquet does not exist"),
        (
            lambda d: [write(d / f"{name}.parquet", GREEDY) for name in "ab"],
            ResultsError,
            r"b\.parquet is the same evaluation as .*a\.parquet",
        ),
        (lambda d: [d], ParameterError, r"has no \.parquet file"),
        (lambda _: [], ParameterError, "no result files"),
        (
            lambda d: [write(d / "a.parquet", GREEDY), "--wrong", -1],
            ParameterError,
            "--wrong is -1: give at least 0",
        ),
    ],
)
def test_what_cannot_be_reported_is_said_in_a_line(tmp_path, make, kind, named):
    with pytest.raises(kind, match=named) as fault:
        report(*make(tmp_path), "--output", tmp_path / "out" / "r.md")
    assert isinstance(fault.value, UserError)
    assert "\n" not in str(fault.value)
    assert not (tmp_path / "out").exists()
