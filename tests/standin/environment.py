"""How the kaggle package's client is brought to a stand-in, in a process or in this one.

The client of kaggle 2.2.4 knows one address on this machine, http://localhost with no port,
for KAGGLE_API_ENVIRONMENT=LOCALHOST; TEST means nothing to it and ends at Kaggle itself. It
asks through a proxy where the environment names one, and the stand-in is that proxy: so any
port will do, and what is meant for another host is refused instead of sent.
"""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from standin.state import Settings

if TYPE_CHECKING:
    import pytest

_PROXIES = ("http_proxy", "https_proxy")


def variables(settings: Settings, port: int, home: Path, sign_in: str = "key") -> dict[str, str]:
    """What to set. `sign_in` is "key", "token" or "nothing"; `home` gets what the client
    keeps: its settings, and what it remembers of uploads."""
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    credentials = {
        "key": {"KAGGLE_USERNAME": settings.username, "KAGGLE_KEY": settings.key},
        "token": {"KAGGLE_API_TOKEN": settings.token},
        "nothing": {},
    }
    return {
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        **dict.fromkeys(_PROXIES, f"http://127.0.0.1:{port}"),
        **credentials[sign_in],
    }


def foreign(name: str) -> bool:
    """Whether a variable would bring the client elsewhere, or sign it in as someone else."""
    proxies = (*_PROXIES, "no_proxy", "all_proxy")
    return name.startswith("KAGGLE_") or name.lower() in proxies or name == "XDG_CONFIG_HOME"


def complete(settings: Settings, port: int, home: Path, sign_in: str = "key") -> dict[str, str]:
    """The whole environment for a process."""
    rest = {name: value for name, value in os.environ.items() if not foreign(name)}
    return rest | variables(settings, port, home, sign_in)


def adopt(monkeypatch: "pytest.MonkeyPatch", wanted: dict[str, str]) -> None:
    """`wanted` for this process, also where the client was imported before."""
    for name in [name for name in os.environ if foreign(name)]:
        monkeypatch.delenv(name)
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tempfile, "tempdir", None)
    # The client signs in as it is imported, which is to cost no call and to print nothing.
    with monkeypatch.context() as importing:
        importing.delenv("KAGGLE_API_TOKEN", raising=False)
        importing.setenv("KAGGLE_USERNAME", "nobody")
        importing.setenv("KAGGLE_KEY", "nothing")
        from kaggle.api.kaggle_api_extended import KaggleApi
    # Both were settled by the environment of the first import.
    folder = Path(wanted["HOME"]) / ".config" / "kaggle"
    monkeypatch.setattr(KaggleApi, "args", ["--local"])
    monkeypatch.setattr(KaggleApi, "config_dir", str(folder))
    monkeypatch.setattr(KaggleApi, "config", str(folder / KaggleApi.config_file))
