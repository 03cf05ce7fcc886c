"""The few parts of ZeroMQ's protocol (ZMTP 3.0) that reach a kernel's sockets, within bounds.

libzmq bounds a message's parts and not the message: a program that sends parts without an end
fills the memory of whoever listens. Here a message that is too long is passed over as it comes,
and nothing is read that nobody asked for.
"""

import socket
from contextlib import suppress

MESSAGE_BYTES = 256 << 10
MESSAGE_PARTS = 32
CHUNK_BYTES = 64 << 10  # of one look
MORE, LONG, COMMAND = 1, 2, 4  # a frame's flags
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
SUBSCRIBE_ALL = b"\x01"


class Connection:
    """One connection to a Unix socket of the kernel's; nothing here waits."""

    def __init__(self, path: str, kind: str):
        self._path, self._kind = path, kind.encode()
        self._socket: socket.socket | None = None
        self._begin()

    def _begin(self) -> None:
        self._in, self._out = bytearray(), bytearray(GREETING)
        ready = b"\x05READY" + b"\x0bSocket-Type" + len(self._kind).to_bytes(4) + self._kind
        self._out += _frame(ready, COMMAND)
        # Messages wait for the other side's greeting and its first command, that it is ready.
        self._later = bytearray(_frame(SUBSCRIBE_ALL, 0) if self._kind == b"SUB" else b"")
        self._greeted = self._ready = False
        # The frame that is being read: its flags, how much of it is to come, what is there.
        self._flags, self._left, self._part = 0, None, bytearray()
        # The message that it belongs to: its parts, and their bytes and number as announced.
        self._parts: list[bytes] = []
        self._size = self._count = 0

    def connect(self) -> bool:
        """Whether the connection stands, or can be made now, anew where it broke."""
        if self._socket is None:
            self._begin()
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            made.setblocking(False)
            try:
                made.connect(self._path)
            except OSError:  # nobody listens yet
                made.close()
                return False
            self._socket = made
        return True

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()

    def is_full(self) -> bool:
        """Whether something waits until the other side takes it."""
        return bool(self._out)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def send(self, parts: list[bytes]) -> None:
        """A message, sent as far as the other side takes it; see `flush`."""
        for number, part in enumerate(parts, 1):
            self._later += _frame(part, MORE if number < len(parts) else 0)
        self.flush()

    def flush(self) -> None:
        """Send on what waits, as far as it is taken."""
        if self._ready:
            self._out += self._later
            self._later.clear()
        with suppress(OSError):  # full for now, or broken: then no answer comes
            while self._out and self._socket is not None:
                del self._out[: self._socket.send(self._out[:CHUNK_BYTES])]

    def receive(self) -> list[list[bytes]]:
        """The messages that are complete by now."""
        try:
            part = self._socket.recv(CHUNK_BYTES) if self._socket is not None else b""
        except BlockingIOError:
            return []
        except OSError:
            part = b""
        if not part:  # broken, by the program or its death
            self.close()
            return []
        self._in += part
        if not self._greeted:
            if len(self._in) < len(GREETING):
                return []
            del self._in[: len(GREETING)]
            self._greeted = True
        return self._messages()

    def _messages(self) -> list[list[bytes]]:
        """What is complete of what was read; a frame that has begun is kept in mind."""
        found, data, place = [], self._in, 0
        while True:
            if self._left is None:
                head = 9 if data[place : place + 1] and data[place] & LONG else 2
                if len(data) - place < head:
                    break
                self._flags = data[place]
                self._left = int.from_bytes(data[place + 1 : place + head])
                self._part = bytearray()
                place += head
                if not self._flags & COMMAND:
                    self._size += self._left
                    self._count += 1
            kept = self._size <= MESSAGE_BYTES and self._count <= MESSAGE_PARTS
            taken = min(self._left, len(data) - place)
            if kept and not self._flags & COMMAND:
                self._part += data[place : place + taken]
            place += taken
            self._left -= taken
            if self._left:
                break
            self._left = None
            if self._flags & COMMAND:
                self._ready = True
                continue
            self._parts = [*self._parts, bytes(self._part)] if kept else []
            if not self._flags & MORE:
                if kept:
                    found.append(self._parts)
                self._parts, self._size, self._count = [], 0, 0
        del data[:place]
        return found


def _frame(body: bytes, flags: int) -> bytes:
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | LONG]) + len(body).to_bytes(8) + body
