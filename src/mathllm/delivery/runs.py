"""A kernel's run on Kaggle: followed to its end, its output fetched and looked at."""

import contextlib
import json
import shutil
import threading
import time
from pathlib import Path

from mathllm.competition.protocol.submission_file import read_submission
from mathllm.delivery.client import Kaggle
from mathllm.delivery.replies import ENDED, LOG_NAME
from mathllm.errors import DeliveryError, ProblemFileError
from mathllm.settings import CURRENT

QUIET_SECONDS = 300.0  # without a line of the log, after which it is said that it still runs


def follow(kaggle: Kaggle, ref: str) -> tuple[str, str]:
    """Say what the newest version's run prints, until it ends: (status, failure message).

    The log is a help, the status decides: a stream that is cut is opened again, and one
    that cannot be had does not keep the end from being seen.
    """
    log = _Log(kaggle, ref)
    started = time.monotonic()
    said, status = "", ""
    try:
        while True:
            status, message = kaggle.run_status(ref)
            if status != said:
                minutes = (time.monotonic() - started) / 60
                kaggle.say(f"{ref}: {status.replace('_', ' ')}, {minutes:.0f} min")
                said = status
            if status in ENDED:
                return status, message
            if status != "queued":
                log.start()
            if log.quiet_for() > QUIET_SECONDS:
                minutes = (time.monotonic() - started) / 60
                kaggle.say(f"{ref}: {status}, {minutes:.0f} min, nothing new in its log")
                log.touch()
            time.sleep(kaggle.policy.poll)
    finally:
        log.stop(wait=status in ENDED)


class _Log:
    """The log's stream, said as it comes, by a thread that nothing waits for."""

    def __init__(self, kaggle: Kaggle, ref: str):
        self._kaggle, self._ref = kaggle, ref
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stopped = threading.Event()
        self._seen = 0
        self.touch()

    def start(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    def stop(self, wait: bool) -> None:
        """With `wait`, what the run said last has some seconds to arrive."""
        if wait and self._thread.ident is not None:
            self._thread.join(5.0)
        self._stopped.set()

    def touch(self) -> None:
        self._heard = time.monotonic()

    def quiet_for(self) -> float:
        return time.monotonic() - self._heard

    def _run(self) -> None:
        while not self._stopped.is_set():
            # Whatever the stream raises: it is opened again, from the start of the log.
            with contextlib.suppress(Exception):
                for number, text in enumerate(self._kaggle.log(self._ref), 1):
                    if self._stopped.is_set():
                        return
                    if number > self._seen:
                        self._seen = number
                        self.touch()
                        self._kaggle.say(f"  | {text.rstrip()}")
                return
            self._stopped.wait(min(self._kaggle.policy.poll, 5.0))


def fetch_output(kaggle: Kaggle, ref: str, folder: Path) -> Path:
    """Download what the run left into `folder`, whole or not at all; returns `folder`."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        kaggle.download_output(ref, part)
        shutil.rmtree(folder, ignore_errors=True)
        return part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def check_output(folder: Path, slug: str) -> int:
    """Rows of the submission that a commit run wrote. Raises DeliveryError without a good one."""
    path = folder / CURRENT.submission_file
    log = folder / LOG_NAME.format(slug=slug)
    where = f"its log is {log}" if log.is_file() else "it left no log"
    if not path.is_file():
        raise DeliveryError(f"the run wrote no {CURRENT.submission_file}: {where}")
    try:
        return len(read_submission(path))
    except ProblemFileError as fault:
        raise DeliveryError(f"{fault}; {where}") from fault


def last_lines(folder: Path, slug: str, count: int = 15) -> str:
    """The end of the log that was fetched, for a run that failed."""
    log = folder / LOG_NAME.format(slug=slug)
    if not log.is_file():
        return ""
    text = log.read_text(encoding="utf-8", errors="replace")
    with contextlib.suppress(ValueError, TypeError, KeyError):  # Kaggle's is JSON, events in a list
        text = "".join(event["data"] for event in json.loads(text))
    return "\n".join(text.splitlines()[-count:])
