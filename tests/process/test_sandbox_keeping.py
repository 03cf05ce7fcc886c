"""A pool that goes on: waits that end, faults of single kernels, kernels that never start."""

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mathllm.sandbox import KernelError, SandboxPool, SandboxSettings, keeper, remover
from mathllm.sandbox.kernel import INSIDE, Kernel

PATIENCE = 60
ONE = SandboxSettings(size=1, spares=0, seconds=2)
HANGS = "import time\ntime.sleep(1000)\n"
DIES = "raise SystemExit('no kernel today')\n"
# Where the kernel says what confines it stands a pipe that nobody writes to.
PIPE = (
    "import json, os, sys, time\nos.mkfifo(json.loads(sys.argv[1])['report'])\ntime.sleep(1000)\n"
)


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:  # noqa: ARG001
    """Where all that is temporary lies; empty again at the end, and no process left.

    Pytest's own folder lies elsewhere, since it is made before.
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        started = children()
        yield Path(name)
        assert list(Path(name).iterdir()) == []
        assert eventually(lambda: children() <= started)


def children() -> set[int]:
    """Processes of this one, the ended and unreaped among them."""
    return {child.pid for child in psutil.Process().children()}


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def works(pool: SandboxPool) -> bool:
    """Whether a session gives what it should, once one can be had."""
    with pool.session(time.monotonic() + PATIENCE) as session:
        return session.run("factorint(2026)").output == "{2: 1, 1013: 1}"


def starts_as(patch: pytest.MonkeyPatch, folder: Path, program: str) -> None:
    """Let every kernel's process be this program from here on."""
    folder.mkdir(exist_ok=True)
    (folder / "__main__.py").write_text(program)
    patch.setattr("mathllm.sandbox.kernel.INSIDE", folder)


def raise_once(patch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    """Let one call of a kernel's method fail, before it has done anything."""
    real, errors = getattr(Kernel, name), [error]

    def method(self: Kernel, *args: object) -> object:
        if errors:
            raise errors.pop()
        return real(self, *args)

    patch.setattr(Kernel, name, method)


@pytest.mark.slow
def test_nothing_is_left_of_a_pool(folder: Path) -> None:
    pool = SandboxPool(SandboxSettings(size=1, spares=1))
    with pytest.raises(RuntimeError, match="not running"), pool.session():
        pass
    with pool:
        with pool.session() as session:
            pid = int(session.run("import os; os.getpid()").output)
        assert eventually(lambda: not psutil.pid_exists(pid))
        held = pool.session()
        session = held.__enter__()
    # The pool closed under a session that goes on: it ends in words, not in a hang.
    assert session.run("1").fault is not None
    held.__exit__(None, None, None)
    assert list(folder.iterdir()) == []
    with pytest.raises(RuntimeError, match="not running"), pool.session():
        pass


def test_a_kernel_that_cannot_start_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mathllm.sandbox.kernel.PACKAGES", ("no_such_package",))
    with (
        SandboxPool(SandboxSettings(size=1, spares=0)) as pool,
        pytest.raises(RuntimeError, match="no_such_package, which is not installed"),
        pool.session(),
    ):
        pass
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_a_place_that_is_never_given_back_is_not_waited_for_for_ever() -> None:
    with SandboxPool(ONE) as pool, pool.session():
        begin = time.monotonic()
        with pytest.raises(KernelError, match=r"no place .* 1 sessions are open"):
            pool.session(begin + 0.5).__enter__()
        assert 0.5 <= time.monotonic() - begin < 2
        pool._settings = replace(ONE, start_seconds=0.7)
        begin = time.monotonic()
        with pytest.raises(KernelError, match=r"no place .* within 0\.7 s"):
            pool.session().__enter__()
        assert 0.7 <= time.monotonic() - begin < 2


@pytest.mark.slow
def test_a_block_ends_with_its_own_time_or_at_the_deadline_and_says_which() -> None:
    with SandboxPool(ONE) as pool, pool.session() as session:
        session.run("n = 5")
        result = session.run("n", time.monotonic() - 1)
        assert (result.ok, result.fault) == (False, "no time was left to run the block")
        assert session.run("n", time.monotonic() + 100).output == "5"
        hang = "import time\nprint('before')\nwhile True: time.sleep(0.01)"
        assert session.run(hang, time.monotonic() + 100).fault == "timed out after 2 s"
        assert session.run("n").output == "5"
        begin = time.monotonic()
        result = session.run(hang, begin + 0.5)
        assert time.monotonic() - begin < 1.5
        assert result.fault == "stopped after 0.5 s, at the deadline"
        assert result.output.startswith("before\n")
        # Its kernel is gone, and the next is waited for until the deadline at the most.
        with pytest.raises(KernelError, match="no kernel of the sandbox was ready"):
            session.run("n", time.monotonic() + 0.1)
        assert "NameError" in session.run("n").output


@pytest.mark.slow
def test_kernels_that_hang_at_their_start_cost_one_start_then_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts_as(monkeypatch, tmp_path, HANGS)
    with SandboxPool(replace(ONE, start_seconds=2)) as pool:
        for _ in range(3):
            begin = time.monotonic()
            with pytest.raises(KernelError):
                pool.session(begin + PATIENCE).__enter__()
            assert time.monotonic() - begin < 3.5
        assert eventually(lambda: pool._keepers[-1]._failures >= keeper.ATTEMPTS)
        for _ in range(3):
            begin = time.monotonic()
            with pytest.raises(KernelError, match=r"did not start .*the kernel does not answer"):
                pool.session(begin + PATIENCE).__enter__()
            assert time.monotonic() - begin < 0.5


@pytest.mark.slow
def test_kernels_are_tried_again_until_one_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts_as(monkeypatch, tmp_path, DIES)
    with SandboxPool(ONE) as pool:
        with pytest.raises(KernelError, match=r"\(exit status 1\)\): no kernel today"):
            pool.session().__enter__()
        assert pool.layers == []
        monkeypatch.setattr("mathllm.sandbox.kernel.INSIDE", INSIDE)

        def recovered() -> bool:
            try:
                return works(pool)
            except KernelError:
                return False

        assert eventually(recovered)


def test_a_pipe_where_a_kernel_reports_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts_as(monkeypatch, tmp_path, PIPE)
    with SandboxPool(ONE) as pool, pytest.raises(KernelError):
        pool.session(time.monotonic() + PATIENCE).__enter__()


@pytest.mark.slow
def test_a_name_that_is_no_text_ends_nothing() -> None:
    with SandboxPool(replace(ONE, size=2)) as pool, pool.session() as session:
        result = session.run("import ctypes; ctypes.CDLL(None).prctl(15, b'\\xff\\xfe')")
        assert result.output == "0"
        time.sleep(3 * keeper.WATCH_SECONDS)
        assert works(pool)
        assert session.run("1 + 1").output == "2"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("watch", UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no text")),
        ("watch", OSError("too many open files")),
        *[(name, KeyError("pid")) for name in ("__init__", "layers", "ready")],
        *[(name, KeyError("pid")) for name in ("end", "gone", "close")],
    ],
)
def test_a_fault_with_one_kernel_costs_that_kernel(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    error: Exception,
) -> None:
    with SandboxPool(ONE) as pool:
        with pool.session() as session:
            raise_once(monkeypatch, name, error)
            if name in ("watch", "layers"):
                assert eventually(lambda: not session._kernel.alive())
                assert "all variables are gone" in session.run("1").output
        for _ in range(2):
            assert works(pool)
        told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert told == [f"the sandbox meets a fault and goes on: {type(error).__name__}: {error}"]


@pytest.mark.slow
def test_another_keeper_takes_over_where_one_dies(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with SandboxPool(ONE) as pool:
        with pool.session() as session:
            raise_once(monkeypatch, "watch", SystemExit("the end"))
            assert eventually(lambda: not pool._keepers[-1].alive())
            assert "all variables are gone" in session.run("1").output
            assert session.run("1 + 1").output == "2"
        assert works(pool)
        assert len(pool._keepers) == 2
    assert "SystemExit: the end" in caplog.text


def test_keepers_that_die_at_once_are_not_started_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise SystemExit("at once")

    monkeypatch.setattr("mathllm.sandbox.keeper.Kernel", die)
    monkeypatch.setattr("mathllm.sandbox.pool.KEEPERS", 3)
    with SandboxPool(ONE) as pool, pytest.raises(KernelError, match="ended by itself 3 times"):
        pool.session().__enter__()


def test_closing_does_not_wait_for_a_keeper_that_hangs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hanging, goes_on = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        hanging.set()
        goes_on.wait(PATIENCE)
        raise OSError("at last")

    monkeypatch.setattr("mathllm.sandbox.keeper.Kernel", hang)
    monkeypatch.setattr("mathllm.sandbox.keeper.END_SECONDS", 0.3)
    pool = SandboxPool(ONE)
    pool.start()
    assert hanging.wait(PATIENCE)
    begin = time.monotonic()
    pool.close()
    assert time.monotonic() - begin < 2
    assert "does not end" in caplog.text
    goes_on.set()
    pool._keepers[-1]._thread.join(PATIENCE)


@pytest.mark.slow
def test_a_deletion_that_takes_long_delays_no_session(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remover, "COMMAND", f"sleep 4; {remover.COMMAND}")
    with SandboxPool(replace(ONE, spares=1)) as pool:
        assert works(pool)
        begin, left = time.monotonic(), set(folder.iterdir())
        assert works(pool)
        assert time.monotonic() - begin < 3.5
        assert left & set(folder.iterdir())


@pytest.mark.slow
def test_thousands_of_folders_are_gone_at_the_end() -> None:
    code = "import os\nfor _ in range(20_000):\n    os.mkdir('x')\n    os.chdir('x')"
    with SandboxPool(replace(ONE, spares=1)) as pool, pool.session() as session:
        assert "folders in folders" in session.run(code).fault
        assert session.run("1 + 1").output == "2"


def test_what_cannot_be_deleted_is_tried_again_and_named(tmp_path: Path) -> None:
    own = remover.Remover()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remover, "COMMAND", "exit 1")
        (tmp_path / "left").mkdir()
        own.add(tmp_path / "left")
        assert own.finish(time.monotonic() + 0.3) == [tmp_path / "left"]
    assert own.finish(time.monotonic() + PATIENCE) == []
    assert not (tmp_path / "left").exists()
