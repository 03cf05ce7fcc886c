"""Where Kaggle's credentials are, without ever showing or checking them."""

import contextlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from mathllm.delivery import credentials
from mathllm.delivery.retry import RetryPolicy, retry
from mathllm.errors import DeliveryError

SETTINGS_PAGE = "https://www.kaggle.com/settings"
HOW_TO = (
    f"make a token under API on {SETTINGS_PAGE} and put it into the variable KAGGLE_API_TOKEN "
    "or the file ~/.kaggle/access_token"
)


@dataclass(frozen=True)
class Credentials:
    """`place` is a variable or a file; `user` is known without asking only beside a key."""

    place: str
    user: str | None = None
    file: Path | None = None

    @property
    def readable_by_others(self) -> bool:
        return self.file is not None and bool(self.file.stat().st_mode & 0o077)


def find() -> Credentials | None:
    """The credentials that the client will use, None without any."""
    home = Path.home() / ".kaggle"
    if token := os.environ.get("KAGGLE_API_TOKEN"):
        file = Path(token)
        return Credentials("KAGGLE_API_TOKEN", file=file if _is_file(file) else None)
    for name in ("access_token", "access_token.txt"):
        if _is_file(home / name):
            return Credentials(str(home / name), file=home / name)
    user, key = os.environ.get("KAGGLE_USERNAME"), os.environ.get("KAGGLE_KEY")
    if user and key:
        return Credentials("KAGGLE_USERNAME and KAGGLE_KEY", user)
    for folder in _config_dirs(home):
        if _is_file(file := folder / "kaggle.json"):
            return Credentials(str(file), user or _user_in(file), file)
        if _is_file(file := folder / "credentials.json"):
            return Credentials(str(file), _user_in(file), file)
    return None


def user_name() -> str | None:
    """The user's name as far as it stands here: in KAGGLE_USERNAME or beside a key."""
    found = find()
    return os.environ.get("KAGGLE_USERNAME") or (found.user if found else None)


def _config_dirs(home: Path) -> list[Path]:
    if named := os.environ.get("KAGGLE_CONFIG_DIR"):
        return [Path(named), home]
    return [home, Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a token is no path, and may be too long for one
        return False


def _user_in(file: Path) -> str | None:
    try:
        user = json.loads(file.read_text(encoding="utf-8")).get("username")
    except (OSError, ValueError, AttributeError):
        return None
    return user if isinstance(user, str) else None


def sign_in(policy: RetryPolicy, say: Callable[[str], None]) -> Any:
    """The client's object. Raises DeliveryError without credentials that Kaggle takes."""
    found = credentials.find()
    if found is None:
        raise DeliveryError(f"no Kaggle credentials: {credentials.HOW_TO}")
    refused = DeliveryError(
        f"Kaggle refuses the credentials in {found.place}: they are wrong or expired; "
        f"{credentials.HOW_TO}"
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
    except requests.HTTPError as fault:
        raise refused from fault
