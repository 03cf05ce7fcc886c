"""Tests stand where the README says, and those that the documents name are there."""

import re

import pytest

from helpers.paths import ROOT, TESTS

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
FILE = re.compile(r"tests/[\w/]+\.py")
# `tests/FILE.py`: `test_one`, `test_two`
NAMED = re.compile(r"`(tests/[\w/]+\.py)`:((?:,? `test_\w+`)+)")


def test_every_test_stands_in_a_layer():
    folders = {path.parent.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")}
    assert folders == {"unit", "process", "kaggle"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_of_tests_that_is_named_exists(document):
    named = set(FILE.findall(document.read_text(encoding="utf-8")))
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_every_fault_is_kept_away_by_tests_that_exist():
    pairs = NAMED.findall((ROOT / "docs" / "ISSUES.md").read_text(encoding="utf-8"))
    named = [(file, name) for file, names in pairs for name in re.findall(r"test_\w+", names)]
    assert len(named) > 10
    absent = [f for f in named if f"\ndef {f[1]}(" not in (ROOT / f[0]).read_text(encoding="utf-8")]
    assert absent == []
