"""The rehearsal: what was vendored, without network or working tree, to a table and a score."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import nbformat
import polars as pl
import psutil
import pytest

from helpers.models import write_weights
from helpers.paths import ROOT, shared_file
from helpers.tiny_wheels import clone, write_wheel
from mathllm.competition.bundle import manifest
from mathllm.competition.kernel.journal import read_journal
from mathllm.competition.rehearsal import session
from mathllm.competition.rehearsal.guard import is_loopback
from mathllm.competition.rehearsal.isolation import Isolation
from mathllm.competition.rehearsal.kaggle_folders import (
    lay_out_folders,
    other_sources,
    session_environment,
)
from mathllm.competition.rehearsal.rehearse import (
    WORKING_TREE,
    Rehearsal,
    lacking,
    rehearse,
    staged,
    truth_of,
)
from mathllm.competition.rehearsal.scorecard import PlayedRun, conclusion, table
from mathllm.data.problems import read_problems
from mathllm.errors import BundleError
from mathllm.evaluation.drawn import read_drawn
from mathllm.evaluation.replay import play_rule
from mathllm.settings import CURRENT

NOWHERE = "192.0.2.1"  # reserved for documentation (RFC 5737): no machine has it

# Tries to get out in several ways, from a child process of a child process too.
PROBE = f"""
import socket, subprocess, sys

def refused(attempt, words=""):
    try:
        attempt()
    except OSError as error:
        assert words in str(error), error
        return True
    return False

def datagram():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", ("{NOWHERE}", 9))

words = sys.argv[1]
assert refused(lambda: socket.create_connection(("{NOWHERE}", 9), timeout=3), words), "connected"
assert refused(lambda: socket.getaddrinfo("example.org", 80)), "looked a name up"
assert refused(datagram, words), "sent a datagram"
listener = socket.create_server(("127.0.0.1", 0))
socket.create_connection(listener.getsockname(), timeout=3).close()
try:
    import mathllm
except ImportError:
    pass
else:
    raise AssertionError(f"imported {{mathllm.__file__}}")
if len(sys.argv) < 3:
    subprocess.run([sys.executable, __file__, *sys.argv[1:], "child"], check=True)
"""


@pytest.fixture(params=["namespace", "guard"])
def isolation(request: pytest.FixtureRequest, tmp_path: Path):
    try:
        with Isolation(tmp_path / "isolation", [WORKING_TREE], request.param) as isolation:
            yield isolation
    except OSError as reason:
        pytest.skip(str(reason))


def test_nothing_but_loopback_can_be_reached_and_the_working_tree_not_at_all(isolation, tmp_path):
    probe = tmp_path / "probe.py"
    probe.write_text(PROBE, encoding="utf-8")
    words = {"namespace": "Network is unreachable", "guard": "there is no network here"}
    command = [sys.executable, str(probe), words[isolation.mode]]
    with (tmp_path / "output").open("wb") as output:
        status = isolation.popen(command, dict(os.environ), tmp_path, output).wait()
    assert status == 0, (tmp_path / "output").read_text(encoding="utf-8")


# What a kernel may not find here, as it would not on Kaggle; a child process neither.
LACKING = """
import errno, importlib, importlib.metadata, os, pathlib, subprocess, sys

def refused(attempt):
    try:
        attempt()
    except OSError as error:
        assert error.errno == errno.EROFS, error
        return True
    return False

folder, link = map(pathlib.Path, sys.argv[1:3])
for place in (folder, link):
    assert (place / "kept").read_text() == "kept"
    assert refused(lambda: (place / "kept").write_text("changed"))
    assert refused(lambda: (place / "new").touch())
    assert refused(lambda: (place / "new").mkdir())
    assert refused(lambda: (place / "kept").unlink())
    assert refused(lambda: os.rename("moved", place / "moved"))
    place.mkdir(exist_ok=True)
for name in ("polars", "numpy"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert error.name == name, error
    else:
        raise AssertionError(f"imported {name}")
    assert importlib.util.find_spec(name) is None
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        raise AssertionError(f"{name} has a version")
import pyarrow
importlib.metadata.version("pyarrow")
pathlib.Path("own").mkdir(exist_ok=True)
pathlib.Path("own", "numpy.py").write_text("mine = True")
sys.path.append(os.path.abspath("own"))
importlib.invalidate_caches()
import numpy
assert numpy.mine
if len(sys.argv) < 4:
    pathlib.Path("moved").touch()
    subprocess.run([sys.executable, __file__, *sys.argv[1:], "child"], check=True)
"""


@pytest.mark.parametrize("mode", ["namespace", "guard"])
def test_the_input_is_read_only_and_what_kaggle_lacks_is_not_found(tmp_path, mode):
    (tmp_path / "input").mkdir()
    (tmp_path / "build").mkdir()
    (tmp_path / "input" / "link").symlink_to(tmp_path / "build")
    for place in ("input", "build"):
        (tmp_path / place / "kept").write_text("kept", encoding="utf-8")
    probe = tmp_path / "probe.py"
    probe.write_text(LACKING, encoding="utf-8")
    folders = [tmp_path / "input", tmp_path / "build"]
    arguments = [str(folders[0]), str(folders[0] / "link")]
    lost = ["polars", "numpy"]
    try:
        with Isolation(tmp_path / "i", (), mode, read_only=folders, absent=lost) as isolation:
            command = [sys.executable, str(probe), *arguments]
            with (tmp_path / "output").open("wb") as output:
                status = isolation.popen(command, dict(os.environ), tmp_path, output).wait()
            # What knows nothing of Python's guard meets the mount itself, where there is one.
            native = ["sh", "-c", f"echo changed > {folders[1]}/kept"]
            written = isolation.popen(native, dict(os.environ), tmp_path, subprocess.PIPE).wait()
    except OSError as reason:
        pytest.skip(str(reason))
    assert status == 0, (tmp_path / "output").read_text(encoding="utf-8")
    assert (written == 0) is (mode == "guard")


def test_what_the_image_lacks_is_hidden_with_its_modules(build):
    names = lacking(build)
    assert {"tiny-probe", "math-verify"} <= set(names)  # of the bundle's lock, and known
    assert "math_verify" in names  # installed here
    assert "sympy" not in names  # the image's


def test_processes_in_one_isolation_share_loopback(isolation, tmp_path):
    serve = "import socket; s = socket.create_server(('127.0.0.1', 0)); "
    serve += "open('port', 'w').write(str(s.getsockname()[1])); s.accept()"
    ask = "import socket, pathlib, time\nwhile not (p := pathlib.Path('port')).exists() or "
    ask += "not p.read_text(): time.sleep(0.05)\n"
    ask += "socket.create_connection(('127.0.0.1', int(p.read_text())), timeout=5)"
    processes = [
        isolation.popen([sys.executable, "-c", code], dict(os.environ), tmp_path)
        for code in (serve, ask)
    ]
    assert [process.wait() for process in processes] == [0, 0]


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        (b"localhost", True),
        ("0.0.0.0", True),
        (None, True),
        ("192.0.2.1", False),
        ("::ffff:192.0.2.1", False),
        ("10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("localhost.example.org", False),
    ],
)
def test_the_guard_knows_loopback(host, inside):
    assert is_loopback(host) is inside


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a random tiny model and a wheel that no image has, vendored once."""
    folder = tmp_path_factory.mktemp("bundle")
    order = manifest.BundleSpec(
        root=clone(folder / "clone", write_wheel(folder, "tiny-probe")),
        weights=write_weights(folder / "weights"),
        build=folder / "build",
        owner="somebody",
        title="MathLLM submission",
        accelerator="none",
        parameters=[("n_samples", "3")],
    )
    manifest.vendor(order)
    return order.build


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.csv"
    path.write_text(
        'id,problem,answer\n0a1,"What is $1+1$?",77771\n1b2,"What is $2+2$?",77772\n',
        encoding="utf-8",
    )
    return path


def build_py(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "build.py"), "rehearse", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_rehearsal_ends_with_table_score_and_paths(build, problems, tmp_path):
    runs = tmp_path / "runs"
    result = build_py("--build", build, "--problems", problems, "--runs-dir", runs, "--seed", 3)
    assert result.returncode == 0, result.stdout + result.stderr
    for word in ("problem", "run 1", "run 2", "truth", "votes", "seconds", "score", "time budget"):
        assert word in result.stdout
    assert "0 of 2" in result.stdout
    assert result.stdout.count("installed from wheels: tiny-probe 1.0") == CURRENT.runs + 1
    ids = read_problems(problems)["id"].to_list()
    for name in ("commit-run/kernel", "rerun-1/gateway", "rerun-2/gateway"):
        submission = pl.read_parquet(runs / name / CURRENT.submission_file)
        assert sorted(submission["id"]) == ids
        assert str(runs / name / CURRENT.submission_file) in result.stdout
    for name in ("submission.ipynb", "submission.html"):
        assert str(runs / "commit-run" / name) in result.stdout
        assert (runs / "commit-run" / name).is_file()
    assert (runs / "scorecard.txt").read_text(encoding="utf-8").strip() in result.stdout
    for path in runs.glob("*/kernel/journal.jsonl"):
        events = read_journal(path)
        # Vendored parameters hold beside the rehearsal's own, and so does the check of the bundle.
        assert events[0]["bundle"] == manifest.describe(build).identity
        assert {e["samples"] for e in events if e["event"] == "answer"} == {3}
        assert "warning" not in {event["event"] for event in events}
    # Its attempts, played again by their own rules, give the answers that it submitted.
    for name in ("commit-run/kernel", "rerun-1/gateway", "rerun-2/gateway"):
        rules, drawn = read_drawn([(runs / name).parent / "kernel" / "attempts.parquet"])
        assert rules.n_samples == 3
        own = dict(zip([p.id for p in drawn], play_rule("", drawn, rules).answers, strict=True))
        assert own == dict(pl.read_parquet(runs / name / CURRENT.submission_file).iter_rows())
    # The gateway sent the truth; nothing that the kernel leaves knows it.
    for path in runs.glob("*/kernel*/**/*.jsonl"):
        assert "7777" not in path.read_text(encoding="utf-8")
    manifest.verify(build)  # nothing was written into it


@pytest.fixture
def play(build: Path, problems: Path, isolation: Isolation, tmp_path: Path) -> session.Play:
    folders = lay_out_folders(tmp_path / "stage", build, problems)
    return session.Play(
        folders=folders,
        isolation=isolation,
        notebook=build / manifest.KERNEL / manifest.NOTEBOOK,
        source=folders.dataset("somebody/mathllm-source"),
        problems=read_problems(problems)["id"].to_list(),
        seed=0,
        say=lambda _: None,
    )


def own_processes(word: str) -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    found = []
    for child in children:
        with suppress(psutil.Error):  # it may have ended since
            if any(word in part for part in child.cmdline()):
                found.append(child)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["guard"], indirect=True)
def test_a_rerun_works_without_a_namespace(play):
    run = PlayedRun(1, "rerun 1", play.folders.working("rerun-1"))
    session.rerun(play, run)
    assert sorted(run.submitted) == play.problems
    assert Path(run.package).is_relative_to(play.folders.input_root)
    assert not own_processes("ipykernel") + own_processes("papermill")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "words"),
    [
        ("ipykernel", "the (gateway|kernel) ended"),
        ("gateway", r"the gateway ended \(signal 9\)"),
    ],
)
@pytest.mark.parametrize("isolation", ["guard"], indirect=True)
def test_a_process_that_dies_ends_the_run_with_its_last_lines(play, victim, words):
    def kill(line: str) -> None:
        if "solver loaded" in line:
            for process in own_processes(victim):
                process.send_signal(signal.SIGKILL)

    run = PlayedRun(1, "rerun 1", play.folders.working("rerun-1"))
    with pytest.raises(session.RunError, match=rf"(?s){words}.*last lines of the kernel"):
        session.rerun(
            session.Play(**{**vars(play), "say": kill}),
            run,
        )
    assert not own_processes("ipykernel") + own_processes("papermill") + own_processes("gateway")


def reseal(build: Path) -> None:
    """Make the manifest fit the files, as if they had been vendored so."""
    content = json.loads((build / manifest.MANIFEST).read_text(encoding="utf-8"))
    for name in content["files"]:
        content["files"][name] = hashlib.sha256((build / name).read_bytes()).hexdigest()
    (build / manifest.MANIFEST).write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def own_build(tmp_path: Path, build: Path) -> Path:
    """A bundle that a test may break."""
    copy = tmp_path / "own-build"
    subprocess.run(["cp", "-r", str(build), str(copy)], check=True)
    return copy


@pytest.mark.slow
def test_a_failed_run_ends_the_rehearsal_with_status_1_and_its_log(own_build, problems, tmp_path):
    notebook = own_build / manifest.KERNEL / manifest.NOTEBOOK
    vendored = broken = nbformat.read(notebook, as_version=4)
    broken.cells[-1].source = "raise RuntimeError('a fault of ours')"
    nbformat.write(broken, notebook)
    reseal(own_build)
    runs = tmp_path / "runs"
    result = build_py("--build", own_build, "--problems", problems, "--runs-dir", runs)
    assert result.returncode == 1
    assert "commit run FAILED" in result.stdout
    assert "RuntimeError: a fault of ours" in result.stdout
    assert "rerun 1" not in result.stdout
    assert (runs / "commit-run" / "kernel.log").is_file()
    # Nothing was given, so what ran is what was vendored, the injected cell byte for byte.
    executed = nbformat.read(runs / "commit-run" / manifest.NOTEBOOK, as_version=4)
    tag = "injected-parameters"
    ran, was = (
        [c.source for c in notebook.cells if tag in c.metadata.get("tags", [])]
        for notebook in (executed, vendored)
    )
    assert len(ran) == 1
    assert ran == was


def spoiled_cell(build: Path, source: str) -> None:
    """Put a cell in front of a bundle's notebook, as if it had been vendored so."""
    notebook = build / manifest.KERNEL / manifest.NOTEBOOK
    content = nbformat.read(notebook, as_version=4)
    content.cells.insert(0, nbformat.v4.new_code_cell(source))
    nbformat.write(content, notebook)
    reseal(build)


WRITES = """
import os, subprocess, pathlib
root = pathlib.Path(os.environ["MATHLLM_INPUT_ROOT"])
target = next(root.glob("datasets/*/mathllm-weights/trm"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (WRITES + "(target / 'lock').touch()", "Read-only file system"),
        (
            "import os, pathlib\nassert not [*pathlib.Path.home().iterdir()], pathlib.Path.home()\n"
            "assert 'MY_SECRET' not in os.environ\nraise RuntimeError('nothing of the user')",
            "nothing of the user",
        ),
        ("import math_verify", "No module named 'math_verify'"),
    ],
)
def test_what_a_cell_would_not_find_on_kaggle_fails_here(
    own_build, problems, tmp_path, monkeypatch, cell, words
):
    monkeypatch.setenv("MY_SECRET", "mine")
    spoiled_cell(own_build, cell)
    order = Rehearsal(own_build, problems, tmp_path / "runs", mode="guard")
    said: list[str] = []
    assert not rehearse(order, said.append)
    assert words in "\n".join(said)
    manifest.verify(own_build)


@pytest.mark.slow
def test_a_write_that_no_guard_sees_fails_the_run(own_build, problems, tmp_path):
    spoiled_cell(own_build, WRITES + "subprocess.run(['touch', target / 'lock'])")
    said: list[str] = []
    assert not rehearse(
        Rehearsal(own_build, problems, tmp_path / "runs", mode="guard"), said.append
    )
    assert re.search(r"trm(/lock)? was changed by the run.*read-only", "\n".join(said))


@pytest.mark.slow
def test_a_kernel_that_kaggle_has_not_is_not_found(own_build, problems, tmp_path):
    notebook = own_build / manifest.KERNEL / manifest.NOTEBOOK
    content = nbformat.read(notebook, as_version=4)
    content.metadata.kernelspec.name = "my-venv"
    nbformat.write(content, notebook)
    reseal(own_build)
    said: list[str] = []
    assert not rehearse(
        Rehearsal(own_build, problems, tmp_path / "runs", mode="guard"), said.append
    )
    assert "No such kernel named my-venv" in "\n".join(said)


def test_other_sources_need_a_folder_that_stands_for_them(own_build, problems, tmp_path):
    path = own_build / manifest.KERNEL / "kernel-metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    metadata["dataset_sources"].append("someone/vllm/3")
    metadata["kernel_sources"] = ["someone/vllm-wheels"]
    path.write_text(json.dumps(metadata), encoding="utf-8")
    reseal(own_build)
    order = Rehearsal(own_build, problems, tmp_path / "runs")
    with pytest.raises(
        BundleError, match=r"attaches someone/vllm/3.*--attach someone/vllm/3 FOLDER"
    ):
        rehearse(order)
    given = [(name, tmp_path) for name in other_sources(own_build)]
    more = replace(order, attached=[*given, ("other/data", tmp_path)])
    with pytest.raises(BundleError, match="attaches no other/data"):
        rehearse(more)
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "file").touch()
    attached = dict.fromkeys(other_sources(own_build), tmp_path / "vllm")
    folders = lay_out_folders(tmp_path / "stage", own_build, problems, attached=attached)
    for place in ("datasets/someone/vllm", "notebooks/someone/vllm-wheels"):
        assert (folders.input_root / place / "file").is_file()


@pytest.mark.slow
def test_a_changed_bundle_is_refused_with_status_2(own_build, problems, tmp_path):
    (own_build / manifest.SOURCE / "mathllm" / "__init__.py").write_text("", encoding="utf-8")
    runs = tmp_path / "runs"
    result = build_py("--build", own_build, "--problems", problems, "--runs-dir", runs)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "__init__.py was changed after it was vendored" in result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert not runs.exists()


@pytest.mark.slow
def test_a_model_in_place_of_the_backbone_is_mounted_from_a_folder(build, problems, tmp_path):
    weights = write_weights(tmp_path / "weights")
    model = "qwen-lm/qwen2.5-math/Transformers/1.5b-instruct/1"
    own = manifest.BundleSpec(
        root=build.parent / "clone",
        weights=weights,
        build=tmp_path / "with-model",
        owner="somebody",
        title="MathLLM submission",
        accelerator="none",
        model=model,
        wheels=False,
    )
    manifest.vendor(own)
    order = Rehearsal(own.build, problems, tmp_path / "runs")
    with pytest.raises(BundleError, match=f"model {model}.*--backbone"):
        rehearse(order, say=lambda _: None)
    with pytest.raises(BundleError, match=r"config\.json is missing"):
        rehearse(replace(order, backbone=tmp_path), say=lambda _: None)
    with pytest.raises(BundleError, match="leave --backbone out"):
        rehearse(replace(order, build=build, backbone=weights), say=lambda _: None)
    assert rehearse(replace(order, backbone=weights / "backbone"), say=lambda _: None)


@pytest.mark.slow
def test_the_competitions_files_are_on_the_stage_but_for_its_problems(build, problems, tmp_path):
    competition = tmp_path / "competition"
    (competition / CURRENT.package).mkdir(parents=True)
    (competition / CURRENT.package / "__init__.py").write_text("", encoding="utf-8")
    (competition / "test.csv").write_text("id,problem\nx,theirs\n", encoding="utf-8")
    folders = lay_out_folders(tmp_path / "stage", build, problems, competition=competition)
    there = folders.test_file.parent
    assert (there / CURRENT.package / "__init__.py").is_file()
    assert folders.test_file.read_bytes() == problems.read_bytes()
    order = Rehearsal(build, problems, tmp_path / "runs", competition=tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"no folder .*nowhere"):
        rehearse(order, say=lambda _: None)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "id,answer\na,1\n", "id,problem\n", "id,problem\na,x\na,y\n"])
def test_a_file_of_problems_that_is_none_is_refused_with_status_2(build, tmp_path, text):
    path = tmp_path / "mine.csv"
    path.write_text(text, encoding="utf-8")
    runs = tmp_path / "runs"
    result = build_py("--build", build, "--problems", path, "--runs-dir", runs)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {path}")
    assert len(result.stderr.splitlines()) <= 2
    assert not runs.exists()


@pytest.mark.slow
def test_a_package_from_elsewhere_fails_the_run(play):
    run = PlayedRun(0, "commit run", play.folders.working("commit-run"), package=str(WORKING_TREE))
    with pytest.raises(session.RunError, match="not from what was vendored"):
        session._check(play, run, run.folder)


def test_a_session_has_none_of_the_users_credentials(play, tmp_path):
    user = {"KAGGLE_KEY": "secret", "OPENAI_API_KEY": "secret", "HOME": "secret"}
    user |= {"PYTHONPATH": "/x", "LANG": "C.UTF-8", "CUDA_VISIBLE_DEVICES": "0"}
    variables = session_environment(play.folders, tmp_path, rerun=False, user=user)
    assert "secret" not in variables.values()
    assert "PYTHONPATH" not in variables
    assert "KAGGLE_IS_COMPETITION_RERUN" not in variables
    assert variables["LANG"] == "C.UTF-8"
    assert variables["CUDA_VISIBLE_DEVICES"] == "0"
    assert not [*Path(variables["HOME"]).iterdir()]


def answered(id_: str, answer: int, fault: str | None = None) -> dict:
    votes = {} if fault else {str(answer): 3}
    return {"id": id_, "answer": answer, "votes": votes, "samples": 4, "seconds": 2.0} | {
        "fault": fault
    }


def test_the_scorecard_counts_both_runs_and_names_what_differs_or_failed():
    def run(number: int, answers: dict[str, int], faults: dict[str, str]) -> PlayedRun:
        entries = {id_: answered(id_, n, faults.get(id_)) for id_, n in answers.items()}
        return PlayedRun(number, f"rerun {number}", Path(), answers=entries, submitted=answers)

    truth = {"a": 1, "b": 2, "c": 3}
    first = run(1, {"a": 1, "b": 2, "c": 0, "d": 9}, {"c": "ValueError: x"})
    second = run(2, {"a": 1, "b": 5, "c": 0, "d": 9}, {})
    lines = table(["a", "b", "c", "d"], truth, [first, second]).splitlines()
    assert lines[2].split() == ["a", "1", "1", "1", "2", "of", "2", "3/4", "3/4", "2.0"]
    assert lines[3].split() == ["b", "2", "5", "2", "1", "of", "2", "3/4", "3/4", "2.0"]
    assert lines[5].split()[:5] == ["d", "9", "9", "-", "-"]
    text = conclusion(
        ["a", "b", "c", "d"], truth, PlayedRun(0, "commit run", Path()), [first, second]
    )
    assert "1.5 of 3" in text
    assert "3 of 4 answers the same in all reruns; others: b" in text
    assert "rerun 1: 1 answered with 0, first ValueError: x" in text


def test_answers_that_are_known_beforehand_count_where_the_file_has_none(tmp_path):
    bare = tmp_path / "bare.csv"
    bare.write_text('id,problem\nx,"What is $1-1$?"\ny,Unknown\n', encoding="utf-8")
    known = ROOT / "assets" / "placeholders.csv"
    assert truth_of(read_problems(bare), known) == {"x": 0}
    assert truth_of(read_problems(bare), None) == {}


@pytest.mark.data
def test_the_public_test_file_has_known_answers():
    problems = read_problems(shared_file("aimo3", "test.csv"))
    truth = truth_of(problems, ROOT / "assets" / "placeholders.csv")
    assert truth.keys() == set(problems["id"])


@pytest.mark.slow
def test_a_rehearsal_that_cannot_have_its_mode_leaves_nothing_behind(
    build, problems, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    order = Rehearsal(build, problems, tmp_path / "runs", mode="namespace")
    with pytest.raises(OSError, match="no network namespace"):
        rehearse(order, say=lambda _: None)
    assert not list(tmp_path.glob("mathllm-rehearsal-*"))


@pytest.mark.slow
def test_a_rehearsal_that_is_killed_leaves_no_process_and_the_next_removes_its_folder(
    build, problems, tmp_path, monkeypatch
):
    def mine():
        places = [p for p in psutil.process_iter() if p.pid != os.getpid()]
        return [p for p in places if str(tmp_path / "tmp") in " ".join(_command(p))]

    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    order = ["--build", str(build), "--problems", str(problems), "--runs-dir", str(tmp_path / "r")]
    command = [sys.executable, str(ROOT / "build.py"), "rehearse", *order]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as killed:
        assert eventually(lambda: any("ipykernel_launcher" in _command(p) for p in mine()))
        killed.kill()
    assert eventually(lambda: not mine())
    assert list((tmp_path / "tmp").iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr("mathllm.children.SHORTEST", str(tmp_path / "tmp"))
    with staged(Rehearsal(build, problems, tmp_path / "r"), say=lambda _: None):
        assert len(list((tmp_path / "tmp").iterdir())) == 1
    assert not list((tmp_path / "tmp").iterdir())


def _command(process):
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def eventually(holds, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return held


LOADING = """
from types import SimpleNamespace

def load_solver(name):
    engine = SimpleNamespace(max_positions=9, start=lambda *asked: [name, *asked])
    solver = SimpleNamespace(engine=engine)
    solver.solve = lambda: solver.engine.start([1], None, 0)
    return solver
"""
SOLVE = """
from mathllm.solving.loading import load_solver

solver = load_solver("it")
for _ in range(3):
    try:
        print(solver.solve()[0])
    except RuntimeError as fault:
        print(fault)
"""


@pytest.mark.parametrize(
    ("variables", "second"),
    [({}, "it"), ({"MATHLLM_FAULT": "engine"}, "injected: the engine broke")],
)
def test_a_fault_strikes_a_solver_that_knows_nothing_of_it(tmp_path, variables, second):
    package = tmp_path / "source" / "mathllm" / "solving"
    package.mkdir(parents=True)
    (package / "loading.py").write_text(LOADING, encoding="utf-8")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "source"), **variables}
    with Isolation(tmp_path / "isolation", [WORKING_TREE], "guard") as isolation:
        process = isolation.popen(
            [sys.executable, "-c", SOLVE], environment, tmp_path, subprocess.PIPE
        )
        output, _ = process.communicate(timeout=60)
    assert output.decode().splitlines() == ["it", second, "it"]


@pytest.mark.slow
def test_injected_faults_cost_no_more_than_the_problem_they_strike(build, problems, tmp_path):
    runs = tmp_path / "runs"
    result = build_py(
        *("--build", build, "--problems", problems, "--runs-dir", runs),
        *("--faults", "engine", "memory", "connection", "weights"),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "NOT CONTAINED" not in result.stdout
    table = (runs / "faults.txt").read_text(encoding="utf-8")
    for name in ("engine", "memory", "connection", "weights"):
        (row,) = [line for line in table.splitlines() if line.startswith(f"{name} ")][:1]
        assert "2 of 2" in row
        written = pl.read_parquet(runs / f"with-{name}" / "gateway" / CURRENT.submission_file)
        assert sorted(written["id"]) == read_problems(problems)["id"].to_list()
    assert "injected: the engine broke" in table
    assert "injected: out of memory" in table
    journal = (runs / "with-weights" / "kernel" / "journal.jsonl").read_text(encoding="utf-8")
    assert "the plain backbone answers" in journal


@pytest.mark.slow
def test_a_short_soak_comes_through_whole_and_flat(build, problems, tmp_path):
    runs = tmp_path / "runs"
    # This seed has a hang with the lock held, which costs a worker.
    result = build_py(
        *("--build", build, "--problems", problems, "--runs-dir", runs, "--soak", "14"),
        *("--seed", "45"),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    told = json.loads((runs / "soak.json").read_text(encoding="utf-8"))
    assert (told["rows"], told["left behind"], told["failures"]) == (14, 0, [])
    assert told["workers"] == 2
    assert told["struck"] >= 1
    written = pl.read_parquet(runs / "soak" / "gateway" / CURRENT.submission_file)
    assert sorted(written["id"]) == [f"s{number:05}" for number in range(14)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--soak", "0"), "--soak is 0"),
        (("--soak", "5", "--faults"), "--soak has faults of its own"),
        (("--soak", "5", "--runs-dir", "{file}"), "is not a folder"),
        (("--soak", "5", "--runs-dir", "{file}/runs"), "cannot be made (Not a directory)"),
        (("--soak", "5", "-p", "voting", "nonsense"), "voting is 'nonsense'"),
    ],
)
def test_a_soak_that_cannot_be_is_refused_with_status_2(build, tmp_path, arguments, words):
    (tmp_path / "file").touch()
    runs = ("--runs-dir", tmp_path / "runs")
    given = [argument.format(file=tmp_path / "file") for argument in arguments]
    result = build_py("--build", build, *runs, *given)
    assert (result.returncode, result.stderr.count("Traceback")) == (2, 0)
    assert words in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_an_unknown_fault_is_refused_with_status_2(build, problems):
    result = build_py("--build", build, "--problems", problems, "--faults", "flood")
    assert result.returncode == 2
    assert "flood" in result.stderr
