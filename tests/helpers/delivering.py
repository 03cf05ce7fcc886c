"""A bundle without models, as vendor would seal it, and deliveries of it to the stand-in."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from helpers.paths import ROOT
from mathllm.competition.bundle import manifest
from mathllm.delivery.workdir import DeliveryFolder


def sum_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_bundle(
    build: Path,
    weights: dict[str, bytes] | None = None,
    source: dict[str, bytes] | None = None,
    owner: str = "carl",
    title: str = "MathLLM submission",
    slug: str = "mathllm-submission",
) -> str:
    """A bundle of these files; returns its identity."""
    parts = {
        manifest.SOURCE: source or {"mathllm/__init__.py": b"", "LICENSE": b"free"},
        manifest.WEIGHTS: weights
        or {"trm/model.safetensors": b"weights", "trm/config.json": b"{}"},
    }
    written: dict[str, bytes] = {}
    digests: dict[str, str] = {}
    for part, files in parts.items():
        listed = {n: {"sha256": sum_of(d), "size": len(d)} for n, d in sorted(files.items())}
        contents = json.dumps({"files": listed}, sort_keys=True).encode()
        digests[part] = sum_of(contents)
        name = f"mathllm-{Path(part).name}"
        metadata = {
            "id": f"{owner}/{name}",
            "title": name.replace("-", " "),
            "subtitle": "Something that a test has made up",
            "licenses": [{"name": "apache-2.0"}],
            "isPrivate": True,
        }
        written |= {f"{part}/{n}": data for n, data in files.items()}
        written[f"{part}/contents.json"] = contents
        written[f"{part}/dataset-metadata.json"] = json.dumps(metadata).encode()
    identity = sum_of(json.dumps([digests, title]).encode())
    metadata = {
        "id": f"{owner}/{slug}",
        "title": title,
        "code_file": "submission.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        "enable_internet": False,
        "dataset_sources": [f"{owner}/mathllm-source", f"{owner}/mathllm-weights"],
        "competition_sources": ["ai-mathematical-olympiad-progress-prize-3"],
        "kernel_sources": [],
        "model_sources": [],
    }
    cell = {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {"tags": ["injected-parameters"]},
        "outputs": [],
        "source": f'bundle = "{identity}"',
    }
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    written[f"{manifest.KERNEL}/submission.ipynb"] = json.dumps(notebook).encode()
    written[f"{manifest.KERNEL}/kernel-metadata.json"] = json.dumps(metadata).encode()
    for name, data in written.items():
        (build / name).parent.mkdir(parents=True, exist_ok=True)
        (build / name).write_bytes(data)
    content: dict[str, Any] = {
        "files": {name: sum_of(data) for name, data in sorted(written.items())},
        "format": manifest.FORMAT,
        "identity": identity,
        "datasets": digests,
        "parameters": {"n_samples": 16},
    }
    (build / manifest.MANIFEST).write_text(json.dumps(content), encoding="utf-8")
    return identity


def command(folder: Path, *arguments: str) -> list[str]:
    """`build.py` with everything that it writes in `folder`."""
    kept = ["--build", str(folder / "build"), "--delivery-dir", str(folder / "delivery")]
    name, *rest = arguments
    return [sys.executable, str(ROOT / "build.py"), name, *kept, "--poll", "0.1", *rest]


def run(
    folder: Path, environment: dict[str, str], *arguments: str, **options: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *arguments),
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=os.fspath(folder),
        **options,
    )


def hold(folder: Path, held: Any, release: Any) -> None:
    """Be the command that delivers from `folder`, from one Event to the other.

    Here, where a spawned process can import it: test modules are no packages.
    """
    with DeliveryFolder(folder).alone(print):
        held.set()
        release.wait(30)
