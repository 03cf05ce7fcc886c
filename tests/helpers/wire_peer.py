"""A second, independent side of the evaluation protocol, made by protoc from a .proto text.

It plays the competition's own package: nothing of mathllm is imported, the message classes
are generated code in protobuf's default pool, and the bytes inside are written and read by
the libraries directly.
"""

import importlib
import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow.ipc

PROTO = """
syntax = "proto3";
package kaggle_evaluation_client;
service KaggleEvaluationService {
  rpc Send(KaggleEvaluationRequest) returns (KaggleEvaluationResponse) {};
}
message KaggleEvaluationRequest {
  string name = 1; repeated Payload args = 2; map<string, Payload> kwargs = 3;
}
message KaggleEvaluationResponse { Payload payload = 1; }
message Payload {
  oneof value {
    string str_value = 1; bool bool_value = 2; sint64 int_value = 3; float float_value = 4;
    bool none_value = 5; PayloadList list_value = 6; PayloadList tuple_value = 7;
    PayloadMap dict_value = 8; bytes pandas_dataframe_value = 9;
    bytes polars_dataframe_value = 10; bytes pandas_series_value = 11;
    bytes polars_series_value = 12; bytes numpy_array_value = 13;
    bytes numpy_scalar_value = 14; bytes bytes_io_value = 15;
  }
}
message PayloadList { repeated Payload payloads = 1; }
message PayloadMap { map<string, Payload> payload_map = 1; }
"""


def compile_peer(folder: Path) -> tuple[ModuleType, ModuleType]:
    """The generated modules (messages, service). The default pool takes them only once."""
    from grpc_tools import protoc

    name = "kaggle_evaluation"
    if f"{name}_pb2" not in sys.modules:
        (folder / f"{name}.proto").write_text(PROTO, encoding="utf-8")
        out = [f"--python_out={folder}", f"--grpc_python_out={folder}"]
        assert protoc.main(["protoc", f"-I{folder}", *out, f"{name}.proto"]) == 0
        sys.path.insert(0, str(folder))
        try:
            importlib.import_module(f"{name}_pb2_grpc")
        finally:
            sys.path.remove(str(folder))
    return sys.modules[f"{name}_pb2"], sys.modules[f"{name}_pb2_grpc"]


def arrow(frame: pl.DataFrame) -> bytes:
    table = frame.to_arrow()
    sink = io.BytesIO()
    options = pyarrow.ipc.IpcWriteOptions(compression="lz4")
    with pyarrow.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet(frame: pl.DataFrame) -> bytes:
    sink = io.BytesIO()
    frame.write_parquet(sink, compression="lz4", statistics=False)
    return sink.getvalue()


def pandas_parquet(frame: pd.DataFrame) -> bytes:
    sink = io.BytesIO()
    frame.to_parquet(sink, index=False, compression="lz4")
    return sink.getvalue()


def npy(value: Any) -> bytes:
    sink = io.BytesIO()
    np.save(sink, value, allow_pickle=False)
    return sink.getvalue()


def reader() -> dict[str, Any]:
    """How the package reads each field."""
    return {
        "pandas_dataframe_value": lambda b: pd.read_parquet(io.BytesIO(b)),
        "polars_dataframe_value": lambda b: pl.from_arrow(pyarrow.ipc.open_stream(b).read_all()),
        "pandas_series_value": lambda b: pd.read_parquet(io.BytesIO(b)).iloc[:, 0],
        "polars_series_value": lambda b: pl.read_parquet(io.BytesIO(b)).to_series(),
        "numpy_array_value": lambda b: np.load(io.BytesIO(b), allow_pickle=False),
        "numpy_scalar_value": lambda b: np.load(io.BytesIO(b), allow_pickle=False)[()],
    }


def plain(payload: Any) -> Any:
    """The value of a Payload of generated code that holds primitives and containers only."""
    kind = payload.WhichOneof("value")
    content = getattr(payload, kind)
    match kind:
        case "none_value":
            return None
        case "list_value":
            return [plain(item) for item in content.payloads]
        case "tuple_value":
            return tuple(plain(item) for item in content.payloads)
        case "dict_value":
            return {key: plain(item) for key, item in content.payload_map.items()}
    return content
