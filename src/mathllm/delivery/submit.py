"""A finished version of the kernel as a submission, and its score as far as Kaggle tells.

Knows that a day has few submissions: one is made only of a version whose commit run ended
well and whose bundle is the local one, and never twice for the same version unasked.
"""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathllm.competition.bundle import manifest
from mathllm.delivery.client import Kaggle
from mathllm.delivery.push import Delivered, finish
from mathllm.delivery.replies import COMPLETE, SubmissionStatus
from mathllm.delivery.workdir import DeliveryFolder
from mathllm.environment import commit
from mathllm.errors import DeliveryError
from mathllm.files import write_text
from mathllm.settings import CURRENT

PENDING, ERROR = "pending", "error"


@dataclass(frozen=True)
class Submit:
    """What to submit. `force` goes past a failed run or another bundle, `again` past a
    submission of the same version; without `follow` the score is not waited for."""

    build: Path
    place: DeliveryFolder
    root: Path
    record: Path
    message: str = ""
    force: bool = False
    again: bool = False
    follow: bool = True


def submit(kaggle: Kaggle, order: Submit) -> SubmissionStatus | None:
    """Submit the kernel's newest version and follow its score; None in a dry run.

    The record is written as soon as Kaggle has taken it, and again with the score.
    """
    described = manifest.describe(order.build)
    ref = manifest.read_metadata(order.build, manifest.KERNEL)["id"]
    version = _checked(kaggle, order, ref, described.identity)
    tag = f"[{described.identity[:12]} v{version}]"
    left, made = kaggle.submissions_left(CURRENT.slug)
    kaggle.say(f"submissions: {made} made today, {left} left (a day ends at 0:00 UTC)")
    earlier = None if order.again else _tagged(kaggle, tag)
    if earlier is not None:
        kaggle.say(f"{ref} version {version} was submitted before, as {earlier.ref}")
        number: int | None = earlier.ref
    else:
        number = _submit(kaggle, order, ref, version, tag, left)
    if number is None:
        return None
    origin = origin_of(described, order.build, order.root)
    about = {"competition": CURRENT.slug, "kernel": ref, "version": version} | origin
    return _follow(kaggle, order, number, about)


def _checked(kaggle: Kaggle, order: Submit, ref: str, identity: str) -> int:
    """The newest version of the kernel, fit to be submitted."""
    kernel = kaggle.kernel(ref)
    if kernel is None:
        raise DeliveryError(f"{ref} is not on Kaggle: run `build.py push` first")
    ours = identity in kernel.source
    if not ours:
        _refuse(
            kaggle,
            order,
            f"version {kernel.version} of {ref} is not the bundle in {order.build}: run "
            "`build.py push` first",
        )
    status, message = kaggle.run_status(ref)
    if status != COMPLETE:
        _refuse(
            kaggle,
            order,
            f"the commit run of {ref} version {kernel.version} has status {status}"
            f"{f' ({message})' if message else ''}: run `build.py push`, which follows it",
        )
    elif ours and not kaggle.dry_run:
        try:
            finish(kaggle, order.place, Delivered(ref, kernel.version, identity))
        except DeliveryError as fault:
            _refuse(kaggle, order, str(fault))
    return kernel.version


def _refuse(kaggle: Kaggle, order: Submit, why: str) -> None:
    if not order.force:
        raise DeliveryError(f"{why}; --force submits all the same")
    kaggle.say(f"forced: {why}")


def _tagged(kaggle: Kaggle, tag: str, but: frozenset[int] = frozenset()) -> SubmissionStatus | None:
    found = kaggle.submissions(CURRENT.slug)
    return next((one for one in found if tag in one.description and one.ref not in but), None)


def _submit(
    kaggle: Kaggle, order: Submit, ref: str, version: int, tag: str, left: int
) -> int | None:
    if left < 1:
        raise DeliveryError("no submission is left today: the next day begins at 0:00 UTC")
    known = frozenset(one.ref for one in kaggle.submissions(CURRENT.slug))

    def already_done() -> int | None:
        found = _tagged(kaggle, tag, known)
        return found.ref if found else None

    number = kaggle.submit(
        CURRENT.slug,
        ref,
        version,
        CURRENT.submission_file,
        f"{order.message} {tag}".strip(),
        already_done,
    )
    if number is not None:
        kaggle.say(f"submitted {ref} version {version} as {number}")
    return number


def _follow(kaggle: Kaggle, order: Submit, number: int, about: dict[str, Any]) -> SubmissionStatus:
    """Record the submission, and again once it has a score or has failed."""
    started, said = time.monotonic(), ""
    while True:
        found = next((one for one in kaggle.submissions(CURRENT.slug) if one.ref == number), None)
        if found is None:
            raise DeliveryError(f"submission {number} is not among the newest hundred on Kaggle")
        if found.status != said:
            write_record(order.record, about | _row(found))
            minutes = (time.monotonic() - started) / 60
            kaggle.say(f"submission {number}: {found.status}, {minutes:.0f} min")
            said = found.status
        if found.status != PENDING or not order.follow:
            return found
        time.sleep(kaggle.policy.poll)


def _row(found: SubmissionStatus) -> dict[str, Any]:
    return {
        "ref": found.ref,
        "submitted": found.date,
        "message": found.description,
        "status": found.status,
        "public_score": found.public_score,
        "private_score": found.private_score,
        "error": found.error,
    }


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Add a submission to submissions.jsonl, or put it in place of what stands there under its
    number: ref, submitted and message (Kaggle's); competition, kernel and version; identity,
    manifest and datasets (the bundle's sums); parameters; commit and changed (git's); status,
    public_score, private_score and error.
    """
    records = [record if old["ref"] == record["ref"] else old for old in read_records(path)]
    if record not in records:
        records.append(record)
    write_text(path, "".join(json.dumps(one, sort_keys=True) + "\n" for one in records))


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records, the oldest first. Raises DeliveryError that names a line that is none."""
    if not path.is_file():
        return []
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            records.append(json.loads(line))
            records[-1]["ref"]
        except (ValueError, KeyError, TypeError) as fault:
            raise DeliveryError(f"{path}:{number} is no record of a submission: mend it") from fault
    return records


def origin_of(described: manifest.Description, build: Path, root: Path) -> dict[str, Any]:
    """Where a bundle's bytes come from: identity, manifest, datasets, parameters, git's commit."""
    return {
        "identity": described.identity,
        "manifest": hashlib.sha256((build / manifest.MANIFEST).read_bytes()).hexdigest(),
        "datasets": {Path(name).name: digest for name, digest in described.digests.items()},
        "model": described.model,
        "parameters": described.parameters,
    } | commit(root)
