"""Values to and from payloads."""

import io

import kaggle_evaluation_pb2 as pb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow


def payload(value):
    made = pb.Payload
    if isinstance(value, np.number | np.bool_):
        return made(numpy_scalar_value=_npy(value))
    if value is None:
        return made(none_value=True)
    for kind, field in ((str, "str"), (bool, "bool"), (int, "int"), (float, "float")):
        if isinstance(value, kind):
            return made(**{f"{field}_value": value})
    if isinstance(value, list | tuple):
        items = pb.PayloadList(payloads=[payload(item) for item in value])
        return made(**{"list_value" if isinstance(value, list) else "tuple_value": items})
    if isinstance(value, dict):
        return made(dict_value=pb.PayloadMap(payload_map={k: payload(v) for k, v in value.items()}))
    if isinstance(value, pd.DataFrame):
        return made(pandas_dataframe_value=_pandas(value))
    if isinstance(value, pd.Series):
        return made(pandas_series_value=_pandas(value.to_frame()))
    if isinstance(value, pl.DataFrame):
        if {kind.base_type() for kind in value.dtypes} & {pl.Enum, pl.Object, pl.Unknown}:
            raise TypeError("a column of a type that is not sent")
        table, sink = value.to_arrow(), io.BytesIO()
        options = pyarrow.ipc.IpcWriteOptions(compression="lz4")
        with pyarrow.ipc.new_stream(sink, table.schema, options=options) as stream:
            stream.write_table(table)
        return made(polars_dataframe_value=sink.getvalue())
    if isinstance(value, pl.Series):
        sink = io.BytesIO()
        value.to_frame().write_parquet(sink, compression="lz4", statistics=False)
        return made(polars_series_value=sink.getvalue())
    if isinstance(value, np.ndarray):
        return made(numpy_array_value=_npy(value))
    raise TypeError(f"{type(value)} is not sent")


def value_of(sent):
    kind = sent.WhichOneof("value")
    content = getattr(sent, kind) if kind else None
    match kind:
        case "none_value":
            return None
        case "list_value":
            return [value_of(item) for item in content.payloads]
        case "tuple_value":
            return tuple(value_of(item) for item in content.payloads)
        case "dict_value":
            return {name: value_of(item) for name, item in content.payload_map.items()}
        case "pandas_dataframe_value":
            return pd.read_parquet(io.BytesIO(content))
        case "pandas_series_value":
            return pd.read_parquet(io.BytesIO(content)).iloc[:, 0]
        case "polars_dataframe_value":
            return pl.from_arrow(pyarrow.ipc.open_stream(content).read_all())
        case "polars_series_value":
            return pl.read_parquet(io.BytesIO(content)).to_series()
        case "numpy_array_value" | "numpy_scalar_value":
            array = np.load(io.BytesIO(content), allow_pickle=False)
            return array if kind == "numpy_array_value" else array[()]
        case None | "enum_value" | "dataclass_value" | "pydantic_model_value":
            raise PermissionError(f"{kind} is not read")
    return content


def _npy(value):
    sink = io.BytesIO()
    np.save(sink, value, allow_pickle=False)
    return sink.getvalue()


def _pandas(frame):
    sink = io.BytesIO()
    frame.to_parquet(sink, index=False, compression="lz4")
    return sink.getvalue()
