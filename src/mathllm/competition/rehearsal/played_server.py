"""An OpenAI-compatible server over the weights of a bundle, and how servers fail.

    python played_server.py --port PORT --max-model-len N [--name NAME] [--weights FOLDER]

It has the lists of models and the streamed completions that a kernel asks for, with token ids in
and out. In a rehearsal the variable MATHLLM_FAULT says what goes wrong with it: once, at the
second problem that it is asked, whatever became of the first server. isolation.py puts a copy of
this file on the session's path, where mathllm is found in a dataset, as the kernel finds it.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STRUCK = 2  # the problem that a fault strikes, counted from 1
STRUCK_FILE = "server-struck.txt"
BEFORE_SECONDS = 0.05  # of a sample, when the fault strikes
BROKEN_SECONDS = 60.0  # that a server answers 500
HANG_SECONDS = 36_000.0
POLL_SECONDS = 0.01


class State:
    """Engine, tokenizer, and the fault that is to come."""

    def __init__(
        self, weights: Path, name: str, positions: int, fault: str, die_after: int
    ) -> None:
        import torch

        from mathllm.data.chat import load_tokenizer
        from mathllm.engines import Decoder
        from mathllm.solving import load_model

        torch.set_num_threads(1)
        self.engine = Decoder(load_model(weights))
        self.tokenizer = load_tokenizer(weights / "backbone")
        self.name, self.positions, self.fault = name, positions, fault
        self.left = die_after
        self.lock = threading.Lock()
        self.problems: list[tuple[int, ...]] = []
        self.broken_until = 0.0
        self.hangs = False

    def strike(self, prompt: list[int]) -> None:
        """The fault, if this is the problem for it."""
        with self.lock:
            if tuple(prompt) not in self.problems:
                self.problems.append(tuple(prompt))
            struck = Path(os.environ.get("MATHLLM_WORKING_DIR", "")) / STRUCK_FILE
            # The first that comes is the token that says whether it generates at all.
            if not self.fault or len(self.problems) != 1 + STRUCK or struck.exists():
                return
            struck.write_text(self.fault, encoding="utf-8")
        time.sleep(BEFORE_SECONDS)
        if self.fault == "server-killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault == "server-hangs":  # its sockets take connections, nobody answers
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.fault == "server-stalls":  # it says that it is there, and generates nothing
            self.hangs = True
        elif self.fault == "server-500":
            self.broken_until = time.monotonic() + BROKEN_SECONDS


class Handler(BaseHTTPRequestHandler):
    """One request; `server.state` has the rest."""

    def log_message(self, *_: object) -> None:
        """Nothing: a line for each sample would fill the log."""

    def do_GET(self) -> None:
        state: State = self.server.state
        model = {"id": state.name, "object": "model", "max_model_len": state.positions}
        self._reply({"object": "list", "data": [model]})

    def do_POST(self) -> None:
        state: State = self.server.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["model"] != state.name:
            self._reply({"error": {"message": f"no model {body['model']}"}}, 404)
            return
        prompt = body["prompt"]
        if isinstance(prompt, str):
            prompt = state.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        state.strike(prompt)
        if state.hangs:
            time.sleep(HANG_SECONDS)
        if time.monotonic() < state.broken_until:
            self._reply({"error": {"message": "injected: the engine is dead"}}, 500)
            return
        sample = state.engine.start(prompt, self._config(state, body), body.get("seed", 0))
        if not body.get("stream"):
            sample.wait()
            text = state.tokenizer.decode(sample.completion.tokens)
            reason = sample.completion.finish_reason
            self._reply({"choices": [{"index": 0, "text": text, "finish_reason": reason}]})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            self._stream(state, sample, bool(body.get("return_token_ids")))
        except OSError:  # whoever asked has gone
            sample.cancel()

    def _config(self, state: State, body: dict[str, Any]) -> Any:
        from mathllm.engines import SamplingConfig

        stops = (state.tokenizer(s, add_special_tokens=False) for s in body.get("stop", []))
        return SamplingConfig(
            max_new_tokens=body["max_tokens"],
            temperature=body["temperature"],
            top_p=body.get("top_p", 1.0),
            stop_ids=frozenset(body.get("stop_token_ids", [])),
            stop_sequences=tuple(tuple(stop["input_ids"]) for stop in stops),
        )

    def _stream(self, state: State, sample: Any, ids: bool) -> None:
        sent, done = 0, False
        while not done:
            done = sample.wait(POLL_SECONDS)
            completion = sample.completion
            tokens = completion.tokens[sent:]
            if not tokens and not done:
                continue
            logprobs = completion.logprobs[sent : sent + len(tokens)]
            sent += len(tokens)
            choice = {
                "index": 0,
                "text": state.tokenizer.decode(tokens),
                **({"token_ids": tokens} if ids else {}),
                "finish_reason": completion.finish_reason if done else None,
                "logprobs": {
                    "token_logprobs": logprobs,
                    "top_logprobs": [{"a": value} for value in logprobs],
                },
            }
            self.wfile.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
            self.wfile.flush()
            state.left -= len(tokens)
            if state.left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
        self.wfile.write(b"data: [DONE]\n\n")

    def _reply(self, value: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _find_package() -> None:
    """Put the folder of the vendored mathllm on the path, where it is not there already."""
    inputs = Path(os.environ.get("MATHLLM_INPUT_ROOT", "/kaggle/input"))
    for pattern in ("*", "datasets/*/*"):
        sys.path += [str(p.parents[1]) for p in inputs.glob(f"{pattern}/mathllm/__init__.py")]


def main() -> None:
    parser = argparse.ArgumentParser(description="a completions server over a bundle's weights")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-model-len", type=int, required=True)
    parser.add_argument("--name", default="played")
    parser.add_argument("--weights", type=Path, help="default: the vendored ones")
    parser.add_argument("--die-after", type=int, default=sys.maxsize, help="tokens that it sends")
    options = parser.parse_args()
    _find_package()
    from mathllm.paths import locate_weights

    weights = options.weights or locate_weights("")
    fault = os.environ.get("MATHLLM_FAULT", "")
    state = State(weights, options.name, options.max_model_len, fault, options.die_after)
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    server.daemon_threads, server.state = True, state
    server.serve_forever()


if __name__ == "__main__":
    main()
