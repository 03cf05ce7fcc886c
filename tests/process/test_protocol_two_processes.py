"""Kernel and gateway as two processes: each is killed in turn, and the other ends and says so."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest

from helpers.ports import free_ports

# Far above what any of this takes, and far below for ever.
PATIENCE = 40

KERNEL = """
import sys, time
from mathllm.competition.protocol.server import InferenceServer
from mathllm.errors import UserError

port, linger, slow = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]

def predict(id_, problem, *more):
    import polars as pl
    print("asked", id_.item(), flush=True)
    if id_.item() == slow:
        time.sleep(1000)
    return pl.DataFrame({"id": [id_.item()], "answer": [len(problem.item())]})

server = InferenceServer(predict, ports=[port])
try:
    ending = server.serve(
        linger_seconds=linger, on_listening=lambda _: print("listening", flush=True)
    )
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
print(ending.value, flush=True)
"""

# gRPC's own log may say that a connection was lost: it is not what is tested.
RERUN = {
    "KAGGLE_IS_COMPETITION_RERUN": "1",
    "MATHLLM_INPUT_ROOT": "absent",
    "GRPC_VERBOSITY": "NONE",
}


@dataclass
class Pair:
    """A kernel and a gateway on one port, as a rehearsal starts them."""

    folder: Path
    slow: str = "none"  # the id of a problem that the kernel takes for ever over
    linger: float = 0.0
    port: int = field(default_factory=lambda: free_ports(1)[0])
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def kernel(self) -> subprocess.Popen[str]:
        arguments = [str(self.port), str(self.linger), self.slow]
        kernel = self.start(["-c", KERNEL, *arguments])
        assert kernel.stdout.readline() == "listening\n"
        return kernel

    def gateway(
        self, start: tuple[str, str] = ("-m", "mathllm.competition.protocol.gateway")
    ) -> subprocess.Popen[str]:
        problems = self.folder / "problems.csv"
        problems.write_text("id,problem\n0e6441,x\nb,xx\nc,xxx\n")
        return self.start(
            [
                *(*start, "--problems", str(problems), "--output-dir", str(self.folder)),
                *("--host", "localhost", "--ports", str(self.port), "--keep-order"),
            ]
        )

    def start(self, arguments: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | RERUN,
        )
        self.processes.append(process)
        return process

    def result(self) -> dict[str, object]:
        return json.loads((self.folder / "result.json").read_text(encoding="utf-8"))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    for process in pair.processes:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, list[str]]:
    """Status, output and error lines; fails instead of hanging."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err.splitlines()


def test_a_whole_run_ends_both_cleanly(pair: Pair) -> None:
    kernel, gateway = pair.kernel(), pair.gateway()
    status, out, err = ended(gateway)
    assert (status, err) == (0, [])
    assert [line.split("  ")[:3] for line in out.splitlines()[:3]] == [
        ["1/3", "0e6441", "answer 1"],
        ["2/3", "b", "answer 2"],
        ["3/3", "c", "answer 3"],
    ]
    submission = pl.read_parquet(pair.folder / "submission.parquet")
    assert submission.rows() == [("0e6441", 1), ("b", 2), ("c", 3)]
    assert pair.result() == {"Succeeded": True}
    status, out, err = ended(kernel)
    assert (status, out.splitlines()[-1], err) == (0, "the gateway is done", [])


@pytest.mark.slow
def test_a_gateway_waits_for_a_kernel_that_comes_later(pair: Pair) -> None:
    gateway = pair.gateway()
    pair.kernel()
    assert ended(gateway)[0] == 0


@pytest.mark.slow
def test_sigterm_ends_a_waiting_kernel_cleanly(pair: Pair) -> None:
    kernel = pair.kernel()
    kernel.send_signal(signal.SIGTERM)
    assert ended(kernel) == (0, "ended by SIGTERM\n", [])


@pytest.mark.slow
def test_sigterm_ends_a_kernel_that_lingers_after_its_gateway(pair: Pair) -> None:
    pair.linger = 1000
    kernel, gateway = pair.kernel(), pair.gateway()
    assert ended(gateway)[0] == 0
    kernel.send_signal(signal.SIGTERM)
    status, out, err = ended(kernel)
    assert (status, out.splitlines()[-1], err) == (0, "ended by SIGTERM", [])


@pytest.mark.slow
def test_sigterm_ends_a_kernel_in_the_middle_of_a_prediction(pair: Pair) -> None:
    pair.slow = "b"
    kernel, gateway = pair.kernel(), pair.gateway()
    assert [kernel.stdout.readline() for _ in range(2)] == ["asked 0e6441\n", "asked b\n"]
    kernel.send_signal(signal.SIGTERM)
    status, out, err = ended(kernel)
    assert (status, out) == (0, "ended by SIGTERM\n")
    assert err == ["a prediction was still running and was abandoned"]
    status, _, err = ended(gateway)
    assert status == 1
    assert len(err) == 1


def said_that_the_kernel_is_gone(pair: Pair, gateway: subprocess.Popen[str]) -> None:
    status, _, err = ended(gateway)
    assert status == 1
    assert len(err) == 1
    assert err[0].startswith(
        f"error: SERVER_CONNECTION_FAILED: the server at localhost:{pair.port}"
    )
    assert pair.result()["ErrorName"] == "SERVER_CONNECTION_FAILED"
    assert not (pair.folder / "submission.parquet").exists()


@pytest.mark.slow
def test_when_the_kernel_is_killed_during_a_prediction_the_gateway_ends_and_says_so(
    pair: Pair,
) -> None:
    pair.slow = "b"
    kernel, gateway = pair.kernel(), pair.gateway()
    assert [kernel.stdout.readline() for _ in range(2)] == ["asked 0e6441\n", "asked b\n"]
    kernel.kill()
    said_that_the_kernel_is_gone(pair, gateway)


@pytest.mark.slow
def test_when_the_kernel_is_killed_between_calls_the_gateway_ends_and_says_so(pair: Pair) -> None:
    kernel = pair.kernel()
    # After each answer the gateway waits for a line, so that it is between two calls.
    code = (
        "import builtins, sys\n"
        "from mathllm.competition.protocol import gateway\n"
        "def wait(line, **_): builtins.print(line, flush=True); input()\n"
        "play = gateway.run_gateway\n"
        "gateway.run_gateway = lambda *args, **options: play(*args, **options | {'report': wait})\n"
        "sys.exit(gateway.main())\n"
    )
    gateway = pair.gateway(start=("-c", code))
    assert gateway.stdout.readline().startswith("1/3")
    kernel.kill()
    kernel.wait(PATIENCE)
    gateway.stdin.write("\n")
    gateway.stdin.flush()
    said_that_the_kernel_is_gone(pair, gateway)


@pytest.mark.slow
def test_when_the_gateway_is_killed_between_calls_the_kernel_ends_and_says_so(pair: Pair) -> None:
    kernel = pair.kernel()
    code = (
        "import sys, time, polars as pl\n"
        "from mathllm.competition.protocol.client import Client\n"
        f"client = Client('localhost', [{pair.port}])\n"
        "client.send('predict', pl.Series(['a']), pl.Series(['x']))\n"
        "print('answered', flush=True)\n"
        "time.sleep(1000)\n"
    )
    gateway = pair.start(["-c", code])
    assert gateway.stdout.readline() == "answered\n"
    gateway.kill()  # and not reaped: a dead child of this process, as a rehearsal may leave it
    status, out, err = ended(kernel)
    assert (status, out) == (2, "asked a\n")
    assert err == [
        f"error: the gateway (process {gateway.pid}) ended after 1 answers, before its last "
        "problem; see its own output"
    ]


@pytest.mark.slow
def test_when_the_gateway_is_killed_during_a_prediction_the_kernel_ends_and_says_so(
    pair: Pair,
) -> None:
    pair.slow = "c"  # the last one: its answer was never taken
    kernel, gateway = pair.kernel(), pair.gateway()
    assert [kernel.stdout.readline() for _ in range(3)][-1] == "asked c\n"
    gateway.kill()
    status, _, err = ended(kernel)
    assert status == 1
    assert err[0].startswith(f"error: the gateway (process {gateway.pid}) ended after 2 answers")
    assert err[1:] == ["a prediction was still running and was abandoned"]
