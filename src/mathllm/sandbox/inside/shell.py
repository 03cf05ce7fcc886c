"""The kernel itself: what is preloaded, how values and exceptions look, how output is cut."""

import io
import json
import linecache
import os
import sys
from collections.abc import Callable
from typing import Any

# What a model takes for granted. The star comes last: its names are what is meant.
PRELOAD = """
import math, sympy, mpmath
import numpy as np
import sympy as sp
from sympy import *
"""
FRAMES = 3  # of the block's own lines in an exception's report
LINE_CHARS = 120


class Tap(io.TextIOBase):
    """Standard output that lets the head and the tail of a block's text through."""

    def __init__(self, stream: io.TextIOBase, chars: int):
        self._stream = stream
        self._tail_chars = chars // 2
        self._head_chars = chars - self._tail_chars
        self._begin()

    def _begin(self) -> None:
        self._room, self._tail, self._held = self._head_chars, "", 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        text.encode()  # raises for half a surrogate pair, as a terminal's own stream does
        self.show(text)
        return len(text)

    def show(self, text: str) -> None:
        if head := text[: self._room]:
            self._stream.write(head)
            self._room -= len(head)
        if rest := len(text) - len(head):
            self._held += rest
            last = text[max(len(head), len(text) - self._tail_chars) :]
            self._tail = (self._tail + last)[-self._tail_chars :]

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        """Stay open: what later blocks print comes through here too."""

    def set_parent(self, parent: dict[str, Any]) -> None:
        """ipykernel's word on which block the text from here on belongs to."""
        self._stream.set_parent(parent)

    def finish(self, *_: object) -> None:
        """At a block's end: say how much was cut, and let go of the tail."""
        if cut := self._held - len(self._tail):
            self._stream.write(f"\n[… {cut} characters cut …]\n")
        self._stream.write(self._tail)
        self._begin()


class Nowhere(io.TextIOBase):
    """Standard error: warnings are no answer to the model."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)

    def close(self) -> None:
        """Stay open: it serves all blocks."""


def serve(connection: str, output_chars: int) -> None:
    """Become the kernel that this connection file describes. Does not return."""
    from ipykernel import kernelapp
    from traitlets.config import Config

    # Its second way in, for the output of forked processes, is a TCP socket: there are
    # neither here.
    thread = kernelapp.IOPubThread
    kernelapp.IOPubThread = lambda socket, **more: thread(socket, **(more | {"pipe": False}))
    config = Config()
    config.IPKernelApp.connection_file = connection
    # What native code prints goes to the log, without a thread that forwards it.
    config.IPKernelApp.capture_fd_output = False
    config.HistoryManager.enabled = False
    config.InteractiveShell.cache_size = 0
    app = kernelapp.IPKernelApp.instance(config=config)
    app.initialize([])
    app.session.pack = _packer(app.session.pack)
    _prepare(app.shell, output_chars)
    app.start()


def _packer(usual: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """What turns a message's part into bytes, for text with lone surrogates in it too."""
    from jupyter_client.jsonutil import json_default

    def pack(part: Any) -> bytes:
        try:
            return usual(part)
        except UnicodeEncodeError:
            return json.dumps(part, default=json_default).encode()

    return pack


def _prepare(shell: Any, output_chars: int) -> None:
    # 2**100000 and its digits are everyday work here, and time is limited anyway.
    sys.set_int_max_str_digits(0)
    shell.ex(PRELOAD)
    # IPython's own would end the kernel; these end the block.
    shell.push({"exit": sys.exit, "quit": sys.exit})
    tap, nowhere = Tap(sys.stdout, output_chars), Nowhere()

    def restore(*_: object) -> None:
        sys.stdout, sys.stderr = tap, nowhere

    restore()
    shell.events.register("pre_run_cell", restore)
    shell.events.register("post_run_cell", tap.finish)
    # The kernel itself flushes what it finds there after a block.
    shell.events.register("post_run_cell", restore)
    shell.display_trap.hook = _shower(shell)
    shell.display_pub.publish = lambda data, **_: print(data.get("text/plain", ""))

    def show_error(*_: object, **__: object) -> None:
        # In half of what is let through, so that the tail holds all of it.
        tap.show(describe(sys.exc_info()[1], shell.user_global_ns)[: output_chars // 2] + "\n")
        shell._last_traceback = []  # the reply carries the plain type and message

    shell.showtraceback = shell.showsyntaxerror = show_error
    # IPython formats every exception for its history too: seconds, where it is a deep one.
    shell.InteractiveTB.structured_traceback = lambda *_, **__: []


def _shower(shell: Any) -> Callable[[Any], None]:
    """A display hook that prints, so that one limit holds for all text."""
    from IPython.lib.pretty import pretty

    def show(value: Any) -> None:
        if value is not None and not shell.displayhook.quiet():
            print(pretty(value))
            shell.user_ns["_"] = value

    return show


def describe(error: BaseException | None, namespace: dict[str, Any]) -> str:
    """Type, message, and the lines of the model's own code that led there."""
    kind = type(error).__name__
    try:
        message = str(error.msg if isinstance(error, SyntaxError) else error)
    except Exception:
        message = "(its message cannot be shown)"
    lines = [f"{kind}: {_short(message, 4 * LINE_CHARS)}" if message else kind]
    own, trace = [], error.__traceback__ if error else None
    while trace is not None:
        place = (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        # A line once, however deep it went into itself.
        if trace.tb_frame.f_globals is namespace and place not in own[-1:]:
            own.append(place)
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.lineno and error.text:
        lines.append(f"  line {error.lineno}: {_short(error.text.strip())}")
    else:
        # The outermost says where the block stood, the innermost what failed.
        shown = own if len(own) <= FRAMES else [own[0], *own[1 - FRAMES :]]
        for file, number in shown:
            text = linecache.getline(file, number).strip()
            lines.append(f"  line {number}: {_short(text)}" if text else f"  line {number}")
    return os.linesep.join(lines)


def _short(text: str, chars: int = LINE_CHARS) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "…"
