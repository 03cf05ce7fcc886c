"""The bundle: the same bytes for the same inputs, sealed, whole or not at all."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.models import write_weights
from helpers.paths import ROOT
from helpers.tiny_wheels import clone, write_wheel
from mathllm.competition.bundle import manifest
from mathllm.competition.bundle.manifest import (
    KERNEL,
    MANIFEST,
    SOURCE,
    WEIGHTS,
    WHEELS,
    BundleSpec,
    describe,
    vendor,
    verify,
)
from mathllm.competition.bundle.metadata import slugify
from mathllm.errors import BundleError, ParameterError, WeightsError
from mathllm.paths import WEIGHTS_SLUG
from mathllm.settings import CURRENT

OTHER_PYTHON = "MATHLLM_OTHER_PYTHON"  # names one from 3.11 on that has the packages
MODEL = "qwen-lm/qwen2.5-math/Transformers/1.5b-instruct/1"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def order(weights: Path, tmp_path: Path) -> BundleSpec:
    return BundleSpec(
        root=ROOT,
        weights=weights,
        build=tmp_path / "build",
        owner="somebody",
        title="My first submission",
        accelerator="NvidiaL4",
        wheels=False,  # what a clone locks is not always at hand
    )


@pytest.fixture
def own_weights(order: BundleSpec, tmp_path: Path) -> BundleSpec:
    """An order whose weights a test may break."""
    return replace(order, weights=shutil.copytree(order.weights, tmp_path / "weights"))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_bundle_holds_source_weights_kernel_and_the_sum_of_each_file(order: BundleSpec):
    sums = vendor(order)
    names = set(contents(order.build))
    assert {
        f"{SOURCE}/mathllm/__init__.py",
        f"{SOURCE}/mathllm/competition/kernel/serve.py",
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


def test_metadata_is_filled_in_within_kaggles_limits(order: BundleSpec):
    vendor(order)
    kernel = manifest.read_metadata(order.build, KERNEL)
    assert kernel["id"] == "somebody/my-first-submission"
    assert slugify(kernel["title"]) == kernel["id"].partition("/")[2]
    assert kernel["dataset_sources"] == ["somebody/mathllm-source", f"somebody/{WEIGHTS_SLUG}"]
    assert kernel["competition_sources"] == [CURRENT.slug]
    assert (kernel["machine_shape"], kernel["enable_gpu"]) == ("NvidiaL4", True)
    assert kernel["enable_internet"] is False
    for part in (SOURCE, WEIGHTS):
        metadata = manifest.read_metadata(order.build, part)
        assert metadata["id"] in kernel["dataset_sources"]
        assert 6 <= len(metadata["title"]) <= 50
        assert 20 <= len(metadata["subtitle"]) <= 80
        assert len(metadata["licenses"]) == 1
    assert "$" not in "".join(
        path.read_text(encoding="utf-8") for path in order.build.rglob("*-metadata.json")
    )


def test_without_an_accelerator_no_gpu_is_asked_for(order: BundleSpec):
    vendor(replace(order, accelerator="none"))
    kernel = manifest.read_metadata(order.build, KERNEL)
    assert (kernel["machine_shape"], kernel["enable_gpu"]) == ("", False)


def test_the_same_inputs_in_another_folder_give_the_same_bytes(order: BundleSpec, tmp_path: Path):
    wheel = write_wheel(tmp_path, "tiny-probe")
    order = replace(order, root=clone(tmp_path / "clone", wheel), wheels=True)
    second = clone(tmp_path / "elsewhere" / "clone", wheel)
    (second / "src" / "mathllm" / "__pycache__").mkdir(exist_ok=True)
    (second / "src" / "mathllm" / "__pycache__" / "left.cpython-311.pyc").write_bytes(b"\0")
    elsewhere = replace(
        order,
        root=second,
        weights=shutil.copytree(order.weights, tmp_path / "elsewhere" / "weights"),
        build=tmp_path / "elsewhere" / "out",
    )
    vendor(order)
    vendor(elsewhere)
    first, second = contents(order.build), contents(elsewhere.build)
    assert first == second
    assert f"{WHEELS}/tiny_probe-1.0-py3-none-any.whl" in first
    assert not [name for name, data in first.items() if str(tmp_path).encode() in data]


def test_another_python_gives_the_same_bytes(order: BundleSpec, tmp_path: Path):
    other = os.environ.get(OTHER_PYTHON)
    if not other:
        pytest.skip(f"no other Python with the packages: set {OTHER_PYTHON}")
    order = replace(order, parameters=[("n_samples", "8"), ("temperature", "1e-1")], model=MODEL)
    vendor(order)
    build = tmp_path / "other"
    program = (
        "from pathlib import Path, PosixPath\n"
        "from mathllm.competition.bundle.manifest import BundleSpec, vendor\n"
        f"vendor({replace(order, build=build)!r})\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    subprocess.run([other, "-c", program], check=True, env=environment)
    assert contents(build) == contents(order.build)


def test_vendoring_again_replaces_the_bundle_and_leaves_nothing_beside_it(order: BundleSpec):
    vendor(order)
    (order.build / "extra").write_text("not vendored", encoding="utf-8")
    vendor(replace(order, owner="somebody-else"))
    verify(order.build)
    assert manifest.read_metadata(order.build, KERNEL)["id"].startswith("somebody-else/")
    assert [path.name for path in order.build.parent.iterdir()] == ["build"]


def test_each_dataset_lists_its_files_and_the_list_is_its_digest(order: BundleSpec):
    sums = vendor(order)
    described = describe(order.build)
    assert described.sums == sums
    assert list(described.digests) == [SOURCE, WEIGHTS]
    for part, digest in described.digests.items():
        data = (order.build / part / "contents.json").read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest
        listed = json.loads(data)["files"]
        there = {n.removeprefix(f"{part}/"): s for n, s in sums.items() if n.startswith(part)}
        del there["contents.json"], there["dataset-metadata.json"]
        assert {name: entry["sha256"] for name, entry in listed.items()} == there
        for name, entry in listed.items():
            assert (order.build / part / name).stat().st_size == entry["size"]


@pytest.mark.parametrize(
    "change", [{}, {"owner": "other"}, {"parameters": [("seed", "7")]}, {"accelerator": "none"}]
)
def test_the_identity_is_of_what_makes_the_run(order: BundleSpec, tmp_path: Path, change):
    vendor(order)
    other = replace(order, build=tmp_path / "other", **change)
    vendor(other)
    same = describe(order.build).identity == describe(other.build).identity
    assert same == (not change)


def injected(build: Path) -> dict:
    cells = json.loads((build / KERNEL / "submission.ipynb").read_text(encoding="utf-8"))["cells"]
    tags = [cell["metadata"].get("tags", []) for cell in cells]
    place = tags.index(["injected-parameters"])
    assert tags[place - 1] == ["parameters"]
    values: dict = {}
    exec("".join(cells[place]["source"]), values)
    return {name: value for name, value in values.items() if not name.startswith("__")}


def test_parameters_and_digests_stand_in_the_vendored_notebook(order: BundleSpec):
    given = [("n_samples", "8"), ("temperature", "1"), ("cuda_graphs", "False")]
    given += [("endpoint_model", 'a "b" \\ ä'), ("endpoint", "http://127.0.0.1:7/v1")]
    given += [("server", "python3 -m mathllm.nothing --word 'b c'")]
    vendor(replace(order, parameters=given))
    described = describe(order.build)
    assert described.parameters == {
        **{"n_samples": 8, "temperature": 1.0, "cuda_graphs": False},
        **{"endpoint_model": 'a "b" \\ ä', "endpoint": "http://127.0.0.1:7/v1"},
        "server": "python3 -m mathllm.nothing --word 'b c'",
    }
    stamp = f"{described.identity} mathllm-source={described.digests[SOURCE]} "
    stamp += f"mathllm-weights={described.digests[WEIGHTS]}"
    assert injected(order.build) == described.parameters | {"bundle": stamp}
    assert manifest.injected(order.build) == injected(order.build)


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (("n_sample", "8"), "did you mean n_samples"),
        (("n_samples", "many"), "must be an int"),
        (("bundle", "x"), "written by vendoring"),
    ],
)
def test_parameters_that_the_kernel_has_not_are_refused(order: BundleSpec, pair, words):
    with pytest.raises(ParameterError, match=words):
        vendor(replace(order, parameters=[pair]))
    assert not order.build.exists()


@pytest.mark.parametrize("private", [True, False])
def test_kernel_and_datasets_are_private_or_not_together(order: BundleSpec, private):
    vendor(replace(order, private=private))
    assert manifest.read_metadata(order.build, KERNEL)["is_private"] is private
    for part in (SOURCE, WEIGHTS):
        assert manifest.read_metadata(order.build, part)["isPrivate"] is private


def test_a_model_of_kaggles_stands_for_the_backbone(order: BundleSpec):
    names = vendor(replace(order, model=MODEL))
    assert describe(order.build).model == MODEL
    assert manifest.read_metadata(order.build, KERNEL)["model_sources"] == [MODEL]
    assert not [name for name in names if name.startswith(f"{WEIGHTS}/backbone/")]
    named = json.loads((order.build / WEIGHTS / "backbone.json").read_text(encoding="utf-8"))
    assert named["model"] == MODEL
    assert {"config.json", "model.safetensors"} == named["files"].keys()


@pytest.mark.parametrize("handle", ["qwen", "a/b/c/d", "a/b/c/d/e", "a/b/c/d/0", "a/b//d/1"])
def test_a_handle_that_is_none_of_kaggles_is_named(order: BundleSpec, handle):
    with pytest.raises(ParameterError, match=f"model '{handle}'.*owner/model/framework"):
        vendor(replace(order, model=handle))


def test_the_backbone_is_checked_where_a_model_stands_for_it_too(own_weights: BundleSpec):
    truncate_backbone(own_weights.weights)
    with pytest.raises(WeightsError, match="truncated"):
        vendor(replace(own_weights, model=MODEL))


def test_wheels_are_a_dataset_of_their_own_if_any_are_locked(order: BundleSpec, tmp_path: Path):
    locked = replace(order, wheels=True, root=clone(tmp_path / "a", write_wheel(tmp_path, "tiny")))
    names = vendor(locked)
    assert {f"{WHEELS}/requirements.txt", f"{WHEELS}/tiny-1.0-py3-none-any.whl"} <= names.keys()
    assert "somebody/mathllm-wheels" in sources(order)
    for without in (replace(locked, wheels=False), replace(locked, root=clone(tmp_path / "b"))):
        assert not [name for name in vendor(without) if name.startswith(WHEELS)]
        assert "somebody/mathllm-wheels" not in sources(order)


def sources(order: BundleSpec) -> list[str]:
    return manifest.read_metadata(order.build, KERNEL)["dataset_sources"]


def test_wheels_that_cannot_be_downloaded_are_refused_with_the_way_without(order, tmp_path):
    root = clone(tmp_path / "clone", wheel := write_wheel(tmp_path, "tiny-nowhere"))
    (root / ".cache" / "wheels" / wheel.name).unlink()
    environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "empty")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(BundleError, match=r"tiny-nowhere==1\.0.*vendor --no-wheels"):
            vendor(replace(order, root=root, wheels=True))
    assert not order.build.exists()


def test_caches_of_a_weights_folder_stay_behind(own_weights: BundleSpec):
    backbone = own_weights.weights / "backbone"
    (backbone / ".cache").mkdir()
    (backbone / ".cache" / "download.json").write_text("{}", encoding="utf-8")
    assert not [name for name in vendor(own_weights) if ".cache" in name]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no such file system here")
def test_a_place_that_takes_no_folders_is_named(order: BundleSpec):
    with pytest.raises(BundleError, match=r"/proc takes no folders: give another --build"):
        vendor(replace(order, build=Path("/proc/bundle")))


def test_a_folder_that_holds_something_else_is_not_replaced(order: BundleSpec):
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
def test_weights_that_the_kernel_could_not_load_are_refused(own_weights: BundleSpec, spoil, words):
    spoil(own_weights.weights)
    with pytest.raises(WeightsError, match=words) as caught:
        vendor(own_weights)
    assert len(str(caught.value).splitlines()) <= 2
    assert str(own_weights.weights) in str(caught.value)
    assert not own_weights.build.exists()
    assert not list(own_weights.build.parent.glob(".build*"))


def test_a_refused_order_leaves_the_older_bundle_as_it_was(own_weights: BundleSpec):
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
def test_a_value_that_kaggle_would_not_take_is_named(order: BundleSpec, change: dict[str, str]):
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


def older(build: Path) -> str:
    (build / MANIFEST).write_text(json.dumps({"files": {}, "format": 1}), encoding="utf-8")
    return "has format 1, this version reads 2"


def newer(build: Path) -> str:
    (build / MANIFEST).write_text(json.dumps({"files": {}, "format": 99}), encoding="utf-8")
    return "has format 99"


@pytest.mark.parametrize("tamper", [changed, missing, extra, unsealed, garbled, older, newer])
def test_a_bundle_that_is_not_as_vendored_is_refused_by_file(order: BundleSpec, tamper):
    vendor(order)
    words = tamper(order.build)
    with pytest.raises(BundleError, match=f"{words}.*vendor"):
        verify(order.build)


def build_py(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "build.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.slow
def test_the_command_line_vendors_from_any_folder(weights: Path, tmp_path: Path):
    arguments = (
        "vendor",
        "--weights",
        weights,
        "--build",
        "out",
        "--username",
        "me",
        "--no-wheels",
    )
    result = build_py(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    verify(tmp_path / "out")


def test_the_command_line_shows_a_mistake_in_one_line(tmp_path: Path):
    result = build_py("vendor", "--weights", "nowhere", "--build", "out", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: no weights folder nowhere")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
