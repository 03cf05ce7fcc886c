"""What the client raises, in words that a person can use, with the mend."""

from mathllm.delivery import credentials
from mathllm.delivery.retry import is_passing, reason, status_of
from mathllm.errors import DeliveryError, TryAgainError


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
