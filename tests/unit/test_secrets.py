"""Credentials by their form and by their name; and what only looks like one."""

import os
import random
import string
import time
from fnmatch import fnmatch
from pathlib import Path

import pytest

from helpers.paths import ROOT
from mathllm.competition.bundle import secrets
from mathllm.competition.bundle.secrets import HEAD, SCANNED, secret_in


def some(length: int, alphabet: str = string.ascii_letters + string.digits, seed: int = 1) -> str:
    """Made here, so that no scan of this repository finds it."""
    drawn = random.Random(seed).choices(alphabet, k=length)
    return "".join(["a", *drawn[:-2], "7"]) if length > 2 else "a7"


MIXED = some(40)
HEX = some(40, "0123456789abcdef")
WORD = "correct8horse8battery"
JWT = ".".join(["eyJ" + some(33), "eyJ" + some(60, seed=2), some(43, seed=3)])

BY_FORM = {
    "AIza" + some(35): "a Google key",
    "glpat-" + some(20): "a GitLab token",
    "gldt-" + some(20): "a GitLab token",
    "npm_" + some(36): "an npm token",
    "pypi-AgEI" + some(60): "a PyPI token",
    "xoxb-" + "123456789012-" + some(24): "a Slack token",
    "sk_live_" + some(24): "a Stripe key",
    JWT: "a JSON web token",
}

BY_NAME = [
    # source
    f'token = "{MIXED}"',
    f"token: str = '{HEX}'",
    f'API_TOKEN: Final[str] = "{MIXED}"',
    f"api_key: '{MIXED}'",
    f'apiKey = "{MIXED}"',
    f'api_key="{WORD}"',
    f'client(api_key="{WORD}", x=1)',
    f'client(accessToken="{MIXED}")',
    f'os.environ["WANDB_API_KEY"] = "{HEX}"',
    f'os.environ.setdefault("SOME_TOKEN", "{HEX}")',
    f"password = '{WORD}'",
    "password = 'hunter2'",
    f'db_password = r"{WORD}"',
    f'headers = {{"Authorization": "Bearer {MIXED}"}}',
    f'"secret": "{MIXED}"',
    f"client_secret = '{MIXED}'",
    f'aws_secret_access_key = "{MIXED}"',
    f'key = connect("postgres://me:{WORD}@host/db")',
    f"const authToken = '{MIXED}';",
    'password = "aBcDeFxGhIqJkLzMn"',
    # JSON and notebooks
    f'{{"password": "{WORD}"}}',
    f'{{"token": "{MIXED}", "x": 1}}',
    f'    "password = \\"{WORD}\\"\\n",',
    f"    \"token = '{MIXED}'\\n\",",
    f'    "%env API_KEY={MIXED}\\n",',
    f'    "%env API_KEY={MIXED}"\n   ]',
    f'    "!curl --token {MIXED} https://x\\n",',
    # YAML
    f"password: {WORD}",
    f"api_key: {MIXED}\nnext: 1",
    f"  token: {HEX}  # mine",
    f'token: "{HEX}"',
    "password: hunter2hunter2",
    # .env, ini, shell
    f"API_KEY={MIXED}",
    f"export GITLAB_TOKEN={MIXED}",
    f'HF_TOKEN="{MIXED}"',
    f"DB_PASSWORD={WORD}",
    f"password = {WORD}",
    f"PASSWORD={WORD}\r\nUSER=me\r\n",
    f"tool --password {WORD} --verbose",
    f"tool --api-key={MIXED}",
]


@pytest.mark.parametrize("text", BY_FORM, ids=range(len(BY_FORM)))
@pytest.mark.parametrize("around", ["{}", "x = '{}'", "see {} there", '{{"a": "{}"}}', "{}\n"])
def test_a_credential_is_known_by_its_form(text, around):
    data = "first line\n" + around.format(text)
    assert secret_in(data.encode()) == (2, BY_FORM[text])


@pytest.mark.parametrize("text", BY_NAME, ids=range(len(BY_NAME)))
def test_a_credential_is_known_by_its_name(text):
    found = secret_in(f"first line\n{text}\n".encode())
    assert found == (2, "a password or token")
    assert secret_in(f"first line\n{text}".encode()) == found
    assert secret_in(f"first line\n    {text}\nlast\n".encode()) == found
    for codec in ("utf-16", "utf-8-sig"):
        assert secret_in(f"first line\n{text}\n".encode(codec)) == found


@pytest.mark.parametrize(
    "text",
    [
        "A token is a piece of text; the model gives 3,000 tokens per second.",
        "The token: 12345678 of them were counted, tokens 1234567890123456.",
        "Put the token into the variable `KAGGLE_API_TOKEN` or the file `~/.kaggle/access_token`.",
        "the password: it has 12 characters, of which 4 are digits",
        "token = tokenizer.eos_token",
        "token = tokenizer.convert_ids_to_tokens(151645)",
        "token = tokens[position + 1234567890]",
        "token = layer_2.head_3.token_12345",
        'token: str = ""',
        "token: int = 151645",
        "token: str | None = None",
        'token = "<|endoftext|>"',
        '"eos_token": "<|im_end|>"',
        '"bos_token": "reserved_special_token_0123"',
        '"pad_token": "unused12345678901234567890"',
        '"token": 151643,',
        '"next_token": "abcdefghij1234567890"',
        '"max_tokens": "abcdefghij1234567890"',
        f'sha256 = "{HEX}"',
        f'"digest": "{HEX}"',
        f'token_hash = "{HEX}"',
        f'password_sha256: "{HEX}"',
        f"--hash=sha256:{some(64, '0123456789abcdef')}",
        f'tokens = ["{MIXED}"]',
        'api_key = os.environ["X"]',
        'api_key = os.environ["OPENAI_API_KEY_2"]',
        'api_key = os.environ.get("API_KEY2", "")',
        "api_key = getpass('the api_key of 12345')",
        "api_key=api_key,",
        "    password=config.password2\n)",
        "api_key = settings2.api_key3",
        'password = ""',
        'password = "password"',
        'password = "***********"',
        'password = "{password1}"',
        "password = f'{user}{number}'",
        'password = "$PASSWORD_1"',
        "API_KEY=$OTHER_KEY_1",
        "API_KEY=${OTHER_KEY_1}",
        "API_KEY=",
        "api_key: null",
        "api_key: <your key here 123>",
        'raise ValueError("token: WrongTokenError")',
        "https://user:{password1}@host",
        "https://example.org:8080/path@1234567",
        "http://127.0.0.1:50051/v1",
        "secret sharing, secrets_2 and the secret: a 3-of-5 scheme",
        "AIza is how keys begin; eyJ how tokens do, npm_install_12 and glpat- too",
        "eyJhbGciOi.short.x",
        "tokenizer_12345.model.safetensors",
        "the bearer of 12345678901234567890",
        'tokenizer = "abcdefghij1234567890"',
    ],
)
def test_what_only_looks_alike_is_none(text):
    for data in (text, f"\n{text}\n", f'"{text}\\n",\n'):
        assert secret_in(data.encode()) is None


def repository_files():
    """What a commit would hold, also where there is no git: in a copy, in an archive."""
    ignored = [".git", *(line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split())]
    for folder, folders, names in os.walk(ROOT):
        at_root = "/" if Path(folder) == ROOT else ""
        folders[:] = [
            name
            for name in folders
            if not any(fnmatch(name, p) or at_root + name == p for p in ignored)
        ]
        yield from (Path(folder) / name for name in names)


def test_nothing_in_this_repository_looks_like_one():
    looked_at = 0
    for path in repository_files():
        # Tests of this very scan have some on purpose.
        if path.parts[len(ROOT.parts)] != "tests":
            assert secret_in(path.read_bytes()) is None, path
            looked_at += 1
    assert looked_at > 150


def test_the_start_of_a_file_that_is_too_large_is_looked_at(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(f'{{"__metadata__": {{"token": "{MIXED}"}}}}'.encode())
        file.truncate(SCANNED + 1)
    data = secrets.scanned(path)
    assert len(data) == HEAD
    assert secret_in(data)


@pytest.mark.parametrize(
    "line",
    ['"token{}": 15{},\n', "password" * 8 + "\n", "token = " * 9 + "\n", "a-_" * 40 + "token\n"],
)
def test_a_large_file_is_looked_at_in_seconds(line):
    data = "".join(line.replace("{}", str(n)) for n in range(4_000_000 // len(line))).encode()
    began = time.monotonic()
    secret_in(data)
    assert time.monotonic() - began < 15
