"""What a delivery is made of, each by itself: asking again, credentials, the lock."""

import multiprocessing
import stat
import time
from pathlib import Path

import polars as pl
import pytest
import requests

from helpers.delivering import hold
from mathllm.competition.protocol.submission_file import read_submission
from mathllm.delivery import credentials
from mathllm.delivery import submit as submitting
from mathllm.delivery.replies import explained
from mathllm.delivery.retry import RetryPolicy, is_passing, retry
from mathllm.delivery.workdir import DeliveryFolder
from mathllm.errors import DeliveryError, ProblemFileError, TryAgainError

QUICK = RetryPolicy(poll=0.01, first=0.001)


def http_error(status: int, **headers: str) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return requests.HTTPError(str(status), response=response)


class Failing:
    """Raises the given faults, one a call, then answers with the number of the call."""

    def __init__(self, *faults: Exception):
        self.faults = list(faults)
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.faults:
            raise self.faults.pop(0)
        return self.calls


# ---------------------------------------------------------------------- retry


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_passes_is_asked_again(status: int) -> None:
    ask = Failing(http_error(status), requests.ConnectionError("reset"))
    said: list[str] = []
    assert retry("thing", ask, QUICK, said.append) == 3
    assert len(said) == 2
    assert all(line.startswith("thing: ") for line in said)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_what_does_not_pass_is_asked_once(status: int) -> None:
    ask = Failing(http_error(status))
    with pytest.raises(requests.HTTPError):
        retry("thing", ask, QUICK, print)
    assert ask.calls == 1


def test_retrying_ends_in_a_word_to_try_again() -> None:
    ask = Failing(*[requests.ConnectionError("refused")] * 99)
    with pytest.raises(TryAgainError, match=r"no connection to Kaggle \(thing\): repeat"):
        retry("thing", ask, QUICK, lambda _: None)
    assert ask.calls == QUICK.tries


def test_retry_after_is_kept_to() -> None:
    ask = Failing(http_error(429, Retry_After="1"))
    began = time.monotonic()
    retry("thing", ask, QUICK, lambda _: None)
    assert time.monotonic() - began >= 1.0


def test_too_long_a_wait_is_left_to_the_person() -> None:
    ask = Failing(http_error(429, Retry_After="3600"))
    with pytest.raises(TryAgainError, match="60 minutes"):
        retry("thing", ask, QUICK, lambda _: None)
    assert ask.calls == 1


def test_a_change_whose_reply_was_lost_is_not_made_twice() -> None:
    ask = Failing(requests.ConnectionError("reply lost"))
    assert retry("thing", ask, QUICK, lambda _: None, already_done=lambda: "done") == "done"
    assert ask.calls == 1


def test_a_look_that_fails_does_not_hide_the_change() -> None:
    ask = Failing(requests.ConnectionError("lost"), requests.ConnectionError("lost"))
    looks = Failing(requests.ConnectionError("lost"))
    assert retry("thing", ask, QUICK, lambda _: None, already_done=looks) == 2
    assert (ask.calls, looks.calls) == (2, 2)


def test_a_page_in_place_of_a_reply_passes() -> None:
    response = requests.Response()
    response.status_code, response._content = 200, b"<html>be right back</html>"
    with pytest.raises(requests.exceptions.JSONDecodeError) as raised:
        response.json()
    assert is_passing(raised.value)


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("status", "what", "words"),
    [
        (401, "kernels push a/b", "refuses the credentials"),
        (403, "competitions files aimo", "accept its rules on https://www.kaggle.com/comp"),
        (403, "datasets create a/b", "belongs to somebody else"),
        (404, "datasets version a/b", "no such thing"),
        (422, "datasets version a/b", "status 422"),
    ],
)
def test_each_status_has_its_mend(status: int, what: str, words: str) -> None:
    fault = explained(what, http_error(status))
    assert type(fault) is DeliveryError
    assert words in str(fault)
    assert what in str(fault)


def test_a_conflict_may_be_tried_again_and_a_bug_stays_a_bug() -> None:
    assert isinstance(explained("x", http_error(409)), TryAgainError)
    bug = ZeroDivisionError("ours")
    assert explained("x", bug) is bug


def test_a_full_disk_is_no_lost_connection() -> None:
    full = OSError(28, "No space left on device", "/data/uploads/trm.zip")
    assert not is_passing(full)
    fault = explained("upload to a/b", full)
    assert type(fault) is DeliveryError
    assert "/data/uploads/trm.zip: No space left on device" in str(fault)


# ------------------------------------------------------------------- credentials


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path


def keep(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_credentials_are_found_in_the_clients_order(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert credentials.find() is None
    key = keep(home / ".kaggle" / "kaggle.json", '{"username": "ada", "key": "secret"}')
    found = credentials.find()
    assert (found.place, found.user, found.file) == (str(key), "ada", key)
    monkeypatch.setenv("KAGGLE_USERNAME", "bob")
    monkeypatch.setenv("KAGGLE_KEY", "secret")
    assert credentials.find().user == "bob"
    token = keep(home / ".kaggle" / "access_token", "secret")
    assert credentials.find().place == str(token)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret" * 600)  # too long for a file's name
    assert credentials.find().place == "KAGGLE_API_TOKEN"


def test_credentials_in_the_newer_folder(home: Path) -> None:
    keep(home / ".config" / "kaggle" / "kaggle.json", '{"username": "ada", "key": "secret"}')
    assert credentials.user_name() == "ada"


def test_credentials_that_others_can_read_are_seen(home: Path) -> None:
    file = keep(home / ".kaggle" / "kaggle.json", '{"username": "ada", "key": "secret"}', 0o644)
    assert credentials.find().readable_by_others
    file.chmod(stat.S_IRUSR)
    assert not credentials.find().readable_by_others


# ----------------------------------------------------------------------- records


def test_a_record_is_replaced_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "submissions.jsonl"
    submitting.write_record(path, {"ref": 1, "status": "pending"})
    submitting.write_record(path, {"ref": 2, "status": "pending"})
    submitting.write_record(path, {"ref": 1, "status": "complete"})
    assert submitting.read_records(path) == [
        {"ref": 1, "status": "complete"},
        {"ref": 2, "status": "pending"},
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["submissions.jsonl"]


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "submissions.jsonl"
    path.write_text('{"ref": 1}\n{"re', encoding="utf-8")
    with pytest.raises(DeliveryError, match=r"submissions\.jsonl:2"):
        submitting.write_record(path, {"ref": 2})
    assert path.read_text(encoding="utf-8") == '{"ref": 1}\n{"re'


# -------------------------------------------------------------------- submission


def test_a_good_submission_is_read(tmp_path: Path) -> None:
    path = tmp_path / "submission.parquet"
    pl.DataFrame({"id": ["000aaa", "0e6441"], "answer": [0, 99999]}).write_parquet(path)
    assert read_submission(path) == {"000aaa": 0, "0e6441": 99999}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"id": ["a"], "answers": [1]}, "columns"),
        ({"answer": [1], "id": ["a"]}, "columns"),
        ({"id": ["a", "a"], "answer": [1, 2]}, "the id a more than once"),
        ({"id": ["a"], "answer": [100000]}, "a has 100000"),
        ({"id": ["a"], "answer": [-1]}, "a has -1"),
        ({"id": ["a"], "answer": [0.5]}, r"a has 0\.5"),
        ({"id": ["a", None], "answer": [1, 2]}, "without an id"),
        ({"id": ["a"], "answer": [float("nan")]}, "a has nan"),
        ({"id": ["a"], "answer": [float("inf")]}, "a has inf"),
        ({"id": ["a"], "answer": ["many"]}, "of type String"),
        ({"id": [], "answer": []}, "no rows"),
    ],
)
def test_a_bad_submission_is_refused(tmp_path: Path, rows: dict[str, list], words: str) -> None:
    path = tmp_path / "submission.parquet"
    pl.DataFrame(rows).write_parquet(path)
    with pytest.raises(ProblemFileError, match=words):
        read_submission(path)


def test_half_a_submission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "submission.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ProblemFileError, match="no Parquet file"):
        read_submission(path)


# ---------------------------------------------------------------------- the lock


@pytest.mark.slow
def test_a_second_command_waits_and_says_for_whom(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    held, release = spawn.Event(), spawn.Event()
    other = spawn.Process(target=hold, args=(tmp_path, held, release))
    other.start()
    assert held.wait(30)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        release.set()

    with DeliveryFolder(tmp_path).alone(say):
        assert said == [f"process {other.pid} delivers from here already: waiting"]
    other.join(30)


@pytest.mark.slow
def test_a_killed_command_does_not_keep_others_out(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    held, never = spawn.Event(), spawn.Event()
    other = spawn.Process(target=hold, args=(tmp_path, held, never))
    other.start()
    assert held.wait(30)
    other.kill()
    other.join(30)
    said: list[str] = []
    with DeliveryFolder(tmp_path).alone(said.append):
        assert said == []
