"""What `vendor` really lays out, delivered by the commands that a person types."""

import json
import subprocess
from pathlib import Path

import pytest

from helpers import delivering
from mathllm.competition.bundle import manifest
from standin import KaggleStandIn

pytestmark = pytest.mark.slow


def vendor(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    command = delivering.command(folder, "vendor")
    ran = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_from_weights_to_a_score(tmp_path: Path) -> None:
    with KaggleStandIn(pace=0.01) as standin:
        environment = standin.environment(tmp_path / "home")
        # Wheels are left to the tests that have a cache of them: this one asks no network.
        vendor(tmp_path, environment, "--no-wheels", "-p", "n_samples", "3")
        pushed = delivering.run(tmp_path, environment, "push")
        assert pushed.returncode == 0, pushed.stdout + pushed.stderr
        record = tmp_path / "submissions.jsonl"
        submitted = delivering.run(tmp_path, environment, "submit", "--record", str(record))
        assert submitted.returncode == 0, submitted.stdout + submitted.stderr

        # Kaggle has every byte of the bundle, where the kernel looks for it.
        for part in (manifest.SOURCE, manifest.WEIGHTS):
            ref = f"carl/mathllm-{Path(part).name}"
            there = standin.datasets[ref].versions[-1].contents
            folder = tmp_path / "build" / part
            here = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
            del here["dataset-metadata.json"]
            assert there.keys() == here.keys()
            assert all(there[name] == path.read_bytes() for name, path in here.items())
        push = standin.kernels["carl/mathllm-submission"].versions[-1].push
        assert "n_samples = 3" in push.text
        assert push.request["machineShape"] == "NvidiaH100"
        assert push.request["isPrivate"]
        assert not push.request.get("enableInternet", False)
        (line,) = record.read_text(encoding="utf-8").splitlines()
        found = json.loads(line)
        assert (found["public_score"], found["parameters"]) == ("7", {"n_samples": 3})
        assert found["identity"] == manifest.describe(tmp_path / "build").identity


@pytest.mark.parametrize("private", [True, False])
def test_upload_goes_on_after_vendoring(tmp_path: Path, private: bool) -> None:
    with KaggleStandIn(pace=0.0) as standin:
        environment = standin.environment(tmp_path / "home")
        choice = "--private" if private else "--no-private"
        text = vendor(tmp_path, environment, "--no-wheels", choice, "--upload")
        assert "submission.parquet has 3 rows" in text
        assert standin.datasets["carl/mathllm-weights"].private is private
