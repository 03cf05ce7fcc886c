"""Several processes under accelerate, on CPU, against one."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from helpers.paths import ROOT
from helpers.training import metrics
from mathllm.data.arithmetic import generate
from mathllm.data.chat import encode, load_tokenizer
from mathllm.data.token_store import save_tokens
from mathllm.errors import ParameterError, TrainingError
from mathllm.tokens.rows import TokenSet
from mathllm.training import checkpoint
from mathllm.training.config import Saving, TrainConfig
from mathllm.training.launch import TrainingRun, launch, read_run, run_training, write_run

pytestmark = pytest.mark.slow

TINY = ROOT / "assets" / "tiny"
CONFIG = TrainConfig(batch=500, epochs=1, lr=1e-3, warmup_steps=2)


@pytest.fixture(scope="module")
def token_folder(tmp_path_factory) -> Path:
    """A token set of generated problems, on disk."""
    rows = generate("train", 40, seed=0)
    tokenizer = load_tokenizer(TINY / "backbone")
    examples = encode(tokenizer, rows["problem"].to_list(), rows["solution"].to_list())
    return save_tokens(TokenSet.of(examples), tmp_path_factory.mktemp("tokens"))


def described(tokens: Path, output: Path, config: TrainConfig = CONFIG) -> TrainingRun:
    trm = {"n": 1, "T": 2, "N_sup": 2}
    return TrainingRun(str(TINY), str(tokens), str(output), trm=trm, config=config)


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "trm" / "model.safetensors")


def test_two_processes_train_what_one_does_with_the_same_global_batch(token_folder, tmp_path):
    alone, together = tmp_path / "one", tmp_path / "two"
    run_training(described(token_folder, alone, replace(CONFIG, gradient_accumulation=2)))
    launch(described(token_folder, together), processes=2)
    one, two = metrics(alone), metrics(together)
    assert len(one) == len(two) > 4
    for name in ("loss", "halting_loss", "gradient_norm"):
        assert [r[name] for r in two] == pytest.approx([r[name] for r in one], rel=1e-4), name
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(together)[name], tensor, rtol=1e-4, atol=1e-5)


def test_two_processes_that_are_killed_go_on_where_one_goes_on(token_folder, tmp_path):
    """Their checkpoint in the middle of a group is taken up by one process with accumulation."""
    alone, killed = tmp_path / "one", tmp_path / "two"
    config = replace(CONFIG, gradient_accumulation=2)
    run_training(described(token_folder, alone, config))
    run = replace(described(token_folder, killed), saving=Saving(every_minutes=0))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "mathllm.training", str(write_run(run))]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    child = subprocess.Popen(command, env=environment)
    wanted = killed / "checkpoints"
    while child.poll() is None and not list(wanted.glob("step-*[13579]")):
        time.sleep(0.002)
    for process in [*psutil.Process(child.pid).children(recursive=True), child]:
        process.kill()
    child.wait()
    newest, _ = checkpoint.newest_whole(wanted)
    assert 0 < newest.step < len(metrics(alone))
    run_training(replace(described(token_folder, killed, config)))
    assert [r["loss"] for r in metrics(killed)] == pytest.approx(
        [r["loss"] for r in metrics(alone)], rel=1e-4
    )


def test_a_failure_in_a_process_is_reported(token_folder, tmp_path, capfd):
    run = described(token_folder, tmp_path)
    with pytest.raises(TrainingError, match="training in 2 processes ended with status"):
        launch(replace(run, weights=str(tmp_path)), processes=2)
    assert "has no backbone: config.json is missing" in capfd.readouterr().err


def test_a_description_goes_through_its_file(token_folder, tmp_path):
    run = described(token_folder, tmp_path)
    assert read_run(write_run(run)) == run


@pytest.mark.parametrize("content", ["", "{}", '{"weights": 1, "config": {}}', "[1]"])
def test_what_is_no_description_is_refused(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(ParameterError, match="is no description of a run"):
        read_run(path)
