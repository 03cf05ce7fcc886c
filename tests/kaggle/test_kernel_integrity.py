"""What is attached to a kernel: what it was vendored with, or a fault that names the mend."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.models import write_weights
from helpers.tiny_wheels import clone
from mathllm import paths
from mathllm.competition.bundle import manifest
from mathllm.competition.bundle.manifest import SOURCE, WEIGHTS, BundleSpec
from mathllm.competition.kernel import backbone, integrity
from mathllm.competition.kernel.journal import read_journal
from mathllm.competition.kernel.serve import serve
from mathllm.competition.protocol.server import Ending, InferenceServer
from mathllm.errors import BundleError, WeightsError
from mathllm.settings import CURRENT
from mathllm.solving import Budget, SolverSettings

MODEL = "qwen-lm/qwen2.5-math/Transformers/1.5b-instruct/1"
NEWER = Path("models/qwen-lm/qwen2.5-math/transformers/1.5b-instruct/1")
OLDER = Path("qwen2.5-math/transformers/1.5b-instruct/1")


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> BundleSpec:
    folder = tmp_path_factory.mktemp("bundle")
    order = BundleSpec(
        root=clone(folder / "clone"),
        weights=write_weights(folder / "weights"),
        build=folder / "build",
        owner="somebody",
        title="MathLLM submission",
        accelerator="none",
    )
    manifest.vendor(order)
    manifest.vendor(replace(order, build=folder / "with-model", model=MODEL))
    return order


@pytest.fixture
def stamp(order: BundleSpec) -> str:
    return manifest.injected(order.build)["bundle"]


@pytest.fixture
def inputs(order: BundleSpec, tmp_path: Path, monkeypatch) -> Path:
    """An input root with what was vendored, and a working folder; a commit run."""
    root = tmp_path / "input"
    for part, slug in ((SOURCE, "mathllm-source"), (WEIGHTS, "mathllm-weights")):
        shutil.copytree(order.build / part, root / "datasets" / "somebody" / slug)
    competition = root / "competitions" / CURRENT.slug
    competition.mkdir(parents=True)
    (competition / "test.csv").write_text("id,problem\n0a,What is $1+1$?\n", encoding="utf-8")
    (tmp_path / "working").mkdir()
    monkeypatch.setenv(paths.INPUT_ROOT_VARIABLE, str(root))
    monkeypatch.setenv(paths.WORKING_DIR_VARIABLE, str(tmp_path / "working"))
    monkeypatch.delenv(paths.RERUN_VARIABLE, raising=False)
    return root


def weights_of(inputs: Path) -> Path:
    return inputs / "datasets" / "somebody" / "mathllm-weights"


def other_version(inputs: Path) -> str:
    path = weights_of(inputs) / integrity.CONTENTS
    content = json.loads(path.read_text(encoding="utf-8"))
    content["files"]["trm/config.json"]["sha256"] = "0" * 64
    path.write_text(json.dumps(content), encoding="utf-8")
    return r"mathllm-weights in .* has content \w{12}, the notebook was vendored with \w{12}"


def cut(inputs: Path) -> str:
    path = weights_of(inputs) / "trm" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    return r"trm/model\.safetensors has [\d,]+ bytes, mathllm-weights has it with"


def lost(inputs: Path) -> str:
    (weights_of(inputs) / "trm" / "config.json").unlink()
    return r"trm/config\.json is missing"


def not_vendored(inputs: Path) -> str:
    (weights_of(inputs) / integrity.CONTENTS).unlink()
    return r"contents\.json is missing, so mathllm-weights is not as it was vendored"


def not_attached(inputs: Path) -> str:
    shutil.rmtree(weights_of(inputs))
    return "mathllm-weights is not attached"


def test_what_was_vendored_passes_in_either_layout_and_as_the_web_page_unpacks_it(inputs, stamp):
    integrity.check(stamp)
    integrity.check("")
    for slug in ("mathllm-source", "mathllm-weights"):
        (inputs / "datasets" / "somebody" / slug).rename(inputs / slug)
    integrity.check(stamp)
    for slug in ("mathllm-source", "mathllm-weights"):
        (inputs / slug).rename(inputs / "moved")
        (inputs / "moved").rename(inputs / "datasets" / slug)
        (inputs / slug).mkdir()
        (inputs / "datasets" / slug).rename(inputs / slug / slug)
    integrity.check(stamp)


@pytest.mark.parametrize("spoil", [other_version, cut, lost, not_vendored, not_attached])
def test_a_difference_is_named_with_the_mend(inputs, stamp, spoil):
    words = spoil(inputs)
    with pytest.raises(BundleError, match=f"{words}.*attach the newest version.*push again"):
        integrity.check(stamp)


@pytest.mark.usefixtures("inputs")
def test_a_stamp_that_was_edited_is_refused():
    with pytest.raises(BundleError, match="leave it as it was vendored"):
        integrity.check("abc something")


def run(stamp: str, weights: str = "mathllm-weights") -> list[dict]:
    serve(weights, SolverSettings(n_samples=1, max_new_tokens=2), Budget(60, 1, 1), bundle=stamp)
    return read_journal(paths.working_dir() / "journal.jsonl")


def test_a_commit_run_is_ended_by_a_difference(inputs, stamp):
    other_version(inputs)
    with pytest.raises(BundleError, match="has content"):
        run(stamp)


def test_a_rerun_says_the_difference_and_goes_on(inputs, stamp, monkeypatch):
    other_version(inputs)
    monkeypatch.setenv(paths.RERUN_VARIABLE, "1")
    monkeypatch.setattr(InferenceServer, "serve", lambda self: self.stop() or Ending.DONE)
    events = run(stamp)
    assert events[0]["bundle"] == stamp.split()[0]
    (warned,) = [event["cause"] for event in events if event["event"] == "warning"]
    assert "mathllm-weights" in warned
    assert events[-1]["event"] == "end"


@pytest.mark.slow
@pytest.mark.usefixtures("inputs")
def test_a_run_with_what_was_vendored_has_no_warning(stamp):
    assert "warning" not in [event["event"] for event in run(stamp)]


def test_wheels_that_cannot_be_installed_end_a_commit_run(inputs, stamp):
    wheels = inputs / "datasets" / "somebody" / paths.WHEELS_SLUG
    wheels.mkdir()
    line = f"mathllm-absent==1.0 --hash=sha256:{'0' * 64}\n"
    (wheels / "requirements.txt").write_text(line, encoding="utf-8")
    with pytest.raises(BundleError, match=r"cannot install mathllm-absent 1\.0.*push again"):
        run(stamp)


@pytest.fixture
def mounted(order: BundleSpec, inputs: Path) -> Path:
    """In place of the weights those that name a model; returns where that is mounted."""
    shutil.rmtree(weights_of(inputs))
    shutil.copytree(order.build.parent / "with-model" / WEIGHTS, weights_of(inputs))
    shutil.copytree(order.weights / "backbone", inputs / NEWER)
    return inputs / NEWER


@pytest.mark.slow
def test_a_model_is_found_in_either_layout_and_answers(mounted, inputs):
    assert backbone.find_backbone(weights_of(inputs), strict=True) == mounted
    (inputs / OLDER).parent.mkdir(parents=True)
    mounted.rename(inputs / OLDER)
    assert backbone.find_backbone(weights_of(inputs), strict=True) == inputs / OLDER
    answers = [event for event in run("") if event["event"] == "answer"]
    assert [answer["fault"] for answer in answers] == [None]


def test_weights_with_a_backbone_of_their_own_need_no_model(order):
    assert backbone.find_backbone(order.weights, strict=True) is None


def test_a_model_that_is_not_attached_is_named(mounted):
    mounted.rename(mounted.with_name("2"))
    with pytest.raises(WeightsError, match=f"attach the model {MODEL}"):
        run("")


def change_config(backbone: Path) -> None:
    path = backbone / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"hidden_size": 3584}), encoding="utf-8")


def change_weights(backbone: Path) -> None:
    path = backbone / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_config, r"config\.json has hidden_size 3584, not 64"),
        (change_weights, r"model\.safetensors has other weights"),
        (lambda folder: (folder / "config.json").unlink(), r"has no config\.json"),
    ],
)
def test_another_model_is_refused_in_a_commit_run(mounted, inputs, change, words):
    change(mounted)
    with pytest.raises(WeightsError, match=f"{words}: {MODEL} is not the backbone"):
        backbone.find_backbone(weights_of(inputs), strict=True)


def test_another_model_is_a_warning_in_a_rerun(mounted, inputs, caplog):
    change_config(mounted)
    assert backbone.find_backbone(weights_of(inputs), strict=False) == mounted
    assert "has hidden_size 3584" in caplog.text


def test_a_config_that_another_version_saved_is_the_same_model(mounted, inputs):
    path = mounted / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"transformers_version": "9.9", "torch_dtype": "bfloat16", "use_cache": False}
    path.write_text(json.dumps(config), encoding="utf-8")
    assert backbone.find_backbone(weights_of(inputs), strict=True) == mounted
