"""From the bundle to a finished run on Kaggle, safe to stop and to repeat anywhere.

Knows the order: datasets, the kernel that names their versions, its run, its output. Each
step first looks whether Kaggle has it already, by the bundle's digests, so that nothing is
sent twice and nothing half-done is taken for done.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from mathllm.competition.bundle import archives, manifest
from mathllm.delivery import runs
from mathllm.delivery.client import Kaggle
from mathllm.delivery.datasets import Part, bring
from mathllm.delivery.replies import COMPLETE, Pushed
from mathllm.delivery.workdir import DeliveryFolder
from mathllm.errors import DeliveryError


@dataclass(frozen=True)
class Push:
    """What to push. `again` makes a new version of a kernel that is there already; without
    `follow` the run is left alone once it was started."""

    build: Path
    place: DeliveryFolder
    again: bool = False
    follow: bool = True


@dataclass(frozen=True)
class Delivered:
    """A kernel's version on Kaggle; `output` and `rows` once its run has ended well."""

    ref: str
    version: int
    identity: str
    output: Path | None = None
    rows: int = 0


class RunFailedError(Exception):
    """The run on Kaggle ended, and not well; the message says how and where the log is."""


def push(kaggle: Kaggle, order: Push) -> Delivered | None:
    """Have the bundle on Kaggle and its commit run done; None in a dry run.

    Raises RunFailedError when the run fails, DeliveryError and TryAgainError on the way.
    """
    described = manifest.describe(order.build)
    ref = manifest.read_metadata(order.build, manifest.KERNEL)["id"]
    sources = bring_datasets(kaggle, order.build, order.place)
    delivered = _push_kernel(kaggle, order, ref, described.identity, sources)
    if delivered is None or not order.follow:
        return delivered
    return finish(kaggle, order.place, delivered)


def bring_datasets(kaggle: Kaggle, build: Path, place: DeliveryFolder) -> list[str]:
    """Have the bundle's datasets on Kaggle, ready; OWNER/SLUG/VERSION of each."""
    _check_owner(kaggle, manifest.read_metadata(build, manifest.KERNEL)["id"])
    digests = manifest.describe(build).digests
    parts = [_part(build, place, name, digest) for name, digest in digests.items()]
    sources = [bring(kaggle, part, place.uploads) for part in parts]
    if not kaggle.dry_run:  # which must not lose what is half-sent
        shutil.rmtree(place.uploads, ignore_errors=True)
    return sources


def finish(kaggle: Kaggle, place: DeliveryFolder, delivered: Delivered) -> Delivered:
    """Follow the run to its end and fetch its output; at once where that was done before."""
    ref, version = delivered.ref, delivered.version
    slug = ref.split("/")[1]
    folder = place.output(ref, version, delivered.identity)
    if not folder.is_dir():
        status, message = runs.follow(kaggle, ref)
        runs.fetch_output(kaggle, ref, folder)
        if status != COMPLETE:
            failed = folder.with_name(f"{folder.name}-failed")
            shutil.rmtree(failed, ignore_errors=True)
            folder.rename(failed)
            raise RunFailedError(
                f"the run of {ref} version {version} ended with status {status}"
                f"{f' ({message})' if message else ''}; its output is in {failed}\n"
                f"{runs.last_lines(failed, slug)}".rstrip()
            )
    rows = runs.check_output(folder, slug)
    return replace(delivered, output=folder, rows=rows)


def _check_owner(kaggle: Kaggle, ref: str) -> None:
    owner = ref.split("/")[0]
    if owner.lower() != kaggle.user.lower():
        raise DeliveryError(
            f"the bundle is {owner}'s and the credentials are {kaggle.user}'s: run `build.py "
            f"vendor --username {kaggle.user}`, or sign in as {owner}"
        )


def _part(build: Path, place: DeliveryFolder, name: str, digest: str) -> Part:
    folder = place.uploads / f"{Path(name).name}-{digest[:12]}"
    return Part(
        metadata=manifest.read_metadata(build, name),
        digest=digest,
        stage=lambda: archives.stage_upload(build, name, folder),
    )


def _push_kernel(
    kaggle: Kaggle, order: Push, ref: str, identity: str, sources: list[str]
) -> Delivered | None:
    before = kaggle.kernel(ref)
    if before is not None and identity in before.source and not order.again:
        kaggle.say(f"{ref}: version {before.version} is this bundle")
        return Delivered(ref, before.version, identity)
    after = 0 if before is None else before.version

    def send(names: list[str], after: int) -> Pushed | None:
        def already_done() -> Pushed | None:
            found = kaggle.kernel(ref)
            if found is None or found.version <= after or identity not in found.source:
                return None
            return Pushed(ref, found.version, f"https://www.kaggle.com/code/{ref}", [])

        return kaggle.push_kernel(_stage_kernel(order, names), already_done)

    pushed = send(sources, after)
    if pushed is None:
        return None
    if versioned := set(sources).intersection(pushed.refused):
        # Kaggle has run a version without them. By name alone it attaches the newest versions,
        # which are ours, just brought; the kernel compares their digests at its start.
        kaggle.say(
            f"{ref}: Kaggle takes no version in {', '.join(sorted(versioned))}; version "
            f"{pushed.version} runs without, pushing again with OWNER/SLUG"
        )
        plain = [name.rpartition("/")[0] if name in versioned else name for name in sources]
        pushed = send(plain, pushed.version)
    if pushed.ref.lower() != ref.lower():
        raise DeliveryError(
            f"Kaggle made {pushed.ref} of the title, the bundle says {ref}: delete that kernel, "
            "and vendor with a --title of plain letters, digits and spaces"
        )
    if pushed.refused:
        raise DeliveryError(
            f"version {pushed.version} of {ref} runs without {', '.join(pushed.refused)}, which "
            "Kaggle did not attach: see whether they exist and are yours, then push with --again"
        )
    kaggle.say(f"{ref}: pushed version {pushed.version}: {pushed.url}")
    return Delivered(ref, pushed.version, identity)


def _stage_kernel(order: Push, sources: list[str]) -> Path:
    """The bundle's kernel, its metadata naming its datasets as in `sources`."""
    folder = order.place.kernel
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(order.build / manifest.KERNEL, folder)
    metadata = manifest.read_metadata(order.build, manifest.KERNEL)
    ours = {"/".join(name.split("/")[:2]) for name in sources}
    others = [name for name in metadata["dataset_sources"] if name not in ours]
    metadata |= {"dataset_sources": [*sources, *others]}
    text = json.dumps(metadata, indent=2, sort_keys=True) + "\n"
    (folder / manifest.KERNEL_METADATA).write_text(text, encoding="utf-8")
    return folder
