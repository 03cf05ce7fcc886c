"""The kernel's parameters: what would fail on Kaggle is refused when they are vendored."""

import socket
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.models import write_weights
from helpers.paths import ROOT
from helpers.tiny_wheels import write_wheel
from mathllm import paths
from mathllm.competition.bundle.contents import check_weights
from mathllm.competition.bundle.kernel_parameters import Machine, check_parameters
from mathllm.competition.bundle.wheel_check import read_wheel
from mathllm.engines import SamplingConfig
from mathllm.errors import BundleError, ParameterError, WeightsError
from mathllm.settings import CURRENT
from mathllm.solving import Budget, EngineSettings, SolverSettings

NOTEBOOK = ROOT / "kernel" / "submission.ipynb"
GPU = Machine(
    gpu=True,
    programs=(),
    distributions={"ray"},
    files=["mathllm-weights/backbone/config.json", "mathllm-source/assets/problems.csv"],
)
CPU = replace(GPU, gpu=False)
ENDPOINT = {"endpoint": "http://127.0.0.1:8000/v1", "endpoint_model": "q"}


def check(machine: Machine = GPU, **given: object) -> None:
    check_parameters(NOTEBOOK, given, machine)


def rows_in_time(hours: float, limit: float) -> int:
    """Problems that are answered before a session is ended, each taking its whole allowance."""
    now = 0.0
    budget = Budget(hours * 3600, 15 * 60, CURRENT.problems, clock=lambda: now)
    budget.start()
    for number in range(CURRENT.problems):
        now += budget.allowance()
        if now > limit * 3600:
            return number
        budget.finish()
    return CURRENT.problems


@pytest.mark.parametrize("hours", [0.0, -1.0])
def test_no_time_at_all(hours):
    with pytest.raises(ParameterError, match=f"parameter hours is {hours}: give a number over 0"):
        check(hours=hours)


@pytest.mark.parametrize(
    ("machine", "hours", "words"),
    [
        (GPU, 5.0, None),
        (GPU, 5.1, "hours is 5.1.*ends a GPU notebook after 5 hours.*--accelerator none"),
        (GPU, 12.0, "after 5 hours, give at most that$"),
        (CPU, 9.0, None),
        (CPU, 9.5, "ends a CPU notebook after 9 hours"),
    ],
)
def test_hours_beyond_the_sessions_limit(machine, hours, words):
    limit = CURRENT.gpu_hours if machine.gpu else CURRENT.cpu_hours
    assert (rows_in_time(hours, limit) == CURRENT.problems) is (words is None or hours < 5.3)
    if words is None:
        check(machine, hours=hours)
    else:
        with pytest.raises(ParameterError, match=words):
            check(machine, hours=hours)


@pytest.mark.parametrize(
    ("given", "kernels"),
    [
        ({"margin_minutes": 400.0}, lambda: Budget(5 * 3600.0, 24_000.0, 50)),
        ({"expected_problems": 0}, lambda: Budget(5 * 3600, 900, 0)),
        ({"top_p": 2.0}, lambda: SamplingConfig(top_p=2.0)),
        ({"voting": "nonsense"}, lambda: SolverSettings(voting="nonsense")),
        ({"tool_kernels": -1}, lambda: EngineSettings(tool_kernels=-1)),
        ({"endpoint": ENDPOINT["endpoint"]}, lambda: EngineSettings(endpoint=ENDPOINT["endpoint"])),
    ],
)
def test_values_that_the_kernel_refuses_are_refused_in_its_words(given, kernels):
    with pytest.raises(ParameterError) as theirs:
        kernels()
    with pytest.raises(ParameterError) as ours:
        check(**given)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("samples", [0, -3])
def test_no_samples_are_refused_under_the_name_that_was_given(samples):
    with pytest.raises(ParameterError, match=f"^n_samples is {samples}: it must be at least 1$"):
        check(n_samples=samples)


def test_a_margin_that_the_sessions_start_would_eat_is_refused():
    with pytest.raises(ParameterError, match=r"margin_minutes is 1\.0.*at least 2"):
        check(margin_minutes=1.0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"weights": "/home/me/w"}, "weights has /home/me/w, a path of this machine.*--weights"),
        ({"weights": "~/w"}, "weights has ~/w"),
        ({"weights": "assets/tiny"}, "is in no dataset of the bundle"),
        ({**ENDPOINT, "server": "python3 -m ray /home/me/m"}, "server has /home/me/m"),
        ({**ENDPOINT, "server": "ray --model=/home/me/m"}, "server has /home/me/m"),
        ({**ENDPOINT, "server": "ray '"}, "No closing quotation"),
        ({"endpoint_model": "\udc80"}, "endpoint_model"),
    ],
)
def test_paths_of_this_machine_are_refused(given, words, tmp_path, monkeypatch):
    with pytest.raises(ParameterError, match=words):
        check(**given)
    if name := given.get("weights"):
        monkeypatch.setenv(paths.INPUT_ROOT_VARIABLE, str(tmp_path))
        monkeypatch.setattr(paths, "__file__", str(tmp_path / "a" / "b" / "c.py"))
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ParameterError, match="neither a path here"):
            paths.locate(name)


@pytest.mark.parametrize(
    "given",
    [
        {"weights": "mathllm-weights"},
        {"weights": "backbone"},
        {"weights": "/kaggle/input/models/a/b"},
        {**ENDPOINT, "server": "python3 -m ray --model /kaggle/input/models/a"},
        {**ENDPOINT, "server": "python3 -m http.server"},
        {**ENDPOINT, "server": "/kaggle/input/someone/bin/serve"},
        {**ENDPOINT, "server": "ray start", "endpoint_model": "it's mine"},
    ],
)
def test_what_can_be_on_kaggle_passes(given):
    check(**given)


def test_an_endpoint_that_nothing_starts_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):  # as on Kaggle
        socket.create_connection(("127.0.0.1", port), timeout=5)
    with pytest.raises(ParameterError, match=r"nothing listens at.*command that starts it"):
        check(endpoint=f"http://127.0.0.1:{port}/v1", endpoint_model="q")
    with pytest.raises(ParameterError, match="nothing but the kernel's own machine"):
        check(endpoint="https://api.openai.com/v1", endpoint_model="q", server="ray start")


def test_a_servers_program_is_in_the_image_or_in_a_wheel(tmp_path):
    for command in ("vllm serve q", "python3 -m vllm.entrypoints.openai"):
        with pytest.raises(ParameterError, match=r"server starts vllm.*neither.*nor a wheel"):
            check(**ENDPOINT, server=command)
        check(replace(GPU, more=True), **ENDPOINT, server=command)
    path = write_wheel(tmp_path, "vllm")
    with zipfile.ZipFile(path, "a") as archive:
        points = "[console_scripts]\nvllm = vllm:main\nVllm-More = vllm:more\n"
        archive.writestr("vllm-1.0.dist-info/entry_points.txt", points)
        archive.writestr("vllm-1.0.data/scripts/vllm.sh", "#!/bin/sh\n")
    programs = read_wheel(path).programs
    assert programs == {"vllm", "Vllm-More", "vllm.sh"}
    check(replace(GPU, programs=programs), **ENDPOINT, server="vllm serve q")


def test_settings_that_fail_otherwise_name_the_cell(tmp_path):
    path = tmp_path / "submission.ipynb"
    text = NOTEBOOK.read_text(encoding="utf-8")
    path.write_text(text.replace("settings = SolverSettings(", "settings = Nothing("))
    with pytest.raises(BundleError, match=f"{path}: the cell tagged 'settings' fails.*Nothing"):
        check_parameters(path, {}, GPU)
    path.write_text(text.replace('"settings"', '"other"'))
    with pytest.raises(BundleError, match=f"{path} has no cell tagged 'settings'"):
        check_parameters(path, {}, GPU)


def test_weights_that_do_not_fit_into_a_card_are_refused(tmp_path: Path):
    weights = write_weights(tmp_path / "weights")
    check_weights(weights, card_gb=1)
    with pytest.raises(WeightsError, match=r"GB in 16 bits, a card of the accelerator 0"):
        check_weights(weights, card_gb=0)
