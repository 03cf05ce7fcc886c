"""Batches on Ray, started on loopback for the test."""

import socket
import time
from collections import Counter

import pytest

from helpers import batching
from helpers.paths import ROOT
from mathllm.batches import on_ray
from mathllm.batches.workdir import BatchFolder
from mathllm.errors import BatchError

# Together, since what they share takes long to start.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


def test_ray_gives_what_local_processes_give(tmp_path):
    """Also where runs fail; what they left comes back to the batch's folder."""
    folders = [tmp_path / "here", tmp_path / "there"]
    grid = {"width": [1, 2], "behave": ["well", "raise"]}
    for folder, engine in zip(folders, (["--jobs", "2"], ["--ray", "local"]), strict=True):
        folder.mkdir()
        path = batching.write_batch(folder, grid=grid, seeds=2)
        ran = batching.run(path, *engine)
        assert ran.returncode == 1, ran.stdout + ran.stderr
        assert ran.stdout.count("the seventh gate is shut") == 8  # as they end, and at the end
    here, there = (batching.results(folder / "light.yaml") for folder in folders)
    assert len(here) == 4
    assert there == here
    run = next(iter(here))
    names = [{p.name for p in (f / "out" / "runs" / run).iterdir()} for f in folders]
    assert names[0] == names[1]
    log = (folders[1] / "out" / "runs" / run / "log.txt").read_text(encoding="utf-8")
    assert "width" in log
    counts = Counter(s["status"] for s in batching.statuses(folders[1] / "light.yaml").values())
    assert counts == {"done": 4, "failed": 4}


def refusal(address, folder, **asked):
    began = time.monotonic()
    with pytest.raises(BatchError) as caught:
        on_ray.OnRay(BatchFolder(folder), ROOT, 1, address, **{"cpus": 1, "gpus": 0} | asked)
    assert time.monotonic() - began < on_ray.ANSWER_SECONDS + 15
    return str(caught.value)


def test_an_address_where_nothing_answers_is_named(tmp_path):
    said = refusal("127.0.0.1:9", tmp_path)
    assert "no Ray cluster answers at 127.0.0.1:9" in said
    assert "leave --ray out" in said
    assert "ray://127.0.0.1:9" in refusal("ray://127.0.0.1:9", tmp_path)


def test_an_address_where_something_else_is_silent_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "ANSWER_SECONDS", 2.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert f"no Ray cluster answers at {address}" in refusal(address, tmp_path)


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:80", "127.0.0.1:ray", ":1"])
def test_what_is_no_address_is_said(tmp_path, address):
    said = refusal(address, tmp_path)
    assert address in said
    assert "HOST:PORT" in said


def test_a_run_that_no_machine_can_take_is_refused(tmp_path):
    assert "1000 CPUs" in refusal("local", tmp_path, cpus=1000)
