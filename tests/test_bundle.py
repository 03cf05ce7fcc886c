"""The bundle: the same bytes for the same inputs, sealed, whole or not at all."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from tiny_weights import write_weights

from mathllm.competition import bundle
from mathllm.competition.bundle import KERNEL, MANIFEST, SOURCE, WEIGHTS, Order, vendor, verify
from mathllm.competition.contents import slugify
from mathllm.competition.paths import WEIGHTS_SLUG
from mathllm.competition.settings import CURRENT
from mathllm.errors import BundleError, ParameterError, WeightsError

# What vendoring reads of a clone.
CLONE = ("src", "assets", "kernel", "datasets_meta", "LICENSE")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def order(weights: Path, tmp_path: Path) -> Order:
    return Order(
        root=ROOT,
        weights=weights,
        build=tmp_path / "build",
        owner="somebody",
        title="My first submission",
        accelerator="NvidiaL4",
    )


@pytest.fixture
def own_weights(order: Order, tmp_path: Path) -> Order:
    """An order whose weights a test may break."""
    return replace(order, weights=shutil.copytree(order.weights, tmp_path / "weights"))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_bundle_holds_source_weights_kernel_and_the_sum_of_each_file(order: Order):
    sums = vendor(order)
    names = set(contents(order.build))
    assert {
        f"{SOURCE}/mathllm/__init__.py",
        f"{SOURCE}/mathllm/competition/serving.py",
        f"{SOURCE}/dataset-metadata.json",
        f"{WEIGHTS}/backbone/model.safetensors",
        f"{WEIGHTS}/backbone/tokenizer.json",
        f"{WEIGHTS}/trm/model.safetensors",
        f"{KERNEL}/submission.ipynb",
        f"{KERNEL}/kernel-metadata.json",
    } <= names
    assert sums.keys() == names - {MANIFEST}
    assert verify(order.build) == sums
    assert not [name for name in names if "__pycache__" in name]


def test_metadata_is_filled_in_within_kaggles_limits(order: Order):
    vendor(order)
    kernel = bundle.read_metadata(order.build, KERNEL)
    assert kernel["id"] == "somebody/my-first-submission"
    assert slugify(kernel["title"]) == kernel["id"].partition("/")[2]
    assert kernel["dataset_sources"] == ["somebody/mathllm-source", f"somebody/{WEIGHTS_SLUG}"]
    assert kernel["competition_sources"] == [CURRENT.slug]
    assert (kernel["machine_shape"], kernel["enable_gpu"]) == ("NvidiaL4", True)
    assert kernel["enable_internet"] is False
    for part in (SOURCE, WEIGHTS):
        metadata = bundle.read_metadata(order.build, part)
        assert metadata["id"] in kernel["dataset_sources"]
        assert 6 <= len(metadata["title"]) <= 50
        assert 20 <= len(metadata["subtitle"]) <= 80
        assert len(metadata["licenses"]) == 1
    assert "$" not in "".join(
        path.read_text(encoding="utf-8") for path in order.build.rglob("*-metadata.json")
    )


def test_without_an_accelerator_no_gpu_is_asked_for(order: Order):
    vendor(replace(order, accelerator="none"))
    kernel = bundle.read_metadata(order.build, KERNEL)
    assert (kernel["machine_shape"], kernel["enable_gpu"]) == ("", False)


def test_the_same_inputs_in_another_folder_give_the_same_bytes(order: Order, tmp_path: Path):
    clone = tmp_path / "elsewhere" / "clone"
    for name in CLONE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, clone / name)
    (clone / "src" / "mathllm" / "__pycache__").mkdir(exist_ok=True)
    (clone / "src" / "mathllm" / "__pycache__" / "left.cpython-311.pyc").write_bytes(b"\0")
    elsewhere = replace(
        order,
        root=clone,
        weights=shutil.copytree(order.weights, tmp_path / "elsewhere" / "weights"),
        build=tmp_path / "elsewhere" / "out",
    )
    vendor(order)
    vendor(elsewhere)
    first, second = contents(order.build), contents(elsewhere.build)
    assert first == second
    assert not [name for name, data in first.items() if str(tmp_path).encode() in data]


def test_vendoring_again_replaces_the_bundle_and_leaves_nothing_beside_it(order: Order):
    vendor(order)
    (order.build / "extra").write_text("not vendored", encoding="utf-8")
    vendor(replace(order, owner="somebody-else"))
    verify(order.build)
    assert bundle.read_metadata(order.build, KERNEL)["id"].startswith("somebody-else/")
    assert [path.name for path in order.build.parent.iterdir()] == ["build"]


def test_pickles_and_caches_of_a_weights_folder_stay_behind(own_weights: Order):
    backbone = own_weights.weights / "backbone"
    (backbone / "optimizer.pt").write_bytes(b"pickle")
    (backbone / ".cache").mkdir()
    (backbone / ".cache" / "download.json").write_text("{}", encoding="utf-8")
    names = vendor(own_weights)
    assert not [name for name in names if name.endswith(".pt") or ".cache" in name]


def test_a_folder_that_holds_something_else_is_not_replaced(order: Order):
    order.build.mkdir()
    (order.build / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(BundleError, match=r"thesis\.tex.*--build"):
        vendor(order)
    assert [path.name for path in order.build.iterdir()] == ["thesis.tex"]


def break_backbone(weights: Path) -> None:
    shutil.rmtree(weights / "backbone")


def truncate_backbone(weights: Path) -> None:
    path = weights / "backbone" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def truncate_trm(weights: Path) -> None:
    path = weights / "trm" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lose_trm(weights: Path) -> None:
    shutil.rmtree(weights / "trm")


def lose_tokenizer(weights: Path) -> None:
    (weights / "backbone" / "tokenizer.json").unlink()


def exchange_trm(weights: Path) -> None:
    other = write_weights(weights.parent / "other", hidden_size=96)
    shutil.rmtree(weights / "trm")
    shutil.move(other / "trm", weights / "trm")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (break_backbone, r"no backbone.*config\.json is missing; copy"),
        (truncate_backbone, r"backbone/model\.safetensors.*truncated.*copy it again"),
        (truncate_trm, r"trm/model\.safetensors.*truncated.*copy it again"),
        (lose_trm, r"no TRM.*train one"),
        (lose_tokenizer, r"tokenizer\.json"),
        (exchange_trm, r"hidden_size 96.*has 64.*use the backbone it was trained on"),
    ],
)
def test_weights_that_the_kernel_could_not_load_are_refused(own_weights: Order, spoil, words):
    spoil(own_weights.weights)
    with pytest.raises(WeightsError, match=words) as caught:
        vendor(own_weights)
    assert len(str(caught.value).splitlines()) <= 2
    assert str(own_weights.weights) in str(caught.value)
    assert not own_weights.build.exists()
    assert not list(own_weights.build.parent.glob(".build*"))


def test_a_refused_order_leaves_the_older_bundle_as_it_was(own_weights: Order):
    vendor(own_weights)
    before = contents(own_weights.build)
    truncate_trm(own_weights.weights)
    with pytest.raises(WeightsError):
        vendor(own_weights)
    assert contents(own_weights.build) == before


@pytest.mark.parametrize(
    "change",
    [{"owner": "not a name"}, {"title": "four"}, {"title": "x" * 51}, {"accelerator": "abacus"}],
)
def test_a_value_that_kaggle_would_not_take_is_named(order: Order, change: dict[str, str]):
    (value,) = change.values()
    with pytest.raises(ParameterError, match=value):
        vendor(replace(order, **change))
    assert not order.build.exists()


def changed(build: Path) -> str:
    path = build / WEIGHTS / "trm" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return r"trm/model\.safetensors was changed after it was vendored"


def missing(build: Path) -> str:
    (build / KERNEL / "submission.ipynb").unlink()
    return r"submission\.ipynb is missing"


def extra(build: Path) -> str:
    (build / SOURCE / "mathllm" / "sneaked.py").write_text("", encoding="utf-8")
    return r"sneaked\.py is not in the manifest"


def unsealed(build: Path) -> str:
    (build / MANIFEST).unlink()
    return rf"{MANIFEST} is missing"


def garbled(build: Path) -> str:
    (build / MANIFEST).write_text('{"files": 1}', encoding="utf-8")
    return "is not a manifest"


def newer(build: Path) -> str:
    (build / MANIFEST).write_text(json.dumps({"files": {}, "format": 99}), encoding="utf-8")
    return "has format 99"


@pytest.mark.parametrize("tamper", [changed, missing, extra, unsealed, garbled, newer])
def test_a_bundle_that_is_not_as_vendored_is_refused_by_file(order: Order, tamper):
    vendor(order)
    words = tamper(order.build)
    with pytest.raises(BundleError, match=f"{words}.*vendor"):
        verify(order.build)


def build_py(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "build.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def test_the_command_line_vendors_from_any_folder(weights: Path, tmp_path: Path):
    arguments = ("vendor", "--weights", weights, "--build", "out", "--username", "me")
    result = build_py(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    verify(tmp_path / "out")


def test_the_command_line_shows_a_mistake_in_one_line(tmp_path: Path):
    result = build_py("vendor", "--weights", "nowhere", "--build", "out", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: no weights folder nowhere")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
