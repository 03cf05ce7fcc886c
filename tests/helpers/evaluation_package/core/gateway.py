"""A run: every problem asked, the submission written."""

import enum
import json
import os
import traceback
from pathlib import Path

import grpc
import kaggle_evaluation
import numpy as np
import pandas as pd
import polars as pl
from kaggle_evaluation.core import relay

RERUN = "KAGGLE_IS_COMPETITION_RERUN" in os.environ
Kind = enum.Enum(
    "Kind",
    "UNSPECIFIED SERVER_NEVER_STARTED SERVER_CONNECTION_FAILED SERVER_RAISED_EXCEPTION "
    "SERVER_MISSING_ENDPOINT GATEWAY_RAISED_EXCEPTION INVALID_SUBMISSION GRPC_DEADLINE_EXCEEDED",
    start=0,
)


class GatewayRuntimeError(Exception):
    def __init__(self, error_type, error_details=None):
        super().__init__(error_type, error_details)
        self.error_type, self.error_details = error_type, error_details


def invalid(why):
    return GatewayRuntimeError(Kind.INVALID_SUBMISSION, why)


class Gateway:
    def __init__(self, data_paths=None):
        self.path = data_paths[0] if data_paths else "/kaggle/input/test.csv"
        host = "inference_server" if RERUN else "localhost"
        if kaggle_evaluation.NEW:
            self.clients = {"default": relay.Client(host, port=relay.GRPC_PORTS[0])}
        else:
            self.client = relay.Client(host)
        self._client().seconds = 9 * 3600.0

    def _client(self):
        return self.clients["default"] if kaggle_evaluation.NEW else self.client

    def batches(self):
        """Values to send, and the frame of ids."""
        for row in pl.read_csv(self.path).sample(fraction=1.0, shuffle=True).iter_slices(1):
            yield row.get_columns(), row.select("id")

    def run(self):
        error = None
        try:
            self._write(*self._ask())
        except GatewayRuntimeError as known:
            error = known
        except Exception:
            error = GatewayRuntimeError(Kind.GATEWAY_RAISED_EXCEPTION, traceback.format_exc())
        if self._client().channel is not None:
            self._client().channel.close()
        if RERUN:
            result = {"Succeeded": error is None}
            if error:
                result |= {"ErrorType": error.error_type.value, "ErrorName": error.error_type.name}
                result["ErrorDetails"] = (error.error_details or "")[:8000] or None
            Path("result.json").write_text(json.dumps(result))
        elif error:
            raise error

    def _ask(self):
        replies, ids = [], []
        for values, names in self.batches():
            try:
                reply = self._client().send("predict", *values)
            except Exception as error:
                raise self._named(error) from None
            self._check(reply, len(names))
            replies.append(reply)
            ids.append(names)
        return replies, ids

    def _named(self, error):
        text = str(error)
        if "Failed to connect to server after waiting" in text:
            return GatewayRuntimeError(Kind.SERVER_NEVER_STARTED)
        if "No listener for predict was registered" in text:
            return GatewayRuntimeError(Kind.SERVER_MISSING_ENDPOINT, "no listener for predict")
        if "Exception calling application" in text:
            return GatewayRuntimeError(Kind.SERVER_RAISED_EXCEPTION, text)
        if isinstance(error, grpc.RpcError | relay.ServerDiedError):
            return GatewayRuntimeError(Kind.SERVER_CONNECTION_FAILED, text)
        if isinstance(error, relay.LateError):
            return GatewayRuntimeError(Kind.GRPC_DEADLINE_EXCEEDED, text)
        return error

    def _check(self, reply, rows):
        if reply is None:
            raise invalid("no prediction")
        if isinstance(reply, str | int | float | np.int_):
            found = 1
        elif isinstance(reply, pl.DataFrame | pl.Series | pd.DataFrame | pd.Series):
            found = len(reply)
        else:
            raise invalid(f"a prediction of type {type(reply)}")
        if found != rows:
            raise invalid(f"{found} rows, expected {rows}")

    def _write(self, replies, ids):
        ids = pl.concat(ids)
        if kaggle_evaluation.NEW and not replies:
            raise invalid("no replies")
        if isinstance(replies[0], pd.DataFrame | pd.Series):
            frame = pd.DataFrame(pd.concat(replies, ignore_index=True))
            frame["id"] = ids["id"].to_list()
            frame[["id", *frame.columns.drop("id")]].to_parquet("submission.parquet", index=False)
            return
        if not isinstance(replies[0], pl.DataFrame):
            raise GatewayRuntimeError(Kind.GATEWAY_RAISED_EXCEPTION, "predictions without a name")
        if len({reply.width for reply in replies}) > 1:
            raise invalid("inconsistent column counts")
        if len({tuple(reply.schema.items()) for reply in replies}) > 1:
            raise invalid("inconsistent types")
        frame = pl.concat(replies).with_columns(ids)
        frame.select("id", pl.exclude("id")).write_parquet("submission.parquet")


class InferenceServer:
    def __init__(self, *endpoints):
        self.server, port = relay.serve(*endpoints)
        if kaggle_evaluation.NEW:
            self.port = port

    def serve(self):
        self.server.start()
        if RERUN:
            self.server.wait_for_termination()

    def run_local_gateway(self, data_paths=None):
        self.server.start()
        try:
            gateway = self._get_gateway_for_test(data_paths)
            if kaggle_evaluation.NEW:
                gateway.clients = {"default": relay.Client(port=self.port)}
            gateway.run()
        finally:
            self.server.stop(0)
