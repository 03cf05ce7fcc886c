"""The OpenAI-compatible engine against a real server on loopback, a process of its own."""

import sys
import time

import pytest

from helpers.paths import ROOT
from helpers.played import command, played
from helpers.ports import free_ports
from helpers.scripted import ask
from mathllm.data.chat import end_of_turn_id, load_tokenizer, prompt_ids
from mathllm.engines import BackboneDecoder, Decoder, SamplingConfig
from mathllm.engines.base import EngineError
from mathllm.engines.remote import RemoteEngine
from mathllm.engines.server import Server, is_ready, wait_until_ready
from mathllm.errors import ParameterError
from mathllm.solving import (
    EngineSettings,
    Solver,
    SolverSettings,
    load_model,
    load_solver,
    loading,
)
from mathllm.solving.dialects import ChatML

# Together, since the server that they share takes long to start.
pytestmark = pytest.mark.xdist_group("server")

TINY = ROOT / "assets" / "tiny"
PROBLEM = "What is the sum of 17 and 25?"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TINY / "backbone")


@pytest.fixture(scope="module")
def model():
    return load_model(TINY)


@pytest.fixture(scope="module")
def url():
    with played() as url:
        yield url


@pytest.fixture
def dying():
    with played("--die-after", "30") as url:
        yield url


def engine(url: str, tokenizer, model: str = "tiny") -> RemoteEngine:
    return RemoteEngine(url, model, ChatML(tokenizer), max_positions=1024)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_it_says_what_the_decoder_behind_the_server_says(url, tokenizer, model, temperature):
    prompts = [prompt_ids(tokenizer, PROBLEM), prompt_ids(tokenizer, "Compute $12-5$.")]
    config = SamplingConfig(
        n=2,
        max_new_tokens=60,
        temperature=temperature,
        seed=5,
        stop_ids=frozenset({end_of_turn_id(tokenizer)}),
    )
    seeds = [[1, 2], [3, 4]]
    found = ask(engine(url, tokenizer), prompts, config, seeds)
    expected = Decoder(model).generate(prompts, config, seeds)
    for ours, theirs in zip(found, expected, strict=True):
        assert [c.tokens for c in ours] == [c.tokens for c in theirs]
        assert [c.finish_reason for c in ours] == [c.finish_reason for c in theirs]
        for a, b in zip(ours, theirs, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
            assert len(a.entropy) == len(a.tokens)


@pytest.mark.slow
def test_a_server_that_sends_no_ids_is_tokenised_again(url, tokenizer, monkeypatch):
    remote = engine(url, tokenizer)
    body = RemoteEngine._body
    monkeypatch.setattr(RemoteEngine, "_body", lambda *a: body(*a) | {"return_token_ids": False})
    config = SamplingConfig(max_new_tokens=20, temperature=0)
    ((sample,),) = ask(remote, [prompt_ids(tokenizer, PROBLEM)], config)
    assert "42" in tokenizer.decode(sample.tokens)


@pytest.mark.slow
def test_deadline_and_cancelling_end_a_stream(url, tokenizer):
    config = SamplingConfig(max_new_tokens=200, temperature=1.0)
    sample = engine(url, tokenizer).start(prompt_ids(tokenizer, PROBLEM), config, 1)
    while not sample.completion.tokens:
        time.sleep(0.005)
    sample.cancel()
    assert sample.wait(1)
    assert sample.completion.finish_reason == "cancelled"
    assert 0 < len(sample.completion.tokens) < 200  # it streams
    late = engine(url, tokenizer).start([1, 2], SamplingConfig(deadline=0.0), 1)
    assert late.wait(1)
    assert (late.completion.tokens, late.completion.finish_reason) == ([], "deadline")


def broken(remote, **config):
    sample = remote.start([5, 6, 7], SamplingConfig(**config), 1)
    assert sample.wait(60)
    assert sample.completion.finish_reason == "fault"
    return str(sample.fault)


@pytest.mark.slow
def test_a_refused_request_breaks_its_sample(url, tokenizer):
    said = broken(engine(url, tokenizer, "other"), max_new_tokens=4)
    assert "404" in said
    assert "no model other" in said


def test_no_server_breaks_the_sample(tokenizer):
    said = broken(engine("http://127.0.0.1:9/v1", tokenizer))
    assert "http://127.0.0.1:9/v1" in said
    with pytest.raises(EngineError, match="did not answer"):
        wait_until_ready("http://127.0.0.1:9/v1", 0)


@pytest.mark.slow
def test_a_server_that_dies_costs_what_it_had_not_sent(dying, tokenizer):
    remote = engine(dying, tokenizer)
    config = SamplingConfig(n=3, max_new_tokens=100, temperature=1.0)
    (samples,) = ask(remote, [[5, 6, 7]], config)
    assert "fault" in {sample.finish_reason for sample in samples}
    assert broken(remote)


@pytest.mark.slow
def test_the_solver_goes_on_with_the_spare_engine_when_the_server_dies(dying, tokenizer, model):
    solver = Solver(
        engine(dying, tokenizer),
        ChatML(tokenizer),
        SolverSettings(n_samples=4, max_new_tokens=60, temperature=0.1),
        spare=(BackboneDecoder(model), ChatML(tokenizer)),
        strict=False,
    )
    solutions = [solver.solve(f"p{i}", PROBLEM) for i in range(3)]
    assert [solution.answer for solution in solutions[1:]] == [42, 42]
    assert any("BackboneDecoder" in fault for fault in solutions[-1].faults)


@pytest.mark.slow
def test_the_solver_answers_through_the_endpoint(url, tokenizer):
    solver = Solver(engine(url, tokenizer), ChatML(tokenizer), SolverSettings(max_new_tokens=60))
    solution = solver.solve("p", PROBLEM)
    assert solution.answer == 42
    assert solution.faults == []


@pytest.mark.slow
def test_the_solver_starts_a_server_and_ends_it(tmp_path, tokenizer):
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/v1"
    server = Server(command(port), url, tmp_path / "server.log")
    server.wait_until_ready(120)
    ((sample,),) = ask(engine(url, tokenizer), [[5, 6]], SamplingConfig(max_new_tokens=3))
    assert len(sample.tokens) == 3
    assert is_ready(url)
    server.close()
    assert server.status is not None
    assert not is_ready(url)
    assert broken(engine(url, tokenizer), max_new_tokens=3)


@pytest.mark.slow
def test_a_server_that_does_not_start_is_said_with_its_last_line(tmp_path):
    failing = f"{sys.executable} -c \"raise SystemExit('no such model')\""
    with pytest.raises(EngineError, match=r"status 1 .*no such model"):
        Server(failing, "http://127.0.0.1:9/v1", tmp_path / "log").wait_until_ready(30)
    with pytest.raises(EngineError, match="cannot be started"):
        Server("no-such-program", "http://127.0.0.1:9/v1", tmp_path / "log")


@pytest.mark.slow
def test_without_its_endpoint_a_rerun_has_the_trm_and_a_commit_run_an_error(monkeypatch):
    monkeypatch.setattr(loading, "ENDPOINT_SECONDS", 0.0)
    settings = EngineSettings(endpoint="http://127.0.0.1:9/v1", endpoint_model="tiny")
    with pytest.raises(EngineError, match="did not answer"):
        load_solver(TINY, engine=settings)
    solver = load_solver(TINY, engine=settings, strict=False)
    assert "the TRM answers" in solver.load_fault
    assert isinstance(solver.engine, Decoder)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"tool_kernels": -1}, "tool_kernels"),
        ({"endpoint": "http://127.0.0.1:1/v1"}, "endpoint_model is empty"),
        ({"server": "vllm serve x"}, "endpoint is empty"),
    ],
)
def test_a_wrong_engine_setting_is_named(wrong, named):
    with pytest.raises(ParameterError, match=named):
        EngineSettings(**wrong)
