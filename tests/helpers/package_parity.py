"""What an evaluation package and ours make of the same endpoints, replies and problems.

    python -m helpers.package_parity FOLDER VERSION      FOLDER holds kaggle_evaluation

Prints JSON: for each case the outcome with their gateway and their server, ours and ours,
theirs and ours, ours and theirs. An outcome is the
submission's rows, "refused" where no server was made, or the name of the kind of error.
"""

import functools
import importlib
import json
import os
import socket
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

from mathllm.competition.protocol.client import Client
from mathllm.competition.protocol.gateway import run_gateway
from mathllm.competition.protocol.server import InferenceServer
from mathllm.settings import PACKAGES


def predict(id_, problem):
    return pl.DataFrame({"id": id_, "answer": [len(problem[0])]})


def replying(reply):
    """An endpoint that replies so; `reply` may look at the id."""

    def predict(id_, problem):  # noqa: ARG001
        return reply(id_[0]) if callable(reply) else reply

    return predict


class Model:
    def predict(self, id_, problem):
        return predict(id_, problem)

    __call__ = predict


def infer(id_, problem):
    return predict(id_, problem)


def too_few(id_):
    return predict(id_, id_)


too_few.__name__ = "predict"

frame = pl.DataFrame({"id": ["?"], "answer": [7]})
ENDPOINTS = {
    "function": predict,
    "bound method": Model().predict,
    "callable object": Model(),
    "lambda": lambda id_, problem: predict(id_, problem),
    "partial": functools.partial(predict),
    "builtin": len,
    "class": Model,
    "another name": infer,
    "too few arguments": too_few,
}
REPLIES = {
    "frame": frame,
    "frame without ids": frame.select("answer"),
    "pandas frame": frame.to_pandas(),
    "pandas series": pd.Series([7], name="answer"),
    "pandas series without a name": pd.Series([7]),
    "polars series": pl.Series("answer", [7]),
    "int": 7,
    "str": "7",
    "float": 7.5,
    "numpy int": np.int64(7),
    "numpy bool": np.bool_(True),
    "nothing": None,
    "list": [7],
    "dict": {"answer": 7},
    "array": np.array([7]),
    "no rows": frame.clear(),
    "two rows": pl.concat([frame, frame]),
    "enum": frame.with_columns(pl.Series("answer", ["7"], dtype=pl.Enum(["7"]))),
    "object": pl.DataFrame({"id": ["?"], "answer": pl.Series([object()], dtype=pl.Object)}),
    "columns differ": lambda id_: frame if id_ == "a" else frame.with_columns(more=1),
    "pandas after polars": lambda id_: frame if id_ == "a" else frame.to_pandas(),
    "exception": lambda id_: 1 // (id_ == "a"),
    "unsent": {7},
}


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def main(folder, version):
    sys.path.insert(0, folder)
    server_class = importlib.import_module(
        "kaggle_evaluation.aimo_3_inference_server"
    ).AIMO3InferenceServer
    gateway_class = importlib.import_module("kaggle_evaluation.aimo_3_gateway").AIMO3Gateway
    relay = importlib.import_module("kaggle_evaluation.core.relay")
    rules = PACKAGES[version]
    os.chdir(tempfile.mkdtemp())
    few, many = Path("few.csv"), Path("many.csv")
    few.write_text("id,problem\na,x\nb,xx\nc,xxx\n", encoding="utf-8")
    many.write_text("id,problem\n" + "".join(f"p{i:02},{'x' * i}.\n" for i in range(50)))

    def outcome(gateway, server, endpoint, problems):
        Path("submission.parquet").unlink(missing_ok=True)
        relay.GRPC_PORTS = [free_port()]
        try:
            served, port, stop = server(endpoint)
        except ValueError:
            return "refused"
        try:
            gateway(served, port, problems)
        except Exception as error:
            kind = getattr(error, "kind", None) or getattr(error, "error_type", None)
            return kind.name if kind is not None else repr(error)
        finally:
            stop()
        return [list(row) for row in pl.read_parquet("submission.parquet").sort("id").rows()]

    def their_server(endpoint):
        made = server_class(*endpoint)
        return made, relay.GRPC_PORTS[0], lambda: made.server.stop(0)

    def our_server(endpoint):
        made = InferenceServer(*endpoint, ports=relay.GRPC_PORTS, package=rules)
        return made, made.port, made.stop

    def their_gateway(served, port, problems):
        if isinstance(served, server_class):
            served.run_local_gateway((str(problems),))
            return
        served.start()
        gateway = gateway_class((str(problems),))
        if hasattr(gateway, "clients"):
            gateway.clients = {"default": relay.Client(port=port)}
        gateway.run()

    def our_gateway(served, port, problems):
        if isinstance(served, InferenceServer):
            served.run_local_gateway((problems,), report=lambda _: None)
            return
        served.serve()
        client = Client(ports=[port], package=rules)
        try:
            run_gateway(problems, ".", client, report=lambda _: None)
        finally:
            client.close()

    cases = {name: ([endpoint], few) for name, endpoint in ENDPOINTS.items()}
    cases |= {name: ([replying(reply)], few) for name, reply in REPLIES.items()}
    cases |= {"no endpoint": ([], few), "50 problems": ([predict], many)}
    pairs = [
        (their_gateway, their_server),
        (our_gateway, our_server),
        (their_gateway, our_server),
        (our_gateway, their_server),
    ]
    print(json.dumps({name: [outcome(*p, *case) for p in pairs] for name, case in cases.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
