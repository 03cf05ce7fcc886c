"""Gateway and server in one process: replies, files, ports, and what each fault is called."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import polars as pl
import pytest

from helpers.ports import free_ports
from mathllm.competition.protocol import channel, gateway, messages
from mathllm.competition.protocol.client import Client, ErrorKind, GatewayError
from mathllm.competition.protocol.gateway import run_gateway
from mathllm.competition.protocol.server import Ending, InferenceServer
from mathllm.competition.protocol.submission_file import read_submission
from mathllm.errors import PortError, ProblemFileError, WeightsError
from mathllm.settings import PACKAGES, evaluation_package

PROBLEMS = {"000123": "What is $1+1$?", "0e6441": "", "ccc": 'a "quoted", \\frac12\n line é'}


def row(id_: Any, answer: Any = 7) -> pl.DataFrame:
    return pl.DataFrame({"id": [id_], "answer": [answer]})


def echo(id_: pl.Series, _problem: pl.Series, *_more: pl.Series) -> pl.DataFrame:
    return row(id_.item())


@contextmanager
def serving(function: Callable[..., Any]) -> Iterator[InferenceServer]:
    function.__name__ = "predict"
    server = InferenceServer(function, ports=free_ports(3))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def calling(server: InferenceServer) -> Iterator[Client]:
    with closing(Client("localhost", [server.port], 30, 30)) as client:
        yield client


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "test.csv"
    pl.DataFrame({"id": list(PROBLEMS), "problem": list(PROBLEMS.values())}).write_csv(path)
    return path


def play(function: Callable[..., Any], problems: Path, **options: Any) -> pl.DataFrame:
    with serving(function) as server, calling(server) as client:
        options = {"report": lambda _: None, "rerun": True} | options
        return run_gateway(problems, problems.parent / "out", client, **options)


def result(problems: Path) -> dict[str, Any]:
    return json.loads((problems.parent / "out" / "result.json").read_text(encoding="utf-8"))


def test_every_problem_is_asked_as_series_and_the_submission_has_its_answer(
    problems: Path,
) -> None:
    seen = []

    def predict(*columns: Any) -> pl.DataFrame:
        seen.append(columns)
        return row(columns[0].item(), len(columns[1].item()))

    play(predict, problems, keep_order=True)
    assert [tuple(series.name for series in columns) for columns in seen] == [("id", "problem")] * 3
    assert {columns[0].item(): columns[1].item() for columns in seen} == PROBLEMS
    assert all(type(series) is pl.Series and len(series) == 1 for c in seen for series in c)
    written = pl.read_parquet(problems.parent / "out" / "submission.parquet")
    assert written.schema == {"id": pl.String, "answer": pl.Int64}
    assert written.rows() == [(id_, len(text)) for id_, text in PROBLEMS.items()]
    assert result(problems) == {"Succeeded": True}
    assert sorted(p.name for p in (problems.parent / "out").iterdir()) == [
        "result.json",
        "submission.parquet",
    ]


def test_answers_of_a_reference_file_are_sent_as_a_third_series(tmp_path: Path) -> None:
    path = tmp_path / "reference.csv"
    path.write_text("id,problem,answer\na,x,336\n")
    seen = []

    def predict(id_: Any, _problem: Any, answer: Any) -> pl.DataFrame:
        seen.append((answer.name, answer.dtype, answer.item()))
        return row(id_.item())

    play(predict, path)
    assert seen == [("answer", pl.Int64, 336)]


def test_the_order_is_shuffled_by_the_seed_unless_it_is_to_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    ids = [f"id{i}" for i in range(20)]
    path.write_text("id,problem\n" + "".join(f"{id_},x\n" for id_ in ids))
    kept, one, again, other = (
        play(echo, path, keep_order=keep, seed=seed)["id"].to_list()
        for keep, seed in ((True, 1), (False, 1), (False, 1), (False, 2))
    )
    assert kept == ids
    assert one == again != ids
    assert other != one
    assert sorted(other) == sorted(ids)


def test_each_answer_is_reported(problems: Path) -> None:
    lines: list[str] = []
    play(echo, problems, keep_order=True, report=lines.append)
    assert [line.split("  ")[:3] for line in lines] == [
        [f"{n}/3", id_, "answer 7"] for n, id_ in enumerate(PROBLEMS, start=1)
    ]


GOOD = {
    "polars": lambda id_: row(id_),
    "pandas": lambda id_: pd.DataFrame({"id": [id_], "answer": [7]}),
    "another order": lambda id_: pl.DataFrame({"answer": [7], "id": [id_]}),
    "a small integer type": lambda id_: row(id_).with_columns(pl.col("answer").cast(pl.UInt8)),
}


@pytest.mark.parametrize("kind", GOOD)
def test_replies_of_every_usual_kind_are_taken(problems: Path, kind: str) -> None:
    assert play(lambda id_, _: GOOD[kind](id_.item()), problems)["answer"].to_list() == [7, 7, 7]


BAD = {
    "no rows": (lambda id_: row(id_).clear(), "0 rows, expected 1"),
    "two rows": (lambda id_: pl.concat([row(id_), row(id_)]), "2 rows, expected 1"),
    "nothing": (lambda _: None, "no prediction"),
    "a list": (lambda _: [7], "builtins.list, expected"),
    "a numpy array": (lambda _: np.zeros(1), "numpy.ndarray, expected"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_reply_is_an_invalid_submission_at_once(problems: Path, kind: str) -> None:
    reply, message = BAD[kind]
    asked = []

    def predict(id_: pl.Series, _: pl.Series) -> Any:
        asked.append(id_.item())
        return reply(id_.item())

    with pytest.raises(GatewayError) as caught:
        play(predict, problems)
    assert len(asked) == 1
    assert caught.value.kind is ErrorKind.INVALID_SUBMISSION
    assert message in caught.value.details
    assert result(problems) == {
        "Succeeded": False,
        "ErrorType": 6,
        "ErrorName": "INVALID_SUBMISSION",
        "ErrorDetails": caught.value.details,
    }
    assert not (problems.parent / "out" / "submission.parquet").exists()


LATE = {
    "another column": (lambda id_: row(id_).with_columns(more=1), "INVALID_SUBMISSION"),
    "another type": (lambda id_: row(id_, 7.0), "INVALID_SUBMISSION"),
    "another name": (lambda id_: row(id_).rename({"answer": "x"}), "INVALID_SUBMISSION"),
    "pandas": (lambda id_: row(id_).to_pandas(), "GATEWAY_RAISED_EXCEPTION"),
}


@pytest.mark.parametrize("kind", LATE)
def test_replies_that_differ_end_the_run_after_all_the_work(problems: Path, kind: str) -> None:
    reply, name = LATE[kind]
    asked = []

    def predict(id_: pl.Series, _: pl.Series) -> Any:
        asked.append(id_.item())
        return row(id_.item()) if len(asked) < 3 else reply(id_.item())

    with pytest.raises(GatewayError):
        play(predict, problems)
    assert len(asked) == 3
    assert result(problems)["ErrorName"] == name
    assert not (problems.parent / "out" / "submission.parquet").exists()


def test_what_only_the_scoring_refuses_is_written_with_the_gateways_own_ids(
    problems: Path,
) -> None:
    written = play(lambda *_: row("zzz", -1), problems, keep_order=True)
    assert written.rows() == [(id_, -1) for id_ in PROBLEMS]
    assert result(problems) == {"Succeeded": True}
    with pytest.raises(ProblemFileError, match="000123 has -1, no integer from 0 to 99999"):
        read_submission(problems.parent / "out" / "submission.parquet")


def test_ids_that_polars_would_change_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_text("id,problem\n0e6441,x\n000123,y\n")
    with pytest.raises(ProblemFileError, match=r"the id 0e6441 is sent as 0\.0"):
        play(echo, path)


def test_a_failed_run_leaves_no_submission_of_an_earlier_one(problems: Path) -> None:
    play(echo, problems)
    assert (problems.parent / "out" / "submission.parquet").exists()
    with pytest.raises(GatewayError):
        play(lambda *_: None, problems)
    assert not (problems.parent / "out" / "submission.parquet").exists()


class Panic(BaseException):
    """As a panic in a Rust package: no Exception."""


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ValueError("a reason"), "ValueError: a reason"),
        (KeyError("key"), "KeyError: 'key'"),
        (ValueError("ü" * 50_000), "ValueError: üüü"),
        (Panic("rust"), "Panic: rust"),
        (SystemExit(3), "SystemExit: 3"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, BaseException) else v,
)
def test_an_exception_in_predict_ends_the_run_with_its_message(
    problems: Path, error: BaseException, shown: str
) -> None:
    def predict(*_: Any) -> None:
        raise error

    with pytest.raises(GatewayError) as caught:
        play(predict, problems)
    assert caught.value.kind is ErrorKind.SERVER_RAISED_EXCEPTION
    assert result(problems)["ErrorName"] == "SERVER_RAISED_EXCEPTION"
    assert result(problems)["ErrorDetails"].startswith(shown)


def test_a_reply_that_cannot_be_sent_is_the_servers_exception(problems: Path) -> None:
    with pytest.raises(GatewayError, match=r"RAISED_EXCEPTION: TypeError: builtins\.set"):
        play(lambda *_: {1}, problems)


def test_a_server_without_the_endpoint_is_named_so() -> None:
    with (
        serving(echo) as server,
        calling(server) as client,
        pytest.raises(GatewayError, match="has no other") as caught,
    ):
        client.send("other", 1)
    assert caught.value.kind is ErrorKind.SERVER_MISSING_ENDPOINT


@pytest.mark.slow
def test_the_first_reply_may_take_as_long_as_it_wants_and_later_ones_may_not() -> None:
    waits = [0.6, 30]
    release = threading.Event()
    with serving(lambda: release.wait(waits.pop(0))) as server:
        with closing(Client(ports=[server.port], response_seconds=0.3)) as client:
            assert client.send("predict") is False
            with pytest.raises(GatewayError, match=r"within 0\.3 s") as caught:
                client.send("predict")
        release.set()
    assert caught.value.kind is ErrorKind.GRPC_DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("version", "lost", "kind"),
    [
        ("0.9.0", False, ErrorKind.GATEWAY_RAISED_EXCEPTION),
        ("0.9.0", True, ErrorKind.GATEWAY_RAISED_EXCEPTION),
        ("1.4.0", False, ErrorKind.GATEWAY_RAISED_EXCEPTION),
        ("1.4.0", True, ErrorKind.SERVER_CONNECTION_FAILED),
    ],
)
def test_a_host_that_has_no_name_any_more_has_died(
    version: str, lost: bool, kind: ErrorKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = []

    def gethostbyname(host: str) -> str:
        looked_up.append(host)
        if lost and len(looked_up) == 1:
            return "127.0.0.1"
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "gethostbyname", gethostbyname)
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    rules = PACKAGES[version]
    with (
        closing(Client(ports=free_ports(2), package=rules)) as client,
        pytest.raises(GatewayError, match="inference_server") as caught,
    ):
        client.send("predict")
    assert caught.value.kind is kind
    assert looked_up == ["inference_server"] * (2 if lost else 1)


@pytest.mark.slow
def test_a_server_that_never_listens_is_named_so(problems: Path) -> None:
    client = Client(ports=free_ports(2), startup_seconds=0.3)
    with pytest.raises(GatewayError, match="no server listened") as caught:
        run_gateway(problems, problems.parent / "out", client, rerun=True)
    assert caught.value.kind is ErrorKind.SERVER_NEVER_STARTED
    assert result(problems)["ErrorType"] == 1


def test_a_mistake_in_the_problems_is_the_gateways_exception_in_a_rerun(tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_text("id\na\n")
    client = Client(ports=free_ports(1))
    with pytest.raises(ProblemFileError, match="no column 'problem'"):
        run_gateway(path, tmp_path / "out", client, rerun=True)
    assert result(path)["ErrorName"] == "GATEWAY_RAISED_EXCEPTION"
    assert str(path) in result(path)["ErrorDetails"]


def test_without_a_rerun_there_is_no_result_file(
    problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAGGLE_IS_COMPETITION_RERUN", raising=False)
    play(echo, problems, rerun=None)
    assert not (problems.parent / "out" / "result.json").exists()
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    play(echo, problems, rerun=None)
    assert (problems.parent / "out" / "result.json").exists()


def test_the_error_kinds_have_the_names_and_numbers_of_the_competition() -> None:
    assert {kind.name: int(kind) for kind in ErrorKind} == {
        "UNSPECIFIED": 0,
        "SERVER_NEVER_STARTED": 1,
        "SERVER_CONNECTION_FAILED": 2,
        "SERVER_RAISED_EXCEPTION": 3,
        "SERVER_MISSING_ENDPOINT": 4,
        "GATEWAY_RAISED_EXCEPTION": 5,
        "INVALID_SUBMISSION": 6,
        "GRPC_DEADLINE_EXCEEDED": 7,
    }


@pytest.mark.parametrize("version", PACKAGES)
def test_a_rerun_asks_on_the_first_port_that_a_server_takes(version: str) -> None:
    rules = PACKAGES[version]
    assert rules.server_ports[0] == rules.gateway_ports[0] == 50051


def test_an_unknown_version_is_played_by_the_rules_before_it() -> None:
    known = {
        v: evaluation_package(v).version for v in ("0.3", "0.9.0", "0.10.1", "1.5", "2.0.0rc1")
    }
    assert known == {
        "0.3": "0.9.0",
        "0.9.0": "0.9.0",
        "0.10.1": "0.9.0",
        "1.5": "1.4.0",
        "2.0.0rc1": "1.4.0",
    }


@pytest.mark.slow
def test_a_connection_that_is_cut_in_the_middle_of_a_reply_is_made_again() -> None:
    """As the original's retry policy has it: the endpoint gets the same call a second time."""
    asked: list[str] = []
    cut = threading.Event()
    ends: list[socket.socket] = []

    def predict(name: str) -> str:
        asked.append(name)
        if len(asked) == 2:
            for end in ends:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            cut.set()
            time.sleep(0.5)
        return name

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)

    def relay(listener: socket.socket, port: int) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                ends.extend((near, far))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    with serving(predict) as server, socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=relay, args=(listener, server.port), daemon=True).start()
        with closing(Client("localhost", [listener.getsockname()[1]])) as client:
            assert [client.send("predict", name) for name in "abc"] == ["a", "b", "c"]
    assert cut.is_set()
    assert asked == ["a", "b", "b", "c"]
    for end in ends:
        end.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "[::]"])
def test_a_taken_port_is_passed_over(address: str, reuse: bool, host: str) -> None:
    taken, free = free_ports(2)
    with socket.socket() as other:
        if reuse:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((address, taken))
        other.listen()
        server = InferenceServer(echo, ports=[taken, free], host=host)
        try:
            assert server.start() == free
        finally:
            server.stop()


def test_two_servers_never_share_a_port() -> None:
    ports = free_ports(2)
    first = InferenceServer(_named("first"), ports=ports)
    second = InferenceServer(_named("second"), ports=ports)
    try:
        assert (first.start(), second.start()) == tuple(ports)
        with closing(Client(ports=ports[1:])) as client:
            assert client.send("predict") == "second"
    finally:
        first.stop()
        second.stop()


def predict(id_: pl.Series, _problem: pl.Series) -> pl.DataFrame:
    return row(id_.item())


def _named(name: str) -> Callable[[], str]:
    def predict() -> str:
        return name

    return predict


def test_another_service_on_a_port_ends_the_run() -> None:
    """The original goes on to the next port only where nobody answers."""
    foreign_port, port = free_ports(2)
    foreign = grpc.server(futures.ThreadPoolExecutor(1))
    foreign.add_insecure_port(f"127.0.0.1:{foreign_port}")
    foreign.start()
    server = InferenceServer(_named("ours"), ports=[port])
    server.start()
    try:
        with (
            closing(Client(ports=[foreign_port, port])) as client,
            pytest.raises(GatewayError) as caught,
        ):
            client.send("predict")
    finally:
        server.stop()
        foreign.stop(None).wait()
    assert caught.value.kind is ErrorKind.SERVER_CONNECTION_FAILED


def test_when_all_ports_are_taken_the_error_names_them_and_the_mend() -> None:
    first = InferenceServer(echo, ports=free_ports(1))
    port = first.start()
    try:
        with pytest.raises(PortError, match=rf"tried {port}\n.*ss -ltnp"):
            InferenceServer(echo, ports=[port])
    finally:
        first.stop()
    again = InferenceServer(echo, ports=[port])
    assert again.start() == port  # a stopped server gives its port back
    again.stop()


def test_calls_are_answered_one_at_a_time() -> None:
    inside: list[int] = []
    most: list[int] = []

    def predict() -> None:
        inside.append(1)
        time.sleep(0.05)
        most.append(len(inside))
        inside.pop()

    with serving(predict) as server:
        callers = []
        for _ in range(4):
            client = Client(ports=[server.port])
            callers.append(threading.Thread(target=lambda c=client: (c.send("predict"), c.close())))
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(30)
    assert most == [1, 1, 1, 1]


def test_a_reply_of_many_megabytes_passes() -> None:
    with serving(lambda text: text * 2) as server, calling(server) as client:
        assert len(client.send("predict", "x" * 6_000_000)) == 12_000_000


@pytest.mark.slow
def test_a_client_that_pings_during_a_long_prediction_is_not_cut_off() -> None:
    """The package's clients ping every minute; here every second, for a shorter test."""
    with serving(lambda: time.sleep(5) or "done") as server:
        options = [("grpc.keepalive_time_ms", 1000), ("grpc.http2.max_pings_without_data", 0)]
        with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=options) as connection:
            call = connection.unary_unary(
                f"/{channel.SERVICE}/{channel.METHOD}",
                request_serializer=messages.Request.SerializeToString,
                response_deserializer=messages.Response.FromString,
            )
            assert (
                messages.deserialize(call(messages.request("predict"), timeout=30).payload)
                == "done"
            )


@pytest.fixture
def rerun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")


def test_outside_of_a_rerun_serve_starts_and_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAGGLE_IS_COMPETITION_RERUN", raising=False)
    server = InferenceServer(_named("there"), ports=free_ports(1))
    assert server.serve() is None
    with calling(server) as client:
        assert client.send("predict") == "there"
    server.stop()


def test_a_server_that_comes_late_is_warned_of_in_a_commit_run(
    problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mathllm.competition.protocol.server._imported", -1e6)
    options = {"output_dir": problems.parent / "out", "report": lambda _: None, "rerun": False}
    with pytest.warns(RuntimeWarning, match="in a rerun the gateway waits 900 s"):
        InferenceServer(predict, ports=free_ports(1)).run_local_gateway((problems,), **options)


@pytest.mark.usefixtures("rerun")
def test_stop_ends_serve_from_another_thread() -> None:
    server = InferenceServer(echo, ports=free_ports(1))
    endings: list[Ending] = []
    listening = threading.Event()

    def serve() -> None:
        endings.append(server.serve(on_listening=lambda _: listening.set()))

    thread = threading.Thread(target=serve)
    thread.start()
    assert listening.wait(30)
    server.stop()
    thread.join(30)
    assert endings == [Ending.STOPPED]


def test_a_commit_run_plays_its_own_gateway(
    problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAGGLE_IS_COMPETITION_RERUN", raising=False)
    monkeypatch.delenv("MATHLLM_WORKING_DIR", raising=False)
    monkeypatch.setenv("MATHLLM_INPUT_ROOT", str(problems.parent))
    monkeypatch.chdir(problems.parent)

    def predict(id_: pl.Series, _problem: pl.Series) -> pl.DataFrame:
        return row(id_.item(), 9)

    InferenceServer(predict, ports=free_ports(1)).run_local_gateway((str(problems),))
    assert pl.read_parquet("submission.parquet")["answer"].to_list() == [9, 9, 9]
    slug = problems.parent / "competitions" / "ai-mathematical-olympiad-progress-prize-3"
    slug.mkdir(parents=True)
    (slug / "test.csv").write_text("id,problem\nonly,x\n")
    InferenceServer(predict, ports=free_ports(1)).run_local_gateway()
    assert pl.read_parquet("submission.parquet")["id"].to_list() == ["only"]


def test_a_commit_run_shows_the_cause_and_a_users_mistake_as_it_is(problems: Path) -> None:
    cause = ValueError("why")

    def predict(*_: Any) -> None:
        raise cause

    options = {"output_dir": problems.parent / "out", "report": lambda _: None}
    with pytest.raises(GatewayError) as caught:
        InferenceServer(predict, ports=free_ports(1)).run_local_gateway((problems,), **options)
    assert caught.value.__cause__ is cause
    cause = WeightsError("weights/backbone: no config.json; vendor again")
    with pytest.raises(WeightsError, match="vendor again"):
        InferenceServer(predict, ports=free_ports(1)).run_local_gateway((problems,), **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--problems", "absent.csv"], "error: absent.csv: does not exist"),
        (["--problems", "x.csv", "--ports", "1,b"], "error: --ports 1,b: expected numbers"),
        (["--problems", "x.csv", "--ports", "70000"], "error: --ports 70000"),
    ],
)
def test_the_command_line_shows_a_mistake_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert gateway.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert len(error.splitlines()) == 1


def test_help_says_what_is_needed_and_what_the_status_means(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        gateway.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("--problems", "submission.parquet", "Exit status"))
