"""Blocks to a kernel and what comes back, over Jupyter's messages on Unix sockets.

What is received was written by a program that may be hostile: sizes are bounded, and what makes
no sense is passed over.
"""

import json
import math
import select
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_client.session import Session

from mathllm.sandbox.wire import Connection
from mathllm.wording import writable

TICK_SECONDS = 0.05  # between two looks at the clock and the process
ASK_SECONDS = 0.5  # between two questions to a kernel that has not answered yet
# For a reply behind the word that the block is over. It does not come where it is too long: it
# quotes an exception's message whole.
REPLY_SECONDS = 1.0
PORTS = {"shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 5}


class Channel:
    """One kernel's two sockets: blocks go to the shell, text comes from iopub."""

    def __init__(self, folder: Path, chars: int):
        self.connection = folder / "connection.json"
        self._address = folder / "socket"
        self._chars = chars
        self._session = Session(key=uuid.uuid4().hex.encode(), signature_scheme="hmac-sha256")
        self._shell = Connection(f"{self._address}-{PORTS['shell_port']}", "DEALER")
        self._iopub = Connection(f"{self._address}-{PORTS['iopub_port']}", "SUB")
        self._heard: set[str] = set()
        self._asked = -math.inf

    def describe(self) -> None:
        """Write the file from which the kernel takes its addresses and the key."""
        # "ip" is the sockets' common prefix, and a port the number behind it.
        known = {"transport": "ipc", "ip": str(self._address), **PORTS, "kernel_name": ""}
        known |= {"key": self._session.key.decode(), "signature_scheme": "hmac-sha256"}
        self.connection.write_text(json.dumps(known))

    def close(self) -> None:
        self._shell.close()
        self._iopub.close()

    def answered(self) -> bool:
        """Whether both sockets have answered, so that no later message is missed.

        Asks now and then, and does not wait.
        """
        if self._shell.connect() and self._iopub.connect():
            if time.monotonic() - self._asked > ASK_SECONDS:
                self._asked = time.monotonic()
                self._shell.send(self._session.serialize(self._session.msg("kernel_info_request")))
            self._heard |= {name for name, _ in self._receive(0)}
        return len(self._heard) == 2

    def send(self, code: str) -> "Pending":
        """Hand over a block; `wait` for it on what this returns."""
        content = {
            "code": writable(code),
            "silent": False,
            "store_history": True,  # so that blocks are told apart in exceptions
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        request = self._session.msg("execute_request", content)
        self._shell.send(self._session.serialize(request))
        return Pending(self, request["header"]["msg_id"], self._chars)

    def _receive(self, seconds: float) -> list[tuple[str, dict[str, Any]]]:
        """What has come by now or comes within a time, with the socket's name."""
        named = {"shell": self._shell, "iopub": self._iopub}
        poller = select.poll()
        for one in named.values():
            if one.fileno() >= 0:
                poller.register(one, select.POLLIN | (select.POLLOUT if one.is_full() else 0))
        poller.poll(1000 * seconds)
        received = []
        for name, one in named.items():
            one.flush()
            for parts in one.receive():
                try:
                    message = self._session.deserialize(self._session.feed_identities(parts)[1])
                except Exception:  # forged, cut short, nested too deeply: anything may be wrong
                    continue
                received.append((name, message))
        return received


class Pending:
    """A block that runs: its text so far, and its status once the kernel has answered."""

    def __init__(self, channel: Channel, request: str, chars: int):
        self._channel = channel
        self._request = request
        # The head, the tail and the note of a kernel that cuts its output itself.
        self._room = chars + 200
        self._idle: float | None = None  # since when
        self._parts: list[str] = []
        self.status: str | None = None

    @property
    def text(self) -> str:
        return writable("".join(self._parts).strip("\n"))

    def wait(self, deadline: float, alive: Callable[[], bool]) -> bool:
        """Whether the block came to its end; False at the deadline or the kernel's death."""
        while self._idle is None or self.status is None:
            # In this order, so that what a dead kernel had sent is still read.
            living = alive()
            received = self._channel._receive(TICK_SECONDS)
            for name, message in received:
                try:
                    self._take(name, message)
                except (KeyError, TypeError, AttributeError):  # no message of a real kernel
                    continue
            now = time.monotonic()
            if self._idle is not None and now - self._idle > REPLY_SECONDS:
                self.status = self.status or "error"
            elif now > deadline or not (living or received):
                return False
        return True

    def _take(self, name: str, message: dict[str, Any]) -> None:
        if message["parent_header"].get("msg_id") != self._request:
            return
        kind, content = message["msg_type"], message["content"]
        if kind == "stream" and content["name"] == "stdout" and self._room:
            part = str(content["text"])[: self._room]
            self._room -= len(part)
            self._parts.append(part)
        elif kind == "status" and content["execution_state"] == "idle":
            self._idle = time.monotonic()
        elif name == "shell" and kind == "execute_reply":
            self.status = str(content["status"])
