"""A small server with the completions API, over the embedded default: a real model, loopback.

    python openai_server.py PORT_FILE [--die-after N]

Writes its port to PORT_FILE. With --die-after it kills itself once N tokens are sent.
"""

import argparse
import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from mathllm.data.chat import load_tokenizer
from mathllm.engines import Decoder, SamplingConfig
from mathllm.solving import load_model

TINY = Path(__file__).resolve().parents[2] / "assets" / "tiny"


class Handler(BaseHTTPRequestHandler):
    """One request. `server.state` has the decoder, the tokenizer and what is left to send."""

    def log_message(self, *_: object) -> None:
        """Nothing: the tests' output is long enough."""

    def do_GET(self) -> None:
        self._reply({"data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["model"] != "tiny":
            self._reply({"error": {"message": f"no model {body['model']}"}}, 404)
            return
        state = self.server.state
        config = SamplingConfig(
            max_new_tokens=body["max_tokens"],
            temperature=body["temperature"],
            top_p=body["top_p"],
            seed=body.get("seed", 0),
            stop_ids=frozenset(body["stop_token_ids"]),
            stop_sequences=tuple(
                tuple(state["tokenizer"](stop)["input_ids"]) for stop in body.get("stop", [])
            ),
        )
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        sent = 0

        def tell(progress):
            nonlocal sent
            ((completion,),) = progress.completions
            new = completion.tokens[sent:]
            logprobs = completion.logprobs[sent:]
            sent = len(completion.tokens)
            choice = {
                "text": state["tokenizer"].decode(new),
                "finish_reason": completion.finish_reason,
                "logprobs": {
                    "token_logprobs": logprobs,
                    "top_logprobs": [{"a": value} for value in logprobs],
                },
            }
            if body.get("return_token_ids"):
                choice["token_ids"] = new
            self._send({"choices": [choice]})
            state["left"] -= len(new)
            if state["left"] <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

        with state["lock"]:
            state["decoder"].generate([body["prompt"]], config, on_pass=tell)
        self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, event: dict) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.flush()

    def _reply(self, value: dict, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port_file", type=Path)
    parser.add_argument("--die-after", type=int, default=10**9)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    server = ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler)
    server.state = {
        "decoder": Decoder(load_model(TINY)),
        "tokenizer": load_tokenizer(TINY / "backbone"),
        "left": arguments.die_after,
        "lock": threading.Lock(),
    }
    arguments.port_file.with_suffix(".new").write_text(str(server.server_port))
    arguments.port_file.with_suffix(".new").rename(arguments.port_file)
    server.serve_forever()


if __name__ == "__main__":
    main()
