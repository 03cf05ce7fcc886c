"""The token store: nothing stale, nothing half-written, nothing cut."""

import errno
import functools
import json
import os
import random
import shutil
import signal
import time

import numpy as np
import polars as pl
import pytest

from helpers.preparing import BACKBONE, prepare_rows, processes
from mathllm.data import token_store as store
from mathllm.data.arithmetic import generate
from mathllm.data.chat import encode, load_tokenizer
from mathllm.data.token_store import open_tokens, prepare, save_tokens
from mathllm.errors import DataError
from mathllm.tokens.rows import TokenSet


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(BACKBONE)


@functools.cache
def rows(count: int = 40, seed: int = 0) -> pl.DataFrame:
    return generate("train", count, seed).select("id", "problem", "solution")


def prepared(folder, frame: pl.DataFrame | None = None, **settings):
    frame = rows() if frame is None else frame
    options = {"max_length": 300, "progress": False} | settings
    return prepare(frame.lazy(), load_tokenizer(BACKBONE), folder, **options)


def ids_of(found, places) -> list[str]:
    return pl.read_parquet(found.folder / "rows.parquet")["id"].gather(places).to_list()


def contents(folder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_the_rows_come_back_as_the_chat_encodes_them(tmp_path, tokenizer):
    frame = rows()
    found = prepared(tmp_path, frame)
    expected = encode(tokenizer, frame["problem"].to_list(), frame["solution"].to_list())
    assert len(found) == len(expected) == 40
    for ours, theirs in zip(found, expected, strict=True):
        assert list(ours.tokens) == list(theirs.tokens)
        assert ours.prompt == theirs.prompt
    assert found.lengths.tolist() == [len(e.tokens) for e in expected]
    assert ids_of(found, [3, 0]) == [frame["id"][3], frame["id"][0]]
    labels = sum(len(e.tokens) - e.prompt for e in expected)
    assert found.label_share == pytest.approx(labels / sum(len(e.tokens) for e in expected))
    assert found[-1].tokens.tolist() == list(expected[-1].tokens)


def test_the_same_rows_are_tokenised_once(tmp_path, monkeypatch):
    first = prepared(tmp_path)
    monkeypatch.setattr(store, "encode", None)  # a second call of it would fail
    again = prepared(tmp_path)
    assert (again.key, again.folder) == (first.key, first.folder)
    assert contents(first.folder).keys() == {
        "description.json",
        "rows.parquet",
        "steps.bin",
        "tokens.bin",
    }


def test_whatever_shapes_the_tokens_is_in_the_key(tmp_path):
    frame = rows()
    changed_text = frame.with_columns(pl.col("solution").str.replace("answer", "result"))
    moved = frame.with_columns(
        problem=pl.col("problem") + pl.col("solution").str.head(1),
        solution=pl.col("solution").str.tail(-1),
    )
    other = load_tokenizer(BACKBONE)
    other.chat_template = other.chat_template + " "
    keys = [
        prepared(tmp_path, frame).key,
        prepared(tmp_path, frame, max_length=299).key,
        prepared(tmp_path, frame, key_parts={"source": "other"}).key,
        prepared(tmp_path, frame.reverse()).key,
        prepared(tmp_path, changed_text).key,
        prepared(tmp_path, moved).key,
        prepare(frame.lazy(), other, tmp_path, 300, progress=False).key,
    ]
    assert len(set(keys)) == len(keys)


def test_what_a_tokenizer_did_before_is_not_in_the_key(tmp_path):
    """transformers leaves the padding of the last call in the tokenizer."""
    used = load_tokenizer(BACKBONE)
    used(["1", "1 + 1"], padding=True, truncation=True, max_length=2)
    assert prepare(rows().lazy(), used, tmp_path, 300, progress=False).key == prepared(tmp_path).key


def test_what_is_too_long_or_empty_is_dropped_and_counted_never_cut(tmp_path):
    frame = rows(6)
    texts = frame["solution"].to_list()
    texts[1] += " and so on" * 300
    texts[2] = None
    texts[3] = "  "
    problems = frame["problem"].to_list()
    problems[4] *= 50
    frame = frame.with_columns(solution=pl.Series(texts), problem=pl.Series(problems))
    found = prepared(tmp_path, frame)
    assert found.report == {
        "read": 6,
        "kept": 2,
        "without text": 2,
        "prompt too long": 1,
        "too long": 1,
    }
    assert ids_of(found, [0, 1]) == [frame["id"][0], frame["id"][5]]
    with pytest.raises(DataError, match=r"no row is left .* 6 read, .*2 without text.*max_length"):
        prepared(tmp_path, frame, max_length=20)


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(DataError, match="solution is not there"):
        prepared(tmp_path, rows().drop("solution"))


@pytest.mark.parametrize("name", ["tokens.bin", "rows.parquet", "description.json"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "gone"])
def test_a_damaged_cache_is_noticed_and_made_again(tmp_path, capsys, name, damage):
    first = prepared(tmp_path)
    whole = contents(first.folder)
    path = first.folder / name
    if damage == "gone":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(whole[name][:-7])
    else:
        middle = len(whole[name]) // 2
        path.write_bytes(whole[name][:middle] + b"\0\0\0\0" + whole[name][middle + 4 :])
    with pytest.raises(DataError, match=first.key):
        open_tokens(first.folder)
    again = prepared(tmp_path)
    assert "made again: " in capsys.readouterr().out
    assert contents(again.folder) == whole


@pytest.mark.parametrize(
    "description",
    ["[]", "null", "{}", '{"sums": {}}', '{"sum": 0, "format": 1, "key": "", "report": {}}'],
)
def test_a_description_of_something_else_is_no_set(tmp_path, description):
    folder = prepared(tmp_path).folder
    (folder / "description.json").write_text(description)
    with pytest.raises(DataError, match=f"{folder.name} is no whole set of tokens"):
        open_tokens(folder)


def test_a_description_cannot_be_changed_unnoticed(tmp_path):
    folder = prepared(tmp_path).folder
    path = folder / "description.json"
    path.write_text(path.read_text().replace('"kept": 40', '"kept": 41'))
    with pytest.raises(DataError, match=r"description\.json is not the file that was written"):
        open_tokens(folder)


@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_nothing_that_could_be_read(tmp_path):
    began = time.perf_counter()
    expected = contents(prepare_rows(tmp_path / "alone", 1500, tmp_path / "begun").folder)
    took = time.perf_counter() - began
    folder, rng, killed, half_written = tmp_path / "killed", random.Random(0), 0, 0
    for attempt in range(5):
        begun = tmp_path / str(attempt)
        child = processes.Process(target=prepare_rows, args=(folder, 1500, begun))
        child.start()
        while not begun.exists() and child.is_alive():
            time.sleep(0.001)
        child.join(timeout=rng.uniform(0, took))
        child.kill()
        child.join()
        killed += child.exitcode == -signal.SIGKILL
        half_written += bool(list(folder.glob(".staging-*")))
        for whole in folder.glob("[!.]*"):
            assert contents(whole) == expected
            shutil.rmtree(whole)  # so that the next one has everything to do
    assert killed
    assert half_written
    prepare_rows(folder, 1500, tmp_path / "begun")
    (whole,) = folder.glob("[!.]*")
    assert not list(folder.glob(".staging-*"))  # of those that were killed
    assert contents(whole) == expected


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_two_at_once_end_with_one_whole_set(tmp_path, damaged):
    if damaged:
        folder = prepare_rows(tmp_path / "set", 1500, tmp_path / "begun").folder
        (folder / "tokens.bin").write_bytes(b"1234")
    arguments = [(tmp_path / "set", 1500, tmp_path / str(i)) for i in range(2)]
    children = [processes.Process(target=prepare_rows, args=each) for each in arguments]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    (folder,) = (tmp_path / "set").iterdir()
    assert len(open_tokens(folder)) == 1500


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    real = store._Writer.add

    def full(self, ids, examples):
        real(self, ids[:3], examples[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store._Writer, "add", full)
    said = r"No space left on device.*about \d+ MB are needed, [\d,]+ MB are free there"
    with pytest.raises(DataError, match=f"^{tmp_path}: .*{said}"):
        prepared(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_before_the_first_token_says_so_too(tmp_path, monkeypatch):
    def full(*_):
        raise pl.exceptions.ComputeError("IO error: No space left on device (os error 28)")

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", full)
    with pytest.raises(DataError, match=r"No space left.*more than \d+ MB are needed"):
        prepared(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"/file: the tokens were not made.*must be writable"):
        prepared(tmp_path / "file")


def test_a_source_that_is_damaged_in_the_middle_is_no_fault_of_the_disk(tmp_path):
    path = tmp_path / "rows.parquet"
    rows(3000).write_parquet(path)
    scanned = pl.scan_parquet(path)
    scanned.collect_schema()
    data = bytearray(path.read_bytes())
    data[1000 : len(data) // 2] = bytes(len(data) // 2 - 1000)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"the tokens were not made .*whole and unchanged"):
        prepare(scanned, load_tokenizer(BACKBONE), tmp_path / "c", 300, progress=False)
    assert not list((tmp_path / "c").iterdir())


def test_a_set_in_memory_is_saved_and_opened(tmp_path, tokenizer):
    frame = rows(5)
    held = TokenSet.of(encode(tokenizer, frame["problem"].to_list(), frame["solution"].to_list()))
    opened = open_tokens(save_tokens(held, tmp_path))
    assert opened.key == held.key
    assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(opened, held, strict=True))
    assert json.loads((opened.folder / "description.json").read_text())["key"] == held.key
