"""What Kaggle says of a dataset, a kernel and a submission, as plain values."""

from dataclasses import dataclass, field

from mathllm.delivery import credentials
from mathllm.delivery.retry import is_passing, reason, status_of
from mathllm.errors import DeliveryError, TryAgainError

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


def explained(what: str, fault: Exception) -> Exception:
    """The fault as a person can use it; what is no fault of Kaggle's stays as it is."""
    if isinstance(fault, DeliveryError):
        return fault
    if is_passing(fault):
        return TryAgainError(f"{reason(fault)} ({what}): repeat the command later")
    status = status_of(fault)
    if status == 401:
        found = credentials.find()
        place = found.place if found else "your settings"
        return DeliveryError(
            f"Kaggle refuses the credentials in {place} ({what}): {credentials.HOW_TO}"
        )
    if status == 403:
        mend = (
            f"accept its rules on https://www.kaggle.com/competitions/{what.split()[2]}/rules"
            if what.startswith("competitions ")
            else "it belongs to somebody else, or the token may not write"
        )
        return DeliveryError(f"Kaggle says that you may not ({what}): {mend}")
    if status == 404:
        return DeliveryError(f"Kaggle has no such thing ({what}): check the name")
    if status == 409:
        return TryAgainError(f"Kaggle is busy with the same thing ({what}): repeat the command")
    if status is not None:
        return DeliveryError(f"Kaggle refused it with status {status} ({what}): {_words(fault)}")
    if isinstance(fault, OSError) and fault.strerror:
        place = f"{fault.filename}: " if fault.filename else ""
        return DeliveryError(f"{place}{fault.strerror} on this machine ({what}): mend that first")
    if isinstance(fault, ValueError):  # the client's own checks
        return DeliveryError(f"the kaggle client refused it ({what}): {_words(fault)}")
    return fault


def _words(fault: Exception) -> str:
    return " ".join(str(fault).split())[:300]


def kernel_refusal(what: str, words: str) -> DeliveryError:
    if "session count" in words.lower():
        return TryAgainError(
            f"{what}: Kaggle says: {words} Wait until another of your runs has ended, then "
            "repeat the command"
        )
    return DeliveryError(f"{what}: Kaggle refused it: {words}")
