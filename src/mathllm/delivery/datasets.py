"""A part of the bundle as a dataset on Kaggle: sent only if Kaggle has other content.

Knows how a version says what is in it: its notes, and for the first one, which has none, the
description, end with the digest of the content.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathllm.delivery.client import Kaggle
from mathllm.delivery.replies import FAILED, READY, Dataset
from mathllm.errors import DeliveryError, TryAgainError
from mathllm.wording import shown

_MARK = "content sha256:"


@dataclass(frozen=True)
class Part:
    """What is to be on Kaggle: metadata, the digest of its content, and how to lay it out.

    `stage` makes the folder that the client sends; the same content gives the same files.
    """

    metadata: dict[str, Any]
    digest: str
    stage: Callable[[], Path]

    @property
    def ref(self) -> str:
        return self.metadata["id"]


def content_of(dataset: Dataset) -> str | None:
    """Digest of the newest version's content, None where it does not say."""
    texts = [dataset.notes.get(dataset.version, "")]
    if dataset.version == 1:
        texts.append(dataset.description)
    for text in texts:
        if _MARK in text:
            return text.partition(_MARK)[2].split()[0]
    return None


def bring(kaggle: Kaggle, part: Part, uploads: Path) -> str:
    """Have `part` on Kaggle, ready to be attached; returns OWNER/SLUG/VERSION.

    Nothing is sent where the newest version has this content. Raises DeliveryError for a
    dataset that is none of ours, and for one that Kaggle cannot process.
    """
    before = _current(kaggle, part)
    has_it = before is not None and content_of(before) == part.digest
    if has_it and kaggle.dataset_status(part.ref) != FAILED:
        kaggle.say(f"{part.ref}: version {before.version} has this content")
    else:
        after = 0 if before is None else before.version
        _send(kaggle, part, uploads, new=before is None, after=after)
    if kaggle.dry_run:
        return part.ref
    version = _await_ready(kaggle, part)
    return f"{part.ref}/{version}"


def _current(kaggle: Kaggle, part: Part) -> Dataset | None:
    found = kaggle.dataset(part.ref)
    if found is not None and content_of(found) is None and found.title != part.metadata["title"]:
        raise DeliveryError(
            f"the dataset {part.ref} is on Kaggle and is another one, {shown(found.title)}: rename "
            "or delete it there; it will not be overwritten"
        )
    return found


def _send(kaggle: Kaggle, part: Part, uploads: Path, new: bool, after: int) -> None:
    note = f"{_MARK}{part.digest}"
    metadata = part.metadata | {"description": f"{part.metadata['subtitle']}\n\n{note}"}

    def already_done() -> bool:
        found = kaggle.dataset(part.ref)
        return found is not None and found.version > after and content_of(found) == part.digest

    kaggle.send_dataset(part.stage, metadata, note, new, uploads, already_done)


def _await_ready(kaggle: Kaggle, part: Part) -> int:
    """Wait until the version with this content can be attached; returns its number."""
    said = ""
    while True:
        found = kaggle.dataset(part.ref)
        status = kaggle.dataset_status(part.ref)
        if found is not None and content_of(found) == part.digest:
            if status == READY:
                kaggle.say(f"{part.ref}: version {found.version} is ready")
                return found.version
            if status == FAILED:
                raise TryAgainError(
                    f"Kaggle could not process version {found.version} of {part.ref}: look at "
                    f"https://www.kaggle.com/datasets/{part.ref}; the same command sends it anew"
                )
        if status != said:
            kaggle.say(f"{part.ref}: Kaggle is working on it ({status.replace('_', ' ')})")
            said = status
        time.sleep(kaggle.policy.poll)
