"""What Kaggle would know, as plain Python: settings, datasets, kernels, blobs, submissions.

Knows no HTTP. Everything here may be read, and changed, by a test at any time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from standin.runs import Push, Run, succeeding

COMPETITION = "ai-mathematical-olympiad-progress-prize-3"
READY, FAILED = "READY", "FAILED"


@dataclass(frozen=True)
class Score:
    """An `error` makes the submission one that failed."""

    public: str = ""
    private: str = ""
    error: str = ""


def scored(submission: "Submission") -> Score:
    """A score for whatever begins as a Parquet file does."""
    if submission.data.startswith(b"PAR1"):
        return Score("7")
    return Score(error="Submission Scoring Error")


def default_files() -> dict[str, bytes]:
    return {
        "kaggle_evaluation/__init__.py": b"",
        "sample_submission.csv": b"id,answer\na,0\nb,0\nc,0\n",
        "test.csv": b"id,problem\na,What is $1$?\nb,What is $2$?\nc,What is $3$?\n",
    }


@dataclass
class Settings:
    """How Kaggle is to behave. Every field can be changed while the stand-in serves."""

    username: str = "carl"
    key: str = "carls-key"
    token: str = "carls-token"
    competition: str = COMPETITION
    competition_title: str = "AI Mathematical Olympiad - Progress Prize 3"
    competition_files: dict[str, bytes] = field(default_factory=default_files)
    last_modified: datetime = field(
        default_factory=lambda: datetime(2025, 11, 20, tzinfo=UTC)
    )  # of every file that is served
    rules_accepted: bool = True
    submissions_a_day: int = 1
    score: Callable[["Submission"], Score] = scored
    scoring_polls: int = 1  # questions that a submission stays PENDING for
    dataset_polls: int = 1  # status questions that a new version stays on its way for
    dataset_seconds: float = 0.0  # and seconds
    failing_datasets: set[str] = field(default_factory=set)  # whose new versions end FAILED
    pending_is_current: bool = True  # whether a version is the current one before it is READY
    dataset_versions: bool = True  # whether a kernel's source may name a dataset's version
    unknown_status: int = 404  # for what is not there; what is another's is always 403
    run: Callable[[Push], Run] = succeeding
    pace: float = 0.02  # seconds here for one second of a run
    max_sessions: int = 2  # runs with a GPU at a time
    upload_rate: float | None = None  # bytes a second


@dataclass
class Blob:
    """A file on its way. `puts` are (first byte, bytes) of each PUT that carried data."""

    token: str
    name: str
    size: int
    data: bytearray = field(default_factory=bytearray, repr=False)
    complete: bool = False
    expired: bool = False
    puts: list[tuple[int, int]] = field(default_factory=list)
    questions: int = 0  # how often the client asked how far it is
    turn: int = 0  # of the request that may write

    @property
    def received(self) -> int:
        """Bytes that came, those that came twice counted twice."""
        return sum(count for _, count in self.puts)


@dataclass
class Version:
    """A dataset's version: `files` as they were sent, `contents` with archives unpacked."""

    number: int
    files: list[str] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict, repr=False)
    notes: str = ""
    ends: str = READY
    polls: int = 0  # status questions left until it ends
    seconds: float = 0.0
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    began: float = field(default_factory=time.monotonic)

    @property
    def status(self) -> str:
        if time.monotonic() - self.began < self.seconds:
            return "NOT_YET_PERSISTED"
        return "BLOBS_RECEIVED" if self.polls > 0 else self.ends


@dataclass
class Dataset:
    ref: str
    title: str
    id: int = 0
    description: str = ""
    subtitle: str = ""
    license: str = ""
    private: bool = True
    versions: list[Version] = field(default_factory=list)

    def ready(self, number: int | None = None) -> Version | None:
        """The version of that number, or the newest, if it is ready."""
        fit = [v for v in self.versions if v.status == READY and number in (None, v.number)]
        return fit[-1] if fit else None


@dataclass
class KernelVersion:
    """A version and its run. `pace` is taken from the settings as it starts."""

    push: Push
    run: Run
    pace: float
    began: float = field(default_factory=time.monotonic)

    @property
    def number(self) -> int:
        return self.push.version

    @property
    def gpu(self) -> bool:
        return bool(self.push.request.get("enableGpu"))

    @property
    def age(self) -> float:
        """Seconds of the run since the push."""
        return (time.monotonic() - self.began) / self.pace if self.pace > 0 else float("inf")

    @property
    def ended(self) -> bool:
        return self.age >= self.run.ends

    @property
    def status(self) -> str:
        if self.ended:
            return self.run.status
        return "QUEUED" if self.age < self.run.queued else "RUNNING"


@dataclass
class Kernel:
    ref: str
    title: str
    id: int = 0
    private: bool = True
    versions: list[KernelVersion] = field(default_factory=list)


@dataclass
class Submission:
    """`result` stays None while it is scored."""

    ref: int
    user: str
    kernel: str
    version: int
    file_name: str
    description: str
    data: bytes = field(repr=False)
    polls: int = 0
    date: datetime = field(default_factory=lambda: datetime.now(UTC))
    result: Score | None = None
