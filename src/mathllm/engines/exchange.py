"""One HTTP request to a server that may do anything, and its end from any thread.

The standard library's client, which follows no redirect and asks no proxy, no netrc and no
variable of the environment: what goes to a server on loopback, prompt and key, goes there only.
Knows nothing of what is asked.
"""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from mathllm.engines.base import EngineError
from mathllm.errors import ParameterError
from mathllm.wording import shown

LINE_BYTES = 1 << 22  # of one line: thousands of tokens with their probabilities are shorter
DETAIL_BYTES = 500  # of a refusal's body, shown
OK = 200


def check_url(url: str) -> None:
    """Raise ParameterError for what is no address of a server; a password in it is not shown."""
    mend = "give one as http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is none, brackets that do not close
        raise ParameterError(f"endpoint is no address of a server: {mend}") from None
    if parts.username is not None or parts.password is not None:
        raise ParameterError("endpoint has a user name or password in it: leave that out")
    if not whole or not url.isprintable() or " " in url:
        raise ParameterError(f"endpoint is {shown(url)}, no address of a server: {mend}")


def key_header(api_key: str | None) -> dict[str, str]:
    """The header for a key, trimmed. Raises ParameterError, without the key, for what none is:
    the client's own error would show it."""
    key = (api_key or "").strip()
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ParameterError("the endpoint's key has spaces or signs that no key has")
    return {"Authorization": f"Bearer {key}"} if key else {}


class Exchange:
    """A request and its reply, read line by line; `abort` ends it wherever it stands.

    `url` as "http://127.0.0.1:8000/v1", `path` behind that. `seconds` is for the connection;
    what comes then takes as long as it does, until `abort`. Use it in a `with`, which raises
    EngineError for a status other than 200, and OSError or HTTPException where there is no
    reply.
    """

    def __init__(
        self,
        url: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = 5.0,
    ) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=seconds)
        self._target = f"{parts.path.rstrip('/')}/{path}"
        self._body = None if body is None else json.dumps(body).encode()
        self._headers = {"Accept-Encoding": "identity", **(headers or {})}
        if body is not None:
            self._headers["Content-Type"] = "application/json"
        self._socket: socket.socket | None = None
        self._response: http.client.HTTPResponse | None = None
        self._aborted = False

    def __enter__(self) -> "Exchange":
        try:
            self._connection.connect()
            # Kept: the connection forgets its socket once the reply says that it is the last.
            self._socket = self._connection.sock
            self._socket.settimeout(None)
            if self._aborted:
                self.abort()
            method = "GET" if self._body is None else "POST"
            self._connection.request(method, self._target, self._body, self._headers)
            self._response = self._connection.getresponse()
            if self._aborted:  # in the middle of the headers, which then seem to be all
                raise OSError("the request was given up")
            if (status := self._response.status) != OK:
                detail = self._response.read(DETAIL_BYTES).decode(errors="replace")
                raise EngineError(f"status {status}: {detail}", status)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._response is not None:
            self._response.close()
        self._connection.close()

    def lines(self) -> Iterator[bytes]:
        """The reply's lines as they come. Raises EngineError for one that does not end."""
        while line := self._response.readline(LINE_BYTES):
            if len(line) >= LINE_BYTES:
                raise EngineError(f"a line of the reply is longer than {LINE_BYTES} bytes")
            yield line

    def read(self, limit: int) -> bytes:
        """The reply, at most so many bytes of it."""
        return self._response.read(limit)

    def abort(self) -> None:
        """End it: whoever waits for it, in whatever thread, gets an OSError or the end."""
        self._aborted = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
