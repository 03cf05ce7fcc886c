"""KaggleStandIn: the state, and the server in a thread of the test's own process.

Knows what a test may set and ask. Knows no HTTP, which is the handler's, and no service.
"""

import errno
import socket
import threading
import time
from collections import defaultdict
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from standin import datasets, environment
from standin.faults import Fault, Faults
from standin.files import Files
from standin.handler import Handler
from standin.state import Blob, Dataset, Kernel, Settings, Submission

if TYPE_CHECKING:
    import pytest

_PATIENCE = 60.0  # seconds for a port that another program has


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A killed client's bytes that lie in the machine's buffers still arrive: keep them few.
    # Set before listening, so that every connection has it.
    receive_buffer = 1 << 16
    kaggle: "KaggleStandIn"

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        super().server_bind()


class KaggleStandIn:
    """Serves within `with`. Options are the fields of Settings.

    `users` maps names to keys, `tokens` tokens to names, `datasets` and `kernels` are by
    OWNER/SLUG, `blobs` by token, `submissions` the oldest first, and `calls` are all
    requests as (method, payload), in their order. `port` 0 is any that is free; one that is
    taken is waited for.
    """

    def __init__(self, settings: Settings | None = None, *, port: int = 0, **options: Any):
        self.settings = replace(settings or Settings(), **options)
        self.users = {self.settings.username: self.settings.key}
        self.tokens = {self.settings.token: self.settings.username}
        self.datasets: dict[str, Dataset] = {}
        self.kernels: dict[str, Kernel] = {}
        self.submissions: list[Submission] = []
        self.blobs: dict[str, Blob] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.files = Files()
        self.faults = Faults()
        self.lock = threading.RLock()
        self.port = port
        self._server: _Server | None = None

    def __enter__(self) -> "KaggleStandIn":
        self._server = _bind(self.port)
        self._server.kaggle = self
        self.port = self._server.server_port
        self.files.base = self.url
        serve = {"poll_interval": 0.02}
        threading.Thread(target=self._server.serve_forever, kwargs=serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    # ----------------------------------------------------------------- for the tests

    def fault(self, pattern: str, kind: str, **details: Any) -> Fault:
        """Strike the next call whose method fits `pattern`; see faults.Fault for `details`."""
        return self.faults.add(Fault(pattern, kind, **details))

    def count(self, method: str) -> int:
        """How often it was called."""
        return sum(name == method for name, _ in self.calls)

    @property
    def uploaded(self) -> dict[str, int]:
        """Bytes that came for files of each name, those that came twice counted twice."""
        total: dict[str, int] = defaultdict(int)
        for blob in self.blobs.values():
            total[blob.name] += blob.received
        return dict(total)

    def add_dataset(self, ref: str, files: dict[str, bytes], **details: Any) -> Dataset:
        """A dataset that is there and READY already, or one more version of it."""
        dataset = self.datasets.setdefault(ref, Dataset(ref, ref.partition("/")[2]))
        for name, value in details.items():
            setattr(dataset, name, value)
        datasets.add_version(self, dataset, files)
        dataset.versions[-1].polls, dataset.versions[-1].seconds = 0, 0.0
        return dataset

    # ---------------------------------------------------------------- for the client

    def environment(self, home: Path, sign_in: str = "key") -> dict[str, str]:
        """The environment of a process that talks to this one, signed in by "key", "token" or
        "nothing". `home` gets what the client keeps."""
        return environment.complete(self.settings, self.port, home, sign_in)

    def adopt(self, monkeypatch: "pytest.MonkeyPatch", home: Path, sign_in: str = "key") -> None:
        """Bring the client of this very process here."""
        wanted = environment.variables(self.settings, self.port, home, sign_in)
        environment.adopt(monkeypatch, wanted)


def _bind(port: int) -> _Server:
    """Raises TimeoutError for a port that stays taken."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return _Server(("127.0.0.1", port), Handler)
        except OSError as fault:
            if fault.errno != errno.EADDRINUSE:
                raise
            if time.monotonic() > until:
                raise TimeoutError(
                    f"port {port} was taken for {_PATIENCE:.0f} s\n"
                    "end what has it (ss -ltnp shows it), or choose another port"
                ) from fault
            time.sleep(0.2)
