"""What must not leave this machine: credentials, and weights that are programs.

Never shows what it found, only where.
"""

import codecs
import fnmatch
import pickletools
import re
import zipfile
from pathlib import Path

from mathllm.competition.bundle import named_secrets
from mathllm.unpacking import ZIP_FAULTS

PRIVATE_NAMES = (
    *("kaggle.json", "access_token", "credentials.json", "token", ".env", ".env.*", "*.env"),
    *(".netrc", "_netrc", ".pypirc", ".git-credentials", "id_rsa*", "id_dsa*", "id_ecdsa*"),
    *("id_ed25519*", "*.pem", "*.key", "*.p12", "*.pfx", "*.keystore"),
)
PICKLES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".dill"})
SCANNED = 64 << 20  # bytes: no text of ours is larger, tokenizers have some tens of megabytes
HEAD = 1 << 20  # bytes of a larger file: the header of a safetensors file is text
# Between a name and its value, in Python, JSON, JSON inside of JSON, and shell.
_IS = rb"""\\?["']?\]?\s{0,3}[:=,]\s{0,3}"""
_QUOTE = rb"""\\?["']"""
# Each begins with signs of its own, which are searched for fast; what may not stand before them
# is said behind them.
_FORMS = (
    ("a Kaggle token", rb"KGAT_[0-9A-Za-z]{16}"),
    ("a Hugging Face token", rb"hf_(?<![0-9A-Za-z_]hf_)[0-9A-Za-z]{30}"),
    ("a GitHub token", rb"gh[pousr]_(?<![0-9A-Za-z_]gh[pousr]_)[0-9A-Za-z]{36}"),
    ("a GitHub token", rb"github_pat_(?<![0-9A-Za-z_]github_pat_)[0-9A-Za-z_]{40}"),
    ("an AWS key", rb"A(KIA|SIA)(?<![0-9A-Za-z]A[KS]IA)[0-9A-Z]{16}(?![0-9A-Za-z])"),
    ("a private key", rb"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----"),
    ("an API key", rb"sk-(?<![0-9A-Za-z_-]sk-)([a-z]{2,10}-)?[0-9A-Za-z_-]{32}"),
    ("a Google key", rb"AIza(?<![0-9A-Za-z_-]AIza)[0-9A-Za-z_-]{35}(?![0-9A-Za-z_-])"),
    (
        "a GitLab token",
        rb"gl(?<![0-9A-Za-z_-]gl)(pat|ptt|dt|rt|cbt|soat|agent|oas)-[0-9A-Za-z_-]{20}",
    ),
    ("an npm token", rb"npm_(?<![0-9A-Za-z_]npm_)[0-9A-Za-z]{36}"),
    ("a PyPI token", rb"pypi-AgEI[0-9A-Za-z_-]{50}"),
    ("a Slack token", rb"xox(?<![0-9A-Za-z_-]xox)[abeprs]-[0-9]{6,}-[0-9A-Za-z-]{10}"),
    ("a Stripe key", rb"k_live_(?<=[rs]k_live_)(?<![0-9A-Za-z_][rs]k_live_)[0-9A-Za-z]{20}"),
    (
        "a JSON web token",
        rb"eyJ(?<![0-9A-Za-z_-]eyJ)[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{16,}",
    ),
    (
        "a Kaggle key",
        rb"(?i)kaggle_key" + _IS + rb"(" + _QUOTE + rb")?[0-9a-f]{32}(?![0-9a-f])",
    ),
)
_FOUND = [(kind, re.compile(pattern)) for kind, pattern in _FORMS]
# kaggle.json by another name.
_KEY = re.compile(_QUOTE + rb"key" + _IS + _QUOTE + rb"[0-9a-f]{32}" + _QUOTE)


def private_name(path: Path) -> bool:
    """Whether a file of this name holds credentials, whatever is in it."""
    return any(fnmatch.fnmatchcase(path.name.lower(), name) for name in PRIVATE_NAMES)


def scanned(path: Path) -> bytes:
    """What is looked at of a file."""
    with path.open("rb") as file:
        return file.read(SCANNED if path.stat().st_size <= SCANNED else HEAD)


def secret_in(data: bytes) -> tuple[int, str] | None:
    """Line and kind of the first credential in a text; None without one."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", errors="replace").encode("utf-8", errors="replace")
    found = [(m.start(), kind) for kind, p in _FOUND if (m := p.search(data))]
    if b"username" in data and (match := _KEY.search(data)):
        found.append((match.start(), "a Kaggle key"))
    if (place := named_secrets.find(data)) is not None:
        found.append((place, "a password or token"))
    if not found:
        return None
    place, kind = min(found)
    return data.count(b"\n", 0, place) + 1, kind


def is_pickle(path: Path) -> bool:
    """Whether loading the file runs what is in it: a pickle by suffix or by content."""
    if path.suffix.lower() in PICKLES:
        return True
    with path.open("rb") as file:
        start = file.read(256)
    if start.startswith(b"\x93NUMPY"):
        return b"'|O'" in start  # objects in an array are pickled
    if start.startswith(b"PK"):
        return _has_pickle(path)
    # A protocol from 2 on and an operation. Not a small number in 8 bytes, as of a safetensors
    # file's header, which may begin with the same two.
    begins = start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5")
    return begins and chr(start[2]) in pickletools.code2op and any(start[3:8])


def _has_pickle(path: Path) -> bool:
    """Whether a zip is what torch.save writes, or holds a pickle by name."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(Path(name).suffix in PICKLES for name in archive.namelist())
    except (*ZIP_FAULTS, OSError):
        return False
