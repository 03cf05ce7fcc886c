"""Blocks in sessions: state, values, exceptions, cut output, hangs, deaths and new kernels."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from mathllm.errors import ParameterError
from mathllm.sandbox import SandboxPool, SandboxSession, SandboxSettings

# Far above what any of this takes, and far below for ever.
PATIENCE = 60


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    with SandboxPool(SandboxSettings(size=3, spares=1, seconds=2)) as pool:
        yield pool


@pytest.fixture(scope="module")
def talk(pool: SandboxPool) -> Iterator[SandboxSession]:
    """A session for all tests that leave nothing behind."""
    with pool.session() as session:
        yield session


@pytest.fixture
def session(pool: SandboxPool) -> Iterator[SandboxSession]:
    with pool.session() as session:
        yield session


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def ended(pid: int) -> bool:
    """Whether a process is gone, or waits for no more than to be reaped."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def test_state_lasts_for_a_session_and_no_longer(pool: SandboxPool) -> None:
    with pool.session() as session:
        assert session.run("answer = 41").output == ""
        assert session.run("answer += 1\nanswer").output == "42"
        session.run("from pathlib import Path\nPath('kept').write_text('kept')")
        assert session.run("Path('kept').exists()").output == "True"
    for _ in range(2):
        with pool.session() as session:
            assert "NameError: name 'answer'" in session.run("answer").output
            assert session.run("import os; os.path.exists('kept')").output == "False"


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("print(1)\nprint(2)\n1 + 2", "1\n2\n3"),
        ("1 + 2;", ""),
        ("None", ""),
        ("factorint(2026)", "{2: 1, 1013: 1}"),
        ("x = symbols('x'); solve(x**2 - 2, x)", "[-sqrt(2), sqrt(2)]"),
        ("math.comb(5, 2), int(np.arange(5).sum()), mpmath.mpf(1), sp.pi, sympy.E", None),
        ("len(str(2**100000))", "30103"),
        ("display(sqrt(8))", "2*sqrt(2)"),
        ("'Σ ≤ \\ud800'", "'Σ ≤ \\ud800'"),
        ("print('Σ ≤ \U0001f600')", "Σ ≤ \U0001f600"),
        ("import warnings; warnings.warn('noise'); 5", "5"),
        (
            "import threading\nt = threading.Thread(target=print, args=(7,)); t.start(); t.join()",
            "7",
        ),
        ("_ = 3\n_", "3"),
    ],
)
def test_what_is_printed_and_the_last_value(
    talk: SandboxSession, code: str, output: str | None
) -> None:
    result = talk.run(code)
    assert result.ok, result.output
    assert result.fault is None
    assert output is None or result.output == output


@pytest.mark.parametrize(
    "code", ["print('\\ud800')", "print('Σ \\udc00 ≤')", "print('x' * 9000, '\\ud800')"]
)
def test_output_that_cannot_be_encoded_is_the_cells_error_and_no_more(
    talk: SandboxSession, code: str
) -> None:
    talk.run("kept = 1")
    result = talk.run(code)
    assert not result.ok
    assert result.fault is None
    assert "UnicodeEncodeError: " in result.output
    result.output.encode()
    assert talk.run("print(kept)").output == "1"


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("y = 1\nmath.sqrt(-1)", "ValueError: math domain error\n  line 2: math.sqrt(-1)"),
        (
            "def f(n):\n    return 1 / n\n\nf(0)",
            "ZeroDivisionError: division by zero\n  line 4: f(0)\n  line 2: return 1 / n",
        ),
        ("def f(n): return f(n + 1)\nf(0)", None),
        (
            "print('first')\nraise KeyError('k')",
            "first\nKeyError: 'k'\n  line 2: raise KeyError('k')",
        ),
        ("1 +", "SyntaxError: invalid syntax\n  line 1: 1 +"),
        ("exit()", "SystemExit\n  line 1: exit()"),
        ("input()", None),
        ("class E(Exception):\n    def __str__(self): return 1\nraise E", None),
        (
            "raise ValueError('\\ud800')",
            "ValueError: \ufffd\n  line 1: raise ValueError('\\ud800')",
        ),
    ],
)
def test_an_exception_is_short_and_names_the_line(
    talk: SandboxSession, code: str, output: str | None
) -> None:
    result = talk.run(code)
    assert not result.ok
    assert result.fault is None
    assert len(result.output.splitlines()) < 6
    assert "ipykernel" not in result.output
    assert output is None or result.output == output
    assert talk.run("1 + 1").output == "2"


def test_long_output_keeps_its_head_and_its_tail(talk: SandboxSession) -> None:
    output = talk.run("print('a' * 5000)\nfor i in range(2000): print(i)\n'the end'").output
    assert output.startswith("a" * 1000 + "\n[… ")
    assert "characters cut …]\n" in output
    assert output.endswith("1999\n'the end'")
    assert len(output) < 2100
    # An exception is never among what is cut.
    output = talk.run("print('a' * 5000)\nraise ValueError('b' * 5000)").output
    assert "\nValueError: bbb" in output
    assert output.endswith("line 2: raise ValueError('b' * 5000)")
    assert talk.run("'c' * 30").output == repr("c" * 30)


@pytest.mark.parametrize(
    "code",
    [
        *["sys.stdout.close()", "sys.stdout = None", "del sys.stdout", "sys.stderr.close()"],
        *["sys.__stdout__.close()", "os.close(1)", "os.close(2)", "os.closerange(0, 3)"],
        *["del sys.stderr", "sys.stderr = sys.stdout = sys.__stdout__ = sys.__stderr__ = None"],
        "sys.stdout = io.StringIO()",
    ],
)
def test_output_that_is_closed_is_open_again_in_the_next_block(
    talk: SandboxSession, code: str
) -> None:
    talk.run("kept = 5")
    result = talk.run(f"import io, os, sys\n{code}")
    assert result.fault is None
    assert talk.run("print(kept)\nkept + 1").output == "5\n6"


@pytest.mark.slow
def test_an_exception_that_is_too_long_for_a_reply_keeps_the_session(
    session: SandboxSession,
) -> None:
    result = session.run("kept = 41\nassert False, list(range(10**5))")
    assert (result.ok, result.fault) == (False, None)
    assert result.output.startswith("AssertionError: [0, 1, 2")
    assert session.run("kept + 1").output == "42"


def test_sessions_run_side_by_side(pool: SandboxPool) -> None:
    both = Barrier(2, timeout=PATIENCE)

    def work(number: int) -> str:
        with pool.session() as session:
            both.wait()  # neither goes on until both have a kernel
            session.run(f"n = {number}")
            return session.run("import time; time.sleep(0.2); n * n").output

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4))) == ["0", "1", "4", "9"]


@pytest.mark.slow
def test_a_hang_is_interrupted_and_variables_stay(session: SandboxSession) -> None:
    session.run("n = 5")
    result = session.run("import time\nprint('before')\nwhile True: time.sleep(0.01)")
    assert not result.ok
    assert result.fault == "timed out after 2 s"
    assert result.output.startswith("before\nKeyboardInterrupt")
    assert "variables are kept" in result.output
    assert session.run("n").output == "5"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("print('before', flush=True)\nimport os; os._exit(3)", "the kernel died (exit status 3)"),
        ("import ctypes; ctypes.string_at(0)", "the kernel died (SIGSEGV)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "the kernel died (SIGTERM)"),
        ("sum(range(10**12))", "timed out after 2 s"),  # in C, where no interrupt is seen
    ],
)
def test_a_kernel_that_is_lost_is_replaced(pool: SandboxPool, code: str, fault: str) -> None:
    with pool.session() as other, pool.session() as session:
        other.run("n = 6")
        session.run("n = 5")
        with ThreadPoolExecutor(1) as threads:
            losing = threads.submit(session.run, code)
            assert other.run("import time; time.sleep(0.5); n").output == "6"
            result = losing.result(PATIENCE)
        assert not result.ok
        assert result.fault == fault
        assert "all variables are gone" in result.output
        assert "NameError" in session.run("n").output
        assert session.run("1 + 1").output == "2"
        assert other.run("n").output == "6"


@pytest.mark.slow
def test_cpu_time_of_a_session_is_limited() -> None:
    settings = SandboxSettings(size=1, spares=0, seconds=PATIENCE, cpu_seconds=5)
    with SandboxPool(settings) as pool, pool.session() as session:
        result = session.run("while True: pass")
    assert result.fault == "the kernel died: 5 s of CPU time are spent"


@pytest.mark.slow
def test_kernels_end_with_a_parent_that_is_killed() -> None:
    script = """
from mathllm.sandbox import SandboxPool, SandboxSettings
import time
with SandboxPool(SandboxSettings(size=1, spares=0)) as pool, pool.session() as session:
    assert "dies with its parent" in pool.layers, pool.layers
    print(session.run("import os; os.getpid()").output, flush=True)
    time.sleep(1000)
"""
    # A killed parent cannot delete its kernels' folders: they lie in one of the test's.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        command, environment = [sys.executable, "-c", script], {**os.environ, "TMPDIR": folder}
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True
        ) as parent:
            child = int(parent.stdout.readline())
            os.kill(parent.pid, signal.SIGKILL)
        assert eventually(lambda: ended(child))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("size", 0), ("size", 1.5), ("size", True), ("spares", -1), ("seconds", 0)],
        *[("seconds", float("nan")), ("seconds", float("inf")), ("start_seconds", -1)],
        *[("cpu_seconds", 0), ("memory_bytes", 1 << 20), ("processes", 1)],
        *[("output_chars", 10), ("file_bytes", 0), ("seconds", "6")],
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(ParameterError, match=f"^{name} is "):
        SandboxSettings(**{name: value})
