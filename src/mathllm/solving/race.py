"""Attempts at one problem side by side, until the vote over them is decided or time is up.

Whoever ends, or closes a box in the middle, is put to the vote at once. A decided vote cancels
the others.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from mathllm.engines.base import Engine
from mathllm.solving.attempts import Asked, Attempt, Runner, Tools
from mathllm.solving.solution import SolverSettings, ballot_of
from mathllm.solving.voting import Ballot, decided

# For attempts that were cancelled to end by themselves; they are left behind then. Those that are
# late get longer: a pass of an engine may take so long.
GRACE_SECONDS, LATE_SECONDS = 0.7, 3.0

Told = Callable[[Sequence[Attempt]], None]


def race(
    asked: Asked,
    engine: Engine,
    settings: SolverSettings,
    tools: Tools | None = None,
    told: Told = lambda _: None,
) -> tuple[list[Attempt], str, list[Runner]]:
    """Attempts in the order of their numbers; why no more were made, "" if all were; and who was
    left behind running, cancelled.

    `settings.parallel` of them run at once, at most as many as the tools have sessions. `told`
    gets the attempts so far whenever one has ended or has closed a box.
    """
    total = len(asked.seeds)
    at_once = min(settings.parallel or total, total, total if tools is None else tools.size)
    deadline = asked.config.deadline
    news: queue.SimpleQueue[Runner] = queue.SimpleQueue()
    runners: list[Runner] = []
    why = ""

    def begin() -> None:
        runner = Runner(asked, len(runners), engine, tools, news.put)
        runners.append(runner)
        threading.Thread(target=_run, args=(runner, news), name="attempt", daemon=True).start()

    for _ in range(at_once):
        begin()
    while (running := _running(runners)) or len(runners) < total:
        wait = None if deadline is None else max(deadline - time.monotonic(), 0.0) + GRACE_SECONDS
        try:
            news.get(timeout=wait)
        except queue.Empty:
            break  # late, and they do not end by themselves
        running = _running(runners)
        if why := _decided(runners, total, bool(running), settings) or "":
            break
        told([one.so_far() for one in runners])
        free = min(at_once - len(running), total - len(runners))
        if free and deadline is not None and time.monotonic() >= deadline:
            why = f"time was up after {len(runners)} samples"
            if not running:
                break
        elif free:
            for _ in range(free):
                begin()
    late = deadline is not None and time.monotonic() >= deadline
    _cancel(_running(runners), news, LATE_SECONDS if late else GRACE_SECONDS)
    return [runner.so_far() for runner in runners], why, _running(runners)


def _running(runners: Sequence[Runner]) -> list[Runner]:
    return [runner for runner in runners if runner.result is None]


def _decided(
    runners: Sequence[Runner], total: int, running: bool, settings: SolverSettings
) -> str | None:
    """Why the vote over those that have ended, and those that have closed a box, is decided."""
    ballots = [
        ballot_of(one.so_far())
        for one in runners
        if one.result is not None or one.answer is not None
    ]
    if not running and len(ballots) == total:
        return None  # all of them are there: nothing is left to decide
    # Who runs on behind a box may still change its mind.
    total = max(total, len(ballots) + running)
    return decided(ballots, total, settings.voting, settings.agreement, settings.lead)


def all_of(
    asked: Sequence[Asked], engine: Engine, at_once: int, tools: Tools | None = None
) -> list[list[Attempt]]:
    """Every attempt at some problems, `at_once` of them side by side; no vote, no limit of time."""
    made = [[Runner(one, n, engine, tools) for n in range(len(one.seeds))] for one in asked]
    waiting = iter([runner for own in made for runner in own])
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                runner = next(waiting, None)
            if runner is None:
                return
            runner.run()

    count = min(at_once, sum(map(len, made)))
    workers = [threading.Thread(target=work, name="attempt", daemon=True) for _ in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [[runner.so_far() for runner in own] for own in made]


def _run(runner: Runner, news: "queue.SimpleQueue[Runner]") -> None:
    try:
        runner.run()
    finally:
        news.put(runner)


def _cancel(running: Sequence[Runner], news: "queue.SimpleQueue[Runner]", seconds: float) -> None:
    """End those that run, and wait so long for them."""
    for runner in running:
        runner.cancel()
    limit = time.monotonic() + seconds
    with suppress(queue.Empty):
        while _running(running):
            news.get(timeout=max(limit - time.monotonic(), 0.0))


def counted(
    ballots: Sequence[Ballot], lengths: Sequence[float], settings: SolverSettings, at_once: int
) -> list[Ballot]:
    """Those of all ballots that `race` puts to the vote where an attempt takes its `lengths`
    (seconds, or tokens at an even pace) and the vote is looked at when one ends; in order."""
    total, begun = len(ballots), min(at_once or len(ballots), len(ballots))
    running = [(lengths[place], place) for place in range(begun)]
    ended: list[int] = []
    while running:
        now, place = min(running)
        running.remove((now, place))
        ended.append(place)
        there = [ballots[place] for place in sorted(ended)]
        if decided(there, total, settings.voting, settings.agreement, settings.lead):
            return there
        if begun < total:
            running.append((now + lengths[begun], begun))
            begun += 1
    return list(ballots)
