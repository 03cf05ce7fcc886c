"""The competition: its data behind its rules, and submissions of kernels' versions.

Knows a day's allowance and that a submission is scored after a while. How it is scored is
the settings' `score`.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from standin import kernels
from standin.accounts import must_own
from standin.replies import RefusalError, Reply, moment, page, redirect
from standin.runs import COMPLETE
from standin.state import Submission

if TYPE_CHECKING:
    from standin.server import KaggleStandIn

_RULES = "You must accept this competition's rules before you can continue"


def _entered(kaggle: "KaggleStandIn", request: dict[str, Any]) -> None:
    """Raises RefusalError for an unknown competition, and for one not entered."""
    if request.get("competitionName") != kaggle.settings.competition:
        raise RefusalError(404, "Competition not found")
    if not kaggle.settings.rules_accepted:
        raise RefusalError(403, _RULES)


def list_files(kaggle: "KaggleStandIn", _: str, request: dict[str, Any]) -> dict[str, Any]:
    _entered(kaggle, request)
    files = kaggle.settings.competition_files
    names, following = page(sorted(files), request)
    date = moment(kaggle.settings.last_modified)
    listed = [
        {"ref": name, "name": name, "totalBytes": len(files[name]), "creationDate": date}
        for name in names
    ]
    return {"files": listed, "nextPageToken": following}


def download_file(kaggle: "KaggleStandIn", _: str, request: dict[str, Any]) -> Reply:
    _entered(kaggle, request)
    name = request.get("fileName", "")
    if name not in kaggle.settings.competition_files:
        raise RefusalError(404, f"{name} is not a file of the competition")
    return redirect(kaggle.files.url(name, kaggle.settings.competition_files[name]))


def download_files(kaggle: "KaggleStandIn", _: str, request: dict[str, Any]) -> Reply:
    _entered(kaggle, request)
    name = f"{kaggle.settings.competition}.zip"
    return redirect(kaggle.files.url_of_all(name, kaggle.settings.competition_files))


def _counts(kaggle: "KaggleStandIn", user: str) -> tuple[int, int]:
    """Submissions today, by the calendar of UTC, and ever."""
    mine = [one for one in kaggle.submissions if one.user == user]
    return sum(one.date.date() == datetime.now(UTC).date() for one in mine), len(mine)


def limits(kaggle: "KaggleStandIn", user: str, request: dict[str, Any]) -> dict[str, Any]:
    _entered(kaggle, request)
    today, ever = _counts(kaggle, user)
    left = max(0, kaggle.settings.submissions_a_day - today)
    return {"numToday": today, "numTotal": ever, "numAllowedNow": left}


def submit(kaggle: "KaggleStandIn", user: str, request: dict[str, Any]) -> dict[str, Any]:
    """A kernel's finished version that left the named file, while the day allows it."""
    _entered(kaggle, request)
    owner, slug = request.get("kernelOwner", ""), request.get("kernelSlug", "")
    kernel = kernels.find(kaggle, user, owner, slug)
    must_own(user, owner, "kernels.submit")
    number, name = request.get("kernelVersion", len(kernel.versions)), request.get("fileName", "")
    version = next((v for v in kernel.versions if v.number == number), None)
    if version is None:
        raise RefusalError(400, f"Notebook version {number} does not exist")
    if version.status != COMPLETE:
        raise RefusalError(400, "Submission not allowed: the notebook version is not complete")
    if name not in version.run.outputs:
        raise RefusalError(400, f"Submission not allowed: the notebook has no output file {name}")
    allowed = kaggle.settings.submissions_a_day
    if _counts(kaggle, user)[0] >= allowed:
        raise RefusalError(
            400,
            "Submission not allowed: Your team has used its daily Submission allowance "
            f"({allowed}) today, please try again tomorrow UTC",
        )
    submission = Submission(
        ref=50_000_001 + len(kaggle.submissions),
        user=user,
        kernel=kernel.ref,
        version=number,
        file_name=name,
        description=request.get("submissionDescription", ""),
        data=version.run.outputs[name],
        polls=kaggle.settings.scoring_polls,
    )
    kaggle.submissions.append(submission)
    title = kaggle.settings.competition_title
    return {"message": f"Successfully submitted to {title}", "ref": submission.ref}


def _shown(kaggle: "KaggleStandIn", submission: Submission) -> dict[str, Any]:
    """As the client gets it; every look brings it nearer to its score."""
    if submission.polls > 0:
        submission.polls -= 1
    elif submission.result is None:
        submission.result = kaggle.settings.score(submission)
    result = submission.result
    shown = {
        "ref": submission.ref,
        "date": moment(submission.date),
        "description": submission.description,
        "fileName": submission.file_name,
        "totalBytes": len(submission.data),
        "submittedBy": submission.user,
        "teamName": submission.user,
        "url": f"https://www.kaggle.com/submissions/{submission.ref}/{submission.ref}.raw",
    }
    if result is None:
        return shown | {"status": "PENDING"}
    scores = {"publicScore": result.public, "privateScore": result.private}
    if result.error:
        return shown | {"status": "ERROR", "errorDescription": result.error}
    return shown | {"status": "COMPLETE"} | scores


def list_submissions(kaggle: "KaggleStandIn", user: str, request: dict[str, Any]) -> dict[str, Any]:
    """The newest first."""
    _entered(kaggle, request)
    mine = [one for one in reversed(kaggle.submissions) if one.user == user]
    shown, following = page(mine, request)
    return {"submissions": [_shown(kaggle, one) for one in shown], "nextPageToken": following}


def get_submission(kaggle: "KaggleStandIn", user: str, request: dict[str, Any]) -> dict[str, Any]:
    for one in kaggle.submissions:
        if one.ref == request.get("ref"):
            must_own(user, one.user, "submissions.get")
            return _shown(kaggle, one)
    raise RefusalError(404, "Submission not found")


METHODS = {
    "CreateCodeSubmission": submit,
    "DownloadDataFile": download_file,
    "DownloadDataFiles": download_files,
    "GetSubmission": get_submission,
    "GetSubmissionLimits": limits,
    "ListDataFiles": list_files,
    "ListSubmissions": list_submissions,
}
