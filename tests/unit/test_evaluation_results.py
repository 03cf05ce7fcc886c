"""Result files: whole or not there, refused by name, and going on where they were killed."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from helpers import killed_evaluation
from helpers.paths import TESTS
from helpers.scripted import SETTINGS, Scripted, header, make_problems, make_tokenizer
from mathllm.errors import EngineFailedError, ResultsError
from mathllm.evaluation import RESULTS, evaluate
from mathllm.evaluation.engines import EngineSpec
from mathllm.evaluation.results import SCHEMA, ResultFile
from mathllm.evaluation.run import draw
from mathllm.solving import Solver
from mathllm.solving.dialects import ChatML
from mathllm.solving.solver import sample_seed


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def problems():
    return make_problems()


@pytest.fixture
def written(tmp_path, tokenizer, problems):
    """A whole result file of ten problems with three samples each."""
    path = tmp_path / "scripted.parquet"
    with ResultFile(path, header(problems, top_p=0.9), problems.rows["id"]) as file:
        draw(Solver(Scripted(tokenizer), ChatML(tokenizer), SETTINGS), problems.rows, file, 4)
    return path


def test_a_row_for_each_sample_and_what_it_was_made_with(written, problems):
    found, rows = RESULTS.read(written)
    assert found == header(problems, top_p=0.9)
    assert dict(rows.schema) == SCHEMA
    assert rows["id"].to_list() == [i for i in problems.rows["id"] for _ in range(3)]
    assert rows["sample"].to_list() == [0, 1, 2] * 10
    assert rows["seed"].to_list() == [
        sample_seed(SETTINGS.seed, i, s) for i in problems.rows["id"] for s in range(3)
    ]
    for row in rows.iter_rows(named=True):
        assert row["prompt"].endswith("<|im_start|>assistant\n")
        assert row["problem"] in row["prompt"]
        assert row["right"] == (row["answer"] == row["truth"])
        assert row["text"] == rf"Hm. $\boxed{{{row['answer']}}}$."
        assert row["supervision_steps"] == 2
        assert 0 < row["entropy"] < 1
    assert 0 < rows["right"].sum() < 30
    assert RESULTS.key in pl.read_parquet_metadata(written)  # any reader of parquet shows it


@pytest.mark.process
@pytest.mark.slow
def test_a_killed_evaluation_goes_on_with_the_same_rows(tmp_path):
    """SIGKILL in the second batch and again later, against one that was never killed."""
    whole = killed_evaluation.run(tmp_path / "whole").rows
    command = [sys.executable, "-m", "helpers.killed_evaluation", str(tmp_path)]
    saved = []
    for rows in (8, 8):
        died = subprocess.run([*command, str(rows)], cwd=TESTS)
        assert died.returncode == -signal.SIGKILL
        saved.append(len(RESULTS.read(tmp_path / "scripted.parquet")[1]))
    assert 0 < saved[0] < saved[1] < len(whole)
    assert all(count % 3 == 0 for count in saved)  # whole problems
    resumed = killed_evaluation.run(tmp_path).rows
    assert_frame_equal(resumed.drop("seconds"), whole.drop("seconds"))
    assert_frame_equal(RESULTS.read(tmp_path / "scripted.parquet")[1], resumed)


def test_problems_that_are_done_are_not_asked_again(written, tokenizer, problems):
    engine = Scripted(tokenizer)
    with ResultFile(written, header(problems, top_p=0.9), problems.rows["id"]) as file:
        draw(Solver(engine, ChatML(tokenizer), SETTINGS), problems.rows, file)
    assert engine.asked == 0
    assert len(file.rows) == 30


def test_other_settings_are_refused_by_name_before_an_engine_is_opened(
    tmp_path, tokenizer, problems
):
    opened = []

    def engine(name="scripted", **changed):
        def opening():
            opened.append(name)
            return Scripted(tokenizer)

        return replace(EngineSpec(name, "w1", opening, {"supervision_steps": 2}), **changed)

    def run(engines, of=problems, settings=SETTINGS, resume=True):
        return evaluate(engines, tokenizer, of, settings, tmp_path, resume)

    first = run([engine()])
    changes = {
        "max_new_tokens 40, not 41": {"settings": replace(SETTINGS, max_new_tokens=41)},
        "seed 7, not 8": {"settings": replace(SETTINGS, seed=8)},
        "split 'test', not 'train'": {"of": replace(problems, split="train")},
        "other problems": {"of": make_problems(9)},
        "weights 'w1', not 'w2'": {"engines": [engine(weights="w2")]},
        "supervision_steps 2, not 3": {"engines": [engine(settings={"supervision_steps": 3})]},
    }
    for named, change in changes.items():
        opened.clear()
        with pytest.raises(ResultsError, match=named) as fault:
            run(**({"engines": [engine("a"), engine()]} | change))
        assert str(tmp_path / "scripted.parquet") in str(fault.value)
        assert "output_dir" in str(fault.value)
        assert opened == []
    again = run([engine()], settings=replace(SETTINGS, seed=8), resume=False)
    assert len(again["scripted"]) == 30
    assert again["scripted"]["seed"].to_list() != first["scripted"]["seed"].to_list()


def test_a_batch_that_broke_is_not_kept_and_the_ones_before_are(tmp_path, tokenizer, problems):
    class Breaking(Scripted):
        def say(self, prompt, config, seed):
            completion = super().say(prompt, config, seed)
            if seed == sample_seed(SETTINGS.seed, "p6", 1):
                completion.finish_reason = "fault"
            return completion

    path = tmp_path / "scripted.parquet"
    solver = Solver(Breaking(tokenizer), ChatML(tokenizer), SETTINGS)
    with (
        pytest.raises(EngineFailedError, match=r"of 6 samples ended 1 by 'fault'.*goes on"),
        ResultFile(path, header(problems), problems.rows["id"]) as file,
    ):
        draw(solver, problems.rows, file, batch_rows=6)
    assert len(RESULTS.read(path)[1]) == 18


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda p: p.unlink(), "does not exist"),
        (lambda p: p.write_bytes(b"no parquet"), "cannot be read"),
        (lambda p: os.truncate(p, 500), "cannot be read"),
        (lambda p: pl.DataFrame({"a": [1]}).write_parquet(p), "no result file"),
        (
            lambda p: pl.read_parquet(p).write_parquet(p, metadata={RESULTS.key: '{"version": 2}'}),
            "format version 2 and this program writes 1",
        ),
        (
            lambda p: pl.read_parquet(p).write_parquet(p, metadata={RESULTS.key: '{"version": 1}'}),
            "cannot be read",
        ),
        (
            lambda p: (
                pl.read_parquet(p)
                .drop("seed")
                .write_parquet(p, metadata={RESULTS.key: pl.read_parquet_metadata(p)[RESULTS.key]})
            ),
            "column 'seed' is None, expected Int64",
        ),
    ],
)
def test_what_is_no_result_file_is_refused_by_name(written, spoil, named):
    spoil(written)
    with pytest.raises(ResultsError, match=named) as fault:
        RESULTS.read(written)
    assert str(written) in str(fault.value)


def test_a_file_from_before_a_column_was_written_is_read_without_it(written):
    found, rows = RESULTS.read(written)
    metadata = {RESULTS.key: pl.read_parquet_metadata(written)[RESULTS.key]}
    pl.read_parquet(written).drop(RESULTS.later).write_parquet(written, metadata=metadata)
    old, without = RESULTS.read(written)
    assert old == found
    assert_frame_equal(without.drop(RESULTS.later), rows.drop(RESULTS.later))
    assert all(without[name].is_null().all() for name in RESULTS.later)


def test_a_file_is_the_old_one_or_the_new_one(written, monkeypatch):
    found, rows = RESULTS.read(written)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(OSError, match="No space"):
        RESULTS.write(written, found, rows.head(3))
    monkeypatch.undo()
    assert len(RESULTS.read(written)[1]) == 30
