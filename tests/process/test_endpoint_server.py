"""An endpoint's server, kept through a run: read ahead, ready, watched, and back when it goes."""

import logging
import os
import shlex
import signal
import sys
import time

import psutil
import pytest

from helpers import light_server
from helpers.odd_server import STREAM, event, serving
from helpers.ports import free_ports
from helpers.scripted import make_tokenizer
from mathllm.competition.kernel import endpoint_server, prefetch
from mathllm.competition.kernel.endpoint_server import EndpointServer
from mathllm.competition.kernel.prefetch import Prefetch, weight_files
from mathllm.engines import server as engines_server
from mathllm.engines.base import EngineError, SamplingConfig
from mathllm.engines.remote import RemoteEngine
from mathllm.engines.server import is_ready
from mathllm.solving import EngineSettings
from mathllm.solving.dialects import ChatML

pytestmark = pytest.mark.process


def wait_for(condition, seconds=20.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


class Kept:
    """A keeper of the light server, and what it told; `folder` is the server's."""

    def __init__(self, folder, *flags, left=3600.0):
        (port,) = free_ports(1)
        self.folder, self.told, self.lines = folder, [], []
        self.engine = EngineSettings(
            endpoint=f"http://127.0.0.1:{port}/v1",
            endpoint_model="light",
            server=shlex.join(
                [sys.executable, light_server.__file__, str(port), str(folder), *flags]
            ),
        )
        self.left = left
        self.keeper = EndpointServer(
            self.engine, folder, self.tell, lambda: self.left, self.lines.append
        )

    def tell(self, event, **values):
        self.told.append({"event": event} | values)

    def events(self, event):
        return [told for told in self.told if told["event"] == event]

    @property
    def process(self):
        """The server itself, below its guardian."""
        script = light_server.__file__
        below = psutil.Process().children(recursive=True)
        (found,) = [
            p for p in below if script in p.cmdline() and "children.py" not in str(p.cmdline())
        ]
        return found

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.keeper.close()
        assert not is_ready(self.engine.endpoint)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name in ("WATCH_SECONDS", "PAUSE_SECONDS"):
        monkeypatch.setattr(endpoint_server, name, 0.05)
    monkeypatch.setattr(endpoint_server, "HEALTH_SECONDS", 0.2)
    monkeypatch.setattr(endpoint_server, "SUSPECT_SECONDS", 1.0)
    monkeypatch.setattr(engines_server, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(engines_server, "PROBE_SECONDS", 1.0)


def test_one_that_is_killed_is_there_again_and_its_last_lines_are_told(tmp_path):
    with Kept(tmp_path) as kept:
        kept.keeper.start()
        (first,) = kept.events("server")
        assert first["number"] == 1
        assert first["seconds"] > 0
        kept.process.kill()
        wait_for(lambda: len(kept.events("server")) == 2)
        (fault,) = kept.events("fault")
        assert "status 137" in fault["cause"]
        assert "it is started again" in fault["cause"]
        assert fault["log"] == ["one", "two", "three"]
        wait_for(lambda: kept.events("warning"))
        assert "was away for" in kept.events("warning")[0]["cause"]
        assert (tmp_path / "server-2.log").is_file()


def test_one_that_stands_still_is_ended_and_started_again(tmp_path):
    with Kept(tmp_path) as kept:
        kept.keeper.start()
        os.kill(kept.process.pid, signal.SIGSTOP)
        wait_for(lambda: len(kept.events("server")) == 2)
        assert "it did not answer 4 times" in kept.events("fault")[0]["cause"]


def test_one_that_is_there_and_generates_nothing_is_found_by_who_waits(tmp_path):
    with Kept(tmp_path) as kept:
        kept.keeper.start()
        kept.keeper.suspect()  # for nothing: it generates
        time.sleep(0.5)
        assert not kept.events("fault")
        (tmp_path / "stall").touch()
        time.sleep(0.5)
        assert not kept.events("fault")  # nobody waits for it
        kept.keeper.suspect()
        wait_for(lambda: kept.events("fault"))
        (tmp_path / "stall").unlink()
        wait_for(lambda: len(kept.events("server")) == 2)
        assert "generates nothing within 1 s" in kept.events("fault")[0]["cause"]


def test_a_server_that_takes_messages_only_is_asked_with_messages(tmp_path):
    (tmp_path / "chat").touch()
    with Kept(tmp_path) as kept:
        engine = EngineSettings(**(vars(kept.engine) | {"dialect": "chat", "positions": 50}))
        kept.keeper = EndpointServer(engine, tmp_path, kept.tell, lambda: 1.0)
        kept.keeper.start()
        assert len(kept.events("server")) == 1
        (tmp_path / "chat").unlink()
        kept.keeper.suspect()
        wait_for(lambda: kept.events("fault"))


def test_a_refusal_is_no_generation(tmp_path):
    (tmp_path / "refuse").touch()
    with Kept(tmp_path) as kept, pytest.raises(EngineError, match=r"generates nothing.*500"):
        kept.keeper.start()


def test_where_too_little_time_is_left_none_is_started(tmp_path):
    with Kept(tmp_path) as kept:
        kept.keeper.start()
        kept.left = 0.0
        kept.process.kill()
        wait_for(lambda: kept.events("fault"))
        assert "not started again: that took" in kept.events("fault")[0]["cause"]
        assert "0 s are left" in kept.events("fault")[0]["cause"]
        time.sleep(0.3)
        assert len(kept.events("server")) == 1


def test_after_so_many_it_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint_server, "RESTARTS", 1)
    with Kept(tmp_path) as kept:
        kept.keeper.start()
        kept.process.kill()
        wait_for(lambda: len(kept.events("server")) == 2)
        kept.process.kill()
        wait_for(lambda: len(kept.events("fault")) == 2)
        assert "not started a 3th time" in kept.events("fault")[1]["cause"]


def test_one_that_does_not_come_back_at_once_is_tried_again(tmp_path):
    with Kept(tmp_path) as kept:
        kept.keeper.start()
        (tmp_path / "refuse").touch()
        kept.process.kill()
        wait_for(lambda: len(kept.events("fault")) == 2)
        (tmp_path / "refuse").unlink()
        assert "did not start" in kept.events("fault")[1]["cause"]
        wait_for(lambda: len(kept.events("server")) == 2)


@pytest.mark.parametrize(
    ("flags", "more", "named"),
    [
        (("--model", "heavy"), {}, r"serves 'heavy', not 'light': correct endpoint_model"),
        ((), {"tokenizer": "x", "positions": 101}, r"with 100 positions, less than 101"),
        (("--positions", "many"), {}, r"status 2 before it was up.*invalid int value"),
    ],
)
def test_the_wrong_one_is_said_at_once(tmp_path, flags, more, named):
    with Kept(tmp_path, *flags) as kept:
        engine = EngineSettings(**(vars(kept.engine) | more))
        kept.keeper = EndpointServer(engine, tmp_path, kept.tell, lambda: 1.0)
        with pytest.raises(EngineError, match=named):
            kept.keeper.start()
        assert not kept.events("server")


def test_what_lists_no_models_is_no_server():
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>Sign in</html>"
    with serving(lambda connection, _: connection.sendall(page)) as (url, _):
        with pytest.raises(EngineError, match="is it an OpenAI-compatible server"):
            engines_server.check_served(url, "light")
        with pytest.raises(EngineError, match="generates nothing"):
            engines_server.generate_one(url, "light", 5.0)


def test_weights_are_read_ahead_and_progress_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(prefetch, "BLOCK", 1000)
    monkeypatch.setattr(prefetch, "REPORT_SECONDS", 0.0)
    folder = tmp_path / "weights"
    folder.mkdir()
    for number in range(3):
        (folder / f"model-{number}.safetensors").write_bytes(bytes(4500))
    (folder / "config.json").write_text("{}")
    files = weight_files(f"vllm serve {shlex.quote(str(folder))} --port 8000 --model={folder}")
    assert [path.name for path in files] == [f"model-{n}.safetensors" for n in range(3)] * 2
    read = os.preadv
    monkeypatch.setattr(prefetch.os, "preadv", lambda *a: time.sleep(0.05) or read(*a))
    lines, done = [], []
    Prefetch(files[:3], lines.append, lambda *told: done.append(told)).start()
    wait_for(lambda: done)
    assert done[0][:2] == (3, 13_500)
    assert any("0.0 GB" in line for line in lines)


def test_what_does_not_fit_or_cannot_be_read_is_left_to_the_server(tmp_path, monkeypatch):
    monkeypatch.setattr(prefetch, "_free_memory", lambda: 10_000.0)
    paths = [tmp_path / f"{n}.gguf" for n in range(3)]
    for path in paths:
        path.write_bytes(bytes(3000))
    lines, done = [], []
    Prefetch(paths, lines.append, lambda *told: done.append(told)).start()
    wait_for(lambda: done)
    assert done[0][1] == 6000
    assert lines == ["2.gguf and what follows is not read ahead: no memory for it"]
    assert weight_files("vllm serve 'half") == []
    assert weight_files("server --port 1 . / nowhere") == []


def test_a_sample_in_the_servers_queue_is_no_silence_until_nobody_gets_a_token(monkeypatch, caplog):
    """One sample is served, another waits for longer than the silence. Then both wait."""
    monkeypatch.setattr("mathllm.engines.streams.SILENCE_SECONDS", 2.0)
    tokenizer = make_tokenizer()
    asked = []

    def answer(connection, _):
        asked.append(connection)
        connection.sendall(STREAM)
        served = len(asked) == 1
        for _ in range(100):
            time.sleep(0.1)
            if served:
                connection.sendall(event(text="a", token_ids=[5]))

    def suspicions():
        return [r for r in caplog.records if getattr(r, "event", "") == "silent"]

    config = SamplingConfig(max_new_tokens=400)
    with serving(answer) as (url, _), caplog.at_level(logging.WARNING):
        remote = RemoteEngine(url, "any", ChatML(tokenizer), 1000)
        served = remote.start([5, 6], config, 1)
        wait_for(lambda: served.completion.tokens)
        waiting = [remote.start([5, 6], config, seed) for seed in (2, 3)]
        assert not waiting[0].wait(3.0)
        served.cancel()
        assert served.wait(9)
        assert all(sample.wait(9) for sample in waiting)
        assert "no token for 2.0 s" in str(waiting[0].fault)
        assert len(suspicions()) == 1


def test_a_sample_that_stalls_among_others_is_given_up_and_the_server_not_suspected(
    monkeypatch, caplog
):
    monkeypatch.setattr("mathllm.engines.streams.SILENCE_SECONDS", 0.6)
    tokenizer = make_tokenizer()
    asked = []

    def answer(connection, _):
        asked.append(connection)
        connection.sendall(STREAM)
        stalls = len(asked) == 2
        for number in range(20):
            if not (stalls and number):
                connection.sendall(event(text="a", token_ids=[5]))
            time.sleep(0.1)

    config = SamplingConfig(max_new_tokens=400)
    with serving(answer) as (url, _), caplog.at_level(logging.WARNING):
        remote = RemoteEngine(url, "any", ChatML(tokenizer), 1000)
        served = remote.start([5, 6], config, 1)
        wait_for(lambda: served.completion.tokens)
        stalled = remote.start([5, 6], config, 2)
        assert stalled.wait(1.5)
        assert "no token for" in str(stalled.fault)
        served.cancel()
        assert not [r for r in caplog.records if getattr(r, "event", "") == "silent"]
