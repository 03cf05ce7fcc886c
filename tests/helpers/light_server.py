"""A completions server that says "7" and nothing else, at once there: standard library only.

    python light_server.py PORT FOLDER [--positions N] [--model NAME]

What stands in FOLDER decides: `stall` makes it generate nothing, `refuse` answer 500; with `chat`
it takes messages only, without it prompts only.
"""

import argparse
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self._reply(200, {"data": [{"id": OPTIONS.model, "max_model_len": OPTIONS.positions}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat = (OPTIONS.folder / "chat").exists()
        if ("messages" in body, self.path.endswith("/chat/completions")) != (chat, chat):
            self._reply(404, {"error": "no such path"})
            return
        while (OPTIONS.folder / "stall").exists():
            time.sleep(0.05)
        if (OPTIONS.folder / "refuse").exists():
            self._reply(500, {"error": "the engine is dead"})
            return
        self._reply(200, {"choices": [{"index": 0, "text": "7", "finish_reason": "length"}]})

    def _reply(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--positions", type=int, default=100)
    parser.add_argument("--model", default="light")
    OPTIONS = parser.parse_args()
    print("one", "two", "three", sep="\n", flush=True)
    server = ThreadingHTTPServer(("127.0.0.1", OPTIONS.port), Handler)
    server.daemon_threads = True
    server.serve_forever()
