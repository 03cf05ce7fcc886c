"""Servers that render messages themselves: thoughts, tools' calls, and what is odd of them."""

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.odd_server import MODELS, STREAM, say, serving
from helpers.paths import ROOT, shared_file
from mathllm.data.chat import load_file_tokenizer, load_tokenizer, prompt_ids
from mathllm.engines.base import EngineError, Messages, SamplingConfig
from mathllm.engines.remote_chat import RemoteChat
from mathllm.errors import ParameterError, WeightsError
from mathllm.solving import EngineSettings, Solver, SolverSettings
from mathllm.solving.chat import Chat
from mathllm.solving.dialects import ChatML, filled

TINY = ROOT / "assets" / "tiny" / "backbone"
END = b"data: [DONE]\n\n"


def delta(reason=None, logprobs=None, **values) -> bytes:
    choice = {"index": 0, "delta": values, "finish_reason": reason, "logprobs": logprobs}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def call(index=0, name=None, arguments=None, **more):
    function = {"name": name, "arguments": arguments}
    return {"index": index, "function": {k: v for k, v in function.items() if v is not None}} | more


class Sessions:
    """Tools that number the programs they are given."""

    size = 8

    def __init__(self, output=None):
        self.ran, self.output, self.lock = [], output, threading.Lock()

    @contextmanager
    def session(self, _deadline=None):
        yield SimpleNamespace(run=self._run, cancel=lambda: None)

    def _run(self, code, _deadline=None):
        with self.lock:
            self.ran.append(code)
            return SimpleNamespace(output=self.output or f"out {len(self.ran)}", fault=None)


def solve(answer, tools=None, positions=60_000, **settings):
    """One problem through a chat's server; the attempts, and the bodies that it was asked with."""
    asked, lock = [], threading.Lock()

    def counted(connection, body):
        with lock:
            asked.append(json.loads(body))
        connection.sendall(STREAM + answer(asked[-1], len(asked)) + END)

    with serving(counted) as (url, _):
        dialect = Chat(tools is not None)
        engine = RemoteChat(url, "any", dialect, positions)
        settings = {"n_samples": 1, "max_new_tokens": 5000, "max_calls": 10} | settings
        solver = Solver(engine, dialect, SolverSettings(**settings), tools, strict=False)
        solution = solver.solve("p", "What is 6 times 7?", 20.0)
    return solution, asked


def test_an_attempt_thinks_calls_its_tool_and_answers():
    program = json.dumps({"code": "print(6*7)"})

    def answer(_, turn):
        if turn == 1:
            return (
                delta(role="assistant", content="")
                + delta(reasoning_content="Let me ")
                + delta(reasoning_content="compute.")
                + delta(tool_calls=[call(0, "python", "", id="c1", type="function")])
                + delta(tool_calls=[call(0, None, program[:5])])
                + delta(tool_calls=[call(0, None, program[5:])])
                + delta("tool_calls")
            )
        return delta(content=r"So \boxed{4") + delta(content="2}.") + delta("stop")

    tools = Sessions("42\n")
    solution, asked = solve(answer, tools)
    (attempt,) = solution.attempts
    assert solution.answer == 42
    assert tools.ran == ["print(6*7)\n"]
    assert (attempt.turns, attempt.calls, attempt.finish_reason) == (2, 1, "stop")
    assert attempt.text.split("\n") == [
        "Let me compute.",
        *("```python", "print(6*7)", "```"),
        *("```output", "42", "```"),
        r"So \boxed{42}.",
    ]
    first, second = asked
    assert [m["role"] for m in first["messages"]] == ["system", "user"]
    assert "0 to 99999" in first["messages"][0]["content"]
    assert first["messages"][1]["content"] == "What is 6 times 7?"
    assert [tool["function"]["name"] for tool in first["tools"]] == ["python"]
    said, told = second["messages"][2:]
    assert said["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "python", "arguments": program}}
    ]
    assert said["reasoning_content"] == "Let me compute."
    assert told == {"role": "tool", "tool_call_id": "c1", "content": "42\n"}
    assert second["max_tokens"] < first["max_tokens"] == 5000


def test_two_calls_in_a_turn_and_an_unknown_tool_are_all_answered():
    def answer(_, turn):
        if turn == 1:
            calls = [
                call(0, "python", '{"code": "a"}', id="x"),
                call(1, "search", '{"query": "b"}', id="y"),
                call(2, "python", "c = 1", id="z"),  # no JSON: it is the program
            ]
            return delta(tool_calls=calls) + delta("tool_calls")
        return delta("stop", content=r"\boxed{7}")

    tools = Sessions()
    solution, asked = solve(answer, tools)
    assert solution.answer == 7
    assert [code for code in tools.ran if code.strip()] == ["a\n", "c = 1\n"]
    told = asked[1]["messages"][3:]
    assert [message["tool_call_id"] for message in told] == ["x", "y", "z"]
    assert told[1]["content"] == "There is no tool search; call python."


def test_without_tools_none_are_offered_and_a_call_ends_the_attempt():
    def answer(_, __):
        return delta(content=r"\boxed{5}", tool_calls=[call(0, "python", "{}")]) + delta("stop")

    solution, asked = solve(answer)
    assert solution.answer == 5
    assert "tools" not in asked[0]


def test_log_probabilities_are_those_of_the_tokens():
    content = [
        {"token": word, "logprob": -0.7, "top_logprobs": [{"token": word, "logprob": -0.7}]}
        for word in (r"\boxed", "{", "3", "}")
    ]

    def answer(_, __):
        return delta(reasoning="Hm.") + delta(
            "stop", content=r"\boxed{3}", logprobs={"content": content}
        )

    solution, asked = solve(answer)
    (attempt,) = solution.attempts
    assert (solution.answer, attempt.tokens) == (3, 3 + 4)  # two marks and a piece of thought
    half = 0.6931  # two ways as likely, nearly
    assert attempt.mean_entropy == pytest.approx(4 * half / 7, abs=0.02)
    assert asked[0]["top_logprobs"] == 5


def test_a_server_that_tells_no_log_probabilities_is_asked_without(caplog):
    def answer(connection, body):
        if b"top_logprobs" in body:
            connection.sendall(b"HTTP/1.1 400 No\r\n\r\nlogprobs are not supported")
        else:
            connection.sendall(STREAM + delta("stop", content="a"))

    with serving(answer) as (url, _):
        engine = RemoteChat(url, "any", Chat(), 1000)
        messages = Messages(({"role": "user", "content": "a"},), (), 5)
        rows = [engine.start(messages, SamplingConfig(), seed) for seed in range(3)]
        assert all(row.wait(10) and row.done for row in rows)
        assert {row.completion.finish_reason for row in rows} == {"stop"}
    assert sum("no log probabilities" in text for text in caplog.messages) >= 1


ODD = {
    "a delta that is text": b'data: {"choices": [{"index": 0, "delta": "a"}]}\n\n',
    "content that is a list": delta(content=[1]),
    "calls that are text": delta(tool_calls="python"),
    "a call that is a number": delta(tool_calls=[1]),
    "a function that is text": delta(tool_calls=[{"index": 0, "function": "python"}]),
    "arguments that are an object": delta(tool_calls=[call(0, "python", {"code": "a"})]),
    "calls that are mixed up": delta(
        tool_calls=[call(0, "python", "a"), call(1, "python", "b"), call(0, None, "c")]
    ),
    "a hundred calls": delta(tool_calls=[call(n, "python", "a") for n in range(100)]),
    "an end that is a list": delta(["stop"], content="a"),
    "an end that is an abort": delta("abort", content="a"),
    "a content filter": delta("content_filter", content="a"),
    "no end": delta(content="a"),
    "HTML": b"<html>Sign in</html>\n",
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_stream_costs_its_attempt_and_no_more(name):
    def answer(connection, _):
        connection.sendall(STREAM + (ODD[name] if not seen else delta("stop", content="a")) + END)
        seen.append(1)

    seen = []
    with serving(answer) as (url, _):
        engine = RemoteChat(url, "any", Chat(True), 1000)
        messages = Messages(({"role": "user", "content": "a"},), (), 5)
        rows = []
        for seed in (1, 2):
            rows.append(engine.start(messages, SamplingConfig(temperature=0), seed))
            assert rows[-1].wait(10)
    assert rows[0].completion.finish_reason == "fault"
    assert isinstance(rows[0].fault, EngineError)
    assert rows[1].completion.finish_reason == "stop"


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    *("content", "reasoning", "tool_calls", "function", "arguments", "index"),
                    *("name", "token", "logprob", "top_logprobs"),
                ]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@given(st.lists(st.tuples(values, values), max_size=4))
def test_any_events_are_read_or_refused(events):
    dialect = Chat(True)
    read = RemoteChat("http://127.0.0.1:9/v1", "any", dialect, 100)._reader()
    tokens = []
    for told, logprobs in events:
        try:
            found, own, entropy = read({"delta": told, "logprobs": logprobs})
        except EngineError:
            continue
        assert len(found) == len(own) == len(entropy)
        tokens += found
    conversation = dialect.begin("?", 1000, 10)
    programs = conversation.add(tokens, True)
    for _ in programs:
        conversation.reply("x" * 1000)
    assert isinstance(conversation.text(), str)
    json.dumps(conversation.prompt.said)


def test_what_is_too_long_is_said():
    dialect = Chat()
    conversation = dialect.begin("x" * 10_000, 1000, 500)
    assert "problem cut from 10000" in conversation.note
    assert len(conversation.prompt) <= 1000 - 250
    engine = RemoteChat("http://127.0.0.1:9/v1", "any", dialect, 100)
    with pytest.raises(ParameterError, match="about 750 tokens and the model 100 positions"):
        engine.start(Messages((), (), 750), SamplingConfig(), 1)
    with pytest.raises(ParameterError, match="takes messages, not token ids"):
        engine.start([1, 2], SamplingConfig(), 1)


def test_128_turns_with_outputs_of_a_megabyte_stay_in_the_context():
    """The tool's output is cut by the sandbox; here it is not, and the context ends the attempt."""
    tools = Sessions("9" * 2000)

    def answer(_, turn):
        if turn > 128:
            return delta("stop", content=r"\boxed{8}")
        return delta(tool_calls=[call(0, "python", "a")]) + delta("tool_calls")

    solution, asked = solve(answer, tools, 200_000, max_calls=128, max_new_tokens=190_000)
    assert (solution.answer, len(asked)) == (8, 129)
    solution, asked = solve(answer, tools, 10_000, max_calls=128, max_new_tokens=9000)
    (attempt,) = solution.attempts
    assert attempt.finish_reason == "length"
    assert asked[-1]["max_tokens"] > 0


@pytest.mark.parametrize(
    ("limits", "reason", "turns"),
    [({"turn_tokens": 3}, "length", 1), ({"sample_seconds": 0.6}, "deadline", 1)],
)
def test_a_turn_and_a_sample_have_limits_of_their_own(limits, reason, turns):
    def slow(connection, body):
        limit = json.loads(body)["max_tokens"]
        connection.sendall(STREAM)
        for number in range(min(limit, 40)):
            connection.sendall(delta(content=f"word {number} "))
            time.sleep(0.05)
        connection.sendall(delta("length"))

    with serving(slow) as (url, _):
        dialect = Chat()
        engine = RemoteChat(url, "any", dialect, 10_000)
        settings = SolverSettings(n_samples=1, max_new_tokens=500, **limits)
        began = time.monotonic()
        solution = Solver(engine, dialect, settings, strict=False).solve("p", "?", 30.0)
        assert time.monotonic() - began < 1.5
    (attempt,) = solution.attempts
    assert (attempt.finish_reason, attempt.turns) == (reason, turns)
    assert attempt.tokens >= 3


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"dialect": "chat"}, "positions is 0: chat needs"),
        ({"dialect": "chat", "positions": 100, "tokenizer": "x"}, "no tokenizer"),
        ({"dialect": "chatml", "positions": 100}, "tokenizer is ''"),
        ({"tokenizer": "x"}, "tokenizer is 'x', positions 0"),
        ({"positions": -1}, "positions is -1"),
        ({"user": "Solve it."}, "user is 'Solve it.': it must hold {problem} once"),
        ({"user": "{problem} {problem}"}, "must hold {problem} once"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, named):
    with pytest.raises(ParameterError, match=named):
        EngineSettings(endpoint="http://127.0.0.1:9/v1", endpoint_model="any", **settings)


ALONE = """
import sys
from pathlib import Path
from mathllm.solving import EngineSettings, SolverSettings, load_solver

url, dialect, folder = sys.argv[1:]
engine = EngineSettings(
    endpoint=url, endpoint_model="any", dialect=dialect, tokenizer=folder, positions=9000
)
settings = SolverSettings(n_samples=1, max_new_tokens=500)
solver = load_solver(Path("no weights"), settings, engine=engine)
print(solver.solve("p", "What?", 20.0).answer)
print(sorted({"torch", "transformers", "polars"} & set(sys.modules)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["chat", "chatml"])
def test_an_endpoint_alone_needs_no_weights_and_no_torch(dialect):
    asked = []

    def answer(connection, body):
        asked.append(body)
        if not body:
            connection.sendall(MODELS)
        elif dialect == "chat":
            connection.sendall(STREAM + delta("stop", content=r"\boxed{42}"))
        else:
            choice = {"index": 0, "text": r"\boxed{42}", "finish_reason": "stop"}
            connection.sendall(STREAM + b"data: " + json.dumps({"choices": [choice]}).encode())
            connection.sendall(b"\n\n")

    with serving(answer) as (url, _):
        folder = "" if dialect == "chat" else str(TINY)
        command = [sys.executable, "-c", ALONE, url, dialect, folder]
        run = subprocess.run(command, capture_output=True, text=True)
    assert run.stdout.split("\n")[:2] == ["42", "[]"], run.stderr


@pytest.mark.parametrize("folder", [TINY, "qwen2.5-tokenizer"])
def test_a_tokenizer_from_its_files_is_the_one_of_transformers(folder):
    folder = folder if isinstance(folder, Path) else shared_file(folder)
    ours, theirs = load_file_tokenizer(folder), load_tokenizer(folder)
    texts = ["What is $2+2$?", "a<|im_end|>b <|im_start|>system\n", "  \n\té 数 \\boxed{7}\n"]
    for text in texts:
        assert prompt_ids(ours, text) == prompt_ids(theirs, text)
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours(text)["input_ids"] == ids
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(
            ids, skip_special_tokens=True
        )
    assert len(ours) == len(theirs)
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    assert ChatML(ours).stop_ids == ChatML(theirs).stop_ids


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "tokenizer_config.json").write_text("{}"), "template is missing"),
    ],
)
def test_files_that_are_none_are_named(tmp_path, spoil, named):
    for path in TINY.glob("*token*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for path in TINY.glob("*.jinja"):
        template = json.dumps({"chat_template": path.read_text()})
        (tmp_path / "tokenizer_config.json").write_text(template)
    load_file_tokenizer(tmp_path)
    spoil(tmp_path)
    with pytest.raises(WeightsError, match=named):
        load_file_tokenizer(tmp_path)


def test_prompts_stand_around_the_problem_whatever_it_holds():
    tokenizer = load_file_tokenizer(TINY)
    dialect = ChatML(tokenizer, system="From {low} to {high}.", user="Solve:\n{problem}\nThink.")
    text = tokenizer.decode(dialect.begin("Is {problem} {low}?", 500, 10).prompt)
    assert "From 0 to 99999." in text
    assert "Solve:\nIs {problem} {low}?\nThink." in text
    cut = tokenizer.decode(dialect.begin("x" * 5000, 200, 10).prompt)
    assert "x\nThink.<|im_end|>" in cut
    assert filled("{low} {problem}", "{high}") == "0 {high}"


@pytest.mark.parametrize("top", [True, 7, "a", [1], [{"logprob": "x"}], {"a": 1}])
def test_odd_measures_of_a_token_cost_nothing(top):
    read = RemoteChat("http://127.0.0.1:9/v1", "any", Chat(), 100)._reader()
    entry = {"token": "a", "logprob": top, "top_logprobs": top}
    tokens, own, entropy = read({"delta": {"content": "a"}, "logprobs": {"content": [entry]}})
    assert len(tokens) == len(own) == len(entropy) == 2


def test_a_refused_connection_is_a_fault_of_its_sample():
    with serving(say(b"")) as (url, _):
        pass
    engine = RemoteChat(url, "any", Chat(), 1000)
    row = engine.start(Messages((), (), 5), SamplingConfig(), 1)
    assert row.wait(10)
    assert row.completion.finish_reason == "fault"
