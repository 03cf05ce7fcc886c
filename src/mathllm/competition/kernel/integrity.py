"""What a kernel was vendored with, against what is attached to it.

Kaggle attaches a dataset's newest version when a notebook is edited by hand, and an older
one where its page was not refreshed: then source and weights may be of two bundles.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mathllm import paths
from mathllm.errors import BundleError

CONTENTS = "contents.json"  # {"files": {path: {"sha256": …, "size": bytes}}}
MEND = "attach the newest version of it to the notebook, or run `build.py vendor` and push again"


def listing(files: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
    """The content of contents.json, from path -> (SHA-256 sum, bytes)."""
    return {"files": {name: {"sha256": s, "size": n} for name, (s, n) in sorted(files.items())}}


def stamp(identity: str, digests: Mapping[str, str]) -> str:
    """One line for the notebook: a bundle's identity, and slug -> digest of its datasets."""
    return " ".join([identity, *(f"{slug}={digest}" for slug, digest in digests.items())])


def check(stamped: str) -> None:
    """Compare the datasets that are attached with a stamp, by list and by size of each file.

    Nothing of the files is read, so that gigabytes of weights take no time. Raises
    BundleError for the first difference.
    """
    for part in stamped.split()[1:]:
        slug, equals, digest = part.partition("=")
        if not equals:
            raise BundleError(f"parameter bundle is {stamped!r}: leave it as it was vendored")
        _check_dataset(slug, digest)


def _check_dataset(slug: str, digest: str) -> None:
    folder = paths.find_dataset(slug)
    if folder is None:
        raise BundleError(
            f"the dataset {slug} is not attached under {paths.input_root()}, "
            f"the notebook was vendored with {digest[:12]}: {MEND}"
        )
    path = folder / CONTENTS
    if not path.is_file():
        raise BundleError(f"{path} is missing, so {slug} is not as it was vendored: {MEND}")
    data = path.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != digest:
        raise BundleError(
            f"the dataset {slug} in {folder} has content {found[:12]}, "
            f"the notebook was vendored with {digest[:12]}: {MEND}"
        )
    for name, entry in json.loads(data)["files"].items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else None
        if size != entry["size"]:
            found = "is missing" if size is None else f"has {size:,} bytes"
            raise BundleError(f"{file} {found}, {slug} has it with {entry['size']:,}: {MEND}")
