"""Batches run from the command line: killed, failed, hanging, repeated, edited."""

import signal
import subprocess
import time
from collections import Counter

import polars as pl
import pytest

from helpers import batching
from helpers.paths import ROOT

pytestmark = pytest.mark.slow


def wait_for(what, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def test_a_batch_that_is_killed_goes_on_and_does_nothing_twice(tmp_path):
    """Twelve runs, SIGKILL in the middle, twelve results."""
    witness = tmp_path / "witness"
    path = batching.write_batch(
        tmp_path,
        parameters={"witness": str(witness)},
        grid={"width": [1, 2, 3], "lr": [0.1, 0.2]},
        seeds=2,
    )
    with subprocess.Popen(batching.command(path, "--jobs", "2"), text=True) as killed:
        wait_for(lambda: len(batching.done(path)) >= 4)
        killed.kill()
    before = {
        run: (path.parent / "out" / "runs" / run / "status.json").read_bytes()
        for run in batching.done(path)
    }
    ran = batching.run(path, "--jobs", "2")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = batching.statuses(path)
    assert len(found) == 12
    assert {status["status"] for status in found.values()} == {"done"}
    for run, text in before.items():
        assert (path.parent / "out" / "runs" / run / "status.json").read_bytes() == text
    # What had its result was not begun again; what was under way was, once.
    attempts = Counter(status["attempt"] for status in found.values())
    assert set(attempts) <= {1, 2}
    assert attempts[2] <= 2
    assert len(witness.read_text().splitlines()) <= 12 + 2
    assert not batching.marked(path.parent / "out")
    table = pl.read_parquet(tmp_path / "out" / "summary.parquet")
    assert table["runs"].to_list() == [2] * 6
    assert table["width"].to_list() == [3, 3, 2, 2, 1, 1]
    again = batching.run(path)
    assert "12 done, 0 to do" in again.stdout
    assert batching.statuses(path) == found


def test_runs_of_a_killed_driver_end(tmp_path):
    path = batching.write_batch(tmp_path, parameters={"behave": "hang"})
    out = tmp_path / "out"
    with subprocess.Popen(batching.command(path), text=True) as killed:
        wait_for(lambda: len(batching.marked(out)) >= 2)
        killed.kill()
    wait_for(lambda: not batching.marked(out), 10)


def test_ctrl_c_ends_the_runs_and_the_next_start_begins_them_again(tmp_path):
    path = batching.write_batch(tmp_path, parameters={"behave": "hang"})
    with subprocess.Popen(batching.command(path), text=True) as driver:
        wait_for(lambda: len(batching.marked(tmp_path / "out")) >= 2)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(30) == 130
    assert not batching.marked(tmp_path / "out")
    assert "1 to do" in batching.run(path, "--dry-run").stdout


def test_failures_are_kept_seen_and_retried_on_demand(tmp_path):
    """A run that raises, one with a mistake, one that hangs, one that is killed."""
    path = batching.write_batch(
        tmp_path,
        list=[{"behave": b} for b in ("well", "raise", "mistake", "hang", "die", "nothing")],
        minutes=0.15,
    )
    ran = batching.run(path, "--jobs", "2")
    assert ran.returncode == 1
    by_status = Counter(status["status"] for status in batching.statuses(path).values())
    assert by_status == {"done": 1, "failed": 3, "timed out": 1, "killed": 1}
    for words in (
        "ValueError: the seventh gate is shut",
        "no such data: give other data",
        "not done after 0.15 minutes",
        "signal SIGKILL",
        "no step recorded a metric",
    ):
        assert words in ran.stdout
    assert not batching.marked(tmp_path / "out")
    page = (tmp_path / "out" / "summary.html").read_text(encoding="utf-8")
    assert "the seventh gate is shut" in page
    # Not by itself, on demand, and with the records of the first attempt.
    assert batching.run(path).returncode == 1
    assert {s["attempt"] for s in batching.statuses(path).values()} == {1}
    batching.light_notebook(tmp_path)
    one = batching.write_batch(tmp_path, list=[{"behave": "raise"}], minutes=0.5)
    assert batching.run(one, "--retry-failed").returncode == 1
    (again,) = (run for run, s in batching.statuses(path).items() if s["attempt"] == 2)
    kept = tmp_path / "out" / "runs" / again / "attempts" / "1"
    assert "the seventh gate" in (kept / "log.txt").read_text(encoding="utf-8")
    assert (kept / "light.ipynb").is_file()


def test_each_run_leaves_its_records_and_an_edited_file_reuses_them(tmp_path):
    path = batching.write_batch(tmp_path, grid={"width": [1, 2]})
    assert batching.run(path, "--jobs", "2").returncode == 0
    before = batching.statuses(path)
    run = next(iter(before))
    names = {p.name for p in (tmp_path / "out" / "runs" / run).iterdir()}
    wanted = {"run.json", "status.json", "log.txt", "metrics.json", "environment.json"}
    assert wanted | {"light.ipynb", "light.html", "light"} == names
    batching.write_batch(tmp_path, grid={"width": [2, 1, 3], "lr": [0.1]}, minutes=3)
    dry = batching.run(path, "--dry-run").stdout
    assert "3 runs, 0 done" in dry  # lr is given now, so the runs are others
    batching.write_batch(tmp_path, grid={"width": [2, 1, 3]}, minutes=3)
    assert "3 runs, 2 done, 1 to do" in batching.run(path, "--dry-run").stdout
    assert batching.run(path).returncode == 0
    assert {k: v for k, v in batching.statuses(path).items() if k in before} == before
    # Another notebook makes other runs.
    batching.light_notebook(tmp_path, body=f"{batching.BODY}\nprint('changed')")
    ran = subprocess.run(batching.command(path, "--dry-run"), capture_output=True, text=True)
    assert "3 runs, 0 done" in ran.stdout


def test_two_batches_do_not_share_a_folder_or_a_moment(tmp_path):
    path = batching.write_batch(tmp_path, parameters={"behave": "hang"}, minutes=1)
    with subprocess.Popen(batching.command(path)) as first:
        wait_for(lambda: batching.statuses(path))
        second = batching.run(path)
        assert second.returncode == 2
        assert f"process {first.pid} runs this batch already" in second.stderr
        first.send_signal(signal.SIGTERM)
    other = batching.write_batch(tmp_path, name="other.yaml")
    refused = batching.run(other)
    assert refused.returncode == 2
    assert "belongs to the batch" in refused.stderr
    assert "--folder" in refused.stderr
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.tex").write_text("years of work")
    refused = batching.run(other, "--folder", str(strange))
    assert refused.returncode == 2
    assert "thesis.tex" in refused.stderr


def test_training_and_evaluation_run_as_one(tmp_path):
    """The real notebooks once, on the embedded default."""
    path = tmp_path / "real.yaml"
    path.write_text(
        """
steps:
  - notebook: notebooks/train.ipynb
    parameters: {num_samples: 40, held_out: 9, N_supervision: 1}
  - notebook: notebooks/evaluate.ipynb
    parameters: {weights: "{run}/train", num_samples: 9, max_new_tokens: 40}
minutes: 5
metric: {name: held_out_loss_trm, better: lower}
""",
        encoding="utf-8",
    )
    ran = batching.run(path, cwd=ROOT)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (found,) = batching.results(path).values()
    assert found["held_out_loss_trm"] > 0
    (run,) = batching.done(path)
    folder = tmp_path / "out" / "runs" / run
    for name in ("train.html", "evaluate.html", "train/trm/model.safetensors"):
        assert (folder / name).is_file()
