"""Servers on loopback that answer in ways no server should, each a function of its connection."""

import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
MODELS = b'HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n{"data": [{"id": "any"}]} '
PAUSE = 0.02  # seconds between two pieces


def event(**choice) -> bytes:
    """One server-sent event with one choice."""
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def repeat(first: bytes, piece: bytes, pause: float = PAUSE) -> Callable:
    """Sends `first` and then `piece` for ever."""

    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(first)
        for _ in itertools.count():
            connection.sendall(piece)
            time.sleep(pause)

    return answer


def say(*pieces: bytes) -> Callable:
    """Sends these and ends."""
    return lambda connection, _: connection.sendall(b"".join(pieces))


def hold(*pieces: bytes) -> Callable:
    """Sends these and then nothing, with the connection kept."""

    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"".join(pieces))
        with suppress(OSError):
            connection.recv(1)

    return answer


ENDLESS = {
    "comments": repeat(STREAM, b": keep-alive\n\n"),
    "empty choices": repeat(STREAM, b'data: {"choices": []}\n\n'),
    "choices without a token": repeat(STREAM, event(text="")),
    "no line end": repeat(STREAM, b"x" * 64),
    "an error body that drips": repeat(b"HTTP/1.1 500 No\r\n\r\n", b"x"),
    "an error body without end": repeat(b"HTTP/1.1 500 No\r\n\r\n", b"x" * 65536, 0.0),
    "headers that drip": repeat(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
    "nothing": hold(),
    "headers alone": hold(STREAM),
    "one token": hold(STREAM, event(text="a", token_ids=[5])),
    "chunks that drip": repeat(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\n: \n\r\n"
    ),
}


@contextmanager
def serving(answer: Callable[[socket.socket, bytes], None]) -> Iterator[tuple[str, list[bytes]]]:
    """Such a server's URL, and the requests that it gets."""
    requests: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(65536)
            head, _, body = request.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r")[0] or 0)
            while len(body) < length:
                body += connection.recv(65536)
            requests.append(head + b"\r\n\r\n" + body)
            answer(connection, body)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", requests
    finally:
        listener.close()
