"""The stand-in as the real client sees it, and the client's habits that delivery counts on."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from helpers.paths import ROOT
from standin import KaggleStandIn, Run, Score, Settings, failing, server

CLI = Path(sys.executable).parent / "kaggle"
COMPETITION = Settings().competition
PARQUET = b"PAR1 and so on"


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Starts a stand-in with options, and brings this process's client there."""
    with ExitStack() as stack:

        def start(**options: Any) -> KaggleStandIn:
            standin = stack.enter_context(KaggleStandIn(**options))
            standin.adopt(monkeypatch, tmp_path / "home")
            return standin

        yield start


def client() -> Any:
    from kaggle.api.kaggle_api_extended import KaggleApi

    api = KaggleApi()
    api.authenticate()
    return api


def folder(path: Path, files: dict[str, bytes], title: str = "My source") -> str:
    """A dataset as the client wants it; its slug is the title's."""
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    slug = title.lower().replace(" ", "-")
    metadata = {"id": f"carl/{slug}", "title": title, "licenses": [{"name": "CC0-1.0"}]}
    (path / "dataset-metadata.json").write_text(json.dumps(metadata))
    return str(path)


def kernel(path: Path, **changes: Any) -> str:
    path.mkdir(exist_ok=True)
    (path / "code.py").write_text("print(1)\n")
    metadata = {
        "id": "carl/my-kernel",
        "title": "My kernel",
        "code_file": "code.py",
        "language": "python",
        "kernel_type": "script",
        "enable_gpu": True,
        "competition_sources": [COMPETITION],
    }
    (path / "kernel-metadata.json").write_text(json.dumps(metadata | changes))
    return str(path)


def status_of(ask: Callable[[], Any]) -> int:
    with pytest.raises(requests.HTTPError) as caught:
        ask()
    return caught.value.response.status_code


# ------------------------------------------------------------------ the command line


@pytest.mark.slow
def test_the_command_line_from_a_folder_to_a_score(tmp_path: Path) -> None:
    with KaggleStandIn(pace=0.0, dataset_polls=0) as kaggle:
        environment = kaggle.environment(tmp_path / "home")

        def run(*arguments: str) -> str:
            command = [CLI, *arguments]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        source = folder(tmp_path / "d", {"b.bin": b"b" * 3000, "empty": b"", "sub/a.txt": b"a"})
        assert "being created" in run("datasets", "create", "-p", source, "--dir-mode", "zip")
        assert run("datasets", "status", "carl/my-source").strip() == "ready"
        push = kernel(tmp_path / "k", dataset_sources=["carl/my-source/1"])
        assert "Kernel version 1 successfully pushed" in run("kernels", "push", "-p", push)
        assert "COMPLETE" in run("kernels", "status", "carl/my-kernel")
        run("kernels", "output", "carl/my-kernel", "-p", str(tmp_path / "out"))
        submit = ["-k", "carl/my-kernel", "-v", "1", "-f", "submission.parquet", "-m", "hello"]
        said = run("competitions", "submit", COMPETITION, *submit)
        assert said.splitlines()[0] == "0 submissions remaining today."
        run("competitions", "submissions", COMPETITION)
        assert "COMPLETE" in run("competitions", "submissions", COMPETITION)

    (version,) = kaggle.datasets["carl/my-source"].versions
    assert version.files == ["b.bin", "empty", "sub.zip"]
    assert version.contents == {"b.bin": b"b" * 3000, "empty": b"", "sub/a.txt": b"a"}
    seen = kaggle.kernels["carl/my-kernel"].versions[0].push
    assert (seen.text, seen.competitions) == ("print(1)\n", [COMPETITION])
    assert seen.datasets == {"carl/my-source": version}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "my-kernel.log",
        "submission.parquet",
    ]
    assert kaggle.submissions[0].result == Score("7")
    assert kaggle.submissions[0].description == "hello"
    assert not [name for name, _ in kaggle.calls if name in ("CONNECT", "GET", "POST")]


@pytest.mark.slow
def test_a_killed_upload_goes_on_where_it_was(tmp_path: Path) -> None:
    size = 8 << 20
    source = folder(tmp_path / "d", {"a.bin": b"a", "big.bin": os.urandom(size)})
    with KaggleStandIn(upload_rate=2e6) as kaggle:
        command = [CLI, "datasets", "create", "-q", "-p", source]
        environment = kaggle.environment(tmp_path / "home")
        client = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        blob = None
        while blob is None or len(blob.data) < 1 << 20:
            time.sleep(0.02)
            blob = next((b for b in kaggle.blobs.values() if b.name == "big.bin"), None)
        client.send_signal(signal.SIGKILL)
        client.wait()
        kaggle.settings.upload_rate = None
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert kaggle.uploaded == {"a.bin": 1, "big.bin": size}
    (first, _), (second, _) = blob.puts
    assert first == 0 < second
    assert [blob.questions for blob in kaggle.blobs.values()] == [1, 1]
    contents = kaggle.datasets["carl/my-source"].versions[0].contents
    assert contents["big.bin"] == (tmp_path / "d/big.bin").read_bytes()


@pytest.mark.slow
def test_as_a_program_it_says_how_to_get_here() -> None:
    command = [sys.executable, "-m", "standin", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT / "tests", stdout=subprocess.PIPE, text=True) as served:
        variables = {}
        while not (line := served.stdout.readline()).startswith("#"):
            name, _, value = line.removeprefix("export ").strip().partition("=")
            variables[name] = value.strip("'")
        client = [CLI, "competitions", "files", COMPETITION]
        listed = subprocess.check_output(client, env=os.environ | variables, text=True)
        served.send_signal(signal.SIGINT)
        assert served.wait(10) == 0
    assert "test.csv" in listed


# -------------------------------------------------------------------------- sign in


def test_credentials(kaggle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standin = kaggle()
    assert status_of(lambda: client().dataset_status("carl/nothing")) == 404
    assert standin.count("IntrospectToken") == 0
    monkeypatch.setenv("KAGGLE_KEY", "wrong")
    assert status_of(lambda: client().dataset_status("carl/nothing")) == 401
    standin.adopt(monkeypatch, tmp_path, sign_in="token")
    api = client()
    assert api.config_values["username"] == "carl"
    assert status_of(lambda: api.dataset_status("carl/nothing")) == 404
    standin.adopt(monkeypatch, tmp_path, sign_in="nothing")
    with pytest.raises(SystemExit):
        client()
    # A token that is none leaves the key to the sign-in, and then is sent all the same.
    standin.adopt(monkeypatch, tmp_path, sign_in="key")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "wrong")
    assert status_of(lambda: client().dataset_status("carl/nothing")) == 401


def test_what_belongs_to_someone_else(kaggle: Any, tmp_path: Path) -> None:
    standin = kaggle()
    standin.add_dataset("eve/secret", {"a": b"a"})
    standin.add_dataset("eve/public", {"a": b"a"}, private=False)
    api = client()
    assert api.dataset_status("eve/public") == "ready"
    assert status_of(lambda: api.dataset_status("eve/secret")) == 403
    source = folder(tmp_path / "d", {"a": b"a"})
    metadata = Path(source, "dataset-metadata.json")
    metadata.write_text(metadata.read_text().replace("carl/my-source", "eve/public"))
    assert status_of(lambda: api.dataset_create_version(source, "mine", quiet=True)) == 403
    assert status_of(lambda: api.kernels_push(kernel(tmp_path / "k", id="eve/my-kernel"))) == 403
    standin.settings.unknown_status = 403
    with pytest.raises(ValueError, match="Cannot access kernel"):
        api.kernels_status("eve/no-kernel")


# ------------------------------------------------------------------------- datasets


def test_versions_of_a_dataset(kaggle: Any, tmp_path: Path) -> None:
    standin = kaggle(dataset_polls=2)
    api, source = client(), folder(tmp_path / "d", {"a": b"a"})
    assert api.dataset_create_new(source, quiet=True).status == "ok"
    assert [api.dataset_status("carl/my-source") for _ in range(3)] == [
        *("blobs_received", "blobs_received", "ready")
    ]
    standin.settings.failing_datasets.add("carl/my-source")
    standin.settings.dataset_polls = 0
    assert api.dataset_create_version(source, "same again", quiet=True).status == "ok"
    assert api.dataset_status("carl/my-source") == "failed"
    standin.settings.pending_is_current = False
    found = json.loads(api.dataset_status("carl/my-source", format="json"))
    assert found == {"status": "failed", "current_version_number": 1}
    versions = standin.datasets["carl/my-source"].versions
    assert [version.notes for version in versions] == ["Initial release", "same again"]
    assert [file.name for file in api.dataset_list_files("carl/my-source").files] == ["a"]
    api.dataset_download_file("carl/my-source/1", "a", str(tmp_path))
    assert (tmp_path / "a").read_bytes() == b"a"


def test_a_title_that_is_taken(kaggle: Any, tmp_path: Path) -> None:
    standin = kaggle()
    standin.add_dataset("carl/other", {"a": b"a"}, title="My source")
    refused = client().dataset_create_new(folder(tmp_path / "d", {"a": b"a"}), quiet=True)
    assert refused.status == "error"
    assert "already in use by a dataset" in refused.error
    assert standin.count("CreateDataset") == 1


def test_a_dropped_upload_is_sent_from_its_beginning(kaggle: Any, tmp_path: Path) -> None:
    standin = kaggle()
    standin.fault("PutBlob", "drop_upload", amount=100_000)
    source = folder(tmp_path / "d", {"a": bytes(1_000_000)})
    assert client().dataset_create_new(source, quiet=True).status == "ok"
    (blob,) = standin.blobs.values()
    assert blob.puts == [(0, 100_000), (0, 1_000_000)]
    assert standin.uploaded == {"a": 1_100_000}


def test_a_file_that_cannot_be_sent_is_left_out(
    kaggle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    standin = kaggle()
    source = folder(tmp_path / "d", {"a": b"a", "b": b"b"})
    standin.fault("PutBlob", "status", code=400)
    assert client().dataset_create_new(source, quiet=True).status == "ok"
    assert len(standin.datasets["carl/my-source"].versions[0].files) == 1
    assert capsys.readouterr().out == ""


def test_an_upload_that_expired(kaggle: Any, tmp_path: Path) -> None:
    standin = kaggle()
    api, source = client(), folder(tmp_path / "d", {"a": b"a"})
    standin.fault("CreateDataset", "status", code=500)
    assert status_of(lambda: api.dataset_create_new(source, quiet=True)) == 500
    standin.fault("PutBlob", "expire_upload")
    assert api.dataset_create_new(source, quiet=True).status == "error"
    assert standin.uploaded == {"a": 1}
    assert api.dataset_create_new(source, quiet=True).status == "ok"


def test_a_reply_that_is_lost_makes_the_client_do_it_twice(kaggle: Any, tmp_path: Path) -> None:
    standin = kaggle()
    standin.add_dataset("carl/my-source", {"a": b"a"})
    standin.fault("CreateDatasetVersion", "drop")
    client().dataset_create_version(folder(tmp_path / "d", {"a": b"a"}), "two", quiet=True)
    assert len(standin.datasets["carl/my-source"].versions) == 3


# -------------------------------------------------------------------------- kernels


def test_sources_that_cannot_be_attached(kaggle: Any, tmp_path: Path) -> None:
    standin = kaggle(rules_accepted=False)
    standin.add_dataset("carl/old-and-new", {"a": b"old"})
    standin.add_dataset("carl/old-and-new", {"a": b"new"}).versions[-1].polls = 1
    standin.add_dataset("eve/secret", {"a": b"a"})
    wanted = ["carl/old-and-new/2", "carl/nothing", "eve/secret", "carl/old-and-new"]
    pushed = client().kernels_push(kernel(tmp_path / "k", dataset_sources=wanted))
    assert pushed.invalid_dataset_sources == wanted[:3]
    assert pushed.invalid_competition_sources == [COMPETITION]
    assert (pushed.version_number, pushed.error) == (1, "")
    (version,) = standin.kernels["carl/my-kernel"].versions
    assert version.push.datasets["carl/old-and-new"].contents == {"a": b"old"}


def test_a_kernel_gets_its_slug_from_its_title(kaggle: Any, tmp_path: Path) -> None:
    standin = kaggle(pace=0.0)
    api = client()
    pushed = api.kernels_push(kernel(tmp_path / "k", title="Another  Name!"))
    assert (pushed.ref, pushed.version_number) == ("/code/carl/another-name", 1)
    assert status_of(lambda: api.kernels_push(str(tmp_path / "k"))) == 409
    pushed = api.kernels_push(kernel(tmp_path / "k", id="carl/another-name", title="Renamed"))
    assert (pushed.ref, pushed.version_number) == ("/code/carl/another-name", 2)
    found = api.build_kaggle_client()
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

    request = ApiGetKernelRequest()
    request.user_name, request.kernel_slug = "carl", "another-name/1"
    first = found.kernels.kernels_api_client.get_kernel(request)
    assert (first.metadata.current_version_number, first.blob.source) == (2, "print(1)\n")
    assert list(standin.kernels) == ["carl/another-name"]


def test_only_so_many_runs_at_a_time(kaggle: Any, tmp_path: Path) -> None:
    standin = kaggle(pace=60.0)
    api = client()
    results = [api.kernels_push(kernel(tmp_path / "k")) for _ in range(3)]
    assert [one.version_number for one in results] == [1, 2, 0]
    assert results[2].error == "Maximum batch GPU session count of 2 reached."
    standin.kernels["carl/my-kernel"].versions[0].pace = 0.0
    assert api.kernels_push(kernel(tmp_path / "k")).version_number == 3


def test_a_run_that_fails(kaggle: Any, tmp_path: Path) -> None:
    kaggle(run=failing, pace=0.0)
    api = client()
    api.kernels_push(kernel(tmp_path / "k"))
    found = api.kernels_status("carl/my-kernel")
    assert (found.status.name, found.failure_message) == ("ERROR", "Notebook Threw Exception")
    assert "broken" in api.kernels_logs("carl/my-kernel")
    submit = ("submission.parquet", "m", COMPETITION, "carl/my-kernel", 1)
    assert status_of(lambda: api.competition_submit_code(*submit)) == 400


def test_a_log_is_followed_through_a_cut(
    kaggle: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Run([(float(i), f"line {i}\n") for i in range(5)], queued=2.0, seconds=6.0)
    standin = kaggle(run=lambda _: run, pace=0.1)
    api = client()
    monkeypatch.setattr(api, "_LOG_STREAM_RECONNECT_DELAY_SEC", 0)
    standin.fault("StreamLog", "drop_log", amount=3)
    api.kernels_push(kernel(tmp_path / "k"))
    assert api.kernels_status("carl/my-kernel").status.name == "QUEUED"
    api.kernels_logs_cli("carl/my-kernel", follow=True)
    assert capsys.readouterr().out.splitlines() == [f"line {i}" for i in range(5)]
    assert standin.count("StreamLog") == 2
    assert api.kernels_status("carl/my-kernel").status.name == "COMPLETE"
    assert [e["data"] for e in api.kernels_logs_stream("carl/my-kernel")] == [
        f"line {i}\n" for i in range(5)
    ]


def test_outputs_come_in_pages(kaggle: Any, tmp_path: Path) -> None:
    outputs = {f"folder/{i}.txt": b"x" * i for i in range(25)}
    standin = kaggle(run=lambda _: Run(outputs=outputs), pace=0.0)
    api = client()
    api.kernels_push(kernel(tmp_path / "k"))
    api.kernels_output("carl/my-kernel", str(tmp_path / "out"))
    files = {f"folder/{p.name}": p.read_bytes() for p in (tmp_path / "out/folder").iterdir()}
    assert files == outputs
    assert standin.count("ListKernelSessionOutput") == 2


# ---------------------------------------------------------------------- competition


def test_the_competitions_files(kaggle: Any, tmp_path: Path) -> None:
    data = {"test.csv": os.urandom(3 << 20), "package/core.py": b"pass\n"}
    standin = kaggle(competition_files=data, rules_accepted=False)
    api = client()
    assert status_of(lambda: api.competition_list_files(COMPETITION)) == 403
    assert status_of(lambda: api.competition_download_files(COMPETITION, tmp_path)) == 403
    standin.settings.rules_accepted = True
    assert status_of(lambda: api.competition_list_files("another")) == 404
    listed = api.competition_list_files(COMPETITION).files
    assert {file.name: file.total_bytes for file in listed} == {
        "package/core.py": 5,
        "test.csv": 3 << 20,
    }
    api.competition_download_file(COMPETITION, "test.csv", str(tmp_path), quiet=True)
    assert (tmp_path / "test.csv").read_bytes() == data["test.csv"]
    standin.fault("GetFile", "drop_download", amount=5 << 19)
    api.competition_download_files(COMPETITION, str(tmp_path))
    with zipfile.ZipFile(tmp_path / f"{COMPETITION}.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == data
    assert standin.calls[-1][1]["range"] == f"bytes={2 << 20}-"  # it keeps whole mebibytes


def test_submissions_and_their_limit(kaggle: Any, tmp_path: Path) -> None:
    outputs = {"submission.parquet": PARQUET, "broken.parquet": b"no"}
    standin = kaggle(run=lambda _: Run(outputs=outputs), pace=0.0, submissions_a_day=2)
    api = client()
    api.kernels_push(kernel(tmp_path / "k"))

    def submit(name: str) -> Any:
        return api.competition_submit_code(name, name, COMPETITION, "carl/my-kernel", 1)

    assert status_of(lambda: submit("absent.parquet")) == 400
    assert submit("submission.parquet").ref == standin.submissions[0].ref
    assert submit("broken.parquet").message.startswith("Successfully submitted")
    assert status_of(lambda: submit("submission.parquet")) == 400
    limits = api.competition_get_submission_limits(COMPETITION)
    assert (limits.num_today, limits.num_allowed_now) == (2, 0)
    before = api.competition_submissions(COMPETITION)
    assert [one.status.name for one in before] == ["PENDING", "PENDING"]
    after = api.competition_submissions(COMPETITION)
    assert [one.file_name for one in after] == ["broken.parquet", "submission.parquet"]
    assert [one.status.name for one in after] == ["ERROR", "COMPLETE"]
    assert after[0].error_description == "Submission Scoring Error"
    assert after[1].public_score == "7"


# --------------------------------------------------------------------------- faults


@pytest.mark.parametrize("code", [401, 403, 404, 409, 500, 503])
def test_a_status_instead_of_an_answer(kaggle: Any, code: int) -> None:
    standin = kaggle()
    standin.add_dataset("carl/my-source", {"a": b"a"})
    fault = standin.fault("GetDataset*", "status", code=code, after=1)
    api = client()
    assert api.dataset_status("carl/my-source") == "ready"
    assert status_of(lambda: api.dataset_status("carl/my-source")) == code
    assert api.dataset_status("carl/my-source") == "ready"
    assert fault.struck == 1


def test_too_many_requests(kaggle: Any) -> None:
    standin = kaggle()
    standin.add_dataset("carl/my-source", {"a": b"a"})
    standin.fault("GetDatasetStatus", "status", code=429, retry_after=7)
    with pytest.raises(requests.HTTPError) as caught:
        client().dataset_status("carl/my-source")
    assert caught.value.response.headers["Retry-After"] == "7"


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_dropped_connection(kaggle: Any, tmp_path: Path, carried_out: bool) -> None:
    standin = kaggle(pace=0.0)
    standin.fault("SaveKernel", "drop", carried_out=carried_out)
    with pytest.raises(requests.ConnectionError):
        client().kernels_push(kernel(tmp_path / "k"))
    assert len(standin.kernels) == carried_out


@pytest.mark.parametrize(("code", "error"), [(200, ValueError), (502, requests.HTTPError)])
def test_a_page_for_people(kaggle: Any, code: int, error: type[Exception]) -> None:
    standin = kaggle()
    standin.fault("GetDatasetStatus", "garbage", code=code)
    with pytest.raises(error):
        client().dataset_status("carl/my-source")


def test_a_slow_answer_and_an_error_in_a_good_one(kaggle: Any, tmp_path: Path) -> None:
    standin = kaggle()
    standin.fault("SaveKernel", "slow", seconds=0.3)
    standin.fault("SaveKernel", "error", message="Kaggle says no", after=1)
    began = time.monotonic()
    assert client().kernels_push(kernel(tmp_path / "k")).version_number == 1
    assert time.monotonic() - began >= 0.3
    assert client().kernels_push(kernel(tmp_path / "k")).error == "Kaggle says no"
    with pytest.raises(ValueError, match="no fault is called"):
        standin.fault("SaveKernel", "typo")


def test_nothing_leaves_the_machine(kaggle: Any) -> None:
    standin = kaggle()
    with pytest.raises(requests.exceptions.ProxyError):
        requests.get("https://www.kaggle.com/")
    assert requests.get("http://www.kaggle.com/").status_code == 502
    assert requests.post(f"{standin.url}/api/v1/a.Service/NoMethod", json={}).status_code == 404
    assert [name for name, _ in standin.calls] == ["CONNECT", "GET", "NoMethod"]


def test_a_port_that_is_taken_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_PATIENCE", 0.3)
    with KaggleStandIn() as first, pytest.raises(TimeoutError, match="was taken for"):
        KaggleStandIn(port=first.port).__enter__()
    with KaggleStandIn(port=first.port) as second:
        assert second.port == first.port
