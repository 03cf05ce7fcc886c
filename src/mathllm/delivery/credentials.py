"""Kaggle's credentials: found where the client looks, trimmed, checked, and never shown."""

import contextlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from mathllm.delivery.retry import RetryPolicy, retry
from mathllm.errors import DeliveryError
from mathllm.redaction import bare

SETTINGS_PAGE = "https://www.kaggle.com/settings"
HOW_TO = (
    f"make a token under API on {SETTINGS_PAGE} and put it into the variable KAGGLE_API_TOKEN "
    "or the file ~/.kaggle/access_token"
)
LONGEST = 4096  # characters of a token; OAuth's are the longest
TOKENS = "KGAT_"  # how a token begins, also one that was put where a key belongs


@dataclass(frozen=True)
class Credentials:
    """`place` is a variable or a file; `user` is known without asking only beside a key.

    `variables` are the client's own, with clean values in them; none for OAuth's file, which
    the client keeps itself.
    """

    place: str
    user: str | None = None
    file: Path | None = None
    variables: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def readable_by_others(self) -> bool:
        return self.file is not None and bool(self.file.stat().st_mode & 0o077)


def find() -> Credentials | None:
    """The credentials that the client will use, None without any.

    Raises DeliveryError, which says where and never what, for some that cannot be right.
    """
    if _given is not None and _given.variables.items() <= os.environ.items():
        return _given
    home = Path.home() / ".kaggle"
    if token := os.environ.get("KAGGLE_API_TOKEN", "").strip():
        return _in_variable(token)
    for name in ("access_token", "access_token.txt"):
        if _is_file(home / name):
            return _in_token_file(home / name, str(home / name))
    user, key = (os.environ.get(name, "") for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"))
    if user.strip() and key.strip():
        place = "KAGGLE_USERNAME and KAGGLE_KEY"
        return _with_key(place, user, key, names=("KAGGLE_USERNAME", "KAGGLE_KEY"))
    for folder in _config_dirs(home):
        if _is_file(file := folder / "kaggle.json"):
            return _in_key_file(file, user)
        if _is_file(file := folder / "credentials.json"):
            found = _object(file)
            name = found.get("username")
            return Credentials(str(file), name if isinstance(name, str) else None, file)
    if key.strip():
        raise DeliveryError(f"KAGGLE_KEY is set and KAGGLE_USERNAME is not: set both, or {HOW_TO}")
    return None


def user_name() -> str | None:
    """The user's name as far as it stands here: in KAGGLE_USERNAME or beside a key."""
    found = find()
    return os.environ.get("KAGGLE_USERNAME", "").strip() or (found.user if found else None)


def _in_variable(token: str) -> Credentials:
    name = "KAGGLE_API_TOKEN"
    if _is_file(file := Path(token)):
        return _in_token_file(file, name)
    if token.startswith("{"):  # a kaggle.json as it was downloaded
        return _from_object(name, _parsed(name, token), None)
    if token[0] in "/~" or token.endswith((".json", ".txt")):
        raise DeliveryError(f"{name} names a file, and there is none: {HOW_TO}")
    return Credentials(name, variables={name: _clean(token, name)})


def _in_token_file(file: Path, place: str) -> Credentials:
    text = _text(file).strip()
    if text.startswith("{"):
        return _from_object(place, _parsed(str(file), text), file)
    clean = _clean(text, str(file))
    return Credentials(place, file=file, variables={"KAGGLE_API_TOKEN": clean})


def _in_key_file(file: Path, user: str) -> Credentials:
    found = _object(file)
    if user.strip():
        found["username"] = user
    return _from_object(str(file), found, file)


def _from_object(place: str, found: dict[str, Any], file: Path | None) -> Credentials:
    return _with_key(place, found.get("username"), found.get("key"), file, ("username", "key"))


def _with_key(
    place: str, user: object, key: object, file: Path | None = None, names: tuple[str, ...] = ()
) -> Credentials:
    clean = []
    for name, value in zip(names, (user, key), strict=True):
        if not isinstance(value, str) or not value.strip():
            raise DeliveryError(f"{place} has no {name} that is a text: {HOW_TO}")
        clean.append(_clean(value, f"{name} of {place}" if file else name))
    variables = dict(zip(("KAGGLE_USERNAME", "KAGGLE_KEY"), clean, strict=True))
    if clean[1].startswith(TOKENS):
        variables = {"KAGGLE_API_TOKEN": clean[1]}
    return Credentials(place, clean[0], file, variables)


def _clean(value: str, place: str) -> str:
    """Without what was copied with it; refused where spaces or odd signs are left in it."""
    value = bare(value)
    if not value:
        raise DeliveryError(f"{place} is empty: {HOW_TO}")
    if len(value) > LONGEST:
        raise DeliveryError(f"{place} has {len(value):,} characters, too many: {HOW_TO}")
    if not all("!" <= sign <= "~" for sign in value):
        what = "a line break" if "\n" in value or "\r" in value else "a space or odd sign"
        raise DeliveryError(f"{place} has {what} inside: copy it again, alone and whole; {HOW_TO}")
    return value


def _text(file: Path) -> str:
    try:
        data = file.read_bytes()
        for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
            if data.startswith(mark):
                return data.decode(encoding)
        return data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as fault:
        why = fault.strerror if isinstance(fault, OSError) else "it is no text"
        raise DeliveryError(f"{file} cannot be read ({why}): {HOW_TO}") from None


def _object(file: Path) -> dict[str, Any]:
    return _parsed(str(file), _text(file))


def _parsed(place: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DeliveryError(
            f"{place} is no JSON object with username and key: download it again, or {HOW_TO}"
        )
    return found


def _config_dirs(home: Path) -> list[Path]:
    if named := os.environ.get("KAGGLE_CONFIG_DIR"):
        return [Path(named), home]
    return [home, Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"]


def _is_file(path: Path) -> bool:
    """Also a pipe, as <(…) makes one; not a folder."""
    try:
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):  # a token is no path, and may be too long for one
        return False


_given: Credentials | None = None  # those that the client has been given


def _give(found: Credentials) -> None:
    """Put the clean values where the client, which reads them itself, looks first."""
    global _given
    if found.variables:
        os.environ.pop("KAGGLE_API_TOKEN", None)
        os.environ.update(found.variables)
        _given = found


def sign_in(policy: RetryPolicy, say: Callable[[str], None]) -> Any:
    """The client's object. Raises DeliveryError without credentials that Kaggle takes."""
    found = find()
    if found is None:
        raise DeliveryError(f"no Kaggle credentials: {HOW_TO}")
    _give(found)
    refused = DeliveryError(
        f"Kaggle refuses the credentials in {found.place}: they are wrong or expired; {HOW_TO}"
    )

    def authenticate() -> Any:
        # The client signs in as it is imported, and speaks and exits as a program would.
        with contextlib.redirect_stdout(io.StringIO()):
            from kaggle.api.kaggle_api_extended import KaggleApi

            api = KaggleApi()
            api.authenticate()
        return api

    try:
        return retry("sign in", authenticate, policy, say)
    except SystemExit:
        raise refused from None
    except requests.HTTPError:
        raise refused from None  # its request has the credentials
