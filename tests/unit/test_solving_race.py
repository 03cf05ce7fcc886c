"""Attempts side by side: none waits for another, and a decided vote ends the rest at once."""

import json
import random
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from helpers.odd_server import STREAM, event, serving
from helpers.scripted import make_tokenizer
from mathllm.engines.base import Completion, Sample
from mathllm.engines.remote import RemoteEngine
from mathllm.evaluation.drawn import read_drawn
from mathllm.evaluation.replay import play_rule
from mathllm.solving import Solver, SolverSettings
from mathllm.solving.dialects import ChatML
from mathllm.solving.records import AttemptsFile, Rules
from mathllm.solving.solver import sample_seed

STEP = "```python\nprint(1)\n```\n```output"


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@dataclass
class Sessions:
    """Tools that count what is open; `run` takes `seconds`, or until it is cancelled."""

    size: int = 8
    seconds: float = 0.0
    open: int = 0
    ran: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def session(self, _deadline=None):
        with self.lock:
            self.open += 1
        over = threading.Event()
        try:
            yield SimpleNamespace(run=lambda *_: self._run(over), cancel=over.set)
        finally:
            with self.lock:
                self.open -= 1

    def _run(self, over):
        over.wait(self.seconds)
        with self.lock:
            self.ran += 1
        return SimpleNamespace(output="1", fault=None)


class Timed:
    """An engine whose turns take their time: `turns(seed)` gives (seconds, text) of a turn."""

    max_positions = 100_000

    def __init__(self, tokenizer, turns):
        self.tokenizer, self.turns = tokenizer, turns

    def start(self, _prompt, config, seed):
        sample = Sample(config)
        seconds, text = self.turns(seed)
        threading.Thread(target=self._say, args=(sample, seconds, text), daemon=True).start()
        return sample

    def _say(self, sample, seconds, text):
        until = time.monotonic() + seconds
        while time.monotonic() < until and not sample.done:
            time.sleep(min(0.02, max(0.0, until - time.monotonic())))
            sample.end_if_asked()
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not sample.done:
            sample.completion.tokens += tokens
            sample.completion.entropy += [0.1] * len(tokens)
            sample.end("stop")


def numbers(attempts, turns):
    """seed -> (attempt, turn) of problem "p"."""
    return {
        sample_seed(0, "p", k, turn): (k, turn) for k in range(attempts) for turn in range(turns)
    }


def test_four_that_agree_end_the_other_four_and_their_connections(tokenizer):
    """Behind a server: the answer within a second, connections closed, sessions given back."""
    fast, closed, lock, second = 0.5, [], threading.Lock(), []
    ids = tokenizer(r"\boxed{7}", add_special_tokens=False)["input_ids"]
    program = tokenizer(STEP, add_special_tokens=False)["input_ids"]

    def answer(connection, body):
        prompt = json.loads(body)["prompt"]
        connection.sendall(STREAM)
        if program[-1] not in prompt[-30:]:  # each begins with a program
            connection.sendall(event(text=STEP, token_ids=program, finish_reason="stop"))
            return
        with lock:
            second.append(prompt)
            quick = len(second) <= 4
        if quick:
            time.sleep(fast)
            connection.sendall(event(text="x", token_ids=ids, finish_reason="stop"))
        else:
            connection.sendall(event(text="a", token_ids=ids[:1]))
            connection.settimeout(60)
            closed.append(connection.recv(1) == b"")

    tools = Sessions()
    with serving(answer) as (url, _):
        settings = SolverSettings(n_samples=8, agreement=4, max_new_tokens=200)
        remote = RemoteEngine(url, "any", ChatML(tokenizer), 1000)
        solver = Solver(remote, ChatML(tokenizer, tools=True), settings, tools)
        solution = solver.solve("p", "What?", 60.0)
        assert solution.answer == 7
        assert solution.reason == "4 of 8 votes; 4 agree on 7"
        assert fast <= solution.seconds < fast + 2.5  # two turns, two busy cores
        deadline = time.monotonic() + 1
        while (len(closed) < 4 or tools.open) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert closed == [True] * 4
    assert tools.open == 0
    assert [a.finish_reason for a in solution.attempts].count("cancelled") == 4


def lockstep(engine, seeds):
    """As the solver once did it: every turn waits for the slowest attempt."""
    waiting = list(seeds)
    turn = 0
    while waiting:
        begun = [
            (own, engine.start([1], SimpleNamespace(deadline=None, cancel=None), own[turn]))
            for own in waiting
        ]
        for _, sample in begun:
            sample.wait()
        waiting = [own for own, _ in begun if turn + 1 < len(own)]
        turn += 1


@pytest.mark.slow
def test_unequal_turns_take_as_long_as_the_longest_attempt(tokenizer):
    draw = random.Random(3)
    attempts, turns = 8, 5
    lengths = [[draw.choice([0.05, 0.1, 0.8]) for _ in range(turns)] for _ in range(attempts)]
    settings = SolverSettings(n_samples=attempts, max_new_tokens=4000, max_calls=turns)
    solver = Solver(None, ChatML(tokenizer, tools=True), settings, Sessions())
    places = numbers(attempts, turns)

    def said(seed):
        k, turn = places[seed]
        return lengths[k][turn], STEP if turn < turns - 1 else rf"\boxed{{{k}}}"

    solver.engine = engine = Timed(tokenizer, said)
    ideal = max(map(sum, lengths))
    began = time.monotonic()
    solution = solver.solve("p", "?")
    taken = time.monotonic() - began
    assert {a.answer for a in solution.attempts} == set(range(attempts))
    seeds = [[seed(turn) for turn in range(turns)] for seed in solver.asked("p", "?").seeds]
    began = time.monotonic()
    lockstep(engine, seeds)
    assert time.monotonic() - began > 1.1 * ideal
    assert taken <= 1.1 * ideal + 0.15  # for threads on two busy cores


def test_a_box_that_is_closed_in_the_middle_of_a_stream_is_put_to_the_vote(tokenizer):
    class Endless(Timed):
        def _say(self, sample, seconds, text):
            tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            more = self.tokenizer(" so", add_special_tokens=False)["input_ids"]
            while not sample.done:
                sample.completion.tokens += tokens[:1] or more
                sample.completion.entropy.append(0.1)
                tokens = tokens[1:]
                time.sleep(seconds)
                sample.end_if_asked()

    engine = Endless(tokenizer, lambda _: (0.01, r"It is \boxed{41}, no: \boxed{42}."))
    settings = SolverSettings(n_samples=3, max_new_tokens=10_000)
    solution = Solver(engine, ChatML(tokenizer), settings).solve("p", "?", 30.0)
    assert solution.answer == 42
    assert solution.seconds < 10
    assert "cannot be caught" in solution.reason or "of 3 votes" in solution.reason


@pytest.mark.parametrize("text", [r"\boxed{4", r"\boxed{4}", r"\boxed{4}2"])
def test_a_box_that_may_still_grow_is_no_answer_yet(tokenizer, text):
    class Pausing(Timed):
        def _say(self, sample, _seconds, text):
            sample.completion.tokens += self.tokenizer(text, add_special_tokens=False)["input_ids"]
            while not sample.done:
                time.sleep(0.02)
                sample.end_if_asked()

    engine = Pausing(tokenizer, lambda _: (0.0, text))
    told = []
    solver = Solver(engine, ChatML(tokenizer), SolverSettings(n_samples=2, agreement=1))
    solution = solver.solve("p", "?", 1.0, told.append)
    assert solution.seconds > 0.9
    assert all(not one.votes for one in told if one.seconds < 0.9)


def test_a_program_that_runs_is_ended_by_a_decided_vote(tokenizer):
    tools = Sessions(seconds=60.0)
    settings = SolverSettings(n_samples=4, agreement=3, max_new_tokens=500)
    solver = Solver(None, ChatML(tokenizer, tools=True), settings, tools)
    places = numbers(4, 1)
    solver.engine = Timed(
        tokenizer, lambda seed: (0.1, STEP) if places[seed][0] == 0 else (0.5, r"\boxed{5}.")
    )
    began = time.monotonic()
    assert solver.solve("p", "?", 50.0).answer == 5
    assert time.monotonic() - began < 5
    assert tools.open == 0


def test_128_turns_and_65536_positions_leave_each_turn_what_is_left(tokenizer):
    seen = []

    class Counting(Timed):
        max_positions = 65_536

        def start(self, prompt, config, seed):
            seen.append((len(prompt), config.max_new_tokens))
            return super().start(prompt, config, seed)

    engine = Counting(tokenizer, None)
    settings = SolverSettings(n_samples=1, max_new_tokens=65_536, max_calls=128)
    tools = Sessions()
    solver = Solver(engine, ChatML(tokenizer, tools=True), settings, tools)
    places = numbers(1, 129)
    engine.turns = lambda seed: (0.0, STEP if places[seed][1] < 128 else r"\boxed{12}.")
    solution = solver.solve("p", "?")
    assert solution.answer == 12
    assert solution.attempts[0].calls == tools.ran == 128
    assert len(seen) == 129
    assert all(used + room == 65_536 for used, room in seen)


@pytest.mark.slow
def test_an_attempt_that_never_comes_back_costs_no_more_than_its_time(tokenizer):
    class Deaf(Timed):
        def _say(self, sample, seconds, text):
            tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            if seconds:
                return  # says nothing, hears nothing
            sample.completion = Completion(tokens, [], [0.1] * len(tokens))
            sample.end("stop")

    solver = Solver(None, ChatML(tokenizer), SolverSettings(n_samples=3))
    places = numbers(4, 1)
    solver.engine = Deaf(
        tokenizer, lambda s: (float(places[s][0] == 0), rf"\boxed{{{places[s][0]}}}")
    )
    began = time.monotonic()
    solution = solver.solve("p", "?", 1.0)
    assert time.monotonic() - began < 1.0 + 4.9
    assert solution.answer == 1
    assert solution.hung  # whoever solves is replaced
    solver.engine = Deaf(tokenizer, lambda _: (0.0, r"\boxed{1}"))
    assert solver.solve("q", "?", 5.0).hung  # as long as it goes on
    assert [a.finish_reason for a in solution.attempts] == ["cancelled", "stop", "stop"]


@pytest.mark.parametrize(
    "rules",
    [
        {"agreement": 2},
        {"agreement": 3, "parallel": 2},
        {"lead": 1.5, "voting": "entropy", "parallel": 3},
        {"voting": "combined"},
    ],
)
def test_a_run_played_again_by_its_own_rules_has_its_own_answers(tokenizer, tmp_path, rules):
    """Twelve problems whose attempts take 0 to 0.3 s, some beyond the time that there is."""
    rng, count = random.Random(str(rules)), 6
    names = [f"p{n}" for n in range(12)]
    said = {
        sample_seed(0, name, k): (rng.random() * 0.3, rng.choice(["\\boxed{1}", "\\boxed{2}", "?"]))
        for name in names
        for k in range(count)
    }
    settings = SolverSettings(n_samples=count, max_new_tokens=500, **rules)
    solver = Solver(Timed(tokenizer, said.get), ChatML(tokenizer), settings)
    path = tmp_path / "attempts.parquet"
    file = AttemptsFile(path, Rules(n_samples=count, **rules))
    answers = []
    for name in names:
        solution = solver.solve(name, "?", seconds=0.25)
        answers.append(solution.answer)
        file.add(name, "", solution.attempts)
    own, problems = read_drawn([path])
    played = play_rule("", problems, own)
    assert played.answers == answers
    assert all(seconds < 0.5 for seconds in played.seconds)
