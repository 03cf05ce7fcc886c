"""The vendored notebook, as Kaggle takes it and runs it: papermill, given no kernel's name."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.paths import ROOT
from mathllm.competition.bundle.metadata import kernel_metadata, placeholders
from mathllm.competition.bundle.notebook import KERNELSPEC, check_notebook, programs, pushed
from mathllm.delivery.credentials import sign_in
from mathllm.delivery.retry import RetryPolicy
from mathllm.errors import BundleError
from mathllm.settings import CURRENT
from standin import KaggleStandIn

OURS = ROOT / "kernel" / "submission.ipynb"
SMALL = {
    "cells": [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": "only",
            "metadata": {},
            "outputs": [],
            "source": ["x = 1\n", "print(x)"],
        }
    ],
    "metadata": {"kernelspec": KERNELSPEC},
    "nbformat": 4,
    "nbformat_minor": 5,
}


def check(content: dict[str, Any]) -> None:
    check_notebook(Path("mine.ipynb"), json.dumps(content))


def with_cell(source: str) -> dict[str, Any]:
    content = copy.deepcopy(SMALL)
    content["cells"][0]["source"] = source
    return content


def papermill(content: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """As Kaggle runs it."""
    (folder / "in.ipynb").write_text(json.dumps(content), encoding="utf-8")
    command = [sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "--no-progress-bar"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def nothing(metadata: dict[str, Any]) -> None:
    metadata.clear()


def language_alone(metadata: dict[str, Any]) -> None:
    del metadata["kernelspec"]
    metadata["language_info"] = {"name": "python"}


def nameless(metadata: dict[str, Any]) -> None:
    del metadata["kernelspec"]["name"]


def named(name: str, language: str = "python") -> Callable[[dict[str, Any]], None]:
    def spoil(metadata: dict[str, Any]) -> None:
        metadata["kernelspec"] |= {"name": name, "language": language}

    return spoil


def other_language(metadata: dict[str, Any]) -> None:
    metadata["language_info"] = {"name": "R"}


def no_language(metadata: dict[str, Any]) -> None:
    del metadata["kernelspec"]["language"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "theirs"),
    [
        (nothing, "No kernel name"),
        (language_alone, "No kernel name"),
        (nameless, "No kernel name|'name' is a required property"),
        (named("my-venv"), "No such kernel named my-venv"),
        (named("ir", "R"), "No such kernel named ir"),
    ],
)
def test_a_kernelspec_that_kaggle_cannot_run_is_refused(spoil, theirs, tmp_path):
    content = copy.deepcopy(SMALL)
    check(content)
    spoil(content["metadata"])
    with pytest.raises(BundleError, match=r"mine\.ipynb (asks for|is no valid)"):
        check(content)
    ran = papermill(content, tmp_path)
    assert ran.returncode
    assert any(words in ran.stderr for words in theirs.split("|")), ran.stderr


@pytest.mark.parametrize("spoil", [other_language, no_language, named("python3", "R")])
def test_a_kernelspec_of_no_or_another_language_is_refused(spoil):
    content = copy.deepcopy(SMALL)
    spoil(content["metadata"])
    with pytest.raises(BundleError, match=r"mine\.ipynb asks for .*python3"):
        check(content)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{"nbformat": 3}, {"nbformat": 5}, {"nbformat": None}, {"metadata": None}],
    ids=["old", "new", "without format", "without metadata"],
)
def test_what_papermill_cannot_read_is_refused(change, tmp_path):
    content = {k: v for k, v in {**SMALL, **change}.items() if v is not None}
    with pytest.raises(BundleError, match=r"mine\.ipynb is no valid notebook"):
        check(content)
    assert papermill(content, tmp_path).returncode


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\ndef f(:\n    pass", "cell 1, line 2 is no Python"),
        ("return 1", "cell 1, line 1 is no Python"),
        ("!pip install vllm", "cell 1 runs '!pip install vllm', and Kaggle has no network"),
        ("%pip install -q vllm", "no network"),
        ("import sys\n!{sys.executable} -m pip install vllm", "no network"),
        ("%%bash\nset -e\npip install vllm", "cell 1 runs 'pip install vllm'"),
        ("!apt-get -y install git", "no network"),
    ],
)
def test_cells_that_would_fail_are_refused_by_number(source, words):
    with pytest.raises(BundleError, match=f"mine\\.ipynb: {words}|{words}"):
        check(with_cell(source))


@pytest.mark.parametrize(
    "source",
    [
        "%%bash\nls -l $HOME",
        "if True:\n    !ls",
        "%matplotlib inline\nx = 1",
        "import asyncio\nawait asyncio.sleep(0)",
        "!pip install --no-index --find-links /kaggle/input/d probe",
        "# pip install is not run here\nx = 'pip install y'",
        "x?",
    ],
)
def test_cells_that_ipython_runs_pass(source):
    check(with_cell(source))


def test_programs_keep_their_lines():
    ((number, tree),) = programs(OURS, json.dumps(with_cell("%pip list\n\nimport os")))
    assert (number, tree.body[-1].lineno) == (1, 3)


def test_the_size_is_that_of_what_the_client_sends(tmp_path, monkeypatch):
    content = json.loads(OURS.read_text(encoding="utf-8"))
    content["cells"].append(
        {"cell_type": "markdown", "id": "zh", "metadata": {}, "source": ["数" * 300_000]}
    )
    names = placeholders("carl", "MathLLM submission", "none", CURRENT.slug)
    metadata = kernel_metadata(OURS.with_name("kernel-metadata.json"), names, [], [], True)
    (tmp_path / "kernel-metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    (tmp_path / "submission.ipynb").write_text(json.dumps(content), encoding="utf-8")
    with KaggleStandIn(pace=0.005) as standin:
        standin.adopt(monkeypatch, tmp_path / "home")
        api = sign_in(RetryPolicy(poll=0.02, first=0.02), lambda _: None)
        api.kernels_push(str(tmp_path))
        (kernel,) = standin.kernels.values()
        assert pushed(content) == kernel.versions[-1].push.text
    with pytest.raises(BundleError, match=r"has 1,8\d\d,\d{3} bytes as it would be pushed"):
        check(content)
