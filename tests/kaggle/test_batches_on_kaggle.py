"""Batches on Kaggle: the real client against the stand-in, whose kernels really run."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import batching, delivering
from helpers.paths import ROOT
from mathllm.competition.bundle import contents
from standin import KaggleStandIn, Push, Run

pytestmark = pytest.mark.slow

PLAY = """\
import sys
import nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
for cell in notebook.cells:
    exec(compile(cell.source, "cell", "exec"), globals())
"""


def play(push: Push) -> Run:
    """What Kaggle would do: the pushed notebook, with its datasets where Kaggle puts them."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for ref, version in push.datasets.items():
            for name, data in version.contents.items():
                path = folder / "input" / "datasets" / ref / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        (folder / "working").mkdir()
        (folder / "kernel.ipynb").write_text(push.text, encoding="utf-8")
        environment = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
        environment["MATHLLM_INPUT_ROOT"] = str(folder / "input")
        environment["MATHLLM_WORKING_DIR"] = str(folder / "working")
        # Isolated from the clone: the package must come from the dataset.
        command = [sys.executable, "-S", "-c", f"import site; site.main()\n{PLAY}"]
        ran = subprocess.run(
            [*command, str(folder / "kernel.ipynb")],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        outputs = {p.name: p.read_bytes() for p in (folder / "working").iterdir()}
        status = "ERROR" if ran.returncode else "COMPLETE"
        return Run([(0.0, ran.stdout + ran.stderr)], outputs, status, ran.stderr[-300:])


@pytest.fixture
def standin() -> Iterator[KaggleStandIn]:
    with KaggleStandIn(pace=0.0, dataset_polls=0, run=play) as standin:
        yield standin


def bundle_of(folder: Path) -> None:
    source = {name: path.read_bytes() for name, path in contents.source_files(ROOT)}
    delivering.make_bundle(folder / "build", source=source)


def on_kaggle(path: Path, folder: Path) -> list[str]:
    kept = ["--build", str(folder / "build"), "--delivery-dir", str(folder / "delivery")]
    return batching.command(path, "--kaggle", "--poll", "0.2", *kept)


def run(path: Path, standin: KaggleStandIn, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        on_kaggle(path, folder),
        env=standin.environment(folder / "home"),
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_kaggle_gives_what_local_processes_give(tmp_path: Path, standin: KaggleStandIn) -> None:
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders:
        folder.mkdir()
    here, there = (
        batching.write_batch(folder, grid={"width": [1, 2]}, seeds=2) for folder in folders
    )
    assert batching.run(here, "--jobs", "2").returncode == 0
    bundle_of(tmp_path)
    ran = run(there, standin, tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(batching.results(here)) == 4
    assert batching.results(there) == batching.results(here)
    assert len(standin.kernels) == 4
    assert all(len(kernel.versions) == 1 for kernel in standin.kernels.values())
    assert all(kernel.private for kernel in standin.kernels.values())
    again = run(there, standin, tmp_path)
    assert again.returncode == 0
    assert standin.count("SaveKernel") == 4


def test_a_run_that_fails_comes_back_with_its_log(tmp_path: Path, standin: KaggleStandIn) -> None:
    path = batching.write_batch(tmp_path, grid={"behave": ["well", "raise"]})
    bundle_of(tmp_path)
    ran = run(path, standin, tmp_path)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "the seventh gate is shut" in ran.stdout
    assert sorted(s["status"] for s in batching.statuses(path).values()) == ["done", "failed"]


def test_a_kernel_that_ends_without_a_word(tmp_path: Path, standin: KaggleStandIn) -> None:
    standin.settings.run = lambda _: Run([], {}, "ERROR", "Your notebook was stopped")
    path = batching.write_batch(tmp_path)
    bundle_of(tmp_path)
    ran = run(path, standin, tmp_path)
    assert ran.returncode == 1
    ((found,),) = [list(batching.statuses(path).values())]
    assert found["status"] == "killed"
    assert "Your notebook was stopped" in found["message"]


def test_a_killed_driver_finds_its_kernels_again(tmp_path: Path, standin: KaggleStandIn) -> None:
    """And more runs than Kaggle has sessions wait for one."""
    standin.settings.max_sessions = 1

    def slowly(push: Push) -> Run:
        run = play(push)
        run.seconds = 1.0
        return run

    standin.settings.run, standin.settings.pace = slowly, 1.0
    path = batching.write_batch(tmp_path, grid={"width": [1, 2, 3]})
    bundle_of(tmp_path)
    driver = subprocess.Popen(
        on_kaggle(path, tmp_path),
        env=standin.environment(tmp_path / "home"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not standin.kernels:
        assert driver.poll() is None
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    ran = run(path, standin, tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(batching.results(path)) == 3
    assert sorted(len(kernel.versions) for kernel in standin.kernels.values()) == [1, 1, 1]


def test_an_older_bundle_is_refused(tmp_path: Path, standin: KaggleStandIn) -> None:
    path = batching.write_batch(tmp_path)
    delivering.make_bundle(tmp_path / "build")
    ran = run(path, standin, tmp_path)
    assert ran.returncode == 2
    assert "older than" in ran.stderr
    assert not standin.datasets


def test_metadata_is_within_kaggles_limits(tmp_path: Path, standin: KaggleStandIn) -> None:
    path = batching.write_batch(tmp_path, name=f"{'long-' * 20}.yaml")
    bundle_of(tmp_path)
    assert run(path, standin, tmp_path).returncode == 0
    (kernel,) = standin.kernels.values()
    assert len(kernel.title) <= 50
    request = kernel.versions[0].push.request
    assert json.dumps(request["datasetDataSources"]).count("/1") == 2
    assert request["sessionTimeoutSeconds"] > 120
