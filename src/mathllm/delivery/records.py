"""submissions.jsonl: which bytes got which score. One JSON object for each submission.

ref, submitted, message          Kaggle's number of it, when, and what it is called there
competition, kernel, version     what was submitted
identity, manifest, datasets     the bundle: its identity, the sum of its manifest, and of
                                 each dataset the digest
parameters                       the kernel's that are not the notebook's own
commit, changed                  git's commit, and whether files differed from it
status, public_score, private_score, error
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from mathllm.competition.bundle import manifest
from mathllm.environment import commit
from mathllm.errors import DeliveryError
from mathllm.files import write_text


def write(path: Path, record: dict[str, Any]) -> None:
    """Add a submission, or put it in place of what stands there under its number."""
    records = [record if old["ref"] == record["ref"] else old for old in read(path)]
    if record not in records:
        records.append(record)
    write_text(path, "".join(json.dumps(one, sort_keys=True) + "\n" for one in records))


def read(path: Path) -> list[dict[str, Any]]:
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


def origin(described: manifest.Description, build: Path, root: Path) -> dict[str, Any]:
    """Where a bundle's bytes come from: identity, manifest, datasets, parameters, git's commit."""
    return {
        "identity": described.identity,
        "manifest": hashlib.sha256((build / manifest.MANIFEST).read_bytes()).hexdigest(),
        "datasets": {Path(name).name: digest for name, digest in described.digests.items()},
        "model": described.model,
        "parameters": described.parameters,
    } | commit(root)
