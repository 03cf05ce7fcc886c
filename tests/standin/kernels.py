"""Kernels: pushed, run, their logs streamed and their outputs listed.

Knows how a run looks from outside while it goes. What it does is the settings' `run`.
"""

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from slugify import slugify

from standin import datasets
from standin.accounts import must_own
from standin.replies import RefusalError, Reply, page
from standin.runs import Push
from standin.state import Kernel, KernelVersion, Version

if TYPE_CHECKING:
    from standin.server import KaggleStandIn

_LOOK = 0.005  # seconds between two looks at a run that is followed


def find(kaggle: "KaggleStandIn", user: str, owner: str, slug: str) -> Kernel:
    """A kernel that `user` may see. Raises RefusalError."""
    kernel = kaggle.kernels.get(f"{owner}/{slug}")
    if kernel is None:
        raise RefusalError(kaggle.settings.unknown_status, "Kernel not found")
    if kernel.private:
        must_own(user, owner, "kernels.get")
    return kernel


def save(kaggle: "KaggleStandIn", user: str, request: dict[str, Any]) -> dict[str, Any]:
    """A new version, and its run begins. A new kernel gets its slug from its title."""
    owner, _, asked = request.get("slug", "").partition("/")
    must_own(user, owner, "kernels.create")
    title = request.get("newTitle") or asked
    ref = f"{owner}/{asked}"
    if ref not in kaggle.kernels:
        ref = f"{owner}/{slugify(title)}"
        if ref in kaggle.kernels:
            raise RefusalError(409, f'The title "{title}" is already in use by a kernel')
    gpu = bool(request.get("enableGpu"))
    if gpu and sessions(kaggle, owner) >= kaggle.settings.max_sessions:
        limit = kaggle.settings.max_sessions
        return {"error": f"Maximum batch GPU session count of {limit} reached."}
    sources, strangers = _sources(kaggle, user, request.get("datasetDataSources", []))
    competitions = request.get("competitionDataSources", [])
    settings = kaggle.settings
    usable = [settings.competition] if settings.rules_accepted else []
    kernel = kaggle.kernels.setdefault(
        ref, Kernel(ref, title, id=2000 + len(kaggle.kernels), private=True)
    )
    kernel.title, kernel.private = title, request.get("isPrivate", False)
    push = Push(
        ref=ref,
        version=len(kernel.versions) + 1,
        title=title,
        text=request.get("text", ""),
        datasets=sources,
        competitions=[slug for slug in competitions if slug in usable],
        request=request,
    )
    kernel.versions.append(KernelVersion(push, settings.run(push), settings.pace))
    return {
        "ref": f"/code/{ref}",
        "url": f"https://www.kaggle.com/code/{ref}",
        "versionNumber": push.version,
        "kernelId": kernel.id,
        "invalidDatasetSources": strangers,
        "invalidCompetitionSources": [slug for slug in competitions if slug not in usable],
    }


def sessions(kaggle: "KaggleStandIn", owner: str) -> int:
    """Runs with a GPU that go on."""
    mine = (k for ref, k in kaggle.kernels.items() if ref.startswith(f"{owner}/"))
    return sum(version.gpu and not version.ended for kernel in mine for version in kernel.versions)


def _sources(
    kaggle: "KaggleStandIn", user: str, names: list[str]
) -> tuple[dict[str, Version], list[str]]:
    """What can be attached, by OWNER/SLUG, and what cannot."""
    found: dict[str, Version] = {}
    strangers: list[str] = []
    for name in names:
        owner, slug, *number = name.split("/")
        if number and not kaggle.settings.dataset_versions:
            strangers.append(name)
            continue
        try:
            version = datasets.find(kaggle, user, owner, slug).ready(int(*number) or None)
        except (RefusalError, ValueError):
            version = None
        if version is None:
            strangers.append(name)
        else:
            found[f"{owner}/{slug}"] = version
    return found, strangers


def _of(kaggle: "KaggleStandIn", user: str, request: dict[str, Any]) -> tuple[Kernel, str]:
    """The kernel, and the number of a version if the request has one."""
    slug, _, number = request.get("kernelSlug", "").partition("/")
    kernel = find(kaggle, user, request.get("userName", ""), slug)
    return kernel, number or request.get("versionLabel", "")


def _version(kaggle: "KaggleStandIn", user: str, request: dict[str, Any]) -> KernelVersion:
    kernel, number = _of(kaggle, user, request)
    fit = [v for v in kernel.versions if number in ("", str(v.number))]
    if not fit:
        raise RefusalError(404, "Kernel version not found")
    return fit[-1]


def get(kaggle: "KaggleStandIn", user: str, request: dict[str, Any]) -> dict[str, Any]:
    kernel, _ = _of(kaggle, user, request)
    push = _version(kaggle, user, request).push
    owner, _, slug = kernel.ref.partition("/")
    same = {
        name: push.request[name]
        for name in (
            *("language", "kernelType", "enableGpu", "enableInternet", "machineShape"),
            *("datasetDataSources", "competitionDataSources", "dockerImage"),
        )
        if name in push.request
    }
    metadata = {
        **same,
        "id": kernel.id,
        "ref": kernel.ref,
        "title": kernel.title,
        "author": owner,
        "slug": slug,
        "isPrivate": kernel.private,
        "currentVersionNumber": len(kernel.versions),
    }
    kinds = {name: same[name] for name in ("language", "kernelType") if name in same}
    return {"metadata": metadata, "blob": {"source": push.text, "slug": slug, **kinds}}


def get_status(kaggle: "KaggleStandIn", user: str, request: dict[str, Any]) -> dict[str, Any]:
    version = _version(kaggle, user, request)
    message = version.run.failure_message if version.ended else ""
    return {"status": version.status} | ({"failureMessage": message} if message else {})


def list_output(kaggle: "KaggleStandIn", user: str, request: dict[str, Any]) -> dict[str, Any]:
    """Files and log of a run that has ended; nothing of one that goes on."""
    version = _version(kaggle, user, request)
    if not version.ended:
        return {"files": [], "log": ""}
    names, following = page(sorted(version.run.outputs), request)
    outputs = version.run.outputs
    files = [{"fileName": n, "url": kaggle.files.url(n, outputs[n])} for n in names]
    return {"files": files, "log": json.dumps(_events(version)), "nextPageToken": following}


def stream_log(kaggle: "KaggleStandIn", user: str, owner: str, slug: str) -> Reply:
    """Events as they come, from the first one on; all at once when the run has ended."""
    version = find(kaggle, user, owner, slug).versions[-1]
    if version.ended:
        return Reply(200, json.dumps(_events(version)).encode())
    return Reply(200, _stream(version), "text/event-stream")


def _stream(version: KernelVersion) -> Iterator[bytes]:
    for event in _events(version):
        while version.age < version.run.queued + event["time"] and not version.ended:
            time.sleep(_LOOK)
        yield f"data: {json.dumps(event)}\n\n".encode()
    while not version.ended:
        time.sleep(_LOOK)
    yield b"data: END_OF_LOG\n\n"


def _events(version: KernelVersion) -> list[dict[str, Any]]:
    return [
        {"stream_name": "stdout", "time": second, "data": text}
        for second, text in version.run.lines
    ]


METHODS = {
    "GetKernel": get,
    "GetKernelSessionStatus": get_status,
    "ListKernelSessionOutput": list_output,
    "SaveKernel": save,
}
