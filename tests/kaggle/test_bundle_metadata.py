"""Kaggle's rules for metadata: what vendoring refuses, beside what the real client does with it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slugify import slugify as clients_slugify

from helpers.paths import ROOT
from mathllm.competition.bundle import checks
from mathllm.competition.bundle.metadata import (
    ACCELERATORS,
    KERNEL_TITLE,
    dataset_metadata,
    kernel_metadata,
    placeholders,
    slugify,
)
from mathllm.delivery.credentials import sign_in
from mathllm.delivery.retry import RetryPolicy
from mathllm.errors import BundleError, ParameterError
from mathllm.settings import CURRENT
from standin import KaggleStandIn

TITLE = "MathLLM submission"
NAMES = placeholders("carl", TITLE, "NvidiaL4", CURRENT.slug)
OURS = ["carl/mathllm-source", "carl/mathllm-weights", "carl/mathllm-wheels"]
MODEL = "qwen-lm/qwen2.5-math/transformers/1.5b-instruct/1"
LOST = object()  # a field that is left out


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "kernel-metadata.json"
    path.write_bytes((ROOT / "kernel" / "kernel-metadata.json").read_bytes())
    return path


def spoil(path: Path, field: str, value: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | {field: value}
    kept = {name: value for name, value in content.items() if value is not LOST}
    path.write_text(json.dumps(kept), encoding="utf-8")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Any, KaggleStandIn]]:
    """The real client, signed in at a stand-in that keeps what it is sent."""
    with KaggleStandIn(pace=0.005) as standin:
        standin.adopt(monkeypatch, tmp_path / "home")
        yield sign_in(RetryPolicy(poll=0.02, first=0.02), lambda _: None), standin


# What the client does with each: the words of its ValueError, or the field that it sends on.
@pytest.mark.parametrize(
    ("field", "value", "words", "theirs"),
    [
        ("enable_internet", True, "enable_internet is true, not false", {"enableInternet": True}),
        ("enable_internet", LOST, "enable_internet is missing", {"enableInternet": True}),
        ("competition_sources", [], "test.csv comes from", {"competitionDataSources": None}),
        ("language", "r", 'language is "r", not "python"', {"language": "r"}),
        ("language", "Python3", 'not "python"', "A valid language"),
        ("kernel_type", "script", "run as a script", {"kernelType": "script"}),
        ("kernel_type", LOST, "kernel_type is missing", "A valid kernel type"),
        ("code_file", "other.ipynb", "code_file", "Source file not found"),
        ("id_no", 12345, "id_no 12345 would push over the kernel", {"id": 12345}),
        ("machine_shape", "Gpu9000", "--accelerator", {"machineShape": "Gpu9000"}),
        ("enable_tpu", True, "enable_tpu is true", {"enableTpu": True}),
        ("kernel_sources", ["novice"], "'novice', Kaggle takes OWNER/SLUG", "novice|specified"),
        ("dataset_sources", [*OURS, "novice"], "'novice', Kaggle takes OWNER/SLUG", "Dataset must"),
        ("model_sources", ["a/b"], "no handle of Kaggle's", "Model|model"),
        ("docker_image_pinning_type", "newest", "pinning_type", "pinning_type must"),
        ("title", "MathLLM", "title", {"newTitle": "MathLLM"}),
        ("acelerator", "x", "no field that Kaggle reads", {"acelerator": None}),
    ],
)
def test_metadata_that_would_go_wrong_is_refused(template, client, field, value, words, theirs):
    api, standin = client
    right = kernel_metadata(template, NAMES, OURS, [], True)
    spoil(template, field, value)
    with pytest.raises(BundleError, match=words) as caught:
        kernel_metadata(template, NAMES, OURS, [], True)
    assert str(template) in str(caught.value)
    folder = template.parent / "pushed"
    folder.mkdir()
    (folder / "kernel-metadata.json").write_text(json.dumps(right), encoding="utf-8")
    spoil(folder / "kernel-metadata.json", field, value)
    (folder / "submission.ipynb").write_text('{"cells": []}', encoding="utf-8")
    if isinstance(theirs, str):
        with pytest.raises(ValueError, match=theirs):
            api.kernels_push(str(folder))
    else:
        api.kernels_push(str(folder))
        (kernel,) = standin.kernels.values()
        request = kernel.versions[-1].push.request
        assert {name: request.get(name) or None for name in theirs} == theirs


def test_sources_of_others_are_kept(template: Path):
    spoil(template, "dataset_sources", [*OURS, "someone/vllm", "carl/mathllm-more"])
    spoil(template, "kernel_sources", ["someone/vllm-wheels"])
    spoil(template, "model_sources", ["openai/gpt-oss/transformers/120b/1"])
    filled = kernel_metadata(template, NAMES, OURS[:2], [MODEL], True)
    assert filled["dataset_sources"] == [*OURS[:2], "someone/vllm", "carl/mathllm-more"]
    assert filled["kernel_sources"] == ["someone/vllm-wheels"]
    assert filled["model_sources"] == [MODEL, "openai/gpt-oss/transformers/120b/1"]


@given(
    st.text("abcXYZ019 _.:-", min_size=KERNEL_TITLE[0], max_size=KERNEL_TITLE[1]).filter(
        lambda title: len(slugify(title)) >= KERNEL_TITLE[0]
    )
)
def test_the_slug_of_a_title_that_is_taken_is_the_clients(title):
    assert placeholders("carl", title, "none", "c")["slug"] == clients_slugify(title)


@pytest.mark.parametrize("title", ["Meine Lösung 3", "R&D 1,000 tries", "日本語タイトルabcde"])
def test_a_title_that_may_get_another_address_is_refused(title):
    assert slugify(title) != clients_slugify(title)
    with pytest.raises(ParameterError, match=f"{title}.*unaccented"):
        placeholders("carl", title, "none", "c")


def test_an_accelerator_that_is_retired_is_refused_by_name():
    # kaggle-cli#1192, September 2026: the server runs another one, and says nothing.
    with pytest.raises(ParameterError, match=r"NvidiaTeslaP100 is retired.*NvidiaTeslaT4"):
        placeholders("carl", TITLE, "NvidiaTeslaP100", "c")
    assert "NvidiaTeslaP100" not in ACCELERATORS


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("id", "$owner/mathllm_source", "lower-case letters"),
        ("id", "$owner/MathLLM-Source", "lower-case letters"),
        ("id", "$owner/mathllm--source", "lower-case letters"),
        ("id", "$owner/mathllm-others", "the kernel looks for mathllm-weights"),
        ("id", "somebody/mathllm-weights", r"takes \$owner/"),
        ("licenses", [{"name": "Apache License"}], "'Apache License' is none of Kaggle's"),
        ("licenses", [{"title": "x"}], "licence None is none of Kaggle's"),
        ("licenses", [], "exactly one licence"),
    ],
)
def test_a_dataset_that_kaggle_would_refuse_after_its_upload(tmp_path, client, field, value, words):
    path = tmp_path / "dataset-metadata.json"
    path.write_bytes((ROOT / "datasets_meta" / "weights" / path.name).read_bytes())
    dataset_metadata(path, NAMES, True, "mathllm-weights")
    spoil(path, field, value)
    with pytest.raises(BundleError, match=words):
        dataset_metadata(path, NAMES, True, "mathllm-weights")
    if words == "lower-case letters":
        with pytest.raises(ValueError, match="Invalid slug"):
            client[0]._validate_slug_syntax(value.partition("/")[2])


@pytest.mark.parametrize("sign", [*"@&#%:?*<>|'\",;!=~() ", "ü", "\t", "\\"])
def test_signs_that_kaggle_may_refuse_in_a_name(sign):
    # "File name contains invalid character (@)" (kaggle-cli#430), "(&)" (#524).
    checks.check_files([("backbone/model-00001_of.2+cu.json", b"{}")])
    with pytest.raises(BundleError, match="Kaggle may not take the name"):
        checks.check_files([(f"backbone/a{sign}b.json", b"{}")])
