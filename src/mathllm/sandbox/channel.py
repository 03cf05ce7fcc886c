"""Blocks to a kernel and what comes back, over Jupyter's messages on Unix sockets.

What is received was written by a program that may be hostile: sizes are bounded, and what makes
no sense is passed over.
"""

import json
import math
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.session import Session

# A kernel cuts its output itself; these bound what one that does not can make us hold.
MESSAGE_BYTES = 256 << 10
MESSAGES = 64
TICK_MS = 50  # between two looks at the clock and the process
SEND_MS = 1000  # for a message to be taken over by the socket's thread
ASK_SECONDS = 0.5  # between two questions to a kernel that has not answered yet
PORTS = {"shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 5}


class Channel:
    """One kernel's two sockets: blocks go to the shell, text comes from iopub."""

    def __init__(self, folder: Path, chars: int):
        self.connection = folder / "connection.json"
        self._address = folder / "socket"
        self._chars = chars
        self._session = Session(key=uuid.uuid4().hex.encode(), signature_scheme="hmac-sha256")
        self._context: zmq.Context | None = None
        self._heard: set[str] = set()
        self._asked = -math.inf

    def describe(self) -> None:
        """Write the file from which the kernel takes its addresses and the key."""
        # "ip" is the sockets' common prefix, and a port the number behind it.
        known = {"transport": "ipc", "ip": str(self._address), **PORTS, "kernel_name": ""}
        known |= {"key": self._session.key.decode(), "signature_scheme": "hmac-sha256"}
        self.connection.write_text(json.dumps(known))

    def open(self) -> None:
        """Connect; the kernel need not be there yet."""
        self._context = zmq.Context()
        self._context.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES)
        self._context.setsockopt(zmq.RCVHWM, MESSAGES)
        self._context.setsockopt(zmq.LINGER, 0)
        self._context.setsockopt(zmq.SNDTIMEO, SEND_MS)
        self._shell = self._context.socket(zmq.DEALER)
        self._iopub = self._context.socket(zmq.SUB)
        self._iopub.subscribe(b"")
        self._shell.connect(f"ipc://{self._address}-{PORTS['shell_port']}")
        self._iopub.connect(f"ipc://{self._address}-{PORTS['iopub_port']}")
        self._poller = zmq.Poller()
        self._poller.register(self._shell, zmq.POLLIN)
        self._poller.register(self._iopub, zmq.POLLIN)

    def close(self) -> None:
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None

    def answered(self) -> bool:
        """Whether both sockets have answered, so that no later message is missed.

        Asks now and then, and does not wait.
        """
        if time.monotonic() - self._asked > ASK_SECONDS:
            self._asked = time.monotonic()
            with suppress(zmq.Again):
                self._session.send(self._shell, "kernel_info_request", {})
        self._heard |= {name for name, _ in self._receive(0)}
        return len(self._heard) == 2

    def send(self, code: str) -> "Pending":
        """Hand over a block; `wait` for it on what this returns."""
        content = {
            "code": code.encode("utf-8", "replace").decode("utf-8"),  # lone surrogates
            "silent": False,
            "store_history": True,  # so that blocks are told apart in exceptions
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        request = self._session.msg("execute_request", content)
        with suppress(zmq.Again):  # taken by nobody: then the block runs out of its time
            self._session.send(self._shell, request)
        return Pending(self, request["header"]["msg_id"], self._chars)

    def _receive(self, wait_ms: int) -> list[tuple[str, dict[str, Any]]]:
        """What has come by now or comes within a time, one message a socket at the most."""
        received = []
        for socket, _ in self._poller.poll(wait_ms):
            try:
                _, message = self._session.recv(socket, mode=zmq.NOBLOCK)
            except Exception:  # forged, cut short, nested too deeply: anything may be wrong
                continue
            if isinstance(message, dict):
                received.append(("shell" if socket is self._shell else "iopub", message))
        return received


class Pending:
    """A block that runs: its text so far, and its status once the kernel has answered."""

    def __init__(self, channel: Channel, request: str, chars: int):
        self._channel = channel
        self._request = request
        # The head, the tail and the note of a kernel that cuts its output itself.
        self._room = chars + 200
        self._idle = False
        self._parts: list[str] = []
        self.status: str | None = None

    @property
    def text(self) -> str:
        text = "".join(self._parts).strip("\n")
        # A surrogate on its own is no text that could be written anywhere.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def wait(self, deadline: float, alive: Callable[[], bool]) -> bool:
        """Whether the block came to its end; False at the deadline or the kernel's death."""
        while not (self._idle and self.status):
            # In this order, so that what a dead kernel had sent is still read.
            living = alive()
            received = self._channel._receive(TICK_MS)
            for name, message in received:
                try:
                    self._take(name, message)
                except (KeyError, TypeError, AttributeError):  # no message of a real kernel
                    continue
            if time.monotonic() > deadline or not (living or received):
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
            self._idle = True
        elif name == "shell" and kind == "execute_reply":
            self.status = str(content["status"])
