"""A proxy on loopback that ends the connection after every reply.

    python -m mathllm.competition.rehearsal.flaky_proxy SERVER_PORT PORT_FILE

Writes its own port to PORT_FILE. Stands between gateway and kernel in a rehearsal with faults.
"""

import asyncio
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

FRAME_HEADER = 9  # bytes: length (3), type, flags, stream (4)
HEADERS, GOAWAY, END_STREAM = 0x1, 0x7, 0x1


class Frames:
    """The frames of one direction, as their bytes come."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[tuple[bytes, int, bool]]:
        """Whole frames: bytes, stream, and whether a reply ends with it (its trailers)."""
        self._buffer += data
        while len(self._buffer) >= FRAME_HEADER:
            length = int.from_bytes(self._buffer[:3])
            kind, flags = self._buffer[3], self._buffer[4]
            stream = int.from_bytes(self._buffer[5:9]) & 0x7FFFFFFF
            if len(self._buffer) < FRAME_HEADER + length:
                return
            frame = self._buffer[: FRAME_HEADER + length]
            self._buffer = self._buffer[FRAME_HEADER + length :]
            yield frame, stream, kind == HEADERS and bool(flags & END_STREAM)


def goaway(stream: int) -> bytes:
    """The frame that says that nothing after `stream` will be answered here."""
    return struct.pack(">I", 8)[1:] + bytes([GOAWAY, 0]) + struct.pack(">III", 0, stream, 0)


async def _serve(server_port: int, port_file: Path) -> None:
    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", server_port)

        async def forward() -> None:
            while data := await reader.read(65536):
                to_server.write(data)
                await to_server.drain()

        async def back() -> None:
            frames = Frames()
            while data := await from_server.read(65536):
                for frame, stream, ends in frames.feed(data):
                    writer.write(frame + (goaway(stream) if ends else b""))
                    await writer.drain()
                    if ends:
                        return

        tasks = [asyncio.create_task(forward()), asyncio.create_task(back())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for side in (writer, to_server):
            side.close()

    listener = await asyncio.start_server(between, "127.0.0.1", 0)
    new = port_file.with_suffix(".new")
    new.write_text(str(listener.sockets[0].getsockname()[1]), encoding="utf-8")
    new.rename(port_file)
    async with listener:
        await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Path(sys.argv[2])))
