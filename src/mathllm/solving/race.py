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
from mathllm.solving.attempts import Asked, Runner, Tools
from mathllm.solving.outcomes import Attempt
from mathllm.solving.solution import SolverSettings, ballot_of
from mathllm.solving.voting import Ballot, decided

# For attempts that were cancelled to end by themselves; they are left behind then. Those that are
# late get longer: a pass of an engine may take so long.
GRACE_SECONDS, LATE_SECONDS = 0.7, 3.0

Told = Callable[[Sequence[Attempt]], None]
News = queue.SimpleQueue[tuple[int, Attempt, bool]]


@dataclass(frozen=True)
class Raced:
    """Attempts in the order of their numbers; `voters`, the same as they were when the vote was
    decided, without an answer where they had none yet; why no more were made, "" if all were;
    and who was left behind running, cancelled."""

    attempts: list[Attempt]
    voters: list[Attempt]
    why: str
    left: list[Runner]


def race(
    asked: Asked,
    engine: Engine,
    settings: SolverSettings,
    tools: Tools | None = None,
    told: Told = lambda _: None,
) -> Raced:
    """Attempts at one problem until the vote is decided, or time is up.

    `settings.parallel` of them run at once, at most as many as the tools have sessions. `told`
    gets the attempts so far whenever one has ended or has closed a box.
    """
    total = len(asked.seeds)
    at_once = min(settings.parallel or total, total, total if tools is None else tools.size)
    deadline = asked.config.deadline
    news: News = queue.SimpleQueue()
    runners: list[Runner] = []
    seen: dict[int, Attempt] = {}  # what was told last of each, in the order of time
    ended = 0
    why, decided_by = "", None

    def begin() -> None:
        number = len(runners)
        runner = Runner(asked, number, engine, tools, lambda *told: news.put(told))
        runners.append(runner)
        threading.Thread(target=runner.run, name="attempt", daemon=True).start()

    for _ in range(at_once):
        begin()
    while (running := len(runners) - ended) or len(runners) < total:
        wait = None if deadline is None else max(deadline - time.monotonic(), 0.0) + GRACE_SECONDS
        try:
            number, attempt, over = news.get(timeout=wait)
        except queue.Empty:
            break  # late, and they do not end by themselves
        seen[number] = attempt
        ended += over
        running = len(runners) - ended
        if decided_by := _decided(seen, total, running > 0, settings):
            why = decided_by
            break
        told([one.so_far() for one in runners])
        free = min(at_once - running, total - len(runners))
        if free and deadline is not None and time.monotonic() >= deadline:
            why = f"time was up after {len(runners)} samples"
            if not running:
                break
        elif free:
            for _ in range(free):
                begin()
    late = deadline is not None and time.monotonic() >= deadline
    _cancel(_running(runners), news, LATE_SECONDS if late else GRACE_SECONDS)
    attempts = [runner.so_far() for runner in runners]
    voters = attempts
    if decided_by:  # who ends or changes its mind from then on is no voter any more
        voters = [seen.get(n, replace(one, answer=None)) for n, one in enumerate(attempts)]
    return Raced(attempts, voters, why, _running(runners))


def _running(runners: Sequence[Runner]) -> list[Runner]:
    return [runner for runner in runners if runner.result is None]


def _decided(
    seen: Mapping[int, Attempt], total: int, running: bool, settings: SolverSettings
) -> str | None:
    """Why the vote over those that have ended, and those that have closed a box, is decided."""
    ballots = [ballot_of(seen[number]) for number in sorted(seen)]
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


def _cancel(running: Sequence[Runner], news: News, seconds: float) -> None:
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
    how many attempts had begun. `cut`: it went on behind the end of an attempt that was cut, or
    wanted more of them than there are."""

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
    # Some may never have been begun: the vote was decided without them.
    total = max(len(drawn), settings.n_samples)
    begun = min(at_once or len(drawn), len(drawn))
    events = [event for place in range(begun) for event in _events(drawn, place, 0.0)]
    heapify(events)
    ballots: dict[int, Ballot] = {}
    ended: set[int] = set()
    cut = False
    while events:
        now, _, place, answer = events[0]
        if now > seconds:
            for end, over, place, _ in events:  # what the limit itself has ended, as it was then
                if over and drawn[place].cut and end <= seconds + LATE_SECONDS:
                    ballots[place] = drawn[place].ballot
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
        if answer is None and begun < len(drawn):
            for event in _events(drawn, begun, now):
                heappush(events, event)
            begun += 1
    return Played(_in_order(ballots), now if drawn else 0.0, begun, cut or len(drawn) < total)


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
