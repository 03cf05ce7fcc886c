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
LONG = 12  # characters of a secret that no other word holds by chance
_TELLING = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_PROXY = re.compile(r"_PROXY$", re.IGNORECASE)
_FILES = ("access_token", "access_token.txt", "kaggle.json", "credentials.json")
_LARGEST = 65536  # bytes of a file with credentials
# What copying leaves around a value, seen or not, and before it.
_AROUND = "\"'‘’“”`\ufeff\u200b\u200e\u2060\xa0 \t\r\n\v\f"
_NAMED = re.compile(
    r"(?:export\s+)?(?:KAGGLE_\w+\s*=\s*|Authorization:\s*)?(?:Bearer\s+)?", re.IGNORECASE
)


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
                found |= {v for v in _in_text(value) if kaggle or len(v) >= SHORTEST}
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
        found |= _beside(user, found)
    return {secret for secret in found if len(secret) > 2}


def bare(value: str) -> str:
    """A credential without what was copied with it: spaces, quotes, invisible signs, a name."""
    return _NAMED.sub("", value.strip(_AROUND), count=1).strip(_AROUND)


def _forms(value: str) -> set[str]:
    whole = bare(value)
    parts = {bare(part) for part in whole.splitlines()}
    quoted = {quote(whole, safe=""), json.dumps(whole)[1:-1], repr(whole)[1:-1]}
    return {whole, *parts, *quoted} - {""}


def _beside(user: str, secrets: set[str]) -> set[str]:
    """What a header holds of a user and a key."""
    pairs = [f"{user}:{secret}" for secret in secrets]
    return {base64.b64encode(pair.encode(errors="replace")).decode() for pair in pairs}


def _in_file(file: Path) -> set[str]:
    try:
        if not file.is_file() or file.stat().st_size > _LARGEST:
            return set()
        data = file.read_bytes()
        return _in_text(data.decode("utf-16" if b"\0" in data[:4] else "utf-8-sig", "replace"))
    except (OSError, ValueError):  # also for a token that is no path
        return set()


def _in_text(text: str) -> set[str]:
    """A token, or the texts of a JSON object under telling names, alone and beside its user."""
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(content := json.loads(text), dict):
            telling = [v for k, v in content.items() if isinstance(v, str) and _TELLING.search(k)]
            found = set().union(*map(_forms, telling))
            return found | _beside(bare(str(content.get("username", ""))), found)
    return _forms(text)


def hide(text: str, secrets: set[str]) -> str:
    """The text with each secret replaced; a short one where it is no part of a longer word."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= LONG:
            text = text.replace(secret, HIDDEN)
        elif secret in text:
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
