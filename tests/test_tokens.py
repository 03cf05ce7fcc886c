"""The token store: nothing stale, nothing half-written, nothing cut."""

import errno
import functools
import json
import multiprocessing
import os
import random
import signal

import numpy as np
import polars as pl
import pytest
from conftest import ROOT

from mathllm.data import tokens as store
from mathllm.data.arithmetic import generate
from mathllm.data.chat import encode, load_tokenizer
from mathllm.data.tokens import TokenSet, prepare
from mathllm.errors import DataError

BACKBONE = ROOT / "assets" / "tiny" / "backbone"


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
    assert found.ids([3, 0]) == [frame["id"][3], frame["id"][0]]
    labels = sum(len(e.tokens) - e.prompt for e in expected)
    assert found.label_share == pytest.approx(labels / sum(len(e.tokens) for e in expected))
    assert found[-1].tokens.tolist() == list(expected[-1].tokens)


def test_the_same_rows_are_tokenised_once(tmp_path, monkeypatch):
    first = prepared(tmp_path)
    monkeypatch.setattr(store, "encode", None)  # a second call of it would fail
    again = prepared(tmp_path)
    assert (again.key, again.folder) == (first.key, first.folder)
    assert contents(first.folder).keys() == {"description.json", "rows.parquet", "tokens.bin"}


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
    assert found.ids([0, 1]) == [frame["id"][0], frame["id"][5]]
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
        TokenSet.open(first.folder)
    again = prepared(tmp_path)
    assert "made again: " in capsys.readouterr().out
    assert contents(again.folder) == whole


def test_killed_at_any_moment_it_leaves_nothing_that_could_be_read(tmp_path):
    expected = contents(prepared(tmp_path / "alone", rows(1500)).folder)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["test_tokens"])
    rng = random.Random(0)
    killed = 0
    for _ in range(8):
        child = server.Process(target=prepared, args=(tmp_path / "killed", rows(1500)))
        child.start()
        child.join(timeout=rng.uniform(0.0, 0.6))
        child.kill()
        child.join()
        killed += child.exitcode == -signal.SIGKILL
        for folder in (tmp_path / "killed").glob("[!.]*"):
            assert contents(folder) == expected
    assert killed
    assert contents(prepared(tmp_path / "killed", rows(1500)).folder) == expected


def test_two_at_once_end_with_one_whole_set(tmp_path):
    server = multiprocessing.get_context("forkserver")
    children = [server.Process(target=prepared, args=(tmp_path, rows(1500))) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    (folder,) = tmp_path.iterdir()
    assert len(TokenSet.open(folder)) == 1500


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    real = store._Writer.add

    def full(self, ids, examples):
        real(self, ids[:3], examples[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store._Writer, "add", full)
    with pytest.raises(DataError, match=r"No space left on device.*MB are free there"):
        prepared(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_set_in_memory_is_saved_and_opened(tmp_path, tokenizer):
    frame = rows(5)
    held = TokenSet.of(encode(tokenizer, frame["problem"].to_list(), frame["solution"].to_list()))
    opened = TokenSet.open(held.save(tmp_path))
    assert opened.key == held.key
    assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(opened, held, strict=True))
    assert json.loads((opened.folder / "description.json").read_text())["key"] == held.key
