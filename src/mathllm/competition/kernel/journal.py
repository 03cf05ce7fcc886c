"""The journal of a run: one JSON object a line, on disk before the next thing happens.

    start       pid, package (folder the code came from), rerun, bundle (its identity)
    wheels      installed and present: packages that the image was to lack; folder
    listening   package (the competition's, or ours in its place), version of the evaluation API,
                port when it is known: the gateway can connect
    loaded      seconds the solver took to load
    fault       cause: what went wrong, apart from a problem's own
    answer      id, problem (digest of its text), answer, votes (answer -> weight), samples,
                without_answer (of them), calls (programs run), reason, tokens, seconds,
                allowance (seconds given), tokens_per_second, fault (cause or null), faults
                (what failed on the way), tool_faults (reason -> programs that failed so),
                budget_left (seconds), budget_used (share)
    warning     cause: what a module of ours logged, such as memory that ran out and was saved
    again       id, answer: seen before, answered from this journal
    end         cause

Every line also has `event` and `time` (seconds since 1970).
"""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NAME = "journal.jsonl"


class Journal:
    """Appends events to `path`; a new run begins it anew, a restarted one goes on.

    Raises OSError if it cannot.
    """

    def __init__(self, path: Path, restarted: bool = False):
        self.path = path
        if restarted and path.is_file():
            _drop_half_a_line(path)
        self._file = path.open("a" if restarted else "w", encoding="utf-8")

    def write(self, event: str, **values: Any) -> None:
        self._file.write(json.dumps({"event": event, "time": time.time(), **values}) + "\n")
        self._file.flush()


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


def _drop_half_a_line(path: Path) -> None:
    """What a killed process left without its end."""
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        path.write_bytes(whole)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The events so far, without a last line that is still being written; [] for no file."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines[:-1]]


def is_unfinished(path: Path, hours: float) -> bool:
    """Whether a run of the last `hours` ended in the middle: killed, not done."""
    events = read_journal(path)
    if not events or any(event["event"] == "end" for event in events):
        return False
    return time.time() - events[0]["time"] < hours * 3600


def votes_text(answer: dict[str, Any]) -> str:
    """Weight of the answer given, and samples drawn, as "3/4"; of a journal's answer."""
    return f"{answer['votes'].get(str(answer['answer']), 0):g}/{answer['samples']}"
