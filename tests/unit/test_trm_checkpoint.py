"""TRM weights on disk: what is saved comes back, and what is broken is refused by name."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.models import SHAPES, make_backbone, random_trm
from helpers.paths import TESTS
from mathllm.errors import WeightsError
from mathllm.trm import RecursiveLM, TRMConfig, load_backbone, load_checkpoint, save_checkpoint


@pytest.mark.parametrize(
    "overrides", [{}, {"mixer": "none"}, {"train_head": True, "learn_initial_state": True}], ids=str
)
def test_a_saved_trm_comes_back_whole(backbone, overrides, tmp_path):
    model = random_trm(backbone, n=2, T=2, N_sup=2, **overrides)
    save_checkpoint(model, tmp_path / "trm")
    again = load_checkpoint(backbone, tmp_path / "trm")
    ids = torch.arange(12).reshape(1, 12)
    assert again.config == model.config
    assert torch.equal(again.logits(ids), model.logits(ids))
    assert {f.suffix for f in (tmp_path / "trm").iterdir()} == {".json", ".safetensors"}


def test_saving_again_replaces_the_older_one(tmp_path):
    backbone = make_backbone()
    save_checkpoint(random_trm(backbone, seed=1, N_sup=2), tmp_path / "trm")
    newer = random_trm(backbone, seed=2, N_sup=3)
    save_checkpoint(newer, tmp_path / "trm")
    assert load_checkpoint(backbone, tmp_path / "trm").config.N_sup == 3
    assert [f.name for f in tmp_path.iterdir()] == ["trm"]


def test_a_full_disk_leaves_the_older_one(tmp_path, monkeypatch):
    backbone = make_backbone()
    save_checkpoint(random_trm(backbone, N_sup=2), tmp_path / "trm")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(random_trm(backbone, N_sup=3), tmp_path / "trm")
    assert load_checkpoint(backbone, tmp_path / "trm").config.N_sup == 2
    assert [f.name for f in tmp_path.iterdir()] == ["trm"]


SAVE_FOR_EVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from helpers.models import make_backbone
from mathllm.trm import RecursiveLM, TRMConfig, save_checkpoint
backbone = make_backbone()
model = RecursiveLM(backbone, TRMConfig.for_backbone(backbone.config))
number = 0
while True:
    number += 1
    save_checkpoint(model, Path(sys.argv[1]) / f"step-{number}")
    print(number, flush=True)
"""


@pytest.mark.process
@pytest.mark.slow
def test_a_killed_save_never_leaves_a_half_checkpoint(tmp_path):
    command = [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path), str(TESTS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(3):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    backbone = make_backbone()
    whole = [f for f in tmp_path.iterdir() if not f.name.startswith(".")]
    assert len(whole) >= 3
    for folder in whole:
        load_checkpoint(backbone, folder)


def test_a_backbone_of_transformers_loads_frozen(backbone, tmp_path):
    backbone.save_pretrained(tmp_path)
    loaded = load_backbone(tmp_path)
    ids = torch.arange(9).reshape(1, 9)
    assert torch.equal(loaded(ids).logits, backbone(ids).logits)
    assert not any(p.requires_grad for p in loaded.parameters())


@pytest.fixture
def weights(tmp_path) -> Path:
    backbone = make_backbone()
    backbone.save_pretrained(tmp_path / "backbone")
    model = RecursiveLM(backbone, TRMConfig.for_backbone(backbone.config, N_sup=2))
    save_checkpoint(model, tmp_path / "trm")
    return tmp_path


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def edit(path: Path, **changes: object) -> None:
    description = json.loads(path.read_text())
    target = description.get("trm", description)
    target.update(changes)
    path.write_text(json.dumps(description))


def drop_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda w: shutil.rmtree(w / "backbone"), "backbone.*config.json is missing"),
        (lambda w: (w / "backbone/model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda w: truncate(w / "backbone/model.safetensors"), "backbone/model.safetensors.*trunc"),
        (lambda w: edit(w / "backbone/config.json", num_hidden_layers=4), "cannot be loaded"),
        (lambda w: edit(w / "backbone/config.json", intermediate_size=99), "cannot be loaded"),
        (lambda w: drop_a_tensor(w / "backbone/model.safetensors"), "lacks 1 tensors"),
        (lambda w: edit(w / "backbone/config.json", model_type="nonesuch"), "cannot be loaded"),
        (lambda w: (w / "trm/config.json").unlink(), "has no TRM"),
        (lambda w: (w / "trm/config.json").write_text("{"), "is not a TRM config"),
        (lambda w: edit(w / "trm/config.json", n=0), "is not a TRM config"),
        (lambda w: (w / "trm/model.safetensors").unlink(), "trm/model.safetensors is missing"),
        (lambda w: truncate(w / "trm/model.safetensors"), "trm/model.safetensors.*truncated"),
        (lambda w: edit(w / "trm/config.json", layers=3), "do not belong together"),
        (lambda w: edit(w / "trm/config.json", intermediate_size=512), "do not belong together"),
        (lambda w: edit(w / "trm/config.json", hidden_size=32), "hidden_size"),
    ],
)
def test_broken_weights_are_refused_by_name(weights, damage, named):
    damage(weights)
    with pytest.raises(WeightsError, match=named):
        load_checkpoint(load_backbone(weights / "backbone"), weights / "trm")


def test_an_unknown_format_is_refused(weights):
    path = weights / "trm/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(WeightsError, match="format 99"):
        load_checkpoint(load_backbone(weights / "backbone"), weights / "trm")


def test_weights_of_another_shape_of_backbone_are_refused(weights):
    with pytest.raises(WeightsError, match="hidden_size"):
        load_checkpoint(make_backbone(**SHAPES["grouped"]), weights / "trm")
