"""Presets: each number with its source, each fit for the kernel; and what is known to fail."""

import json
import re
import shutil
from itertools import pairwise

import pytest

from helpers.paths import ROOT
from mathllm.cli.main import main
from mathllm.cli.presets import FOLDER, names, read_preset
from mathllm.competition.bundle.combinations import check_combination
from mathllm.competition.bundle.kernel_parameters import effective
from mathllm.competition.bundle.metadata import ACCELERATORS
from mathllm.competition.kernel.backbone import find_served
from mathllm.competition.kernel.serve import _placed
from mathllm.errors import BatchError, ParameterError, WeightsError
from mathllm.parameters import parse_parameters, read_declarations
from mathllm.paths import INPUT_ROOT_VARIABLE
from mathllm.settings import CURRENT
from mathllm.solving import EngineSettings

NOTEBOOK = ROOT / "kernel" / "submission.ipynb"
HANDLE = "owner/model/transformers/default/1"


def values_of(name, **more):
    preset = read_preset(ROOT, name)
    given = [*preset.parameters, *more.items()]
    if any("{served}" in value for _, value in given):
        given.append(("served", HANDLE))
    return effective(NOTEBOOK, parse_parameters(given, read_declarations(NOTEBOOK)))


@pytest.mark.parametrize("name", names(ROOT))
def test_a_preset_is_what_the_kernel_takes_and_fits_together(name):
    preset = read_preset(ROOT, name)
    assert preset.accelerator in ACCELERATORS
    values = values_of(name)
    check_combination(values, preset.accelerator)
    assert values["hours"] <= CURRENT.gpu_hours
    if values["server"]:
        words = values["server"].split()
        assert words[words.index("--max-model-len") + 1] == str(values["positions"])
        assert values["max_new_tokens"] <= values["positions"]


@pytest.mark.parametrize("name", names(ROOT))
def test_every_number_has_its_source(name):
    """A number's line names one of the sources above, or says that it is ours."""
    text = (ROOT / FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    known = set(re.findall(r"^# (\[\d\]) ", text, re.MULTILINE))
    assert known
    used = set()
    lines = text.partition("parameters:")[2].splitlines()
    for before, line in pairwise(lines):
        found = re.match(r"  (\w+): +(-?[\d.]+|>-)(?: |$)", line)
        if found is None:
            continue
        told = before if found[2] == ">-" else line.partition("#")[2]
        used |= set(re.findall(r"\[\d\]", told))
        assert re.search(r"\[\d\]|ours", told), line
    assert used <= known


def test_what_is_given_overrides_a_preset(tmp_path, capsys):
    own = tmp_path / "own.yaml"
    own.write_text("accelerator: none\nparameters:\n  n_samples: 3\n  temperature: 0.5\n")
    build = tmp_path / "build"
    command = ["vendor", "--username", "me", "--build", str(build), "--no-wheels"]
    command += ["--preset", str(own), "-p", "n_samples", "5"]
    assert main(ROOT, command) == 0
    notebook = json.loads((build / "kernel" / "submission.ipynb").read_text())
    source = "".join("".join(cell["source"]) for cell in notebook["cells"])
    assert "n_samples = 5" in source
    assert "temperature = 0.5" in source
    metadata = json.loads((build / "kernel" / "kernel-metadata.json").read_text())
    assert metadata["enable_gpu"] is False
    capsys.readouterr()
    assert main(ROOT, ["vendor", "--username", "me", "--preset", "gpt-oss-120b"]) == 2
    assert "served is ''" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "preset '.*' is unknown: give one of gpt-oss-120b"),
        ("", "has no parameters"),
        ("parameters: 5", "has no parameters"),
        ("parameters: {}\nmodel: a", "has model: a preset has accelerator and parameters"),
        ("accelerator: 5\nparameters: {}", "accelerator is 5"),
        ("parameters:\n  n_samples: [1]", r"n_samples is \[1\]: give one value"),
        ("parameters:\n  n_samples: 1\n  n_samples: 2", "stands twice"),
        ("parameters: {", "no YAML"),
    ],
)
def test_what_is_no_preset_is_said(tmp_path, text, named):
    path = tmp_path / "own.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises((ParameterError, BatchError), match=named):
        read_preset(ROOT, str(path))


BASE = {"served": HANDLE}
BAD = [
    ("gpt-oss-120b", "NvidiaH100", ("--speculative-config", '{"method":"eagle3"}'), "0 of 50"),
    ("gpt-oss-120b", "NvidiaL4X1", (), "take about 60 GB and NvidiaL4X1 has 24: give .*NvidiaH100"),
    ("gpt-oss-20b", "NvidiaTeslaT4", (), "MXFP4 wants compute capability 8.0"),
    ("qwen2.5-math-7b-l4", "NvidiaTeslaT4", (), "give --dtype half"),
    ("gpt-oss-120b", "NvidiaH100", ("--port", "9000"), "listens at 9000"),
    ("gpt-oss-120b", "NvidiaH100", ("--served-model-name", "other"), "serves 'other'"),
    ("gpt-oss-120b", "NvidiaH100", ("--max-model-len=8192",), "--max-model-len 8192: lower it"),
]


@pytest.mark.parametrize(("name", "accelerator", "flags", "named"), BAD)
def test_what_is_known_to_fail_is_refused_by_name(name, accelerator, flags, named):
    values = values_of(name)
    values["server"] += "".join(f" '{flag}'" for flag in flags)
    with pytest.raises(ParameterError, match=named):
        check_combination(values, accelerator)


def test_several_greedy_samples_are_refused_whatever_serves_them():
    with pytest.raises(ParameterError, match="temperature: at 0 all of n_samples 8 are the same"):
        check_combination({"n_samples": 8, "temperature": 0.0}, "none")
    check_combination({"n_samples": 1, "temperature": 0.0}, "none")


def test_cards_together_hold_what_one_does_not():
    values = values_of("qwen2.5-math-7b-t4") | {"served": "qwen-lm/qwen2.5/transformers/14b-it/1"}
    check_combination(values, "NvidiaTeslaT4")
    values["server"] = values["server"].replace("--tensor-parallel-size 2", "")
    with pytest.raises(ParameterError, match="14 billion parameters take about 28 GB"):
        check_combination(values, "NvidiaTeslaT4")
    values = values_of("qwen3-thinking") | {"served": "qwen-lm/qwen-3/transformers/30b-a3b/1"}
    with pytest.raises(ParameterError, match=r"30 billion .*give --accelerator NvidiaH100 or"):
        check_combination(values, "NvidiaTeslaT4")


def test_tools_without_a_parser_are_refused_and_other_servers_let_through():
    values = values_of("qwen3-thinking")
    values["server"] = values["server"].replace(" --enable-auto-tool-choice", "")
    with pytest.raises(ParameterError, match="without --enable-auto-tool-choice"):
        check_combination(values, "NvidiaH100")
    values["server"] = "llama-server --port 8000"
    check_combination(values, "NvidiaTeslaT4")
    values["server"] = "python -m vllm.entrypoints.openai.api_server --port 1"
    with pytest.raises(ParameterError, match="listens at 1"):
        check_combination(values, "NvidiaH100")


@pytest.mark.parametrize("newer", [True, False])
def test_the_models_folder_stands_in_the_command(tmp_path, monkeypatch, newer):
    monkeypatch.setenv(INPUT_ROOT_VARIABLE, str(tmp_path))
    engine = EngineSettings(
        endpoint="http://127.0.0.1:8000/v1",
        endpoint_model="any",
        server="vllm serve {served} --port 8000",
        tokenizer="{served}",
        positions=100,
        served="owner/a model/x/y/1".replace(" ", "-"),
    )
    with pytest.raises(WeightsError, match=r"owner/a-model/x/y/1 is not under .*attach it"):
        find_served(engine)
    place = "models/owner/a-model/x/y/1" if newer else "a-model/x/y/1"
    (tmp_path / place).mkdir(parents=True)
    found = find_served(engine)
    assert found.server == f"vllm serve {tmp_path / place} --port 8000"
    assert found.tokenizer == str(tmp_path / place)
    assert find_served(found) == found
    shutil.rmtree(tmp_path / place)


def test_a_handle_without_a_place_for_it_is_refused():
    with pytest.raises(ParameterError, match="served is 'a/b/c/d/1'"):
        EngineSettings(served="a/b/c/d/1")


def test_a_model_that_is_not_attached_ends_a_commit_run_and_no_rerun(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(INPUT_ROOT_VARIABLE, str(tmp_path))
    engine = EngineSettings(
        2, "http://127.0.0.1:8000/v1", "any", "vllm serve {served}", served=HANDLE
    )
    with pytest.raises(WeightsError, match="attach it"):
        _placed(engine, rerun=False)
    assert _placed(engine, rerun=True) == EngineSettings(2)
    assert "the TRM answers" in caplog.text
