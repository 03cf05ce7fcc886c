"""The worker behind sympy_process.py: what it computes, and that its limits hold."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mathllm.answers import sympy_process
from mathllm.answers.sympy_process import PROGRAM, Worker, same

SLACK = 1.0  # seconds for a busy machine, beyond a call's own limit
needs_math_verify = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed"
)


@pytest.fixture(autouse=True)
def _started():
    """A worker that is up, so that no test measures its start."""
    same("x+1", "1+x", 60)


@pytest.fixture
def worker():
    """One of the test's own, with the real program."""
    own = Worker()
    own.ask({"a": "1", "b": "4"}, 60)
    yield own
    own.close()


def program(folder, body):
    """A worker program that is ready at once and then does `body` for each line."""
    path = folder / "program.py"
    path.write_text(
        "import json, os, socket, sys, time\n"
        "channel = socket.socket(fileno=0)\n"
        "channel.sendall(b'{\"ready\": true}\\n')\n"
        "for line in channel.makefile('r'):\n"
        f"    {body}\n"
    )
    return path


@needs_math_verify
@pytest.mark.parametrize(
    ("latex", "value"),
    [
        (r"\sqrt{16}", 4),
        (r"\sqrt{3+2\sqrt{2}}-\sqrt{2}", 1),
        (r"\log_{2}(8)", 3),
        (r"-\sqrt{16}", -4),
        ("2.5*4", 10),
        (r"\sqrt 9", 3),
        (r"\frac \pi\pi", 1),
    ],
)
def test_an_expression_is_its_value_and_no_other(latex, value):
    assert same(latex, str(value), 20)
    assert not same(latex, str(value + 1), 20)


@needs_math_verify
@pytest.mark.parametrize(
    "latex", [r"\sqrt{2}", r"\frac{1}{0}", "x", r"\infty", "", "}{", "\x00\ud800", "$", "1" * 3000]
)
def test_what_is_no_number_equals_none(latex):
    assert not same(latex, "4", 20)


@pytest.mark.slow
@needs_math_verify
@pytest.mark.parametrize("latex", ["10^{9}!", "9^{9^{9^{9}}}", r"\binom{10^{30}}{10^{20}}"])
def test_a_formula_without_end_costs_its_limit_and_no_more(latex):
    before = time.monotonic()
    assert not same(f"{latex}+x", "x+y", 0.5)
    assert time.monotonic() - before < 0.5 + SLACK
    assert same(r"\sqrt{16}", "4", 60), "the next question is answered"


@pytest.mark.slow
@needs_math_verify
def test_hostile_text_costs_its_limit_and_no_more():
    for latex in ("{" * 1900, r"\frac" * 380, "(" * 1900 + ")", r"\sqrt{" * 300 + "}" * 300):
        before = time.monotonic()
        assert not same(latex, "4", 1)
        assert same(latex, "1", 1) is False
        assert time.monotonic() - before < 2 + 2 * SLACK


@pytest.mark.slow
def test_a_worker_that_hangs_is_killed_and_replaced(tmp_path):
    hung = Worker(program(tmp_path, "time.sleep(1000)"))
    before = time.monotonic()
    assert hung.ask({"what": "nothing"}, 1.5) is None
    assert time.monotonic() - before < 1.5 + SLACK
    assert hung.pid is None, "killed"
    hung.program = program(tmp_path, "channel.sendall(b'{\"value\": 7}\\n')")
    assert hung.ask({}, 20) == 7, "replaced"
    hung.close()


@pytest.mark.slow
def test_a_worker_that_starts_slowly_is_waited_for_by_the_next_question(tmp_path):
    path = program(tmp_path, "channel.sendall(b'{\"value\": 7}\\n')")
    path.write_text("import time\ntime.sleep(1)\n" + path.read_text())
    slow = Worker(path)
    assert slow.ask({}, 0.2) is None
    pid = slow.pid
    assert pid is not None
    assert slow.ask({}, 20) == 7
    assert slow.pid == pid
    slow.close()


@pytest.mark.slow
@pytest.mark.parametrize("body", ["sys.exit(1)", "os.abort()", "channel.sendall(b'nonsense\\n')"])
def test_a_worker_that_dies_at_each_question_gives_none_and_does_not_loop(tmp_path, body):
    dying = Worker(program(tmp_path, body))
    before = time.monotonic()
    assert dying.ask({}, 20) is None
    assert dying.ask({}, 20) is None
    assert time.monotonic() - before < 10
    dying.close()


@pytest.mark.slow
@needs_math_verify
def test_a_dead_worker_is_replaced_within_the_question(worker):
    old = worker.pid
    os.kill(old, signal.SIGKILL)
    assert worker.ask({"a": r"\sqrt{16}", "b": "4"}, 60) is True
    assert worker.pid != old


@pytest.mark.slow
@needs_math_verify
def test_memory_is_limited_and_a_worker_that_runs_out_is_replaced(tmp_path):
    greedy = tmp_path / "greedy.py"
    source = PROGRAM.read_text()
    assert source.count('same(question["a"]') == 1
    greedy.write_text(source.replace('same(question["a"]', 'same("x" * (1 << 31)'))
    worker = Worker(greedy)
    assert worker.ask({"a": "4", "b": "4"}, 60) is None
    assert worker.pid is None, "it ended by itself, well before its time"
    worker.program = PROGRAM
    assert worker.ask({"a": "4", "b": "4"}, 60) is True
    limits = Path(f"/proc/{worker.pid}/limits").read_text()
    assert f"Max address space {sympy_process.MEMORY}" in " ".join(limits.split())
    worker.close()


@pytest.mark.slow
def test_too_little_memory_to_start_gives_none():
    starved = Worker(memory=20 << 20)
    before = time.monotonic()
    assert starved.ask({"a": "4", "b": "4"}, 30) is None
    assert time.monotonic() - before < 10
    starved.close()


@pytest.mark.slow
@needs_math_verify
def test_threads_get_their_own_answers_and_limits():
    found: dict[int, bool] = {}
    threads = [
        threading.Thread(
            target=lambda n=n: found.update({n: same(rf"\sqrt{{{n * n}}}", f"{n}", 60)})
        )
        for n in range(24)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(24), True)


@pytest.mark.slow
@needs_math_verify
def test_waiting_for_another_threads_question_counts():
    thread = threading.Thread(target=same, args=("10^{9}!+x", "x+y", 2.0))
    thread.start()
    time.sleep(0.3)
    before = time.monotonic()
    assert not same(r"\sqrt{16}", "4", 0.3)
    assert time.monotonic() - before < 0.3 + SLACK
    thread.join()
    assert same(r"\sqrt{16}", "4", 60)


@pytest.mark.slow
@needs_math_verify
def test_an_interrupted_question_leaves_no_reply_for_the_next(worker, monkeypatch):
    def interrupted(deadline):  # noqa: ARG001
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(worker, "_line", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.ask({"a": "5", "b": "4"}, 20)
    assert worker.ask({"a": "4", "b": "4"}, 60) is True


@pytest.mark.slow
@needs_math_verify
def test_a_forked_child_has_a_worker_of_its_own():
    child = os.fork()
    if child == 0:
        right = same(r"\sqrt{25}", "5", 60)
        sympy_process.close()
        os._exit(0 if right else 1)
    assert same(r"\sqrt{16}", "4", 60)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.slow
@needs_math_verify
def test_the_worker_ends_with_its_asker_even_amid_a_question():
    """The asker is killed while a formula without end is computed."""
    code = (
        "from mathllm.answers import sympy_process as m\n"
        "m.same('x+1', '1+x', 60)\n"
        "print(m._worker.pid, flush=True)\n"
        "m.same('10^{9}!+x', 'x+y', 1.0)\n"
    )
    asker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert asker.stdout is not None
    pid = int(asker.stdout.readline())
    time.sleep(0.3)
    asker.kill()
    asker.wait()
    asker.stdout.close()
    end = time.monotonic() + 15
    while time.monotonic() < end and _alive(pid):
        time.sleep(0.1)
    assert not _alive(pid)


def _alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.slow
def test_neither_sympy_nor_a_worker_is_loaded_before_it_is_needed():
    code = (
        "import sys\n"
        "from mathllm.answers import sympy_process\n"
        "from mathllm.answers.extract import extract_answer\n"
        "assert extract_answer(r'\\boxed{\\frac{84}{2}}') == 42\n"
        "assert extract_answer(r'\\boxed{\\lfloor\\pi\\rfloor}') == 3\n"
        "assert extract_answer(r'\\boxed{x^2}') is None\n"
        "assert sympy_process._worker.pid is None\n"
        "assert 'math_verify' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def _not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # noqa: ARG005
    monkeypatch.setattr(sympy_process, "_worker", Worker(PROGRAM.with_name("absent.py")))


@pytest.mark.slow
@pytest.mark.usefixtures("_not_installed")
def test_without_math_verify_texts_are_compared():
    assert not sympy_process.available()
    assert same(r"\sqrt{16}", r"\sqrt 16") is False
    assert same(r"\sqrt2", r"\sqrt{2}")
    assert same(r"\left( 1, 2\right)", "(1, 2)")
    assert same("1{,}234", "1234")
    assert not same("1", "2")
    assert not same("x", "y")
    assert sympy_process._worker.pid is None, "nothing was started"


@pytest.mark.slow
def test_a_math_verify_that_does_not_load_counts_as_not_installed(tmp_path, monkeypatch):
    path = tmp_path / "program.py"
    path.write_text("import socket\nsocket.socket(fileno=0).sendall(b'{\"ready\": false}\\n')\n")
    monkeypatch.setattr(sympy_process, "_worker", Worker(path))
    assert not same("x+1", "1+x", 20)
    assert not sympy_process.available()
