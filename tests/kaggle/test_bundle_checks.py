"""The audit: what must not be uploaded, or would not work there, is refused by file."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.models import write_weights
from helpers.paths import ROOT
from helpers.tiny_wheels import clone, write_wheel
from mathllm.competition.bundle import checks, secrets
from mathllm.competition.bundle import notebook as notebook_rules
from mathllm.competition.bundle.manifest import BundleSpec, vendor
from mathllm.errors import BundleError

HEX = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def order(weights: Path, tmp_path: Path) -> BundleSpec:
    """An order whose clone and weights a test may spoil."""
    return BundleSpec(
        root=clone(tmp_path / "clone"),
        weights=shutil.copytree(weights, tmp_path / "weights"),
        build=tmp_path / "build",
        owner="somebody",
        title="My first submission",
        accelerator="none",
    )


def refused(order: BundleSpec, words: str) -> None:
    """Vendoring raises one BundleError of a line with these words, and leaves nothing."""
    with pytest.raises(BundleError, match=words) as caught:
        vendor(order)
    assert len(str(caught.value).splitlines()) == 1
    assert not order.build.exists()
    assert not list(order.build.parent.glob(".build*"))


def test_this_repository_passes(order: BundleSpec):
    vendor(replace(order, weights=ROOT / "assets" / "tiny"))


@pytest.mark.parametrize(
    "name", ["kaggle.json", "access_token", ".env", ".netrc", "id_rsa", "host.pem", ".env.local"]
)
@pytest.mark.parametrize("where", ["clone/src/mathllm/trm", "weights/backbone", "weights/trm"])
def test_private_files_are_refused_by_name(order: BundleSpec, name, where):
    path = order.build.parent / where / name
    path.write_text("anything", encoding="utf-8")
    refused(order, f"{path} looks like credentials")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f'{{"username": "me", "key": "{HEX}"}}', "a Kaggle key"),
        (f"os.environ['KAGGLE_KEY'] = '{HEX}'", "a Kaggle key"),
        (f"export KAGGLE_KEY={HEX}", "a Kaggle key"),
        ("KGAT_" + HEX, "a Kaggle token"),
        ("login('hf_" + "aB3" * 12 + "')", "a Hugging Face token"),
        ("ghp_" + "aB3d" * 9, "a GitHub token"),
        ("github_pat_" + "aB3d_" * 10, "a GitHub token"),
        ("AKIA" + "ABCDEFGH12345678", "an AWS key"),
        ("-----BEGIN OPENSSH " + "PRIVATE KEY-----", "a private key"),
        ("sk-proj-" + "aB3d" * 10, "an API key"),
        ("password = 'correct8horse8battery'", "a password"),
    ],
)
def test_credentials_are_found_and_not_shown(order: BundleSpec, text, kind):
    path = order.root / "src" / "mathllm" / "files.py"
    lines = path.read_text(encoding="utf-8")
    path.write_text(f"{lines}# {text}\n", encoding="utf-8")
    number = len(lines.splitlines()) + 1
    with pytest.raises(BundleError, match=f"{path}:{number} holds {kind}") as caught:
        vendor(order)
    assert HEX not in str(caught.value)


def test_credentials_are_found_in_weights_and_in_the_notebook(order: BundleSpec):
    config = order.weights / "trm" / "config.json"
    whole = config.read_text(encoding="utf-8")
    path = order.weights / "trm" / "notes.txt"
    path.write_text(f'{{"username":"me","key":"{HEX}"}}', encoding="utf-8")
    refused(order, rf"{path}:1 holds a Kaggle key")
    path.unlink()
    assert config.read_text(encoding="utf-8") == whole
    notebook = order.root / "kernel" / "submission.ipynb"
    edit(notebook, lambda cells: cells[0]["source"].append(f"\nKAGGLE_KEY: '{HEX}'"))
    refused(order, rf"{notebook}:\d+ holds a Kaggle key")


@pytest.mark.parametrize(
    "text",
    [
        '"bos_token": "<|endoftext|>", "key": "value"',
        f'"sha256": "{HEX}{HEX}", "key": "{HEX}"',  # no user name beside it
        "password = getpass('Kaggle password 1234567890')",
        "risk-" + "aB3d" * 10,
        "token = tokens[position + 1234567890]",
        '{"password": ""}',
    ],
)
def test_what_only_looks_alike_is_no_credential(text):
    assert secrets.secret_in(text.encode()) is None


def zipped(path: Path) -> None:
    torch.save({"w": torch.zeros(2)}, path)


def plain(path: Path) -> None:
    path.write_bytes(pickle.dumps({"w": [1.0]}))


def objects(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("optimizer.pt", plain),
        ("pytorch_model.bin", plain),
        ("model.json", plain),
        ("weights.dat", zipped),
        ("noise.txt", zipped),
        ("table.npy", objects),
    ],
)
@pytest.mark.parametrize("part", ["backbone", "trm"])
def test_pickles_are_refused_by_suffix_and_by_content(order: BundleSpec, part, name, write):
    path = order.weights / part / name
    write(path)
    refused(order, f"{path} is a pickle.*convert it to safetensors.*or remove it")


def test_old_pickles_are_found_in_every_protocol(tmp_path):
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / "x.json"
        path.write_bytes(pickle.dumps({"a": [1] * 300}, protocol=protocol))
        assert secrets.is_pickle(path), protocol
    torch.save([1], tmp_path / "legacy.json", _use_new_zipfile_serialization=False)
    assert secrets.is_pickle(tmp_path / "legacy.json")


def test_headers_of_safetensors_are_no_pickles(tmp_path):
    for size in (0x280, 0x380, 0x480, 0x580, 0x2880, 0x7D0480):
        path = tmp_path / "x.safetensors"
        path.write_bytes(size.to_bytes(8, "little") + b"{" + b" " * 100)
        assert not secrets.is_pickle(path), hex(size)


def test_harmless_files_beside_the_weights_stay_behind(order: BundleSpec):
    backbone = order.weights / "backbone"
    for name in ("README.md", ".gitattributes", "merges.dat"):
        (backbone / name).write_text("harmless", encoding="utf-8")
    np.save(backbone / "numbers.npy", np.zeros(3))
    (backbone / ".cache").mkdir()
    (backbone / ".cache" / "download.pt").write_bytes(b"\x80\x04K\x01.")
    (backbone / "generation_config.json").write_text("{}", encoding="utf-8")
    names = {Path(name).name for name in vendor(order)}
    assert "generation_config.json" in names
    assert not names & {"README.md", ".gitattributes", "merges.dat", "numbers.npy", "download.pt"}


@pytest.mark.parametrize("where", ["clone/src/mathllm/trm/more.py", "weights/trm/more.json"])
def test_links_out_of_the_tree_are_refused_with_their_target(order: BundleSpec, where):
    secret = order.build.parent / "secret"
    secret.write_text("x = 1\n", encoding="utf-8")
    link = order.build.parent / where
    link.symlink_to(secret)
    refused(order, f"{link} is a link to {secret}, outside of")
    link.unlink()
    link.symlink_to(order.build.parent, target_is_directory=True)
    refused(order, f"{link} is a link to {order.build.parent}, outside of")


def test_a_backbone_that_is_a_link_out_of_the_weights_is_refused(order: BundleSpec):
    backbone = order.weights / "backbone"
    elsewhere = backbone.rename(order.build.parent / "elsewhere")
    backbone.symlink_to(elsewhere, target_is_directory=True)
    refused(order, f"{backbone} is a link to {elsewhere}, outside of {order.weights}")


def test_links_inside_the_tree_are_followed(order: BundleSpec):
    trm = order.weights / "trm"
    (trm / "model.safetensors").rename(order.weights / "kept.safetensors")
    (trm / "model.safetensors").symlink_to(Path("..") / "kept.safetensors")
    package = order.root / "src" / "mathllm"
    (package / "alias").symlink_to("trm", target_is_directory=True)
    names = vendor(order)
    laid = order.build / "datasets" / "weights" / "trm" / "model.safetensors"
    assert laid.is_file()
    assert not laid.is_symlink()
    assert "datasets/source/mathllm/alias/config.py" in names


@pytest.mark.parametrize(("target", "words"), [("gone", "missing"), ("..", "that it is in")])
def test_links_that_lead_nowhere_or_round_are_refused(order: BundleSpec, target, words):
    link = order.root / "src" / "mathllm" / "trm" / "link"
    link.symlink_to(target)
    refused(order, f"{link} is a link to {target}, .*{words}")


@pytest.mark.parametrize(
    ("program", "line", "module"),
    [
        ("\nimport lightgbm", 2, "lightgbm"),
        ("def f():\n    from xgboost.sklearn import X", 2, "xgboost"),
        ("import os, flask.json", 1, "flask"),
        ("try:\n    import django\nfinally:\n    pass", 2, "django"),
        ("try:\n    import django\nexcept ValueError:\n    pass", 2, "django"),
    ],
)
def test_an_import_that_nobody_has_on_kaggle_is_refused_by_line(
    order: BundleSpec, program, line, module
):
    path = order.root / "src" / "mathllm" / "extra.py"
    path.write_text(program + "\n", encoding="utf-8")
    refused(order, f"{path}:{line} imports {module}, a missing dependency.*image.txt")


def test_imports_that_are_handled_ours_or_in_wheels_pass(order: BundleSpec, tmp_path):
    path = order.root / "src" / "mathllm" / "extra.py"
    path.write_text(
        "import grpc, google.protobuf, zmq, IPython, jupyter_client, mathllm.files\n"
        "from . import files\n"
        "try:\n    import django\nexcept (ValueError, ImportError):\n    django = None\n"
        "def f():\n    import django.db\n"
        "import tiny_probe\n",
        encoding="utf-8",
    )
    refused(order, f"{path}:9 imports tiny_probe")
    own = clone(tmp_path / "own", write_wheel(tmp_path, "tiny-probe"))
    shutil.copy2(path, own / "src" / "mathllm")
    vendor(replace(order, root=own))


def test_imports_of_the_notebook_count_too(order: BundleSpec):
    notebook = order.root / "kernel" / "submission.ipynb"
    edit(notebook, lambda cells: cells[-1]["source"].append("\n%pip list\nimport lightgbm"))
    refused(order, rf"{notebook}: cell \d+, line 3 imports lightgbm")


def test_the_package_goes_without_wheels_where_it_handles_their_absence(order: BundleSpec):
    vendor(replace(order, wheels=False))
    image = order.root / "datasets_meta" / "wheels" / "image.txt"
    kept = [line for line in image.read_text().splitlines() if line != "polars"]
    image.write_text("\n".join(kept), encoding="utf-8")
    with pytest.raises(BundleError, match=r"\.py:\d+ imports polars"):
        vendor(order)


def edit(notebook: Path, change) -> None:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    change(content["cells"])
    notebook.write_text(json.dumps(content), encoding="utf-8")


def test_a_notebook_beyond_kaggles_size_is_refused(order: BundleSpec):
    notebook = order.root / "kernel" / "submission.ipynb"
    big = "# " + "x" * notebook_rules.NOTEBOOK_BYTES
    edit(notebook, lambda cells: cells[-1]["source"].append(f"\n{big}"))
    refused(order, rf"{notebook} has 1,\d+,\d+ bytes.*1,000,000")


def test_a_notebook_with_outputs_is_refused(order: BundleSpec):
    notebook = order.root / "kernel" / "submission.ipynb"

    def run(cells: list) -> None:
        cells[-1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["1"]}]

    edit(notebook, run)
    refused(order, rf"{notebook}: cell \d+ has outputs: run `jupytext")


@pytest.mark.parametrize("name", [" lead.json", "tab\t.json", "back\\slash.json", "n\n.json"])
def test_names_that_kaggle_does_not_take_are_refused(order: BundleSpec, name):
    (order.weights / "trm" / name).write_text("{}", encoding="utf-8")
    refused(order, "Kaggle may not take the name")


def test_datasets_beyond_kaggles_limits_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("{}", encoding="utf-8")
    checks.check_files([(f"{n}.json", path) for n in range(checks.TOP_FILES - 1)])
    with pytest.raises(BundleError, match="50 files of a dataset's top folder"):
        checks.check_files([(f"{n}.json", path) for n in range(checks.TOP_FILES)])
    checks.check_files([(f"folder/{n}.json", path) for n in range(checks.TOP_FILES)])
    monkeypatch.setattr(checks, "DATASET_BYTES", 3)
    with pytest.raises(BundleError, match=r"a\.json makes a dataset of more than.*--model"):
        checks.check_files([("a", path), ("b", path)])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("title", "four", "title 'four' has 4"),
        ("subtitle", "too short", "subtitle 'too short' has 9"),
        ("id", "$owner/five5", "slug 'five5' has 5"),
        ("licenses", [], "exactly one licence"),
    ],
)
def test_metadata_beyond_kaggles_limits_is_refused(order: BundleSpec, key, value, words):
    path = order.root / "datasets_meta" / "weights" / "dataset-metadata.json"
    content = json.loads(path.read_text(encoding="utf-8")) | {key: value}
    path.write_text(json.dumps(content), encoding="utf-8")
    refused(order, f"{path}: .*{words}|{path}: {words}")
