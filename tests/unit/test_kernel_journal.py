"""The journal: whatever is in its way in a rerun, nothing is raised and every line is JSON."""

import errno
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mathllm.competition.kernel import journal as journal_module
from mathllm.competition.kernel.journal import Journal, is_unfinished, read_journal

FULL = Path("/dev/full")  # takes nothing, as a full disk

full_disk = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@full_disk
def test_a_full_disk_is_counted_in_a_rerun_and_raised_in_a_commit_run():
    journal = Journal(FULL, strict=False)
    journal.write("start", pid=1)
    journal.write("end")
    assert (journal.lost, journal.why) == (2, "full cannot be written: No space left on device")
    with pytest.raises(OSError, match="No space left"):
        Journal(FULL).write("start", pid=1)


@pytest.mark.parametrize("place", ["missing/journal.jsonl", "."])
def test_a_journal_that_cannot_be_opened_raises_nothing_in_a_rerun(tmp_path, place):
    journal = Journal(tmp_path / place, strict=False)
    journal.write("start", pid=1)
    assert journal.lost == 1
    assert read_journal(tmp_path / place) == []
    with pytest.raises(OSError, match=r"missing|Is a directory"):
        Journal(tmp_path / place)


def test_it_is_opened_later_where_it_could_not_be_at_first(tmp_path):
    path = tmp_path / "later" / "journal.jsonl"
    journal = Journal(path, strict=False)
    journal.write("start", pid=1)
    path.parent.mkdir()
    journal.write("again", id="a", answer=1)
    assert [entry["event"] for entry in lines(path)] == ["again"]
    assert journal.lost == 1


@pytest.mark.parametrize("written", [0, 1, 20])
def test_a_disk_that_is_full_for_a_while_costs_those_lines_and_no_other(
    tmp_path, monkeypatch, written
):
    path, write = tmp_path / "journal.jsonl", os.write
    journal = Journal(path, strict=False)
    journal.write("start", pid=1)

    room = [written]

    def scarce(file, data):
        if not (left := room.pop() if room else 0):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:left])

    monkeypatch.setattr(journal_module.os, "write", scarce)
    journal.write("again", id="a", answer=1)
    journal.write("again", id="b", answer=2)
    monkeypatch.setattr(journal_module.os, "write", write)
    journal.write("again", id="c", answer=3)
    assert journal.lost == 2
    assert [entry.get("id") for entry in read_journal(path)] == [None, "c"]


DAMAGED = [
    b"",
    b"{",
    b'{"event": "answer", "time": 5',
    b"\xff\xfe",
    b"[1, 2]",
    b"7",
    b'{"event": 7, "time": 1}',
    b'{"event": "start"}',
    b'{"event": "answer", "time": 1}',
    b'{"event": "answer", "time": 1, "id": null, "answer": "x"}',
    b"[" * 100_000,
    b"\0" * 4096,
]


@pytest.mark.parametrize("damaged", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_lines_are_passed_over_by_whoever_reads_and_by_a_restart(tmp_path, damaged):
    path = tmp_path / "journal.jsonl"
    Journal(path, strict=False).write("start", pid=1)
    with path.open("ab") as file:
        file.write(damaged + b"\n" + damaged)
    journal = Journal(path, restarted=True, strict=False)
    journal.write("again", id="a", answer=1)
    assert [entry["event"] for entry in read_journal(path)] == ["start", "again"]
    assert is_unfinished(path, 5)


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
)


class Silent:
    def __str__(self):
        raise RuntimeError("no words")


@given(value=values)
def test_any_value_makes_a_line_of_json(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    Journal(path).write("warning", cause=value)
    (entry,) = lines(path)
    assert entry["event"] == "warning"


def test_values_that_json_has_no_form_for_are_text_or_null(tmp_path):
    path = tmp_path / "journal.jsonl"
    loop = []
    loop.append(loop)
    odd = {"nan": math.nan, "path": path, "inf": [math.inf], "silent": Silent(), "loop": loop}
    Journal(path).write("warning", **odd)
    (entry,) = lines(path)
    assert (entry["nan"], entry["inf"], entry["path"]) == (None, [None], str(path))
    assert entry["silent"] == "a Silent that cannot be shown"
