"""The rehearsal's completions server over the embedded default, as a process of its own."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from helpers.paths import ROOT
from helpers.ports import free_ports
from mathllm.competition.rehearsal import played_server
from mathllm.engines.server import is_ready, wait_until_ready

MODEL = "tiny"


def command(port: int, *flags: str) -> str:
    """Its command line."""
    words = [sys.executable, played_server.__file__, "--port", str(port), "--name", MODEL]
    words += ["--max-model-len", "1024", "--weights", str(ROOT / "assets" / "tiny"), *flags]
    return shlex.join(words)


@contextmanager
def played(*flags: str) -> Iterator[str]:
    """Its address, while it runs."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/v1"
    server = subprocess.Popen(shlex.split(command(port, *flags)))
    try:
        wait_until_ready(url, 120)
        yield url
    finally:
        server.kill()
        server.wait()
    assert not is_ready(url)
