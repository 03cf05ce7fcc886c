"""Kaggle's evaluation package against ours, and the vendored kernel under it.

The package is a stand-in written from what is known of 0.9.0 and 1.4.0; the original takes its
place where KAGGLE_EVALUATION_DIR names a folder that holds it.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from helpers.kaggle_package import WHOLE_FRAME, lay_out_package
from helpers.paths import ROOT
from mathllm.competition.bundle.manifest import BundleSpec, vendor
from mathllm.competition.kernel.journal import NAME, read_journal
from mathllm.competition.rehearsal import rehearse as rehearse_module
from mathllm.competition.rehearsal.isolation import Isolation
from mathllm.competition.rehearsal.rehearse import Rehearsal, rehearse
from mathllm.errors import (
    BundleError,
    EvaluationPackageError,
    ParameterError,
    ProblemFileError,
)
from mathllm.settings import CURRENT, PACKAGES

pytest.importorskip("grpc_tools", reason="grpcio-tools compiles the stand-in's messages")
ORIGINAL = os.environ.get("KAGGLE_EVALUATION_DIR", "")


def parity(folder: Path, version: str, scratch: Path) -> dict[str, list]:
    """What helpers.package_parity prints; on a loopback of its own, since ports are fixed."""
    command = [sys.executable, "-m", "helpers.package_parity", str(folder), version]
    search = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "src")])
    log = scratch / "log"
    with Isolation(scratch / "isolation") as isolation, log.open("wb") as output:
        environment = {**os.environ, "PYTHONPATH": search, "GRPC_VERBOSITY": "NONE"}
        environment.pop("KAGGLE_IS_COMPETITION_RERUN", None)
        process = isolation.popen(command, environment, scratch, output)
        process.wait(timeout=240)
    lines = log.read_text(encoding="utf-8").splitlines()
    assert process.returncode == 0, "\n".join(lines[-20:])
    return json.loads(lines[-1])


def check(found: dict[str, list], version: str) -> None:
    assert {name: rows for name, rows in found.items() if any(r != rows[0] for r in rows)} == {}
    many = [[f"p{i:02}", i + 1] for i in range(50)]
    assert found["50 problems"][0] == many
    assert found["bound method"][0] == ("refused" if version == "0.9.0" else found["function"][0])
    for refused in ("callable object", "lambda", "partial", "builtin", "class", "no endpoint"):
        assert found[refused][0] == "refused"


@pytest.mark.parametrize("version", PACKAGES)
def test_both_ends_of_ours_do_what_the_packages_do(version: str, tmp_path: Path) -> None:
    lay_out_package(tmp_path, version)
    check(parity(tmp_path, version, tmp_path), version)


@pytest.mark.skipif(not ORIGINAL, reason="KAGGLE_EVALUATION_DIR names no folder with the original")
def test_both_ends_of_ours_do_what_the_original_does(tmp_path: Path) -> None:
    init = Path(ORIGINAL, "kaggle_evaluation", "__init__.py").read_text(encoding="utf-8")
    (version,) = (v for v in PACKAGES if f"'{v}'" in init)
    check(parity(Path(ORIGINAL), version, tmp_path), version)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vendored") / "build"
    weights = ROOT / "assets" / "tiny"
    vendor(BundleSpec(ROOT, weights, folder, "me", "MathLLM submission", "NvidiaTeslaT4"))
    return folder


def played(build: Path, tmp_path: Path, **options) -> tuple[bool, list[dict]]:
    """Whether a rehearsal of three problems succeeded, and its journals' `listening` events."""
    problems = tmp_path / "problems.csv"
    problems.write_text("id,problem\na,What is $1+1$?\nb,What is $2+2$?\nc,Compute $3+3$.\n")
    runs = tmp_path / "runs"
    quick = [("n_samples", "1"), ("max_new_tokens", "8")]
    order = Rehearsal(build, problems, runs, **({"parameters": quick} | options))
    succeeded = rehearse(order, lambda _: None)
    journals = sorted(runs.glob(f"*/kernel/{NAME}"))
    events = [event for path in journals for event in read_journal(path)]
    return succeeded, [event for event in events if event["event"] == "listening"]


@pytest.mark.slow
@pytest.mark.parametrize("version", PACKAGES)
def test_the_vendored_kernel_runs_under_the_package(
    build: Path, version: str, tmp_path: Path
) -> None:
    """A commit run and two reruns; gateway and kernel are processes, and the gateway theirs."""
    lay_out_package(tmp_path / "competition", version)
    succeeded, listening = played(build, tmp_path, competition=tmp_path / "competition")
    assert succeeded
    assert [(e["package"], e["version"]) for e in listening] == [("kaggle_evaluation", version)] * 3
    for rerun in ("rerun-1", "rerun-2"):
        folder = tmp_path / "runs" / rerun / "gateway"
        assert json.loads((folder / "result.json").read_text()) == {"Succeeded": True}
        assert sorted(pl.read_parquet(folder / "submission.parquet")["id"]) == ["a", "b", "c"]


@pytest.fixture
def one_rerun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rehearsals of a commit run and one rerun, which is as good as two here."""
    monkeypatch.setattr(rehearse_module, "CURRENT", replace(CURRENT, points=CURRENT.points[:2]))


@pytest.mark.slow
@pytest.mark.usefixtures("one_rerun")
@pytest.mark.parametrize("as_pandas", ["", ".to_pandas()"], ids=["polars", "pandas"])
def test_a_gateway_that_sends_all_problems_in_one_frame_is_answered(
    build: Path, as_pandas: str, tmp_path: Path
) -> None:
    gateway = WHOLE_FRAME.format(as_pandas=as_pandas)
    lay_out_package(tmp_path / "competition", "0.9.0", gateway)
    succeeded, _ = played(build, tmp_path, competition=tmp_path / "competition")
    assert succeeded


@pytest.mark.slow
@pytest.mark.usefixtures("one_rerun")
def test_ours_plays_the_other_version(build: Path, tmp_path: Path) -> None:
    succeeded, listening = played(build, tmp_path, package="1.4.0")
    assert succeeded
    assert [(e["package"], e["version"]) for e in listening] == [("mathllm", "1.4.0")] * 2


@pytest.mark.parametrize(
    ("missing", "error", "words"),
    [
        ("kaggle_evaluation", BundleError, "has no kaggle_evaluation"),
        ("kaggle_evaluation/aimo_3_gateway.py", EvaluationPackageError, "gateway.py of .*missing"),
        ("kaggle_evaluation/aimo_3_inference_server.py", EvaluationPackageError, "server.py of"),
        ("kaggle_evaluation/core", BundleError, "does not load.*`build.py fetch`"),
        ("kaggle_evaluation/core/relay.py", BundleError, "does not load: .*relay"),
    ],
)
def test_a_rehearsal_with_half_a_package_is_refused(
    build: Path, missing: str, error: type[Exception], words: str, tmp_path: Path
) -> None:
    lay_out_package(tmp_path / "competition", "0.9.0")
    place = tmp_path / "competition" / missing
    place.rename(tmp_path / "elsewhere")
    with pytest.raises(error, match=f"(?s){words}"):
        played(build, tmp_path, competition=tmp_path / "competition")
    assert not (tmp_path / "runs").exists()


def test_what_a_rehearsal_cannot_use_is_refused_before_anything_runs(
    build: Path, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match="voting"):
        played(build, tmp_path, parameters=[("voting", "nonsense")])
    (tmp_path / "runs").touch()
    with pytest.raises(BundleError, match="runs is not a folder"):
        played(build, tmp_path)
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("id,problem\n0e6441,x\n")
    with pytest.raises(ProblemFileError, match=r"numbers\.csv: the id 0e6441 is sent as 0\.0"):
        rehearse(Rehearsal(build, numbers, tmp_path / "new"), lambda _: None)
