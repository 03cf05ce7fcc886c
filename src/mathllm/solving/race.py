"""Attempts at one problem side by side, until the vote over them is decided or time is up.

Whoever ends, or closes a box in the middle, is put to the vote at once. A decided vote cancels
the others.
"""

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

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


@dataclass(frozen=True)
class Drawn:
    """An attempt as it went: its ballot in the end, and `boxes`, the answers that it had put to
    the vote after so many of its `seconds`. `cut`: it was ended from outside."""

    ballot: Ballot
    seconds: float
    boxes: Sequence[tuple[float, int]] = ()
    cut: bool = False


@dataclass(frozen=True)
class Played:
    """What `play` puts to the vote, in the order of the attempts; after how many seconds, and
    how many attempts had begun. `cut`: it went on behind the end of an attempt that was cut."""

    ballots: list[Ballot]
    seconds: float
    begun: int
    cut: bool


def play(
    drawn: Sequence[Drawn],
    settings: SolverSettings,
    at_once: int = 0,
    seconds: float = math.inf,
) -> Played:
    """What `race` would make of attempts whose way is known, within so many seconds.

    `at_once` of them run side by side (0: all), each as fast as it was. One that is still
    running when the vote is decided counts with the box it has, and with the measures of its end.
    """
    total, begun = len(drawn), min(at_once or len(drawn), len(drawn))
    events = [event for place in range(begun) for event in _events(drawn, place, 0.0)]
    heapify(events)
    ballots: dict[int, Ballot] = {}
    ended: set[int] = set()
    cut = False
    while events:
        now, _, place, answer = events[0]
        if now > seconds:
            return Played(_in_order(ballots), seconds, begun, cut)
        heappop(events)
        one = drawn[place]
        ballots[place] = one.ballot if answer is None else replace(one.ballot, answer=answer)
        if answer is None:
            ended.add(place)
            cut = cut or one.cut
        there, running = _in_order(ballots), begun - len(ended)
        if (running or len(there) < total) and decided(
            there,
            max(total, len(there) + (running > 0)),
            settings.voting,
            settings.agreement,
            settings.lead,
        ):
            return Played(there, now, begun, cut)
        if answer is None and begun < total:
            for event in _events(drawn, begun, now):
                heappush(events, event)
            begun += 1
    return Played(_in_order(ballots), now if drawn else 0.0, begun, cut)


def _events(
    drawn: Sequence[Drawn], place: int, began: float
) -> Iterator[tuple[float, bool, int, int | None]]:
    """When attempt `place` has something for the vote: a box's answer, or None for its end."""
    one = drawn[place]
    for seconds, answer in one.boxes:
        yield began + min(seconds, one.seconds), False, place, answer
    yield began + one.seconds, True, place, None


def _in_order(ballots: Mapping[int, Ballot]) -> list[Ballot]:
    return [ballots[place] for place in sorted(ballots)]
