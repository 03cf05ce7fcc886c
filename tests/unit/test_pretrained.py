"""Folders in transformers' format: what points elsewhere or brings code is refused with words."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.paths import ROOT
from mathllm.competition.bundle.checks import check_tree
from mathllm.competition.bundle.contents import check_weights
from mathllm.data.chat import load_tokenizer
from mathllm.errors import BundleError, WeightsError
from mathllm.trm import load_backbone
from mathllm.trm.backbone import read_backbone_config

TINY = ROOT / "assets" / "tiny"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The embedded weights, to be spoiled."""
    return shutil.copytree(TINY, tmp_path / "weights")


def shard(backbone: Path, *names: str) -> None:
    """Split the one file into shards of these names, with an index."""
    whole = backbone / "model.safetensors"
    tensors = load_file(whole)
    places = {key: names[number % len(names)] for number, key in enumerate(sorted(tensors))}
    for name in names:
        part = {key: tensors[key] for key, place in places.items() if place == name}
        save_file(part, backbone / name, {"format": "pt"})
    whole.unlink()
    write(backbone / INDEX, {"metadata": {}, "weight_map": places})


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def edit(path: Path, **values: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write(path, content | values)


def refused(weights: Path, words: str) -> None:
    """Vendoring and loading say the same, in a line."""
    for ask in (lambda: check_weights(weights), lambda: load_backbone(weights / "backbone")):
        with pytest.raises(WeightsError, match=words) as caught:
            ask()
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 400 + 3 * len(str(weights))


def test_shards_beside_their_index_are_loaded(weights):
    shard(weights / "backbone", "model-00001-of-00002.safetensors", "model-00002.safetensors")
    check_weights(weights)
    again, whole = (load_backbone(f / "backbone").state_dict() for f in (weights, TINY))
    assert all(torch.equal(again[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "/model.safetensors",
        "../model.safetensors",
        "sub/../../model.safetensors",
        "sub/model.safetensors",
        "..\\model.safetensors",
        "\\\\host\\model.safetensors",
        "C:\\model.safetensors",
        "C:model.safetensors",
        "file:///model.safetensors",
        "~/model.safetensors",
        "./model.safetensors",
        ".hidden.safetensors",
        "model.safetensors\0",
        "model.safetensors\n",
        "pytorch_model.bin",
        "",
        ".",
        "..",
        None,
        7,
        ["model.safetensors"],
        {"a": 1},
        "m" * 5000 + ".safetensors",
    ],
    ids=range(24),
)
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside the whole file"])
def test_an_index_that_points_elsewhere_is_refused(weights, name, beside):
    backbone = weights / "backbone"
    if not beside:
        outside = shutil.move(backbone / "model.safetensors", weights.parent)
        shutil.copy(outside, weights / "model.safetensors")
        (backbone / "sub").mkdir()
        shutil.copy(outside, backbone / "sub")
        shutil.copy(outside, backbone / ".hidden.safetensors")
    write(backbone / INDEX, {"weight_map": {"model.norm.weight": name}})
    refused(weights, rf"{INDEX} has model\.norm\.weight in .* no name of a \.safetensors file")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "has no weight_map"),
        ({"weight_map": {}}, "has no weight_map"),
        ({"weight_map": ["a"]}, "has no weight_map"),
        ({"weight_map": None}, "has no weight_map"),
        ([1], r"is \[1\] and no JSON object"),
        ("text", "is 'text' and no JSON object"),
    ],
)
def test_an_index_that_is_none_is_refused(weights, content, words):
    write(weights / "backbone" / INDEX, content)
    refused(weights, f"{INDEX} {words}")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "", '{"a": ' + "9" * 5000 + "}"])
def test_an_index_that_cannot_be_read_is_refused(weights, text):
    (weights / "backbone" / INDEX).write_text(text, encoding="utf-8")
    refused(weights, f"{INDEX} is no JSON")


def test_a_shard_that_is_named_and_missing_is_refused(weights):
    shard(weights / "backbone", "a.safetensors", "b.safetensors")
    (weights / "backbone" / "b.safetensors").unlink()
    refused(weights, r"b\.safetensors is missing: copy the whole weights folder again")


def test_a_shard_that_is_a_link_out_of_the_tree_is_not_vendored(weights):
    shard(weights / "backbone", "a.safetensors", "b.safetensors")
    outside = shutil.move(weights / "backbone" / "b.safetensors", weights.parent / "b.safetensors")
    (weights / "backbone" / "b.safetensors").symlink_to(outside)
    with pytest.raises(BundleError, match=r"b\.safetensors is a link to .*outside of"):
        check_tree(weights / "backbone", weights, weights=True)
    load_backbone(weights / "backbone")  # as in the cache of a hub, whose files are links


# ------------------------------------------------------------------------- custom code


PROGRAM = "from pathlib import Path\nPath({!r}).write_text('ran')\n"
AUTO = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
TOKENIZER_AUTO = {"AutoTokenizer": ["own.OwnTokenizer", None]}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("config.json", {"auto_map": AUTO}),
        ("config.json", {"auto_map": AUTO, "model_type": "own"}),
        ("config.json", {"auto_map": {"AutoConfig": "someone/repository--own.OwnConfig"}}),
        ("config.json", {"text_config": {"auto_map": AUTO}}),
        ("generation_config.json", {"auto_map": AUTO}),
        ("tokenizer_config.json", {"auto_map": TOKENIZER_AUTO}),
        ("tokenizer_config.json", {"auto_map": TOKENIZER_AUTO, "tokenizer_class": "OwnTokenizer"}),
        ("tokenizer_config.json", {"auto_map": "own.OwnTokenizer"}),
        ("processor_config.json", {"auto_map": {"AutoProcessor": "own.OwnProcessor"}}),
    ],
    ids=range(9),
)
def test_code_of_a_folders_own_is_refused_and_never_run(weights, tmp_path, name, values):
    backbone = weights / "backbone"
    (backbone / "own.py").write_text(PROGRAM.format(str(tmp_path / "ran")), encoding="utf-8")
    edit(backbone / name, **values)
    words = rf"{name} names code of its own .auto_map: .*does not run here: use a model"
    with pytest.raises(WeightsError, match=words):
        check_weights(weights)
    with pytest.raises(WeightsError, match=words):
        load_tokenizer(backbone)
    if name in ("config.json", "generation_config.json"):
        refused(weights, words)
        with pytest.raises(WeightsError, match=words):
            read_backbone_config(backbone)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_nobody_is_asked_whether_code_may_run(weights):
    """transformers asks on standard input; here a terminal that never answers."""
    edit(weights / "backbone" / "tokenizer_config.json", auto_map=TOKENIZER_AUTO)
    ours, theirs = os.openpty()
    command = [sys.executable, str(ROOT / "build.py"), "vendor", "--weights", str(weights)]
    command += ["--no-wheels", "--build", str(weights.parent / "build")]
    ran = subprocess.run(command, stdin=theirs, capture_output=True, text=True, timeout=120)
    os.close(ours)
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: ")
    assert len(ran.stderr.splitlines()) == 1
    assert "does not run here" in ran.stderr


def test_an_adapter_of_weights_elsewhere_is_refused(weights):
    write(weights / "backbone" / "adapter_config.json", {"base_model_name_or_path": "/etc"})
    refused(weights, r"adapter_config\.json makes this an adapter .* merge it")


def test_every_call_of_transformers_says_that_no_code_is_trusted():
    found = []
    for folder in ("src", "notebooks", "kernel", "benchmarks", "tests/helpers"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                    continue
                owner = getattr(node.func.value, "id", "")
                if node.func.attr == "from_pretrained" or (
                    node.func.attr == "from_config" and owner.startswith("Auto")
                ):
                    said = {word.arg: ast.unparse(word.value) for word in node.keywords}
                    found.append((path.name, said.get("trust_remote_code")))
    assert len(found) >= 6
    assert [name for name, trusted in found if trusted != "False"] == []


# --------------------------------------------------------------------------- tokenizers


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, "7"])
@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_the_file_that_is_spoiled_is_named(weights, name, text):
    path = weights / "backbone" / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match=f"{path} is ") as caught:
        load_tokenizer(weights / "backbone")
    assert "/tokenizer.json" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_spoiled_tokenizer_is_named_and_not_its_config(weights):
    path = weights / "backbone" / "tokenizer.json"
    whole = path.read_text(encoding="utf-8")
    for text in (whole[: len(whole) // 2], "{}", "[]", "x" * 10**6):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(WeightsError, match=f"{path} cannot be read") as caught:
            load_tokenizer(weights / "backbone")
        assert len(str(caught.value)) < len(str(path)) + 300


@pytest.mark.parametrize(
    "values", [{"tokenizer_class": 5}, {"added_tokens_decoder": [1]}, {"model_max_length": {}}]
)
def test_a_config_of_nonsense_is_named(weights, values):
    path = weights / "backbone" / "tokenizer_config.json"
    edit(path, **values)
    with pytest.raises(WeightsError, match=f"{path} cannot be read"):
        load_tokenizer(weights / "backbone")
