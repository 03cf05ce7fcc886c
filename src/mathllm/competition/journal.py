"""The journal of a run: one JSON object a line, on disk before the next thing happens.

Knows lines and files. Knows nothing of what an event means to its reader.

    start       pid, package (folder the code came from), rerun
    listening   package, port when it is known: the evaluation API can connect
    loaded      seconds the solver took to load
    fault       cause: what went wrong, apart from a problem's own
    answer      id, answer, votes (answer -> count), samples, reason, tokens, seconds,
                tokens_per_second, fault (cause or null), budget_left (seconds), budget_used
                (share)
    end         cause

Every line also has `event` and `time` (seconds since 1970).
"""

import json
import time
from pathlib import Path
from typing import Any

NAME = "journal.jsonl"


class Journal:
    """Appends events to `path`, which a new run begins anew. Raises OSError if it cannot."""

    def __init__(self, path: Path):
        self.path = path
        self._file = path.open("w", encoding="utf-8")

    def write(self, event: str, **values: Any) -> None:
        self._file.write(json.dumps({"event": event, "time": time.time(), **values}) + "\n")
        self._file.flush()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The events so far, without a last line that is still being written; [] for no file."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines[:-1]]


def votes_text(answer: dict[str, Any]) -> str:
    """Votes for the answer given, of samples drawn, as "3/4"; of a journal's answer."""
    return f"{answer['votes'].get(str(answer['answer']), 0)}/{answer['samples']}"
