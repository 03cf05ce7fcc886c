"""The journal of a run: one JSON object a line, on disk before the next thing happens.

    start       pid, package (folder the code came from), rerun, bundle (its identity)
    leftovers   ended (commands) and removed (folders): of a kernel that was killed
    wheels      installed and present: packages that the image was to lack; folder
    listening   package (the competition's, or ours in its place), version of the evaluation API,
                port when it is known: the gateway can connect
    prefetch    files, bytes and seconds: weights of the endpoint's server that were read ahead
    server      number (the first is 1), seconds until the endpoint's server answered, and
                first_token_seconds that it took to generate
    silent      cause: no sample gets a token from the endpoint any more
    worker      pid of the process that solves, number (the first is 1)
    loaded      seconds the solver took to load
    fault       cause: what went wrong, apart from a problem's own; stack where something hung;
                log: a server's last lines
    answer      id, problem (digest of its text), answer, votes (answer -> weight), samples,
                without_answer (of them), calls (programs run), reason, tokens, seconds,
                allowance (seconds given), waited (of the seconds, for the solver to load),
                tokens_per_second, fault (cause or null), faults
                (what failed on the way), tool_faults (reason -> programs that failed so),
                budget_left (seconds), budget_used (share)
    warning     cause: what a module of ours logged, such as memory that ran out and was saved
    again       id, answer: seen before, answered from this journal
    end         cause, lost (events that could not be written), why

Every line also has `event` and `time` (seconds since 1970).
"""

import json
import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import NoneType
from typing import Any

NAME = "journal.jsonl"
# Of an answer, what whoever reads it relies on.
_ANSWER = {
    "id": (int, str),
    "answer": int,
    "problem": str,
    "votes": dict,
    "samples": int,
    "reason": str,
    "seconds": (int, float),
    "allowance": (int, float),
    "waited": (int, float),
    "tokens_per_second": (int, float),
    "fault": (str, NoneType),
    "faults": list,
    "tool_faults": dict,
    "budget_used": (int, float),
}
_FIELDS = {"answer": _ANSWER, "loaded": {"seconds": (int, float)}, "start": {"pid": int}}


class Journal:
    """Appends events to `path`; a new run begins it anew, a restarted one goes on.

    `strict`, as a commit run is: raises OSError if it cannot. If not, nothing is ever raised:
    what cannot be written is counted in `lost`, and `why` says what was in the way last.
    """

    def __init__(self, path: Path, restarted: bool = False, strict: bool = True):
        self.path, self.strict = path, strict
        self.lost, self.why = 0, ""
        self._file: int | None = None
        self._lock = threading.Lock()
        self._flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if restarted else os.O_TRUNC)
        # A killed process may have left half a line.
        self._torn = restarted
        try:
            self._open()
        except OSError as fault:
            self._cannot(fault)

    def write(self, event: str, **values: Any) -> None:
        """One line. Values that JSON has no form for become text or null."""
        line = _line({"event": event, "time": time.time(), **values})
        with self._lock:
            try:
                self._open()
                self._append(line)
            except OSError as fault:
                self.lost += 1
                self._cannot(fault)

    def _open(self) -> None:
        if self._file is None:
            self._file = os.open(self.path, self._flags, 0o644)
            self._flags &= ~os.O_TRUNC

    def _append(self, line: bytes) -> None:
        left = b"\n" + line if self._torn else line
        while left:
            self._torn = True
            left = left[os.write(self._file, left) :]
        self._torn = False

    def _cannot(self, fault: OSError) -> None:
        if self.strict:
            raise fault
        self.why = f"{self.path.name} cannot be written: {fault.strerror or fault}"


def _line(entry: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(entry, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        text = json.dumps(_plain(entry, 5), allow_nan=False)
    return f"{text}\n".encode()


def _plain(value: Any, depth: int) -> Any:
    """The same in JSON's own types: odd values as text, numbers that are none as null."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth and isinstance(value, dict):
        return {str(key): _plain(inner, depth - 1) for key, inner in value.items()}
    if depth and isinstance(value, (list, tuple)):
        return [_plain(inner, depth - 1) for inner in value]
    with suppress(Exception):
        return str(value)
    return f"a {type(value).__name__} that cannot be shown"


@contextmanager
def warnings_to(journal: Journal) -> Iterator[None]:
    """What the package logs as a warning is written to the journal, too."""
    handler, logger = _Handler(journal), logging.getLogger("mathllm")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Handler(logging.Handler):
    def __init__(self, journal: Journal):
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """One line; a full disk is no reason to fail here."""
        with suppress(OSError):
            self._journal.write("warning", cause=record.getMessage())


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The events so far, past lines that are damaged; [] for no file.

    Those of another run's leftovers, of a full disk, and a last one that is being written.
    """
    try:
        # A device in its place may have no end.
        lines = path.read_bytes().split(b"\n") if path.is_file() else []
    except OSError:
        return []
    return [event for line in lines[:-1] if (event := _event(line)) is not None]


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("event"), str):
        return None
    wanted = {"time": (int, float), **_FIELDS.get(entry["event"], {})}
    whole = all(isinstance(entry.get(name), kind) for name, kind in wanted.items())
    return entry if whole else None


def is_unfinished(path: Path, hours: float) -> bool:
    """Whether a run of the last `hours` ended in the middle: killed, not done."""
    events = read_journal(path)
    if not events or any(event["event"] == "end" for event in events):
        return False
    return time.time() - events[0]["time"] < hours * 3600


def votes_text(answer: dict[str, Any]) -> str:
    """Weight of the answer given, and samples drawn, as "3/4"; of a journal's answer."""
    return f"{answer['votes'].get(str(answer['answer']), 0):g}/{answer['samples']}"
