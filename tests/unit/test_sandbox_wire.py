"""Messages to and from a kernel's sockets: as libzmq means them, and within bounds."""

import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zmq

from mathllm.sandbox.wire import GREETING, MESSAGE_BYTES, MESSAGE_PARTS, Connection, _frame

READY = GREETING + _frame(b"\x05READY\x0bSocket-Type\x00\x00\x00\x03PUB", 4)


@pytest.fixture
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield str(Path(folder, "socket"))


@pytest.fixture
def peer(path: str) -> Iterator[tuple[Connection, socket.socket]]:
    """A connection, and the other side of it by hand."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        connection = Connection(path, "SUB")
        assert connection.connect()
        other, _ = server.accept()
        with other:
            yield connection, other
        connection.close()


def received(connection: Connection, count: int) -> list[list[bytes]]:
    found, deadline = [], time.monotonic() + 20
    while len(found) < count and time.monotonic() < deadline:
        connection.flush()
        found += connection.receive()
        time.sleep(0.005)
    return found


@pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000, MESSAGE_BYTES - 5])
def test_messages_go_to_libzmq_and_back(path: str, size: int) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.bind(f"ipc://{path}")
        connection = Connection(path, "DEALER")
        assert connection.connect()
        connection.send([b"first", bytes(size)])
        deadline = time.monotonic() + 20
        while not router.poll(5) and time.monotonic() < deadline:
            connection.flush()
            assert connection.receive() == []
        sender, *parts = router.recv_multipart()
        assert parts == [b"first", bytes(size)]
        for _ in range(3):
            router.send_multipart([sender, *parts])
        assert received(connection, 3) == [parts] * 3
        connection.close()


def test_what_is_published_comes(path: str) -> None:
    with zmq.Context() as context, context.socket(zmq.PUB) as publisher:
        publisher.linger = 0
        publisher.bind(f"ipc://{path}")
        connection = Connection(path, "SUB")
        assert connection.connect()
        found, deadline = [], time.monotonic() + 20
        while not found and time.monotonic() < deadline:
            publisher.send_multipart([b"topic", b"text"])
            connection.flush()
            found = connection.receive()
        assert found[0] == [b"topic", b"text"]
        connection.close()


def test_nobody_there_is_told_and_tried_again(path: str) -> None:
    connection = Connection(path, "SUB")
    assert not connection.connect()
    assert connection.receive() == []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        assert connection.connect()
    connection.close()


def test_messages_may_come_in_any_pieces(peer: tuple[Connection, socket.socket]) -> None:
    connection, other = peer
    sent = READY + _frame(b"x" * 300, 1) + _frame(b"", 1) + _frame(b"y", 0) + _frame(b"z", 0)
    found = []
    for number in range(len(sent)):
        other.send(sent[number : number + 1])
        found += connection.receive()
    assert found == [[b"x" * 300, b"", b"y"], [b"z"]]


@pytest.mark.parametrize(
    "long",
    [
        _frame(bytes(MESSAGE_BYTES + 1), 0),
        _frame(bytes(MESSAGE_BYTES), 1) + _frame(b"x", 0),
        _frame(b"", 1) * MESSAGE_PARTS + _frame(b"", 0),
        _frame(bytes(1000), 1) * 2000 + _frame(b"", 0),
    ],
    ids=["one part", "two parts", "many parts", "many bytes"],
)
def test_a_message_that_is_too_long_is_passed_over(
    peer: tuple[Connection, socket.socket], long: bytes
) -> None:
    connection, other = peer
    other.setblocking(False)
    waiting, found = READY + _frame(b"before", 0) + long + _frame(b"after", 0), []
    while waiting:
        with suppress(BlockingIOError):
            waiting = waiting[other.send(waiting) :]
        found += connection.receive()
        assert len(connection._in) + len(connection._part) + sum(map(len, connection._parts)) < (
            2 * MESSAGE_BYTES
        )
    found += received(connection, 2 - len(found))
    assert found == [[b"before"], [b"after"]]


def test_a_frame_of_any_announced_size_takes_no_memory(
    peer: tuple[Connection, socket.socket],
) -> None:
    connection, other = peer
    other.sendall(READY + b"\x02" + (2**63).to_bytes(8) + bytes(1000))
    assert received(connection, 0) == connection.receive() == []
    assert len(connection._part) == 0


def test_the_other_side_gone_is_no_fault(peer: tuple[Connection, socket.socket]) -> None:
    connection, other = peer
    other.sendall(READY)
    other.close()
    for _ in range(3):
        connection.receive()
        connection.send([b"x" * 100_000] * 10)
    assert connection.fileno() == -1
