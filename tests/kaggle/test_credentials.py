"""Credentials as people hand them in: trimmed where that is enough, else one line without them."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.paths import ROOT
from mathllm.delivery import credentials
from mathllm.errors import DeliveryError
from mathllm.redaction import HIDDEN, hide, known_secrets
from standin import KaggleStandIn

TOKEN = "KGAT_0123456789abcdef"
KEY = "0123456789abcdef0123456789abcdef"
PAIR = {"username": "carl", "key": KEY}
VARIABLES = ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(credentials, "_given", None)
    (tmp_path / ".kaggle").mkdir()
    return tmp_path


def hand_in(home: Path, monkeypatch: pytest.MonkeyPatch, way: dict[str, object]) -> None:
    """Variables by their names, files under ~/.kaggle by theirs."""
    for name, value in way.items():
        if name.startswith("KAGGLE_"):
            monkeypatch.setenv(name, str(value).replace("{home}", str(home)))
        elif value is None:
            (home / ".kaggle" / name).mkdir()
        else:
            data = value if isinstance(value, bytes) else str(value).encode()
            (home / ".kaggle" / name).write_bytes(data)
            (home / ".kaggle" / name).chmod(0o600)


GOOD = [
    {"KAGGLE_API_TOKEN": TOKEN},
    {"KAGGLE_API_TOKEN": TOKEN + "\n"},
    {"KAGGLE_API_TOKEN": f"  {TOKEN}\t\r\n"},
    {"KAGGLE_API_TOKEN": f'"{TOKEN}"'},
    {"KAGGLE_API_TOKEN": f"“{TOKEN}”"},
    {"KAGGLE_API_TOKEN": f"\ufeff{TOKEN}\u200b"},
    {"KAGGLE_API_TOKEN": f"Bearer {TOKEN}"},
    {"KAGGLE_API_TOKEN": f"\u200b '{TOKEN}' \ufeff"},
    {"KAGGLE_API_TOKEN": f"Authorization: bearer {TOKEN}"},
    {"access_token": f"export KAGGLE_API_TOKEN={TOKEN}\n"},
    {"access_token": f'KAGGLE_API_TOKEN = "{TOKEN}"\n'},
    {"kaggle.json": json.dumps({"username": "carl", "key": TOKEN})},
    {"KAGGLE_USERNAME": "carl", "KAGGLE_KEY": TOKEN},
    {"KAGGLE_API_TOKEN": "{home}/.kaggle/mine", "mine": TOKEN + "\n"},
    {"KAGGLE_API_TOKEN": "  \n", "access_token": TOKEN},
    {"access_token": TOKEN},
    {"access_token": f"\n{TOKEN}\n\n"},
    {"access_token": b"\xef\xbb\xbf" + TOKEN.encode()},
    {"access_token": TOKEN.encode("utf-16")},
    {"access_token.txt": TOKEN},
    {"KAGGLE_USERNAME": "carl\n", "KAGGLE_KEY": f" {KEY} "},
    {"KAGGLE_API_TOKEN": json.dumps(PAIR)},
    {"access_token": json.dumps(PAIR)},
    {"kaggle.json": json.dumps(PAIR)},
    {"kaggle.json": json.dumps({"username": " carl ", "key": KEY + "\n"})},
    {"kaggle.json": b"\xef\xbb\xbf" + json.dumps(PAIR).encode()},
    {"kaggle.json": json.dumps(PAIR).encode("utf-16")},
]
BROKEN = [
    ({"KAGGLE_API_TOKEN": f"{TOKEN}\n{TOKEN}"}, "KAGGLE_API_TOKEN has a line break inside"),
    ({"KAGGLE_API_TOKEN": f"{TOKEN} {TOKEN}"}, "KAGGLE_API_TOKEN has a space or odd sign inside"),
    ({"KAGGLE_API_TOKEN": f"{TOKEN}é{KEY}"}, "KAGGLE_API_TOKEN has a space or odd sign inside"),
    ({"KAGGLE_API_TOKEN": '""'}, "KAGGLE_API_TOKEN is empty"),
    ({"KAGGLE_API_TOKEN": TOKEN * 1000}, "too many"),
    (
        {"KAGGLE_API_TOKEN": f"/home/{TOKEN}.txt"},
        "KAGGLE_API_TOKEN names a file, and there is none",
    ),
    ({"KAGGLE_API_TOKEN": f"{{'key': '{KEY}'"}, "KAGGLE_API_TOKEN is no JSON object"),
    ({"KAGGLE_API_TOKEN": json.dumps({"key": KEY})}, "KAGGLE_API_TOKEN has no username"),
    (
        {"KAGGLE_API_TOKEN": "{home}/.kaggle/mine", "mine": f"{TOKEN}\n{KEY}"},
        "mine has a line break",
    ),
    ({"access_token": ""}, "access_token is empty"),
    ({"access_token": b"\xff\xfe\x00"}, "access_token cannot be read"),
    ({"access_token": b"\x80\x81" + TOKEN.encode()}, "access_token cannot be read"),
    ({"kaggle.json": f'{{"username": "carl", "key": "{KEY}'}, "kaggle.json is no JSON object"),
    ({"kaggle.json": "[1]"}, "kaggle.json is no JSON object"),
    ({"kaggle.json": "{}"}, "kaggle.json has no username"),
    ({"kaggle.json": json.dumps({"username": "carl", "key": None})}, "kaggle.json has no key"),
    ({"kaggle.json": json.dumps({"username": "carl", "key": 12345678})}, "kaggle.json has no key"),
    (
        {"kaggle.json": json.dumps({"username": "carl", "key": f"{KEY}\n{KEY}"})},
        "key of .*kaggle.json",
    ),
    ({"credentials.json": f"{{{KEY}"}, "credentials.json is no JSON object"),
    ({"KAGGLE_KEY": KEY}, "KAGGLE_KEY is set and KAGGLE_USERNAME is not"),
    ({"KAGGLE_USERNAME": "carl", "KAGGLE_KEY": f"{KEY}\x00"[:-1] + " x"}, "KAGGLE_KEY has a space"),
]


@pytest.mark.parametrize("way", GOOD, ids=range(len(GOOD)))
def test_what_is_only_untidy_is_trimmed(home, monkeypatch, way):
    hand_in(home, monkeypatch, way)
    found = credentials.find()
    assert found is not None
    if "KAGGLE_API_TOKEN" in found.variables:
        assert found.variables == {"KAGGLE_API_TOKEN": TOKEN}
    else:
        assert found.variables == {"KAGGLE_USERNAME": "carl", "KAGGLE_KEY": KEY}
    assert TOKEN not in repr(found)
    assert KEY not in repr(found)


@pytest.mark.parametrize(("way", "said"), BROKEN, ids=range(len(BROKEN)))
def test_what_cannot_be_right_is_named_and_not_shown(home, monkeypatch, way, said):
    hand_in(home, monkeypatch, way)
    with pytest.raises(DeliveryError, match=said) as caught:
        credentials.find()
    assert TOKEN not in str(caught.value)
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleStandIn]:
    with KaggleStandIn() as standin:
        standin.adopt(monkeypatch, tmp_path / "home")
        yield standin


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "build.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(("way", "said"), BROKEN, ids=range(len(BROKEN)))
def test_a_command_says_it_in_a_line(home, monkeypatch, way, said):
    hand_in(home, monkeypatch, way)
    ran = run("check", "--build", str(home / "build"))
    shown = ran.stdout + ran.stderr
    assert ran.returncode in (1, 2)
    assert re.search(said, shown)
    assert "Traceback" not in shown
    assert TOKEN not in shown
    assert KEY not in shown


@pytest.mark.slow
@pytest.mark.parametrize("spoilt", ["{}\n", " {} ", '"{}"', "\ufeff{}"])
def test_untidy_credentials_sign_in(standin, monkeypatch, tmp_path, spoilt):
    monkeypatch.setenv("KAGGLE_KEY", spoilt.format(standin.settings.key))
    ran = run("check", "--build", str(tmp_path / "build"))
    assert "signed in at Kaggle as carl" in ran.stdout, ran.stdout + ran.stderr
    assert standin.settings.key not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    "way",
    [
        {"KAGGLE_API_TOKEN": TOKEN + "\n"},
        {"KAGGLE_API_TOKEN": "{home}/.kaggle/mine", "mine": TOKEN},
        {"access_token": TOKEN},
        {"access_token": b"\xef\xbb\xbf" + TOKEN.encode()},
        {"KAGGLE_USERNAME": "carl", "KAGGLE_KEY": TOKEN},
        {"kaggle.json": json.dumps({"username": "carl", "key": TOKEN})},
        {"credentials.json": json.dumps({"username": "carl", "refresh_token": TOKEN})},
        {"KAGGLE_API_TOKEN": f"{TOKEN}\nmore"},
        {"KAGGLE_API_TOKEN": f"Bearer {TOKEN}"},
        {"KAGGLE_API_TOKEN": f"\u200b{TOKEN}\u2060"},
        {"KAGGLE_API_TOKEN": json.dumps({"username": "carl", "key": TOKEN})},
        {"access_token": f"export KAGGLE_API_TOKEN='{TOKEN}'\n"},
    ],
    ids=range(12),
)
def test_text_is_shown_without_what_is_secret(home, monkeypatch, way):
    hand_in(home, monkeypatch, way)
    text = "header 'Bearer {0}\\n', {0}, token='{0}' {0}x %20{0} a\\n{0} \x1b[31m{0}\x1b[0m".format
    assert hide(text(TOKEN), known_secrets()) == text(HIDDEN)


@pytest.mark.parametrize(
    "way",
    [
        {"kaggle.json": json.dumps(PAIR)},
        {"KAGGLE_API_TOKEN": json.dumps(PAIR)},
        {"KAGGLE_USERNAME": "carl", "KAGGLE_KEY": KEY},
    ],
    ids=range(3),
)
def test_a_header_is_shown_without_the_key(home, monkeypatch, way):
    hand_in(home, monkeypatch, way)
    header = "Authorization: Basic {}".format
    pair = base64.b64encode(f"carl:{KEY}".encode()).decode()
    assert hide(header(pair), known_secrets()) == header(HIDDEN)


@pytest.mark.usefixtures("home")
def test_secrets_of_others_are_hidden_too(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:pass%40word@proxy:3128")
    monkeypatch.setenv("SHORT_KEY", "a")
    monkeypatch.setenv("MY_PASSWORD", "sesame")
    said = hide("hf_abcdefgh http://me:pass%40word@proxy:3128 a, sesames", known_secrets())
    assert said == f"{HIDDEN} http://me:{HIDDEN}@proxy:3128 a, sesames"


@pytest.mark.slow
def test_neither_a_cell_nor_a_traceback_shows_a_secret(home, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN + "\n")
    cell = "import os\nprint(os.environ['KAGGLE_API_TOKEN'])\nraise ValueError(dict(os.environ))"
    parameters = {"cell_type": "code", "source": "n: int = 1", "metadata": {"tags": ["parameters"]}}
    notebook = home / "n.ipynb"
    notebook.write_text(json.dumps({"cells": [parameters, {"cell_type": "code", "source": cell}]}))
    ran = run("run", str(notebook), "--output", str(home / "out.ipynb"))
    assert ran.returncode == 1
    assert "ValueError" in ran.stderr
    assert HIDDEN in ran.stdout
    for text in (ran.stdout, ran.stderr, (home / "out.ipynb").read_text()):
        assert TOKEN not in text


@pytest.mark.usefixtures("home")
def test_a_fault_of_ours_keeps_its_traceback_and_hides_the_secret():
    code = (
        "import os, sys\n"
        "from mathllm.cli import main\n"
        "def fail(*_): raise RuntimeError(os.environ['KAGGLE_API_TOKEN'])\n"
        "main._run = fail\n"
        "main.main(None)\n"
    )
    environment = {**os.environ, "KAGGLE_API_TOKEN": TOKEN, "PYTHONPATH": str(ROOT / "src")}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "Traceback" in ran.stderr
    assert f"RuntimeError: {HIDDEN}" in ran.stderr
