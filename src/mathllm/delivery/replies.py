"""What Kaggle says of a dataset, a kernel and a submission, as plain values."""

from dataclasses import dataclass, field

READY, FAILED = "ready", "failed"  # of a dataset's version
COMPLETE, ERROR = "complete", "error"  # of a kernel's run
CANCELLED = ("cancel_requested", "cancel_acknowledged")
ENDED = (COMPLETE, ERROR, *CANCELLED)
LOG_NAME = "{slug}.log"  # as the client names a kernel's log


@dataclass(frozen=True)
class Dataset:
    """A dataset on Kaggle. `notes` are the versions' by number, `version` the newest."""

    ref: str
    title: str
    version: int
    description: str
    notes: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Kernel:
    """A kernel on Kaggle: its newest version and that one's notebook, as text."""

    ref: str
    version: int
    source: str


@dataclass(frozen=True)
class Pushed:
    """What became of a push. `refused` are sources that Kaggle did not attach."""

    ref: str
    version: int
    url: str
    refused: list[str]


@dataclass(frozen=True)
class SubmissionStatus:
    """`status` is pending, complete or error; scores are texts, empty until there are any."""

    ref: int
    description: str
    status: str
    public_score: str
    private_score: str
    error: str
    date: str
