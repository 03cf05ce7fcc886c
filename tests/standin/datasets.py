"""Datasets: made of uploaded blobs, a while on their way, then ready or failed.

Knows that Kaggle unpacks an archive into a folder of its name. Knows nothing of kernels.
"""

import io
import zipfile
from typing import TYPE_CHECKING, Any

from standin.accounts import must_own
from standin.replies import RefusalError, Reply, moment, page, redirect
from standin.state import FAILED, READY, Dataset, Version

if TYPE_CHECKING:
    from standin.server import KaggleStandIn

TAKEN = 'The requested title "{}" is already in use by a dataset. Please choose another title.'


def find(kaggle: "KaggleStandIn", user: str, owner: str, slug: str) -> Dataset:
    """A dataset that `user` may see. Raises RefusalError."""
    dataset = kaggle.datasets.get(f"{owner}/{slug}")
    if dataset is None:
        raise RefusalError(kaggle.settings.unknown_status, "Dataset not found")
    if dataset.private:
        must_own(user, owner, "datasets.get")
    return dataset


def unpacked(files: dict[str, bytes]) -> dict[str, bytes]:
    """Files with every archive replaced by what is in it."""
    contents: dict[str, bytes] = {}
    for name, data in files.items():
        if name.endswith(".zip") and zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                inside = [entry for entry in archive.infolist() if not entry.is_dir()]
                folder = name.removesuffix(".zip")
                contents |= {f"{folder}/{e.filename}": archive.read(e) for e in inside}
        else:
            contents[name] = data
    return contents


def add_version(kaggle: "KaggleStandIn", dataset: Dataset, files: dict[str, bytes]) -> Version:
    """A version that is on its way, as the settings want it."""
    settings = kaggle.settings
    version = Version(
        number=len(dataset.versions) + 1,
        notes="" if dataset.versions else "Initial release",
        files=sorted(files),
        contents=unpacked(files),
        ends=FAILED if dataset.ref in settings.failing_datasets else READY,
        polls=settings.dataset_polls,
        seconds=settings.dataset_seconds,
    )
    dataset.versions.append(version)
    return version


def _of(kaggle: "KaggleStandIn", user: str, request: dict[str, Any]) -> Dataset:
    return find(kaggle, user, request.get("ownerSlug", ""), request.get("datasetSlug", ""))


def _sent(kaggle: "KaggleStandIn", request: dict[str, Any]) -> dict[str, bytes] | None:
    """The files by name; None where one was never sent to its end."""
    blobs = [kaggle.blobs.get(file.get("token", "")) for file in request.get("files", [])]
    if not blobs or any(blob is None or not blob.complete for blob in blobs):
        return None
    return {blob.name: bytes(blob.data) for blob in blobs if blob is not None}


def _created(dataset: Dataset) -> dict[str, Any]:
    url = f"https://www.kaggle.com/datasets/{dataset.ref}"
    return {"ref": f"/{dataset.ref}", "url": url, "status": "ok"}


def _error(text: str) -> dict[str, Any]:
    return {"status": "error", "error": text}


def create(kaggle: "KaggleStandIn", user: str, request: dict[str, Any]) -> dict[str, Any]:
    owner, slug, title = request.get("ownerSlug", user), request["slug"], request["title"]
    must_own(user, owner, "datasets.create")
    mine = [d for ref, d in kaggle.datasets.items() if ref.startswith(f"{owner}/")]
    if f"{owner}/{slug}" in kaggle.datasets or title in [d.title for d in mine]:
        return _error(TAKEN.format(title))
    files = _sent(kaggle, request)
    if files is None:
        return _error("The dataset has no files, or one that was not uploaded to its end")
    dataset = Dataset(
        ref=f"{owner}/{slug}",
        title=title,
        id=1000 + len(kaggle.datasets),
        description=request.get("description", ""),
        subtitle=request.get("subtitle", ""),
        license=request.get("licenseName", ""),
        private=request.get("isPrivate", False),
    )
    kaggle.datasets[dataset.ref] = dataset
    add_version(kaggle, dataset, files)
    return _created(dataset)


def create_version(kaggle: "KaggleStandIn", user: str, request: dict[str, Any]) -> dict[str, Any]:
    owner, body = request["ownerSlug"], request.get("body", {})
    must_own(user, owner, "datasets.update")
    dataset = _of(kaggle, user, request)
    files = _sent(kaggle, body)
    if files is None:
        return _error("The version has no files, or one that was not uploaded to its end")
    add_version(kaggle, dataset, files).notes = body.get("versionNotes", "")
    dataset.description = body.get("description", dataset.description)
    dataset.subtitle = body.get("subtitle", dataset.subtitle)
    return _created(dataset)


def get(kaggle: "KaggleStandIn", user: str, request: dict[str, Any]) -> dict[str, Any]:
    dataset = _of(kaggle, user, request)
    owner = dataset.ref.partition("/")[0]
    current = dataset.versions[-1:] if kaggle.settings.pending_is_current else []
    if not current and (ready := dataset.ready()):
        current = [ready]
    versions = [
        {
            "versionNumber": version.number,
            "creationDate": moment(version.created),
            "creatorName": owner,
            "versionNotes": version.notes,
            "status": version.status.capitalize(),
        }
        for version in reversed(dataset.versions)
    ]
    return {
        "id": dataset.id,
        "ref": dataset.ref,
        "title": dataset.title,
        "subtitle": dataset.subtitle,
        "description": dataset.description,
        "licenseName": dataset.license,
        "ownerName": owner,
        "ownerRef": owner,
        "isPrivate": dataset.private,
        "url": f"https://www.kaggle.com/datasets/{dataset.ref}",
        "currentVersionNumber": current[0].number if current else 0,
        "versions": versions,
    }


def get_status(kaggle: "KaggleStandIn", user: str, request: dict[str, Any]) -> dict[str, Any]:
    """Of the newest version; every question brings it nearer to its end."""
    version = _of(kaggle, user, request).versions[-1]
    status = version.status
    version.polls = max(0, version.polls - 1)
    return {"status": status}


def get_metadata(kaggle: "KaggleStandIn", user: str, request: dict[str, Any]) -> dict[str, Any]:
    dataset = _of(kaggle, user, request)
    return {"info": {"title": dataset.title, "licenses": [{"name": dataset.license}]}}


def _version(kaggle: "KaggleStandIn", user: str, request: dict[str, Any]) -> tuple[str, Version]:
    dataset = _of(kaggle, user, request)
    version = dataset.ready(request.get("datasetVersionNumber"))
    if version is None:
        raise RefusalError(404, "Dataset version not found")
    return dataset.ref, version


def list_files(kaggle: "KaggleStandIn", user: str, request: dict[str, Any]) -> dict[str, Any]:
    _, version = _version(kaggle, user, request)
    names, following = page(sorted(version.contents), request)
    files = [
        {
            "name": name,
            "totalBytes": len(version.contents[name]),
            "creationDate": moment(version.created),
        }
        for name in names
    ]
    return {"datasetFiles": files, "nextPageToken": following}


def download(kaggle: "KaggleStandIn", user: str, request: dict[str, Any]) -> Reply:
    """One file, or all of them as an archive."""
    ref, version = _version(kaggle, user, request)
    if name := request.get("fileName"):
        if name not in version.contents:
            raise RefusalError(404, f"{name} is not in the dataset")
        return redirect(kaggle.files.url(name, version.contents[name]))
    slug = ref.partition("/")[2]
    return redirect(kaggle.files.url_of_all(f"{slug}.zip", version.contents))


METHODS = {
    "CreateDataset": create,
    "CreateDatasetVersion": create_version,
    "DownloadDataset": download,
    "GetDataset": get,
    "GetDatasetMetadata": get_metadata,
    "GetDatasetStatus": get_status,
    "ListDatasetFiles": list_files,
}
