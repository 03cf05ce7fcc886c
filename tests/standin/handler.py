"""HTTP of the stand-in: one request, its fault, its reply, one connection each.

Knows which path is which call. Takes requests for itself and, as a proxy would, for
`localhost`; to every other host it refuses the way. Knows nothing of what a call does.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from standin import accounts, blobs, competitions, datasets, kernels
from standin.faults import Fault
from standin.replies import RefusalError, Reply, answer, refusal

if TYPE_CHECKING:
    from standin.server import KaggleStandIn

METHODS = (
    accounts.METHODS | blobs.METHODS | competitions.METHODS | datasets.METHODS | kernels.METHODS
)
_HOSTS = ("", "localhost", "127.0.0.1")
_LOG = "/api/v1/kernels/logs/stream/"


class Handler(BaseHTTPRequestHandler):
    """`server.kaggle` is the stand-in."""

    protocol_version = "HTTP/1.1"  # so that a log that is cut can be told from one that ends
    disable_nagle_algorithm = True

    @property
    def _kaggle(self) -> "KaggleStandIn":
        return self.server.kaggle

    def log_message(self, *_: Any) -> None:
        """Nothing: `calls` is the log."""

    def do_CONNECT(self) -> None:
        self._carry_out("CONNECT", {"host": self.path}, self._stranger)

    def do_POST(self) -> None:
        body = b"".join(self._pieces())
        parts = self._path().strip("/").split("/")
        if parts[:2] != ["api", "v1"] or len(parts) != 4:
            return self._carry_out("POST", {"url": self.path}, self._stranger)
        method, payload = parts[3], json.loads(body or b"{}")
        return self._carry_out(method, payload, lambda _: self._call(method, payload))

    def do_PUT(self) -> None:
        token = self._path().rpartition("/")[2]
        span = self.headers.get("Content-Range", "")
        put = lambda fault: blobs.put(self._kaggle, token, span, self._pieces(), fault)  # noqa: E731
        self._carry_out("PutBlob", {"token": token, "range": span}, put, drain=True)

    def do_GET(self) -> None:
        path = self._path()
        if path.startswith(_LOG) and path.count("/") == _LOG.count("/") + 1:
            owner, slug = path.removeprefix(_LOG).split("/")
            payload = {"userName": owner, "kernelSlug": slug}
            return self._carry_out("StreamLog", payload, lambda _: self._log_of(owner, slug))
        if path.startswith("/files/"):
            _, _, digest, name = path.split("/", 3)
            wanted, unless = self.headers.get("Range", ""), self.headers.get("If-Range", "")
            modified = self._kaggle.settings.last_modified
            file = lambda _: self._kaggle.files.reply(digest, wanted, unless, modified)  # noqa: E731
            return self._carry_out("GetFile", {"name": name, "range": wanted}, file)
        return self._carry_out("GET", {"url": self.path}, self._stranger)

    # ------------------------------------------------------------------- the calls

    def _path(self) -> str:
        """Empty for a request that is for another host."""
        url = urlsplit(self.path)
        return url.path if (url.hostname or "") in _HOSTS else ""

    def _stranger(self, _: Fault | None) -> Reply:
        return refusal(502, f"nothing leaves this machine: {self.command} {self.path}")

    def _user(self) -> str:
        return accounts.signed_in(self._kaggle, self.headers.get("Authorization", ""))

    def _call(self, method: str, payload: dict[str, Any]) -> Reply:
        if method not in METHODS:
            raise RefusalError(404, f"the stand-in has no method {method}")
        # A token asks about itself, and may be none.
        user = "" if method == "IntrospectToken" else self._user()
        with self._kaggle.lock:
            value = METHODS[method](self._kaggle, user, payload)
        return value if isinstance(value, Reply) else answer(value)

    def _log_of(self, owner: str, slug: str) -> Reply:
        return kernels.stream_log(self._kaggle, self._user(), owner, slug)

    # -------------------------------------------------------------- fault and reply

    def _carry_out(
        self,
        name: str,
        payload: dict[str, Any],
        act: Callable[[Fault | None], Reply | None],
        drain: bool = False,
    ) -> None:
        self.close_connection = True
        with self._kaggle.lock:
            self._kaggle.calls.append((name, payload))
        fault = self._kaggle.faults.take(name)
        reply: Reply | None = None
        if fault is None or fault.carried_out:
            try:
                reply = act(fault)
            except RefusalError as refused:
                reply = refusal(refused.code, refused.message)
        elif drain:
            for _ in self._pieces():
                pass
        if fault is not None:
            time.sleep(fault.seconds)
            if fault.replaces:
                reply = fault.reply()
            elif reply is not None and fault.kind in ("drop_download", "drop_log"):
                reply.cut = fault.amount
        if reply is not None:
            with contextlib.suppress(ConnectionError):  # the client is gone, which may be meant
                self._send(reply)

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Connection", "close")
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if isinstance(reply.body, bytes):
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body if reply.cut is None else reply.body[: reply.cut])
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, piece in enumerate(reply.body):
            if number == reply.cut:
                return
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def _pieces(self) -> Iterator[bytes]:
        """The request's body as it comes; it ends early where the client does."""
        most = blobs.piece_size(self._kaggle)
        with contextlib.suppress(ConnectionError):
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                while size := int(self.rfile.readline().strip() or b"0", 16):
                    yield self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return
            left = int(self.headers.get("Content-Length") or 0)
            while left and (piece := self.rfile.read1(min(left, most))):
                left -= len(piece)
                yield piece
