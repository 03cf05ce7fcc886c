"""From a bundle to a score: the real kaggle client against a stand-in of Kaggle's API."""

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import delivering
from mathllm.delivery import submit as submitting
from mathllm.delivery.client import Kaggle
from mathllm.delivery.fetch import fetch
from mathllm.delivery.push import Delivered, RunFailedError, push
from mathllm.delivery.push import Push as PushOrder
from mathllm.delivery.retry import RetryPolicy
from mathllm.delivery.submit import Submit, submit
from mathllm.delivery.workdir import DeliveryFolder
from mathllm.errors import DeliveryError, TryAgainError
from standin import KaggleStandIn, Push, Run, Settings, failing, succeeding

QUICK = RetryPolicy(poll=0.02, first=0.02)
SLUG = Settings().competition
KERNEL = "carl/mathllm-submission"
SOURCE, WEIGHTS = "carl/mathllm-source", "carl/mathllm-weights"


class Desk:
    """One person's checkout and account: a bundle, a stand-in, and the two commands."""

    def __init__(self, folder: Path, standin: KaggleStandIn):
        self.folder, self.standin = folder, standin
        self.said: list[str] = []
        self.identity = delivering.make_bundle(folder / "build")

    @property
    def text(self) -> str:
        return "\n".join(self.said)

    @property
    def place(self) -> DeliveryFolder:
        return DeliveryFolder(self.folder / "delivery")

    def kaggle(self, dry_run: bool = False) -> Kaggle:
        return Kaggle(self.said.append, QUICK, dry_run)

    def push(self, dry_run: bool = False, **options: bool) -> Delivered | None:
        order = PushOrder(self.folder / "build", self.place, **options)
        return push(self.kaggle(dry_run), order)

    def submit(self, dry_run: bool = False, **options: bool) -> object:
        record = self.folder / "submissions.jsonl"
        order = Submit(self.folder / "build", self.place, self.folder, record, "first", **options)
        return submit(self.kaggle(dry_run), order)

    def vendor_other(self, **files: bytes) -> None:
        """Another bundle in place of the first, with other weights."""
        shutil.rmtree(self.folder / "build")
        weights = {"trm/model.safetensors": b"other"} | files
        self.identity = delivering.make_bundle(self.folder / "build", weights)

    def versions(self, ref: str) -> int:
        return len(self.standin.datasets[ref].versions)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with KaggleStandIn(pace=0.005) as standin:
        standin.adopt(monkeypatch, tmp_path / "home")
        yield Desk(tmp_path, standin)


# ------------------------------------------------------------------ the whole way


def test_from_a_bundle_to_a_score(desk: Desk) -> None:
    desk.standin.settings.pace = 0.2  # long enough for the run to be seen while it prints
    delivered = desk.push()
    assert (delivered.ref, delivered.version, delivered.rows) == (KERNEL, 1, 3)
    assert f"  | {KERNEL} version 1: 3/3" in desk.said
    found = desk.submit()
    assert (found.status, found.public_score) == ("complete", "7")
    (record,) = submitting.read_records(desk.folder / "submissions.jsonl")
    assert record["identity"] == desk.identity
    assert record["parameters"] == {"n_samples": 16}
    assert record["kernel"], record["version"] == (KERNEL, 1)
    assert record["public_score"] == "7"
    manifest = (desk.folder / "build" / "manifest.json").read_bytes()
    assert record["manifest"] == delivering.sum_of(manifest)


def test_kaggle_gets_every_file_and_the_kernel_names_the_versions(desk: Desk) -> None:
    desk.push()
    desk.vendor_other()
    desk.push()
    latest = desk.standin.datasets[WEIGHTS].versions[-1]
    assert latest.contents["trm/model.safetensors"] == b"other"
    assert set(latest.contents) == {"trm/model.safetensors", "contents.json"}
    request = desk.standin.kernels[KERNEL].versions[-1].push.request
    assert sorted(request["datasetDataSources"]) == [f"{SOURCE}/1", f"{WEIGHTS}/2"]
    assert desk.standin.datasets[SOURCE].private
    assert request["isPrivate"]


def test_repeated_nothing_is_sent_again(desk: Desk) -> None:
    desk.push()
    desk.submit()
    calls = len(desk.standin.calls)
    assert desk.push().version == 1
    assert desk.submit().public_score == "7"
    changing = ("StartBlobUpload", "PutBlob", "CreateDataset", "CreateDatasetVersion")
    later = [name for name, _ in desk.standin.calls[calls:]]
    assert not set(later) & {*changing, "SaveKernel", "CreateCodeSubmission"}
    assert len(submitting.read_records(desk.folder / "submissions.jsonl")) == 1


def test_a_fresh_checkout_finds_out_what_is_there(desk: Desk) -> None:
    desk.push()
    shutil.rmtree(desk.folder / "delivery")
    assert desk.push().version == 1
    assert desk.standin.count("SaveKernel") == 1
    assert desk.versions(WEIGHTS) == 1


def test_a_dry_run_changes_nothing_and_says_every_call(desk: Desk) -> None:
    assert desk.push(dry_run=True) is None
    assert not desk.standin.datasets
    assert not desk.standin.kernels
    for call in (f"datasets create {SOURCE}", f"datasets create {WEIGHTS}", "kernels push"):
        assert f"would call  {call}" in desk.text
    desk.push()
    assert desk.submit(dry_run=True) is None
    assert f"would call  competitions submit {SLUG} -k {KERNEL} -v 1" in desk.text
    assert not desk.standin.submissions


def test_a_dry_run_keeps_what_is_half_sent(desk: Desk) -> None:
    desk.standin.fault("CreateDataset", "status", code=400)
    with pytest.raises(DeliveryError):
        desk.push()
    kept = sorted(desk.place.uploads.rglob("*.json"))
    assert kept
    desk.push(dry_run=True)
    assert sorted(desk.place.uploads.rglob("*.json")) == kept


def test_only_what_changed_gets_a_version(desk: Desk) -> None:
    desk.push()
    desk.vendor_other()
    assert desk.push().version == 2
    assert (desk.versions(SOURCE), desk.versions(WEIGHTS)) == (1, 2)


def test_again_makes_a_new_version_of_the_kernel_alone(desk: Desk) -> None:
    desk.push()
    assert desk.push(again=True).version == 2
    assert (desk.versions(SOURCE), desk.versions(WEIGHTS)) == (1, 1)


def test_waiting_for_a_slow_dataset(desk: Desk) -> None:
    desk.standin.settings.dataset_polls = 4
    desk.push()
    assert f"{WEIGHTS}: version 1 is ready" in desk.said
    assert "Kaggle is working on it" in desk.text


def test_a_version_that_is_not_current_yet_is_waited_for(desk: Desk) -> None:
    desk.push()
    desk.standin.settings.pending_is_current = False
    desk.standin.settings.dataset_polls = 3
    desk.vendor_other()
    desk.push()
    request = desk.standin.kernels[KERNEL].versions[-1].push.request
    assert f"{WEIGHTS}/2" in request["datasetDataSources"]


# ------------------------------------------------------------------------- faults


PASSING = [
    ("status", {"code": 429, "retry_after": 0}),
    ("status", {"code": 500}),
    ("status", {"code": 503}),
    ("garbage", {}),
    ("drop", {"carried_out": False}),
    ("drop", {"carried_out": True}),
]
CALLS = ["GetDataset", "CreateDataset", "SaveKernel", "GetKernel", "GetKernelSessionStatus"]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("kind", "details"), PASSING, ids=lambda value: str(value))
def test_what_passes_costs_nothing(desk: Desk, call: str, kind: str, details: dict) -> None:
    fault = desk.standin.fault(call, kind, **details)
    assert desk.push().rows == 3
    assert fault.struck == 1
    assert (desk.versions(SOURCE), desk.versions(WEIGHTS)) == (1, 1)
    assert len(desk.standin.kernels[KERNEL].versions) == 1


@pytest.mark.parametrize(("kind", "details"), PASSING, ids=lambda value: str(value))
def test_a_submission_is_made_once_whatever_happens(desk: Desk, kind: str, details: dict) -> None:
    desk.push()
    desk.standin.fault("CreateCodeSubmission", kind, **details)
    assert desk.submit().public_score == "7"
    assert len(desk.standin.submissions) == 1


@pytest.mark.parametrize("call", ["CreateDatasetVersion", "SaveKernel"])
def test_a_lost_reply_makes_no_second_version(desk: Desk, call: str) -> None:
    desk.push()
    desk.vendor_other()
    desk.standin.fault(call, "drop", times=2)
    desk.push()
    assert desk.versions(WEIGHTS) == 2
    assert len(desk.standin.kernels[KERNEL].versions) == 2


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("GetKernelSessionStatus", 401, "refuses the credentials|Cannot access"),
        ("CreateDataset", 401, "refuses the credentials in KAGGLE_USERNAME and KAGGLE_KEY"),
        ("CreateDataset", 403, "belongs to somebody else"),
        ("CreateDataset", 404, "no such thing"),
        ("SaveKernel", 403, "belongs to somebody else"),
    ],
)
def test_what_a_person_must_mend_is_said_at_once(
    desk: Desk, call: str, code: int, words: str
) -> None:
    desk.standin.fault(call, "status", code=code, times=99)
    with pytest.raises(DeliveryError, match=words) as raised:
        desk.push()
    assert not isinstance(raised.value, TryAgainError)
    assert desk.standin.count(call) == 1


@pytest.mark.parametrize("code", [409, 429, 500])
def test_what_does_not_pass_may_be_tried_later(desk: Desk, code: int) -> None:
    fault = desk.standin.fault("CreateDataset", "status", code=code, times=99)
    with pytest.raises(TryAgainError, match="repeat the command"):
        desk.push()
    fault.times = 0
    assert desk.push().rows == 3


def test_a_file_that_did_not_arrive_makes_no_version(desk: Desk) -> None:
    fault = desk.standin.fault("PutBlob", "status", code=400, times=99)
    with pytest.raises(TryAgainError, match="files did not reach Kaggle"):
        desk.push()
    assert not desk.standin.datasets
    fault.times = 0
    assert desk.push().rows == 3


def test_an_upload_that_was_cut_goes_on(desk: Desk) -> None:
    desk.vendor_other(**{"trm/large.safetensors": random.Random(0).randbytes(400_000)})
    desk.standin.fault("PutBlob", "drop_upload", amount=50_000, times=3, after=2)
    assert desk.push().rows == 3
    assert len(desk.standin.datasets[WEIGHTS].versions[0].contents) == 3


def test_a_forgotten_upload_is_begun_anew(desk: Desk) -> None:
    create = desk.standin.fault("CreateDataset", "status", code=400)
    with pytest.raises(DeliveryError):
        desk.push()
    assert create.struck
    for blob in desk.standin.blobs.values():
        blob.expired = True
    with pytest.raises(TryAgainError, match="did not reach Kaggle"):
        desk.push()
    assert desk.push().rows == 3


def test_a_dataset_that_kaggle_cannot_process(desk: Desk) -> None:
    desk.standin.settings.failing_datasets = {WEIGHTS}
    with pytest.raises(TryAgainError, match=f"could not process version 1 of {WEIGHTS}"):
        desk.push()
    desk.standin.settings.failing_datasets = set()
    assert desk.push().rows == 3
    assert desk.versions(WEIGHTS) == 2


def test_a_slug_that_another_dataset_has(desk: Desk) -> None:
    desk.standin.add_dataset(WEIGHTS, {"cats.csv": b"1"}, title="My cats")
    with pytest.raises(DeliveryError, match="is another one, 'My cats'"):
        desk.push()
    assert desk.versions(WEIGHTS) == 1


def test_a_slug_that_a_hidden_dataset_has(desk: Desk) -> None:
    words = 'The requested title "mathllm source" is already in use by a dataset.'
    desk.standin.fault("CreateDataset", "error", message=words)
    with pytest.raises(DeliveryError, match="already in use"):
        desk.push()


def test_a_dataset_of_somebody_elses(desk: Desk) -> None:
    shutil.rmtree(desk.folder / "build")
    delivering.make_bundle(desk.folder / "build", owner="dora")
    with pytest.raises(DeliveryError, match=r"dora's and the credentials are carl's: .*--username"):
        desk.push()
    assert desk.standin.count("GetDataset") == 0


def test_a_title_that_slugifies_otherwise(desk: Desk) -> None:
    shutil.rmtree(desk.folder / "build")
    delivering.make_bundle(desk.folder / "build", title="MathLLM & more", slug="mathllm-more-1")
    with pytest.raises(DeliveryError, match=r"Kaggle made .* of the title"):
        desk.push()


def test_sources_that_kaggle_did_not_attach(desk: Desk) -> None:
    delivered = desk.push()
    desk.standin.datasets[WEIGHTS].versions[0].ends = "FAILED"
    kaggle = desk.kaggle()
    staged = desk.place.kernel
    pushed = kaggle.push_kernel(staged, lambda: None)
    assert pushed.refused == [f"{WEIGHTS}/1"]
    assert delivered.version == 1


@pytest.mark.parametrize("takes_versions", [True, False])
def test_sources_name_versions_where_kaggle_takes_them(desk: Desk, takes_versions: bool) -> None:
    desk.standin.settings.dataset_versions = takes_versions
    delivered = desk.push()
    pushes = [version.push for version in desk.standin.kernels[delivered.ref].versions]
    sent = [push.request["datasetDataSources"] for push in pushes]
    names = [SOURCE, WEIGHTS]
    versioned = [f"{name}/1" for name in names]
    assert sent == ([versioned] if takes_versions else [versioned, names])
    assert set(pushes[-1].datasets) == set(names)  # attached
    assert delivered.version == len(pushes)
    assert any("Kaggle takes no version in" in line for line in desk.said) is not takes_versions
    assert delivered.rows == 3
    assert desk.push() == delivered  # nothing is sent twice


def test_sources_that_are_not_ours_are_pushed_along(desk: Desk) -> None:
    path = desk.folder / "build" / "kernel" / "kernel-metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    metadata["dataset_sources"] += ["someone/vllm"]
    path.write_text(json.dumps(metadata), encoding="utf-8")
    seal = desk.folder / "build" / "manifest.json"
    content = json.loads(seal.read_text(encoding="utf-8"))
    content["files"]["kernel/kernel-metadata.json"] = delivering.sum_of(path.read_bytes())
    seal.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DeliveryError, match="runs without someone/vllm"):
        desk.push()
    (version,) = desk.standin.kernels[KERNEL].versions
    assert version.push.request["datasetDataSources"][-1] == "someone/vllm"


def test_no_session_is_free(desk: Desk) -> None:
    words = "Maximum batch GPU session count of 2 reached."
    desk.standin.fault("SaveKernel", "error", message=words)
    with pytest.raises(TryAgainError, match="Wait until another of your runs has ended"):
        desk.push()
    assert desk.push().rows == 3


def test_a_run_that_fails_keeps_its_log(desk: Desk) -> None:
    desk.standin.settings.run = failing
    with pytest.raises(RunFailedError, match="Notebook Threw Exception") as raised:
        desk.push()
    assert f"{KERNEL}: broken" in str(raised.value)
    with pytest.raises(DeliveryError, match="has status error"):
        desk.submit()
    assert not desk.standin.submissions
    desk.standin.settings.run = succeeding
    assert desk.push(again=True).version == 2


@pytest.mark.parametrize("outputs", [{}, {"submission.parquet": b"PAR1 cut"}], ids=["none", "cut"])
def test_a_run_without_a_good_submission(desk: Desk, outputs: dict[str, bytes]) -> None:
    desk.standin.settings.run = lambda _: Run([(1.0, "done\n")], outputs)
    with pytest.raises(DeliveryError, match=r"submission\.parquet"):
        desk.push()
    with pytest.raises(DeliveryError, match=r"submission\.parquet.*--force"):
        desk.submit()


def test_a_log_that_is_cut_is_said_once(desk: Desk) -> None:
    desk.standin.settings.pace = 0.05
    desk.standin.fault("StreamLog", "drop_log", amount=1, times=2)
    desk.push()
    lines = [line for line in desk.said if line.startswith("  | ")]
    assert lines == [f"  | {KERNEL} version 1: {i}/3" for i in (1, 2, 3)]


# --------------------------------------------------------------------- submitting


def test_another_bundle_is_not_submitted_unless_forced(desk: Desk) -> None:
    desk.push()
    desk.vendor_other()
    with pytest.raises(DeliveryError, match="is not the bundle"):
        desk.submit()
    assert desk.submit(force=True).public_score == "7"


def test_nothing_pushed_nothing_submitted(desk: Desk) -> None:
    with pytest.raises(DeliveryError, match="is not on Kaggle: run"):
        desk.submit()


def test_no_submission_is_left(desk: Desk) -> None:
    desk.push()
    desk.submit()
    assert "0 made today, 1 left" in desk.text
    with pytest.raises(DeliveryError, match="no submission is left today"):
        desk.submit(again=True)
    desk.standin.settings.submissions_a_day = 2
    desk.submit(again=True)
    assert len(submitting.read_records(desk.folder / "submissions.jsonl")) == 2


def test_rules_that_are_not_accepted(desk: Desk) -> None:
    desk.push()
    desk.standin.settings.rules_accepted = False
    with pytest.raises(DeliveryError, match=rf"competitions/{SLUG}/rules"):
        desk.submit()
    with pytest.raises(DeliveryError, match=rf"competitions/{SLUG}/rules"):
        fetch(desk.kaggle(), desk.folder / "competition")


def test_a_runs_files_are_written_nowhere_but_in_its_folder(desk: Desk) -> None:
    odd = ["../out", "a/../../out", "/tmp/out-of-a-run", "..\\out", "a/..", "C:/out"]

    def leaving(push: Push) -> Run:
        run = succeeding(push)
        run.outputs |= {**dict.fromkeys(odd, b"x"), "kept/..a/b.txt": b"y", "..c": b"z"}
        return run

    desk.standin.settings.run = leaving
    found = desk.push().output
    names = {p.relative_to(found).as_posix() for p in found.rglob("*") if p.is_file()}
    log = f"{KERNEL.partition('/')[2]}.log"
    assert names == {"submission.parquet", "kept/..a/b.txt", "..c", log}
    assert not Path("/tmp/out-of-a-run").exists()
    assert not list(desk.folder.rglob("out"))


# ----------------------------------------------------------------------- fetching


def test_the_competitions_files_are_fetched(desk: Desk) -> None:
    files = fetch(desk.kaggle(), desk.folder / "competition")
    names = {p.relative_to(desk.folder / "competition" / "files").as_posix() for p in files}
    assert names == set(desk.standin.settings.competition_files)


def test_a_cut_download_goes_on(desk: Desk) -> None:
    files = desk.standin.settings.competition_files
    files["large.bin"] = random.Random(1).randbytes(3_000_000)
    desk.standin.fault("GetFile", "drop_download", amount=2_000_000)
    folder = desk.folder / "competition"
    fetch(desk.kaggle(), folder)
    assert (folder / "files" / "large.bin").read_bytes() == files["large.bin"]


def test_a_folder_with_other_things_is_left_alone(desk: Desk) -> None:
    (desk.folder / "competition").mkdir()
    (desk.folder / "competition" / "thesis.tex").write_text("mine")
    with pytest.raises(DeliveryError, match=r"holds thesis\.tex"):
        fetch(desk.kaggle(), desk.folder / "competition")


# ---------------------------------------------------------------- as a person types


@pytest.mark.slow
def test_the_commands_and_their_exit_statuses(desk: Desk) -> None:
    environment = desk.standin.environment(desk.folder / "home")
    record = ("--record", str(desk.folder / "submissions.jsonl"))
    pushed = delivering.run(desk.folder, environment, "push")
    assert pushed.returncode == 0, pushed.stderr
    assert "submission.parquet has 3 rows" in pushed.stdout
    submitted = delivering.run(desk.folder, environment, "submit", "-m", "first", *record)
    assert submitted.returncode == 0, submitted.stderr
    assert "score    7" in submitted.stdout
    desk.standin.settings.run = failing
    assert delivering.run(desk.folder, environment, "push", "--again").returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"KAGGLE_KEY": None}, 2, "no Kaggle credentials: make a token"),
        ({"KAGGLE_KEY": "wrong"}, 2, "Kaggle refuses the credentials in KAGGLE_USERNAME and"),
        ({"KAGGLE_API_TOKEN": "wrong"}, 2, "Kaggle refuses the credentials in KAGGLE_API_TOKEN"),
        ({"http_proxy": "http://127.0.0.1:9"}, 3, "no connection to Kaggle"),
    ],
    ids=["none", "wrong key", "wrong token", "no internet"],
)
def test_bad_input_is_one_clear_line(
    desk: Desk, change: dict[str, str | None], status: int, words: str
) -> None:
    environment = desk.standin.environment(desk.folder / "home") | change
    environment = {name: value for name, value in environment.items() if value is not None}
    ran = delivering.run(desk.folder, environment, "push")
    assert ran.returncode == status, ran.stdout + ran.stderr
    assert words in ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr
    environment = desk.standin.environment(desk.folder / "home")
    assert delivering.run(desk.folder, environment, "push").returncode == 0


@pytest.mark.slow
def test_two_pushes_at_once_make_one_version(desk: Desk) -> None:
    environment = desk.standin.environment(desk.folder / "home")
    desk.standin.settings.dataset_seconds = 1.5
    both = [
        subprocess.Popen(
            delivering.command(desk.folder, "push"),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    texts = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    assert sum("delivers from here already: waiting" in text for text in texts) == 1
    assert desk.versions(WEIGHTS) == 1
    assert len(desk.standin.kernels[KERNEL].versions) == 1


def slow_run(push: Push) -> Run:
    run = succeeding(push)
    run.seconds = 40.0
    return run


@pytest.mark.slow
def test_killed_twenty_times_nothing_is_sent_twice(desk: Desk) -> None:
    """SIGKILL at random moments, from the first upload to the end of the run."""
    bytes_ = random.Random(2).randbytes
    folders = ("backbone", "more", "trm")
    desk.vendor_other(**{f"{name}/large.safetensors": bytes_(4_000_000) for name in folders})
    desk.standin.settings.upload_rate = 4_000_000
    desk.standin.settings.dataset_seconds = 1.0
    desk.standin.settings.run = slow_run
    desk.standin.settings.pace = 0.05
    environment = desk.standin.environment(desk.folder / "home")
    chance = random.Random(3)
    for _ in range(20):
        process = subprocess.Popen(
            delivering.command(desk.folder, "push"),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(chance.uniform(0.8, 3.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    ended = delivering.run(desk.folder, environment, "push")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (desk.versions(SOURCE), desk.versions(WEIGHTS)) == (1, 1)
    assert len(desk.standin.kernels[KERNEL].versions) == 1
    assert len(desk.standin.datasets[WEIGHTS].versions[0].contents) == 5
    sent: dict[str, int] = {}  # how often all of a file arrived
    for blob in desk.standin.blobs.values():
        ends = [start + size for start, size in blob.puts]
        sent[blob.name] = sent.get(blob.name, 0) + sum(end >= blob.size for end in ends)
    # Each of the two datasets has a contents.json.
    assert sent == {
        "contents.json": 2,
        "LICENSE": 1,
        "mathllm.zip": 1,
        **{f"{name}.zip": 1 for name in folders},
    }


def test_the_record_is_one_json_object_a_line(desk: Desk) -> None:
    desk.push()
    desk.submit()
    (line,) = (desk.folder / "submissions.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["competition"] == SLUG
