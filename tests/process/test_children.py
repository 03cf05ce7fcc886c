"""Child processes end with their parent, however it ends, and what a dead one left is found."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from helpers.paths import ROOT
from mathllm import children

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="of Linux's /proc and prctl")

# A server that starts a child in a session of its own, which ignores SIGTERM, and says both.
STUBBORN = """
import os, signal, subprocess, sys, time
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
time.sleep(0.3)
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""
# Starts such a server, says so, and goes on until it is killed.
PARENT = """
import os, sys, time
from mathllm import children
with open(sys.argv[1], "wb") as log:
    guardian = children.start_guarded([sys.executable, "-c", sys.argv[2]], os.environ, log)
children.temporary_folder("sandbox", sys.argv[3])
print(guardian.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def short_grace(monkeypatch):
    monkeypatch.setattr(children, "GRACE_SECONDS", 1.0)


def alive(pid: int) -> bool:
    return children.start_time(pid) is not None


def wait_for(condition, seconds: float = 15.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return value


def pids_in(log: Path) -> list[int]:
    return [int(word) for word in log.read_text().split()] if log.is_file() else []


def guarded(code: str, log: Path):
    with log.open("wb") as output:
        return children.start_guarded([sys.executable, "-c", code], os.environ, output)


@pytest.mark.slow
def test_the_end_of_a_guardian_is_the_end_of_all_that_its_command_started(tmp_path):
    guardian = guarded(STUBBORN, tmp_path / "log")
    server, child = wait_for(lambda: pids_in(tmp_path / "log"))
    children.end_guarded(guardian)
    assert guardian.returncode is not None
    assert not alive(server)
    assert not alive(child)


def test_a_command_that_ends_takes_its_children_along_and_its_status_is_told(tmp_path):
    code = STUBBORN.replace("time.sleep(600)\n", "sys.exit(3)\n")
    guardian = guarded(code, tmp_path / "log")
    assert guardian.wait(20) == 3
    _, child = pids_in(tmp_path / "log")
    assert not alive(child)
    guardian = guarded("import os; os.abort()", tmp_path / "log")
    assert guardian.wait(20) == 128 + signal.SIGABRT


def test_a_command_that_cannot_be_started_says_so(tmp_path):
    with (tmp_path / "log").open("wb") as output:
        guardian = children.start_guarded(["/no/such/program"], os.environ, output)
    assert guardian.wait(20) == 127
    assert "/no/such/program cannot be started" in (tmp_path / "log").read_text()


def start_parent(folder: Path) -> tuple[subprocess.Popen, int, list[int]]:
    (folder / "place").mkdir()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder / "log"), STUBBORN, str(folder / "place")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    guardian = int(parent.stdout.readline())
    return parent, guardian, wait_for(lambda: pids_in(folder / "log"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_parent_that_is_killed_leaves_nothing(tmp_path, number):
    parent, guardian, started = start_parent(tmp_path)
    parent.send_signal(number)
    parent.communicate()
    assert wait_for(lambda: not any(map(alive, [guardian, *started])))


def test_what_is_left_where_the_guardian_is_killed_too_is_found_and_removed(tmp_path):
    parent, guardian, (server, child) = start_parent(tmp_path)
    (folder,) = (tmp_path / "place").iterdir()
    os.kill(guardian, signal.SIGKILL)
    parent.kill()
    parent.communicate()
    assert wait_for(lambda: not alive(server))  # it ends with its guardian
    assert alive(child)
    killed, removed = children.remove_leftovers([str(tmp_path / "place")])
    assert wait_for(lambda: not alive(child))
    assert len([command for command in killed if "SIG_IGN" in command]) == 1
    assert str(folder) in removed
    assert not folder.exists()


@pytest.mark.slow
def test_what_belongs_to_a_living_process_is_left_alone(tmp_path):
    guardian = guarded(STUBBORN, tmp_path / "log")
    started = wait_for(lambda: pids_in(tmp_path / "log"))
    folder = children.temporary_folder("sandbox", str(tmp_path))
    named_alike = tmp_path / "mathllm-notes-2026-11-26"
    named_alike.mkdir()
    children.remove_leftovers([str(tmp_path)])
    assert all(map(alive, started))
    assert folder.is_dir()
    assert named_alike.is_dir()
    children.end_guarded(guardian)


def test_an_owner_is_gone_when_its_number_is_anothers():
    own = children.owner()
    assert not children.is_gone(own)
    assert children.is_gone(f"{os.getpid()}-1")
    assert not children.is_gone("notes-2026")
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        name = f"{process.pid}-{children.start_time(process.pid)}"
    assert children.is_gone(name)


def test_a_temporary_folder_is_made_where_such_folders_are():
    folder = children.temporary_folder("sandbox")
    assert folder.parent == Path(tempfile.gettempdir())
    folder.rmdir()
