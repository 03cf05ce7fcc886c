"""Endpoints that do what no server should: no sample outlives its deadline, none takes others
along, and what went to loopback went nowhere else."""

import json
import math
import re
import socket
import threading
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.odd_server import ENDLESS, STREAM, event, hold, say, serving
from helpers.scripted import make_tokenizer
from mathllm.engines.absence import Seeds
from mathllm.engines.base import EngineError, SamplingConfig
from mathllm.engines.remote import RemoteEngine
from mathllm.engines.server import Server, is_ready
from mathllm.errors import ParameterError
from mathllm.solving import EngineSettings, Solver, SolverSettings
from mathllm.solving.dialects import ChatML

LATE = 0.5  # seconds after a deadline that count as in time here: two busy cores


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def engine(url: str, tokenizer) -> RemoteEngine:
    return RemoteEngine(url, "any", ChatML(tokenizer), max_positions=1000)


def asked(remote, n: int = 1, **config):
    """Samples of one prompt; their fault where all of them broke."""
    rows = [remote.start([1, 2, 3], SamplingConfig(**config), seed) for seed in range(n)]
    assert all(row.wait(60) for row in rows)
    if all(row.fault for row in rows):
        raise rows[0].fault
    return [row.completion for row in rows]


def ask(url: str, tokenizer, n: int = 1, **config):
    return asked(engine(url, tokenizer), n, **config)


def solver_of(url: str, tokenizer, settings: SolverSettings, **options) -> Solver:
    return Solver(engine(url, tokenizer), ChatML(tokenizer), settings, **options)


@pytest.mark.parametrize("name", ENDLESS)
def test_a_sample_ends_at_its_deadline_whatever_the_server_sends(name, tokenizer):
    with serving(ENDLESS[name]) as (url, _):
        began = time.monotonic()
        with pytest.raises(EngineError):  # silence is seen before the deadline
            ask(url, tokenizer, deadline=began + 2.0)
        assert time.monotonic() - began < 2.0 + LATE
    time.sleep(0.2)
    assert not [t for t in threading.enumerate() if t.name in ("streams", "stream")]


@pytest.mark.parametrize("name", ["comments", "nothing", "headers that drip"])
def test_a_cancelled_sample_ends_at_once(name, tokenizer):
    cancel = threading.Event()
    with serving(ENDLESS[name]) as (url, _):
        threading.Timer(0.3, cancel.set).start()
        began = time.monotonic()
        (sample,) = ask(url, tokenizer, cancel=cancel)
    assert sample.finish_reason == "cancelled"
    assert time.monotonic() - began < 0.3 + LATE


@pytest.mark.slow
def test_a_server_that_goes_on_without_tokens_counts_as_hanging_without_a_deadline_too(
    tokenizer, monkeypatch
):
    monkeypatch.setattr("mathllm.engines.streams.SILENCE_SECONDS", 1.0)
    with serving(ENDLESS["comments"]) as (url, _), pytest.raises(EngineError, match="no token for"):
        ask(url, tokenizer)


def test_silence_leaves_the_spare_engine_most_of_the_time(tokenizer):
    class Spare:
        max_positions = 1000

        def start(self, _prompt, config, _seed):
            self.left = config.deadline - time.monotonic()
            raise EngineError("enough")

    spare = Spare()
    with serving(ENDLESS["one token"]) as (url, _):
        options = {"spare": (spare, ChatML(tokenizer)), "strict": False}
        solver_of(url, tokenizer, SolverSettings(1), **options).solve("p", "What is $1+1$?", 4.0)
    assert spare.left > 1.0


@pytest.mark.slow
def test_an_error_body_without_end_takes_no_memory(tokenizer):
    with serving(ENDLESS["an error body without end"]) as (url, _):
        tracemalloc.start()
        with pytest.raises(EngineError, match="status 500"):
            ask(url, tokenizer, deadline=time.monotonic() + 5)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 16 << 20


WHOLE = event(text="ab", token_ids=[5, 6], finish_reason="stop")
ODD = {
    "no JSON": b"data: {nonsense\n\n",
    "deep": b"data: " + b"[" * 100_000 + b"\n\n",
    "no object": b"data: [1, 2]\n\n",
    "an error": b'data: {"error": {"message": "CUDA"}}\n\n',
    "words as ids": event(token_ids=["a"]),
    "an id beyond": event(token_ids=[10**9]),
    "a text that is none": event(text=7),
    "half of it": event(text="a", token_ids=[5]),
    "a long line": b"data: " + b"x" * (5 << 20),
    "no UTF-8": b"data: \xff\xfe\n\n",
}


@pytest.mark.parametrize("name", ODD)
def test_one_odd_reply_costs_its_sample_and_no_other(name, tokenizer):
    turns = iter(range(100))

    def answer(connection, body):
        (say(STREAM, ODD[name]) if next(turns) == 1 else say(STREAM, WHOLE))(connection, body)

    with serving(answer) as (url, _):
        samples = ask(url, tokenizer, n=4)
    assert sorted(s.finish_reason for s in samples) == ["fault", "stop", "stop", "stop"]
    assert [s.tokens for s in samples if s.finish_reason == "stop"] == [[5, 6]] * 3


@pytest.mark.parametrize(
    "event_text", [b'data: {"choices": {"a": 1}}\n\n', b'data: {"choices": [7]}\n\n']
)
def test_choices_that_are_none_are_passed_over(event_text, tokenizer):
    with serving(say(STREAM, event_text, WHOLE)) as (url, _):
        (sample,) = ask(url, tokenizer)
    assert (sample.tokens, sample.finish_reason) == ([5, 6], "stop")


BROKEN = [math.nan, math.inf, 5.0, "high", None, [], {}, True]
numbers = st.one_of(st.sampled_from([*BROKEN, -math.inf, 0.0, -0.1]), st.floats(), st.integers())


@given(
    own=st.one_of(st.lists(numbers, max_size=3), numbers),
    top=st.one_of(
        st.lists(st.one_of(st.dictionaries(st.text(max_size=3), numbers), numbers), max_size=3),
        numbers,
    ),
)
def test_any_log_probabilities_give_numbers_that_voting_takes(own, top):
    from mathllm.engines.events import measures

    logprobs, entropy = measures({"token_logprobs": own, "top_logprobs": top}, 2, 10.0)
    assert len(logprobs) == len(entropy) == 2
    assert all(math.isfinite(value) and value <= 1e-3 for value in logprobs)
    assert all(0 <= value <= 10.0 for value in entropy)


@pytest.mark.parametrize("broken", [-math.inf, math.nan, 12.5])
def test_samples_with_broken_probabilities_still_vote(broken, tokenizer):
    tokens = tokenizer(r"\boxed{42}", add_special_tokens=False)["input_ids"]
    odd = {
        "token_logprobs": [broken] * len(tokens),
        "top_logprobs": [{"a": broken, "b": broken}] * len(tokens),
    }
    reply = event(token_ids=tokens, finish_reason="stop", logprobs=odd)
    with serving(say(STREAM, reply)) as (url, _):
        settings = SolverSettings(n_samples=4, voting="combined")
        solution = solver_of(url, tokenizer, settings).solve("p", "$6·7$")
    assert solution.answer == 42
    assert json.loads(json.dumps(solution.votes, allow_nan=False))


def test_a_redirect_is_not_followed_and_nothing_else_is_asked(tokenizer, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with serving(say(STREAM, WHOLE)) as (elsewhere, caught):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, elsewhere.removesuffix("/v1"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        moved = f"HTTP/1.1 307 Moved\r\nLocation: {elsewhere}/completions\r\n\r\n".encode()
        with serving(say(moved)) as (url, seen):
            remote = RemoteEngine(url, "any", ChatML(tokenizer), 1000, api_key="sesame")
            with pytest.raises(EngineError, match="status 307"):
                asked(remote)
            assert not is_ready(url)
        assert caught == []
        assert b"secret" not in b"".join(seen)
        assert b"c29tZWJvZHk6c2VjcmV0" not in b"".join(seen)  # both, as netrc would send them


@pytest.mark.parametrize("name", ["nothing", "headers that drip"])
@pytest.mark.slow
def test_asking_whether_a_server_is_ready_ends(name):
    with serving(ENDLESS[name]) as (url, _):
        began = time.monotonic()
        assert not is_ready(url)
        assert time.monotonic() - began < 6


def test_a_server_is_not_started_where_another_answers(tmp_path):
    with (
        serving(say(STREAM)) as (url, _),
        pytest.raises(EngineError, match="answers before 'sleep 5' is started"),
    ):
        Server("sleep 5", url, tmp_path / "log")


def test_a_connection_that_does_not_come_about_ends_at_the_deadline(tokenizer):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]  # what the system still takes
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        began = time.monotonic()
        with pytest.raises(EngineError):
            ask(f"http://127.0.0.1:{address[1]}/v1", tokenizer, deadline=began + 1.0)
        assert time.monotonic() - began < 1.0 + LATE
        for one in waiting:
            one.close()


SECRET = "sesame-open"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8000",
        "ftp://127.0.0.1/v1",
        "http://127.0.0.1:port/v1",
        "http://127.0.0.1:99999/v1",
        "http://[::1/v1",
        "http:///v1",
        "http://127.0.0.1:8000/v1\nHost: elsewhere",
        f"http://me:{SECRET}@127.0.0.1:8000/v1",
        f"http://{SECRET}@127.0.0.1/v1",
    ],
)
def test_an_address_that_is_none_is_refused_in_words_and_without_its_password(url, tokenizer):
    with pytest.raises(ParameterError, match=r"^endpoint") as caught:
        RemoteEngine(url, "any", ChatML(tokenizer), 100)
    assert SECRET not in str(caught.value)
    if url:
        with pytest.raises(ParameterError, match=r"^endpoint"):
            EngineSettings(endpoint=url, endpoint_model="any")


@pytest.mark.parametrize("key", [f"{SECRET}\nX: y", f"{SECRET} two", f"{SECRET}\u00e9", "\x00"])
def test_a_key_that_is_none_is_refused_without_being_shown(key, tokenizer):
    with pytest.raises(ParameterError, match="key") as caught:
        RemoteEngine("http://127.0.0.1:8000/v1", "any", ChatML(tokenizer), 100, api_key=key)
    assert SECRET not in str(caught.value)


def test_a_key_is_trimmed_and_sent(tokenizer):
    with serving(say(STREAM, WHOLE)) as (url, seen):
        remote = RemoteEngine(url, "any", ChatML(tokenizer), 1000, api_key=f" {SECRET}\n")
        asked(remote)
    assert f"Authorization: Bearer {SECRET}\r\n".encode() in seen[0]


def test_a_reply_without_headers_is_a_fault(tokenizer):
    with serving(hold(b"garbage\r\n")) as (url, _), pytest.raises(EngineError):
        ask(url, tokenizer, deadline=time.monotonic() + 2)


@pytest.mark.parametrize("reason", ["abort", "error", 3, {}])
def test_a_sample_that_the_server_gave_up_is_no_whole_one(tokenizer, reason):
    pieces = (event(text="a", token_ids=[5]), event(text="", finish_reason=reason))
    with serving(say(STREAM, *pieces)) as (url, _), pytest.raises(EngineError, match="ended a sam"):
        ask(url, tokenizer)


def test_choices_that_nobody_asked_for_are_not_read(tokenizer):
    other = [event(index=index, text="b", token_ids=[6]) for index in (1, 7, -1, "0")]
    own = event(index=0, text="a", token_ids=[5]) + event(text="", finish_reason="stop")
    with serving(say(STREAM, *other, own)) as (url, _):
        (sample,) = ask(url, tokenizer)
    assert (sample.tokens, sample.finish_reason) == ([5], "stop")


def test_a_text_that_would_be_tokenised_for_long_ends_its_sample_at_once(tokenizer):
    began = time.monotonic()
    piece = event(text="ab 1+" * 400_000)
    with serving(hold(STREAM, piece)) as (url, _), pytest.raises(EngineError, match="text of a"):
        ask(url, tokenizer, deadline=began + 1.0)
    assert time.monotonic() - began < 1.0 + LATE


def test_half_a_sign_in_a_text_costs_no_sample(tokenizer):
    halves = event(text="a\ud83d") + event(text="\ude00b", finish_reason="stop")
    with serving(say(STREAM, halves)) as (url, _):
        (sample,) = ask(url, tokenizer)
    assert tokenizer.decode(sample.tokens) == "a��b"


def test_numbers_beyond_every_float_count_as_unsure(tokenizer):
    huge = {"token_logprobs": [-(10**400)], "top_logprobs": [{"a": -(10**400)}]}
    piece = event(text="a", token_ids=[5], logprobs=huge, finish_reason="stop")
    with serving(say(STREAM, piece)) as (url, _):
        (sample,) = ask(url, tokenizer)
    assert sample.logprobs == [0.0]
    assert sample.entropy == [pytest.approx(math.log(len(tokenizer)))]


def refusing_seeds(connection, body):
    if b'"seed"' in body:
        connection.sendall(b"HTTP/1.1 400 Bad\r\n\r\nExtra inputs are not permitted: seed")
    else:
        say(STREAM, WHOLE)(connection, body)


def dying_of_seeds(connection, body):
    """As vLLM's CPU build: the request ends, and with it the server."""
    if b'"seed"' in body:
        connection.sendall(STREAM)
    else:
        say(STREAM, WHOLE)(connection, body)


def test_samples_that_one_death_ends_count_once_though_a_token_is_read_between_them():
    seeds, asked = Seeds(), time.monotonic()
    broken = ConnectionResetError("reset")
    for _ in range(4):
        seeds.taken(asked)
    for _ in range(4):
        assert not seeds.blamed(broken)
        seeds.taken(asked)  # it lay in a buffer
    assert seeds.sent(SamplingConfig())
    seeds.taken(time.monotonic())  # of a server that was started again
    assert seeds.blamed(broken)
    assert not seeds.sent(SamplingConfig())


@pytest.mark.parametrize("answer", [refusing_seeds, dying_of_seeds])
def test_a_server_that_takes_no_seed_is_asked_without_one_and_that_is_said(
    answer, tokenizer, caplog
):
    with serving(answer) as (url, seen):
        remote = engine(url, tokenizer)
        samples = asked(remote, 4) + asked(remote, 2)
    assert [sample.tokens for sample in samples] == [[5, 6]] * 6
    assert len([text for text in caplog.messages if "with a seed" in text]) == 1
    assert b'"seed"' not in seen[-1]


def test_a_death_after_seeded_samples_is_not_blamed_on_the_seed(tokenizer, caplog):
    turns = iter(range(10))

    def answer(connection, body):
        say(STREAM, *([WHOLE] if next(turns) == 0 else []))(connection, body)

    with serving(answer) as (url, seen):
        remote = engine(url, tokenizer)
        assert len(asked(remote)) == 1
        with pytest.raises(EngineError, match="ended before"):
            asked(remote)
    assert all(b'"seed"' in request for request in seen)
    assert caplog.messages == []


def test_a_second_death_is(tokenizer, caplog):
    """As of vLLM's CPU build, which takes seeds until it reads a prompt in parts."""
    turns = iter(range(100))

    def answer(connection, body):
        dies = b'"seed"' in body and next(turns) % 2 == 1
        say(STREAM, *([] if dies else [WHOLE]))(connection, body)

    with serving(answer) as (url, seen):
        remote = engine(url, tokenizer)
        assert len(asked(remote)) == 1
        with pytest.raises(EngineError, match="ended before"):
            asked(remote)
        assert len(asked(remote)) == 1
        assert len(asked(remote)) == 1  # it dies, and is asked again without
        assert len(asked(remote, 3)) == 3
    assert len([text for text in caplog.messages if "died of a request with a seed" in text]) == 1
    assert b'"seed"' not in seen[-1]


@pytest.mark.parametrize("end", ["cut", "said"])
def test_a_sample_whose_server_went_goes_on_from_what_it_has(end, tokenizer):
    """Three tokens, a death, nobody there for a while, then the rest."""
    died = []

    def answer(connection, body):
        asked = json.loads(body)
        if not died:
            died.append(time.monotonic())
            last = b'data: {"error": {"message": "engine dead", "code": 500}}\n\n'
            connection.sendall(STREAM + event(text="abc", token_ids=[5, 6, 7]))
            connection.sendall(last if end == "said" else b"")
        elif time.monotonic() - died[0] < 0.7:
            connection.sendall(b"HTTP/1.1 503 No\r\n\r\nloading")
        else:
            assert asked["prompt"] == [1, 2, 3, 5, 6, 7]
            assert asked["max_tokens"] == 17
            connection.sendall(STREAM + event(text="d", token_ids=[8], finish_reason="stop"))

    with serving(answer) as (url, seen):
        remote = RemoteEngine(url, "any", ChatML(tokenizer), 1000, patience_seconds=10.0)
        (sample,) = asked(remote, max_new_tokens=20)
        assert sample.tokens == [5, 6, 7, 8]
        assert sample.finish_reason == "stop"
    seeds = [json.loads(body.partition(b"\r\n\r\n")[2])["seed"] for body in (seen[0], seen[-1])]
    assert seeds[1] == seeds[0] + 3


def test_greedy_samples_are_asked_for_without_a_seed(tokenizer):
    with serving(say(STREAM, WHOLE)) as (url, seen):
        asked(engine(url, tokenizer), temperature=0)
    assert b'"seed"' not in seen[0]


def test_a_server_that_answers_500_for_a_while_is_waited_for(tokenizer, caplog):
    began = time.monotonic()

    def answer(connection, body):
        if time.monotonic() - began < 1.0:
            connection.sendall(b"HTTP/1.1 500 No\r\n\r\nstarting")
        else:
            say(STREAM, WHOLE)(connection, body)

    with serving(answer) as (url, _):
        with pytest.raises(EngineError, match="status 500"):
            ask(url, tokenizer, deadline=began + 20.0)
        patient = RemoteEngine(url, "any", ChatML(tokenizer), 1000, patience_seconds=10.0)
        (sample,) = asked(patient, deadline=began + 20.0)
        assert sample.tokens == [5, 6]
        (said,) = (text for text in caplog.messages if "samples wait" in text)
        assert re.search(r"status 500.*samples wait for it, up to (10|9) s", said)
        began = time.monotonic()
        with pytest.raises(EngineError, match="status 500"):  # for no more than half of its time
            asked(patient, deadline=began + 1.0)
        assert time.monotonic() - began < 0.5 + LATE
