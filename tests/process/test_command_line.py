"""What ends a command from outside: a word or two, and never a traceback."""

import re
import signal
import subprocess
import sys

import pytest

from helpers.paths import ROOT

START = f"""
import os, runpy, signal, sys

sys.argv[:] = [{str(ROOT / "build.py")!r}, "vendor", "--weights", "/nowhere"]
signal.signal(signal.SIGINT, signal.default_int_handler)

def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)
"""
WHILE_IMPORTING = """
class Finder:
    def find_spec(self, name, *_):
        if name == "mathllm.cli.main":
            interrupt()

sys.meta_path.insert(0, Finder())
"""
WHILE_IT_RUNS = """
import mathllm.competition.bundle.manifest

class Twice:
    def write(self, text):
        interrupt()
        return sys.__stderr__.write(text)

    flush = sys.__stderr__.flush

mathllm.competition.bundle.manifest.vendor = interrupt
sys.stderr = Twice()
"""
RUN = "runpy.run_path(sys.argv[0], run_name='__main__')\n"


@pytest.mark.parametrize(
    ("moment", "status", "said"),
    [(WHILE_IMPORTING, -signal.SIGINT, ""), (WHILE_IT_RUNS, 128 + signal.SIGINT, "interrupted\n")],
    ids=["while it is imported", "twice while it runs"],
)
def test_ctrl_c_leaves_no_traceback(moment, status, said):
    ended = subprocess.run(
        [sys.executable, "-c", START + moment + RUN], capture_output=True, text=True, check=False
    )
    assert (ended.stderr, ended.returncode) == (said, status)


def test_a_place_that_cannot_be_used_is_named_with_the_mend(tmp_path):
    (tmp_path / "file").touch()
    command = [sys.executable, str(ROOT / "build.py"), "vendor"]
    command += ["--username", "me", "--build", str(tmp_path / "file" / "build")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert re.fullmatch(
        r"error: \S*file\S* cannot be used \(File exists\): mend its rights, or give "
        r"another place\n",
        ended.stderr,
    )
