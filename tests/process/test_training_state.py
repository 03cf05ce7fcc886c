"""A run that is killed, stopped, or finds damaged checkpoints loses nothing."""

import errno
import json
import multiprocessing
import os
import random
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.killed_training import CONFIG, CURRICULUM, run
from helpers.models import make_backbone, random_trm
from helpers.training import metrics, token_set
from mathllm.errors import CheckpointError
from mathllm.training import checkpoint
from mathllm.training.config import Saving
from mathllm.training.run import Stopping, train

KILLS = 20


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory) -> tuple[Path, list[torch.Tensor]]:
    """The output of a run that nothing disturbed, and its weights."""
    output = tmp_path_factory.mktemp("left-alone")
    return output, run(output)


@pytest.fixture(scope="module")
def curriculum_left_alone(tmp_path_factory) -> tuple[Path, list[torch.Tensor]]:
    """The same of a run in phases."""
    output = tmp_path_factory.mktemp("curriculum-left-alone")
    return output, run(output, config=CURRICULUM)


def losses(output: Path) -> list[float]:
    return [row["loss"] for row in metrics(output)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "undisturbed"), [(CONFIG, "left_alone"), (CURRICULUM, "curriculum_left_alone")]
)
def test_killed_twenty_times_it_ends_with_the_same_weights_bit_for_bit(
    tmp_path, request, config, undisturbed
):
    output, expected = request.getfixturevalue(undisturbed)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["helpers.killed_training"])  # imported once, not twenty times
    rng = random.Random(0)
    killed = 0
    while killed < KILLS:
        child = server.Process(target=run, args=(tmp_path, 0.0, config))
        child.start()
        child.join(timeout=rng.uniform(0.0, 0.8))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL, "the run ended before it was killed often enough"
        killed += 1
    weights = run(tmp_path, config=config)
    if config is CURRICULUM:
        stages = [row["stage"] for row in metrics(output)]
        assert stages == sorted(stages)
        assert set(stages) == {"forced 1", "hold 1", "hold 2", "hold 3"}
    assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))
    assert losses(tmp_path) == losses(output)
    best = [load_file(o / "best" / "model.safetensors") for o in (tmp_path, output)]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[1])


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(left_alone):
    output, expected = left_alone
    before = (output / "metrics.jsonl").read_bytes()
    weights = run(output)
    assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))
    assert (output / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_and_the_next_run_goes_on(tmp_path, left_alone, number):
    timer = threading.Timer(0.3, os.kill, (os.getpid(), number))
    timer.start()
    handler = signal.getsignal(number)
    model = random_trm(make_backbone(), n=1, T=2, N_sup=4)
    held_out = token_set(5, seed=1)
    saving = Saving(every_minutes=60, evaluate_steps=7)
    outcome = train(model, token_set(30), CONFIG, 0, tmp_path, held_out, saving=saving)
    assert outcome.reason == signal.Signals(number).name
    assert 0 < outcome.step < outcome.steps
    assert signal.getsignal(number) == handler
    newest, _ = checkpoint.newest_whole(tmp_path / "checkpoints")
    assert newest.step == outcome.step
    weights = run(tmp_path, every_minutes=60)
    assert all(torch.equal(a, b) for a, b in zip(weights, left_alone[1], strict=True))
    assert losses(tmp_path) == losses(left_alone[0])


def test_the_time_limit_ends_the_run_before_it(tmp_path):
    model = random_trm(make_backbone(), n=1, T=2, N_sup=4)
    config = replace(CONFIG, epochs=100_000)
    outcome = train(model, token_set(30), config, 0, tmp_path, saving=Saving(time_limit=0.5 / 60))
    assert outcome.reason == "time limit"
    assert checkpoint.newest_whole(tmp_path / "checkpoints")[0].step == outcome.step > 0


def test_the_limit_is_met_ahead_of_the_longest_step():
    now = [0.0]
    stopping = Stopping(100, clock=lambda: now[0])
    for seconds, stop in ((10, False), (20, False), (15, False), (14, False), (2, True)):
        now[0] += seconds
        stopping.lap()
        assert bool(stopping.reason) == stop, now[0]  # from 60 s on: twice 20 s are left


@pytest.mark.slow
def test_only_the_newest_are_kept(tmp_path):
    run(tmp_path)
    kept = checkpoint.checkpoint_folders(tmp_path / "checkpoints")
    assert len(kept) == Saving().keep
    assert not list((tmp_path / "checkpoints").glob(".*"))


def damaged(output: Path, which: int) -> Path:
    """Flip one byte in the middle of a checkpoint's tensors."""
    path = checkpoint.checkpoint_folders(output / "checkpoints")[which] / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


@pytest.fixture
def stopped(tmp_path) -> Path:
    """A run that was killed between two checkpoints, in the middle of a group."""
    model = random_trm(make_backbone(), n=1, T=2, N_sup=4)
    timer = threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    saving = Saving(every_minutes=0, evaluate_steps=7)
    train(model, token_set(30), CONFIG, 0, tmp_path, token_set(5, seed=1), saving=saving)
    return tmp_path


def test_a_damaged_checkpoint_is_passed_over_for_an_older_whole_one(stopped, left_alone, capsys):
    path = damaged(stopped, 0)
    weights = run(stopped)
    assert f"skipped a checkpoint: {path} is not the file that was saved" in capsys.readouterr().out
    assert all(torch.equal(a, b) for a, b in zip(weights, left_alone[1], strict=True))
    assert losses(stopped) == losses(left_alone[0])


def test_when_all_are_damaged_nothing_is_started_over(stopped):
    for which in range(Saving().keep):
        damaged(stopped, which)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole"):
        run(stopped)


@pytest.mark.slow
def test_a_half_written_checkpoint_is_never_read(stopped, left_alone):
    newest = checkpoint.checkpoint_folders(stopped / "checkpoints")[0]
    newest.rename(newest.with_name("." + newest.name))
    assert all(torch.equal(a, b) for a, b in zip(run(stopped), left_alone[1], strict=True))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"lr": 5e-4}, "lr 0.001, this run has 0.0005"), ({"seed": 3}, "seed 0, this run has 3")],
)
def test_the_checkpoint_of_another_configuration_is_refused(left_alone, change, named):
    with pytest.raises(CheckpointError, match=named):
        run(left_alone[0], config=replace(CONFIG, **change))


def test_other_data_are_refused(left_alone):
    with pytest.raises(CheckpointError, match="was trained with data "):
        train(
            random_trm(make_backbone(), n=1, T=2, N_sup=4),
            token_set(29),
            CONFIG,
            0,
            left_alone[0],
        )


def test_a_run_never_writes_into_anothers_folder_by_surprise(left_alone, tmp_path):
    output = left_alone[0]
    model = random_trm(make_backbone(), n=1, T=2, N_sup=4)
    for resume in ("never", str(tmp_path)):
        with pytest.raises(CheckpointError, match="holds a run already"):
            train(model, token_set(30), CONFIG, 0, output, saving=Saving(resume=resume))


def test_a_run_goes_on_from_anothers_folder_in_its_own(stopped, left_alone, tmp_path_factory):
    own = tmp_path_factory.mktemp("own")
    before = sorted(p.name for p in stopped.rglob("*"))
    model = random_trm(make_backbone(), n=1, T=2, N_sup=4)
    held_out = token_set(5, seed=1)
    train(model, token_set(30), CONFIG, 0, own, held_out, saving=Saving(resume=str(stopped)))
    weights = [p.detach() for _, p in model.trm_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(weights, left_alone[1], strict=True))
    assert sorted(p.name for p in stopped.rglob("*")) == before
    saving = Saving(resume=str(tmp_path_factory.mktemp("empty")))
    again = tmp_path_factory.mktemp("again")
    with pytest.raises(CheckpointError, match="has no checkpoints"):
        train(model, token_set(30), CONFIG, 0, again, saving=saving)


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_whole(stopped, left_alone, monkeypatch):
    newest, _ = checkpoint.newest_whole(stopped / "checkpoints")
    real = checkpoint.save_file

    def full(tensors, path):
        real(dict(list(tensors.items())[:1]), path)  # some bytes still fit
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(CheckpointError, match=r"MB was not written .*No space left"):
            run(stopped)
    assert checkpoint.newest_whole(stopped / "checkpoints")[0].step == newest.step
    assert not list((stopped / "checkpoints").glob(".*"))
    assert all(torch.equal(a, b) for a, b in zip(run(stopped), left_alone[1], strict=True))


def test_a_checkpoint_of_an_unknown_format_says_so(stopped):
    folder = checkpoint.checkpoint_folders(stopped / "checkpoints")[0]
    description = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(description | {"format": 99}))
    with pytest.raises(
        CheckpointError, match=f"has format 99, this version reads {checkpoint.FORMAT}"
    ):
        checkpoint.read_state(folder)
