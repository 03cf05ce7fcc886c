"""Samples with tools: generate, run, go on; with an engine that follows a script."""

import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from helpers.scripted import Instant
from mathllm.data.chat import END_OF_TURN, end_of_turn_id
from mathllm.engines import Completion, SamplingConfig
from mathllm.engines.base import EngineError
from mathllm.solving import Solver, SolverSettings
from mathllm.solving.attempts import Asked
from mathllm.solving.dialects import ChatML
from mathllm.solving.outcomes import broken
from mathllm.solving.race import all_of
from mathllm.tiny.tokenizer import train_tokenizer

STEP = "Let us see.\n```python\nprint(6*7)\n```\n```output"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["So the answer is 42. ```python print ``` ```output"] * 3, 300)


@dataclass
class Script(Instant):
    """An engine that says the next text of each prompt's script; keeps what it was asked."""

    tokenizer: object
    texts: dict[str, str]
    calls: list[tuple] = field(default_factory=list)
    max_positions: int = 10_000

    def say(self, prompt, config, seed):
        self.calls.append((prompt, config, seed))
        text = self.tokenizer.decode(prompt)
        key = max((k for k in self.texts if text.endswith(k)), key=len)
        tokens = self.tokenizer(self.texts[key], add_special_tokens=False)["input_ids"]
        reason = "stop" if len(tokens) <= config.max_new_tokens else "length"
        tokens = tokens[: config.max_new_tokens]
        return Completion(tokens, [], [0.5] * len(tokens), [], reason)


@dataclass
class Result:
    output: str
    fault: str | None = None


@dataclass
class FakeTools:
    """Sessions that give a number of their own and count what they ran."""

    size: int = 4
    result: Result | None = None
    opened: int = 0
    closed: int = 0
    ran: list[tuple[int, str]] = field(default_factory=list)

    @contextmanager
    def session(self, _deadline=None):
        self.opened += 1
        number = self.opened
        tools = self

        class Session:
            def run(self, code, _deadline=None):
                tools.ran.append((number, code))
                return tools.result or Result("42")

            def cancel(self):
                tools.ran.append((number, "cancelled"))

        yield Session()
        self.closed += 1


class Plain(ChatML):
    """ChatML without a prompt around the problem."""

    def _prompt(self, problem):
        return self.encode(problem)


def attempts(tokenizer, engine, tools, count=1, limit=200, max_calls=4):
    dialect = Plain(tokenizer, tools=True)
    config = SamplingConfig(
        max_new_tokens=limit,
        temperature=0,
        stop_ids=frozenset({end_of_turn_id(tokenizer)}),
        stop_sequences=dialect.stop_sequences,
    )
    seeds = [lambda part, i=i: 10 * i + part for i in range(count)]
    asked = Asked("Q:", dialect, engine.max_positions, config, seeds, 0, 99999, max_calls)
    (drawn,) = all_of([asked], engine, 1, tools)
    return drawn


def test_a_program_is_run_and_its_output_goes_into_the_text(tokenizer):
    texts = {"Q:": STEP, "```output\n42\n```\n": rf"So it is \boxed{{42}}.{END_OF_TURN}"}
    engine, tools = Script(tokenizer, texts), FakeTools()
    (attempt,) = attempts(tokenizer, engine, tools)
    assert tools.ran == [(1, "print(6*7)\n")]
    assert attempt.text == STEP + "\n42\n```\nSo it is \\boxed{42}."
    assert (attempt.answer, attempt.calls, attempt.faults) == (42, 1, ())
    assert attempt.finish_reason == "stop"
    written = len(tokenizer("\n42\n```\n", add_special_tokens=False)["input_ids"])
    whole = len(tokenizer(attempt.text + END_OF_TURN, add_special_tokens=False)["input_ids"])
    assert attempt.tokens == whole - written  # what the tool wrote was not generated
    assert tools.opened == tools.closed == 1


def test_the_engine_is_told_to_stop_at_an_output_block_and_each_part_has_a_seed(tokenizer):
    engine = Script(tokenizer, {"Q:": STEP, "```output\n42\n```\n": END_OF_TURN})
    attempts(tokenizer, engine, FakeTools(), count=2)
    stop = tuple(tokenizer("```output", add_special_tokens=False)["input_ids"])
    assert {config.stop_sequences for _, config, _ in engine.calls} == {(stop,)}
    assert [seed for _, _, seed in engine.calls] == [0, 1, 10, 11]


def test_what_one_block_defines_the_next_one_sees(tokenizer):
    again = "Again.\n```python\nprint(x)\n```\n```output"
    texts = {
        "Q:": STEP,
        "print(6*7)\n```\n```output\n42\n```\n": again,
        "print(x)\n```\n```output\n42\n```\n": END_OF_TURN,
    }
    tools = FakeTools()
    (attempt,) = attempts(tokenizer, Script(tokenizer, texts), tools)
    assert tools.ran == [(1, "print(6*7)\n"), (1, "print(x)\n")]
    assert attempt.calls == 2


def test_samples_run_in_sessions_of_their_own(tokenizer):
    texts = {"Q:": STEP, "```output\n42\n```\n": END_OF_TURN}
    tools = FakeTools()
    attempts(tokenizer, Script(tokenizer, texts), tools, count=3)
    assert sorted(number for number, _ in tools.ran) == [1, 2, 3]
    assert tools.closed == 3


def test_calls_and_tokens_end(tokenizer):
    texts = {"Q:": STEP, "```output\n42\n```\n": STEP}
    tools = FakeTools()
    (attempt,) = attempts(tokenizer, Script(tokenizer, texts), tools, limit=2000, max_calls=3)
    assert attempt.calls == 3
    assert attempt.finish_reason == "stop"
    length = len(tokenizer(STEP, add_special_tokens=False)["input_ids"])
    (short,) = attempts(tokenizer, Script(tokenizer, texts), FakeTools(), limit=length + 2)
    assert short.finish_reason == "length"
    assert short.tokens == length


def test_an_output_block_without_a_program_ends_the_sample(tokenizer):
    tools = FakeTools()
    (attempt,) = attempts(tokenizer, Script(tokenizer, {"Q:": "I think ```output"}), tools)
    assert (tools.ran, attempt.calls) == ([], 0)


def test_what_a_tool_prints_cannot_end_the_turn(tokenizer):
    tools = FakeTools(result=Result(f"{END_OF_TURN} done", "timed out after 6 s"))
    texts = {"Q:": STEP, "done\n```\n": rf"\boxed{{7}}{END_OF_TURN}"}
    engine = Script(tokenizer, texts)
    (attempt,) = attempts(tokenizer, engine, tools)
    assert end_of_turn_id(tokenizer) not in engine.calls[1][0]
    assert attempt.answer == 7
    assert attempt.faults == ("timed out after 6 s",)


def test_no_more_run_at_once_than_the_tools_have_sessions(tokenizer):
    running, most = [], []

    class Counted(Script):
        def say(self, prompt, config, seed):
            running.append(1)
            most.append(len(running))
            time.sleep(0.2)
            said = super().say(prompt, config, seed)
            running.pop()
            return said

    engine = Counted(tokenizer, {"": rf"\boxed{{7}}{END_OF_TURN}"})
    settings = SolverSettings(n_samples=6, temperature=0)
    solver = Solver(engine, ChatML(tokenizer, tools=True), settings, FakeTools(size=2))
    solution = solver.solve("a", "What?")
    assert solution.answer == 7
    assert "cannot be caught" in solution.reason
    assert max(most) == 2


@pytest.mark.parametrize("end", ["", "\n```outp", END_OF_TURN], ids=["before", "in", "turn ended"])
def test_a_sample_whose_output_fence_was_cut_goes_on_behind_a_whole_one(tokenizer, end):
    program = "Let us see.\n```python\nprint(6*7)\n```"
    texts = {"Q:": program + end, "```output\n42\n```\n": r"So it is \boxed{42}."}
    (attempt,) = attempts(tokenizer, Script(tokenizer, texts), FakeTools())
    assert attempt.text == f"{program}\n```output\n42\n```\nSo it is \\boxed{{42}}."
    assert (attempt.answer, attempt.calls) == (42, 1)


class Failing(FakeTools):
    """Tools of which the first session can be had, and no other."""

    @contextmanager
    def session(self, deadline=None):
        if self.opened:
            raise RuntimeError("no kernel")
        with super().session(deadline) as session:
            yield session


def test_a_session_that_cannot_be_had_costs_its_own_sample(tokenizer):
    texts = {"Q:": STEP, "```output\n42\n```\n": r"So it is \boxed{42}."}
    whole, lost = attempts(tokenizer, Script(tokenizer, texts), Failing(), count=2)
    assert (whole.answer, whole.finish_reason) == (42, "stop")
    assert (lost.answer, lost.finish_reason, lost.broke) == (
        None,
        "fault",
        "RuntimeError: no kernel",
    )
    assert broken([whole, lost]) == "of 2 samples ended 1 by 'fault' (RuntimeError: no kernel)"


def test_a_session_that_breaks_while_it_runs_costs_its_own_sample(tokenizer):
    class Breaking(FakeTools):
        @contextmanager
        def session(self, deadline=None):
            with super().session(deadline) as session:
                if self.opened == 1:
                    session.run = lambda *_: 1 / 0
                yield session

    texts = {"Q:": STEP, "```output\n42\n```\n": r"So it is \boxed{42}."}
    drawn = attempts(tokenizer, Script(tokenizer, texts), Breaking(), count=2)
    assert [attempt.answer for attempt in drawn] == [None, 42]
    assert drawn[0].broke == "ZeroDivisionError: division by zero"


def test_an_engine_that_goes_away_behind_a_program_costs_its_own_sample(tokenizer):
    class Leaving(Script):
        def say(self, prompt, config, seed):
            if seed % 10:
                raise EngineError("gone")
            said = super().say(prompt, config, seed)
            if seed == 10:
                tokens = tokenizer(STEP)["input_ids"]
                said = Completion(tokens, [], [0.5] * len(tokens), [], "stop")
            return said

    engine = Leaving(tokenizer, {"Q:": r"So it is \boxed{42}."})
    done, lost = attempts(tokenizer, engine, FakeTools(), count=2)
    assert (done.answer, done.finish_reason) == (42, "stop")
    assert (lost.finish_reason, lost.broke) == ("fault", "EngineError: gone")
    assert lost.text.startswith(STEP)  # what it has stays
