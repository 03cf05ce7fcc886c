"""Secrets kept out of whatever a command prints: a filter at the edge of the program.

Whoever raises or logs something need not know that a secret is in it: a library's exception
may quote a header, a cell may print the environment.
"""

import base64
import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, urlsplit

HIDDEN = "***"
SHORTEST = 6  # characters of a secret, except for Kaggle's own, that is looked for in all text
_TELLING = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_PROXY = re.compile(r"_PROXY$", re.IGNORECASE)
_FILES = ("access_token", "access_token.txt", "kaggle.json", "credentials.json")
_LARGEST = 65536  # bytes of a file with credentials


def known_secrets() -> set[str]:
    """What stands in variables with telling names, in proxies' addresses and in Kaggle's files,
    and what it becomes on its way (trimmed, quoted, in a header)."""
    found: set[str] = set()
    for name, value in os.environ.items():
        kaggle = name.startswith("KAGGLE_")
        if _TELLING.search(name):
            if kaggle and (inner := _in_file(Path(value.strip()))):
                found |= inner  # it names a file, which may be named
            else:
                found |= {v for v in _forms(value) if kaggle or len(v) >= SHORTEST}
        elif _PROXY.search(name):
            with contextlib.suppress(ValueError):
                found |= _forms(urlsplit(value).password or "")
    home = Path.home()
    folders = [
        home / ".kaggle",
        Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config", "kaggle"),
    ]
    if named := os.environ.get("KAGGLE_CONFIG_DIR"):
        folders.append(Path(named))
    for folder in folders:
        for name in _FILES:
            found |= _in_file(folder / name)
    if user := os.environ.get("KAGGLE_USERNAME", "").strip():
        pairs = [f"{user}:{secret}" for secret in found]
        found |= {base64.b64encode(pair.encode(errors="replace")).decode() for pair in pairs}
    return {secret for secret in found if len(secret) > 2}


def _forms(value: str) -> set[str]:
    bare = value.strip().strip("\ufeff\"'‘’“”`").strip()
    parts = {part.strip() for part in bare.splitlines()}
    quoted = {quote(bare, safe=""), json.dumps(bare)[1:-1], repr(bare)[1:-1]}
    return {bare, *parts, *quoted} - {""}


def _in_file(file: Path) -> set[str]:
    """A token, or the texts of a JSON object under telling names."""
    try:
        if not file.is_file() or file.stat().st_size > _LARGEST:
            return set()
        data = file.read_bytes()
        text = data.decode("utf-16" if b"\0" in data[:4] else "utf-8-sig", errors="replace")
    except (OSError, ValueError):  # also for a token that is no path
        return set()
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(content := json.loads(text), dict):
            telling = [v for k, v in content.items() if isinstance(v, str) and _TELLING.search(k)]
            return set().union(*map(_forms, telling))
    return _forms(text)


def hide(text: str, secrets: set[str]) -> str:
    """The text with each secret that stands in it alone replaced."""
    for secret in sorted(secrets, key=len, reverse=True):
        if secret in text:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    return text


class _Redacted:
    """A stream that hides secrets in what is written to it; all else is the stream's own."""

    def __init__(self, stream: TextIO, secrets: set[str]):
        self._stream = stream
        self._secrets = secrets

    def write(self, text: str) -> int:
        self._stream.write(hide(text, self._secrets))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def secrets_hidden() -> Iterator[None]:
    """What is printed meanwhile, tracebacks of faults included, holds no known secret."""
    streams = sys.stdout, sys.stderr
    secrets = known_secrets()
    sys.stdout, sys.stderr = (_Redacted(stream, secrets) for stream in streams)
    try:
        yield
    except Exception:
        # Python's own printing of a fault comes after this.
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally:
        sys.stdout, sys.stderr = streams
