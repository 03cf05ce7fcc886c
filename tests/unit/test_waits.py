"""Every wait of a run has an end: each call that may block, and what ends it.

A new one fails the test until its end is written down here; one that is gone fails it too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from helpers.paths import ROOT

PACKAGE = ROOT / "src" / "mathllm"
ROOMS = ("solving", "sandbox", "competition/kernel", "competition/protocol", "engines")
FILES = ("children.py",)
BLOCKING = {
    *("accept", "acquire", "communicate", "connect", "destroy", "getresponse", "join", "map"),
    *("poll", "read", "readline", "recv", "recv_bytes", "result", "run", "select", "send"),
    *("send_bytes", "sendall", "serve", "shutdown", "sleep", "stop", "submit", "wait"),
    *("wait_for_termination", "wait_ready", "wait_until_loaded", "wait_until_ready", "waitpid"),
}
# Receivers whose methods of these names do not wait: texts, paths, tables of functions.
HARMLESS = ("os.path", '"', "'", "str", "path", "separator")
PROCESSES = ("process", "child", "popen")  # whose poll only looks
LOCKS = ("lock", "places", "saying", "passing", "ending")
QUEUES = ("_fresh", "_used", "_jobs", "heard", "inbox", "news")


def calls(path: Path) -> Iterator[str]:
    """FUNCTION: CALL of what may block in a file."""

    def visit(node: ast.AST, inside: str) -> Iterator[str]:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            inside = f"{inside}.{node.name}".strip(".")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            receiver, name = ast.unparse(node.func.value), node.func.attr
            if name == "poll" and receiver.endswith(PROCESSES):
                pass
            elif (name in BLOCKING and not receiver.startswith(HARMLESS)) or (
                name in ("get", "put") and receiver.endswith(QUEUES)
            ):
                yield f"{inside}: {receiver}.{name}"
        if isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                words = ast.unparse(item.context_expr)
                if any(words.lower().endswith(lock) for lock in LOCKS):
                    yield f"{inside}: with {words}"
                if "Executor(" in words:
                    yield f"{inside}: with {words.partition('(')[0]}"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), "")


def found() -> set[str]:
    paths = [path for room in ROOMS for path in (PACKAGE / room).glob("*.py")]
    paths += [PACKAGE / name for name in FILES]
    return {f"{p.relative_to(PACKAGE)} {call}" for p in paths for call in calls(p)}


# What ends them -> the calls. Whatever is in the worker's process is ended with it, at the
# latest SLACK_SECONDS after the problem's deadline; here is what ends it before.
ENDS = {
    "a limit in seconds beside it": """
        children.py _end_all: time.sleep
        children.py _guard: select.select
        children.py end_guarded: guardian.wait
        children.py kill: process.wait
        competition/kernel/endpoint_server.py EndpointServer._start_again: self._closing.wait
        competition/kernel/endpoint_server.py EndpointServer._wait_for_its_end: self._closing.wait
        competition/kernel/endpoint_server.py EndpointServer._ready: self._server.wait_until_ready
        competition/kernel/endpoint_server.py EndpointServer.start: self._closing.wait
        competition/kernel/install.py _install: subprocess.run
        competition/kernel/worker.py Worker.wait_until_loaded: process.loaded.wait
        competition/kernel/worker.py _Process._how: self._popen.wait
        competition/kernel/worker.py _Process.close: popen.wait
        competition/kernel/worker.py _Process.end_hung: time.sleep
        competition/protocol/channel.py ProcessWatch._waiting: poll.poll
        competition/protocol/client.py Client._first: time.sleep
        competition/protocol/server.py InferenceServer.serve: time.sleep
        competition/protocol/server.py InferenceServer.stop: server.stop(grace=None).wait
        engines/exchange.py Exchange.__enter__: self._connection.connect
        engines/local.py LocalEngine._run_arrivals: time.sleep
        engines/local.py _settle: thread.join
        engines/streams.py Watcher._watch: time.sleep
        engines/server.py wait_until_ready: time.sleep
        sandbox/channel.py Channel._receive: poller.poll
        sandbox/keeper.py Keeper._end_all: time.sleep
        sandbox/keeper.py Keeper._keep: self._wake.wait
        sandbox/keeper.py Keeper.close: self._thread.join
        sandbox/pool.py SandboxPool._take_place: self._places.acquire
        sandbox/remover.py Remover.finish: time.sleep
    """,
    "the problem's deadline": """
        competition/kernel/worker.py Worker.solve: process.heard.get
        sandbox/keeper.py Keeper.layers: self._change.wait
        sandbox/keeper.py Keeper.take: self._change.wait
        sandbox/kernel.py Kernel.run: pending.wait
        sandbox/pool.py SandboxSession.run: self._kernel.run
        engines/base.py Sample.wait: self._over.wait
        solving/attempts.py Runner._run_all: self._session.run
        solving/attempts.py Runner._watch: sample.wait
        solving/race.py _cancel: news.get
        solving/race.py race: news.get
    """,
    "the watcher of a request, which shuts its socket at the deadline": """
        engines/exchange.py Exchange.__enter__: self._connection.getresponse
        engines/exchange.py Exchange.__enter__: self._response.read
        engines/exchange.py Exchange.lines: self._response.readline
        engines/exchange.py Exchange.read: self._response.read
    """,
    "the socket's own limit on sending": """
        competition/kernel/worker.py Worker.solve: process.connection.send
        competition/kernel/worker.py _Process._hear_all: self.connection.send
        competition/kernel/worker.py _Process._hear_all: self.connection.send_bytes
        competition/kernel/worker.py _Process.close: self.connection.send
    """,
    "the other process, whose end closes the pipe": """
        competition/kernel/worker.py _Process._hear_all: self.connection.recv
        competition/kernel/worker_process.py _Kernel.hear: self._connection.recv
        competition/kernel/worker_process.py _Kernel.hear_bytes: self._connection.recv_bytes
        competition/kernel/worker_process.py _Kernel.say: self._connection.send
    """,
    "a lock whose holders wait for nothing but what is listed here": """
        competition/kernel/endpoint_server.py EndpointServer._begin: with self._lock
        competition/kernel/endpoint_server.py EndpointServer._end: with self._lock
        competition/kernel/journal.py Journal.write: with self._lock
        competition/kernel/prefetch.py Prefetch._read_blocks: with self._lock
        competition/kernel/worker_process.py _Kernel.say: with self._saying
        engines/base.py Sample.end: with self._ending
        engines/local.py LocalEngine._run_arrivals: with self._passing
        engines/local.py LocalEngine.generate: with self._passing
        engines/local.py _Arrivals.add: with self._lock
        engines/local.py _Arrivals.over: with self._lock
        engines/local.py _Arrivals.take: with self._lock
        engines/absence.py Seeds.blamed: with self._lock
        engines/remote_chat.py Pieces.encode: with self._lock
        engines/streams.py Watcher._watch: with self._lock
        engines/streams.py Watcher.watch: with self._lock
        solving/attempts.py Runner._run_all: with self._lock
        solving/attempts.py Runner._start: with self._lock
        solving/attempts.py Runner._turns: with self._lock
        solving/attempts.py Runner.cancel: with self._lock
        solving/attempts.py Runner.run: with self._lock
        solving/attempts.py Runner.so_far: with self._lock
        solving/race.py all_of.work: with lock
        sandbox/pool.py SandboxPool._keeper: with self._lock
        sandbox/pool.py SandboxPool.close: with self._lock
        sandbox/pool.py SandboxPool.start: with self._lock
    """,
    "what is called, which is listed here": """
        competition/kernel/submission.py Submission._solve: self._worker.wait_until_loaded
        competition/protocol/server.py InferenceServer.run_local_gateway: self.stop
        competition/protocol/server.py InferenceServer.serve: self.stop
        competition/protocol/server.py InferenceServer.stop: server.stop
        competition/protocol/server.py InferenceServer.stop: self._worker.shutdown
        competition/kernel/endpoint_server.py EndpointServer.start: prefetch.stop
        engines/server.py _asked: exchange.read
        sandbox/kernel.py Kernel.run: self._channel.send
        solving/race.py all_of.work: runner.run
        solving/race.py all_of: worker.join
    """,
    "nothing to wait for: it does not block": """
        children.py _guard: os.read
        children.py _reaped: os.waitpid
        competition/kernel/worker.py _Process._hear: self.heard.put
        competition/kernel/worker.py _Process._listen: self.heard.put
        competition/protocol/channel.py ProcessWatch._waiting: select.poll
        competition/protocol/endpoints.py EndpointThread.shutdown: self._jobs.put
        competition/protocol/endpoints.py EndpointThread.submit: self._jobs.put
        competition/protocol/gateway.py _ask_all: row.select
        engines/cache.py BackboneCache.update: self.store.read
        engines/cache.py cached_attention.attend: store.read
        engines/exchange.py Exchange.abort: self._socket.shutdown
        engines/flight.py Flight._join: lanes.join
        engines/server.py Server.last_lines: file.read
        solving/race.py race.begin: news.put
        solving/records.py AttemptsFile.__init__: ATTEMPTS.read
        sandbox/channel.py Channel._receive: select.poll
        sandbox/channel.py Channel.answered: self._iopub.connect
        sandbox/channel.py Channel.answered: self._shell.connect
        sandbox/channel.py Channel.answered: self._shell.send
        sandbox/channel.py Channel.send: self._shell.send
        sandbox/wire.py Connection.connect: made.connect
        sandbox/wire.py Connection.flush: self._socket.send
        sandbox/wire.py Connection.receive: self._socket.recv
    """,
    "nothing that anyone waits for: a thread beside the run, which ends with it": """
        competition/kernel/prefetch.py Prefetch._run: reader.join
    """,
    "the end of the run, which is what it waits for": """
        competition/kernel/serve.py _run: server.serve
        competition/protocol/endpoints.py EndpointThread._work: self._jobs.get
        competition/protocol/gateway.py _ask_all: client.send
    """,
}


def test_every_call_that_may_block_has_a_known_end():
    known = {line.strip() for calls in ENDS.values() for line in calls.split("\n") if line.strip()}
    assert sorted(found() - known) == []
    assert sorted(known - found()) == []


def test_a_new_wait_is_seen(tmp_path):
    path = tmp_path / "new.py"
    path.write_text(
        "def f(self, other):\n    with self._lock:\n        other.thread.join()\n"
        "        self.heard.get()\n        process.poll()\n        '-'.join([])\n"
    )
    assert list(calls(path)) == ["f: with self._lock", "f: other.thread.join", "f: self.heard.get"]
