"""Values of Python to and from the messages of the evaluation protocol.

The descriptors are made at run time in a pool of their own: no generated code, so any
protobuf from 5 on will do, and the competition's own package may live in the same process.
Fields and formats are facts of the public kaggle_evaluation package (0.9.0 and 1.4.0). Enums,
dataclasses and pydantic models, which 1.4.0 has, are refused, as there unless their module is
allowed. pandas, polars, pyarrow and numpy are imported only when a value needs them.
"""

import io
import sys
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "kaggle_evaluation_client"

INT_MIN, INT_MAX = -(2**63), 2**63 - 1  # int_value is a sint64

_FIELD = descriptor_pb2.FieldDescriptorProto
_PAYLOAD_FIELDS = (
    ("str_value", 1, _FIELD.TYPE_STRING),
    ("bool_value", 2, _FIELD.TYPE_BOOL),
    ("int_value", 3, _FIELD.TYPE_SINT64),
    ("float_value", 4, _FIELD.TYPE_FLOAT),
    ("none_value", 5, _FIELD.TYPE_BOOL),
    ("list_value", 6, "PayloadList"),
    ("tuple_value", 7, "PayloadList"),
    ("dict_value", 8, "PayloadMap"),
    ("pandas_dataframe_value", 9, _FIELD.TYPE_BYTES),
    ("polars_dataframe_value", 10, _FIELD.TYPE_BYTES),
    ("pandas_series_value", 11, _FIELD.TYPE_BYTES),
    ("polars_series_value", 12, _FIELD.TYPE_BYTES),
    ("numpy_array_value", 13, _FIELD.TYPE_BYTES),
    ("numpy_scalar_value", 14, _FIELD.TYPE_BYTES),
    ("bytes_io_value", 15, _FIELD.TYPE_BYTES),
    ("enum_value", 17, "DataModel"),
    ("dataclass_value", 18, "DataModel"),
    ("pydantic_model_value", 19, "DataModel"),
)


def _add_field(message: Any, name: str, number: int, kind: Any, repeated: bool = False) -> Any:
    """`kind` is a scalar type, or the name of a message beside this one."""
    field = message.field.add(name=name, number=number)
    field.label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
    if isinstance(kind, str):
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = kind
    return field


def _add_map(message: Any, name: str, number: int) -> None:
    """A map<string, Payload>, which is a repeated entry message with key 1 and value 2."""
    entry = message.nested_type.add(
        name="".join(part.capitalize() for part in name.split("_")) + "Entry"
    )
    entry.options.map_entry = True
    _add_field(entry, "key", 1, _FIELD.TYPE_STRING)
    _add_field(entry, "value", 2, "Payload")
    _add_field(message, name, number, f"{message.name}.{entry.name}", repeated=True)


def _message_classes() -> Callable[[str], Any]:
    # The file's name is ours: two files of one name in one pool must be the same file.
    file = descriptor_pb2.FileDescriptorProto(
        name="mathllm/competition/protocol/messages.proto", package=PACKAGE, syntax="proto3"
    )
    request = file.message_type.add(name="KaggleEvaluationRequest")
    _add_field(request, "name", 1, _FIELD.TYPE_STRING)
    _add_field(request, "args", 2, "Payload", repeated=True)
    _add_map(request, "kwargs", 3)
    response = file.message_type.add(name="KaggleEvaluationResponse")
    _add_field(response, "payload", 1, "Payload")
    payload = file.message_type.add(name="Payload")
    payload.oneof_decl.add(name="value")
    for name, number, kind in _PAYLOAD_FIELDS:
        _add_field(payload, name, number, kind).oneof_index = 0
    _add_field(file.message_type.add(name="PayloadList"), "payloads", 1, "Payload", repeated=True)
    _add_map(file.message_type.add(name="PayloadMap"), "payload_map", 1)
    model = file.message_type.add(name="DataModel")
    for number, name in enumerate(("module", "class_name", "data"), start=1):
        _add_field(model, name, number, _FIELD.TYPE_STRING)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return lambda name: message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"{PACKAGE}.{name}")
    )


_message = _message_classes()
Request = _message("KaggleEvaluationRequest")
Response = _message("KaggleEvaluationResponse")
Payload = _message("Payload")
PayloadList = _message("PayloadList")
PayloadMap = _message("PayloadMap")
DataModel = _message("DataModel")


def request(name: str, args: Sequence[Any] = ()) -> Any:
    """The Request that calls endpoint `name` with these arguments."""
    return Request(name=name, args=[serialize(value) for value in args])


def serialize(value: Any) -> Any:
    """The Payload of a value. Raises TypeError, naming the type, for what it cannot hold.

    A float loses all but 32 bits, a pandas frame or Series its index, a dict its order: so
    the protocol has it. Raises OverflowError for an integer beyond 64 bits.
    """
    # numpy's scalars come first, some of them are Python numbers too; bool is an int.
    if _is(value, "numpy", "generic"):
        return Payload(numpy_scalar_value=_numpy_scalar_bytes(value))
    if value is None:
        return Payload(none_value=True)
    if isinstance(value, str):
        return Payload(str_value=value)
    if isinstance(value, bool):
        return Payload(bool_value=value)
    if isinstance(value, int):
        if not INT_MIN <= value <= INT_MAX:
            raise OverflowError(f"an int of {value.bit_length()} bits; the protocol has 64")
        return Payload(int_value=value)
    if isinstance(value, float):
        return Payload(float_value=value)
    if isinstance(value, list | tuple):
        items = PayloadList(payloads=[serialize(item) for item in value])
        field = "list_value" if isinstance(value, list) else "tuple_value"
        return Payload(**{field: items})
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"a dict with a key of type {_type_name(key)}, only str is sent")
        items = {key: serialize(item) for key, item in value.items()}
        return Payload(dict_value=PayloadMap(payload_map=items))
    if _is(value, "pandas", "DataFrame"):
        return Payload(pandas_dataframe_value=_pandas_bytes(value))
    if _is(value, "polars", "DataFrame"):
        return Payload(polars_dataframe_value=_arrow_bytes(value))
    if _is(value, "pandas", "Series"):
        return Payload(pandas_series_value=_pandas_bytes(value.to_frame()))
    if _is(value, "polars", "Series"):
        return Payload(polars_series_value=_parquet_bytes(value.to_frame()))
    if _is(value, "numpy", "ndarray"):
        return Payload(numpy_array_value=_numpy_bytes(value))
    if isinstance(value, io.BytesIO):
        return Payload(bytes_io_value=value.getvalue())
    raise TypeError(f"{_type_name(value)} is not a type that the evaluation protocol can send")


def deserialize(payload: Any) -> Any:
    """The value of a Payload. Raises TypeError for an empty one or of a kind unknown here."""
    kind = payload.WhichOneof("value")
    if kind is None:
        raise TypeError("a Payload that is empty, or of a newer version's kind")
    content = getattr(payload, kind)
    if kind in _MODELS:
        raise PermissionError(f"{kind} of {content.module}.{content.class_name}: not allowed")
    reader = _READERS.get(kind)
    return content if reader is None else reader(content)


def _is(value: Any, module: str, name: str) -> bool:
    """isinstance without importing: a value of a module's type means it is imported."""
    loaded = sys.modules.get(module)
    # A module that another thread is still importing has not made the value either.
    kind = getattr(loaded, name, None)
    return kind is not None and isinstance(value, kind)


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _numpy_scalar_bytes(value: Any) -> bytes:
    import numpy as np

    if not isinstance(value, np.number | np.bool_):
        raise TypeError(f"{_type_name(value)}: of numpy's scalars only numbers and bools are sent")
    return _numpy_bytes(value)


def _numpy_bytes(value: Any) -> bytes:
    import numpy as np

    if value.dtype.hasobject:
        raise TypeError(f"a numpy array of dtype {value.dtype}: it would need pickle")
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def _pandas_bytes(frame: Any) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, compression="lz4")
    return buffer.getvalue()


def _arrow_bytes(frame: Any) -> bytes:
    import polars as pl
    import pyarrow.ipc as ipc

    for name, kind in frame.schema.items():
        if kind.base_type() in (pl.Enum, pl.Object, pl.Unknown):
            raise TypeError(f"polars column {name!r} of type {kind} is not sent")
    table = frame.to_arrow()
    buffer = io.BytesIO()
    options = ipc.IpcWriteOptions(compression="lz4")
    with ipc.new_stream(buffer, table.schema, options=options) as stream:
        stream.write_table(table)
    return buffer.getvalue()


def _parquet_bytes(frame: Any) -> bytes:
    import polars as pl

    if pl.Object in frame.dtypes:
        raise TypeError("a polars Series of type Object is not sent")
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="lz4", statistics=False)
    return buffer.getvalue()


def _read_pandas(content: bytes) -> Any:
    import pandas as pd

    return pd.read_parquet(io.BytesIO(content))


def _read_pandas_series(content: bytes) -> Any:
    return _read_pandas(content).iloc[:, 0]


def _read_polars(content: bytes) -> Any:
    import polars as pl
    import pyarrow.ipc as ipc

    with ipc.open_stream(content) as stream:
        return pl.from_arrow(stream.read_all())


def _read_polars_series(content: bytes) -> Any:
    import polars as pl

    if content.startswith(b"PAR1"):
        return pl.read_parquet(io.BytesIO(content)).to_series()
    return _read_polars(content).to_series()


def _read_numpy(content: bytes) -> Any:
    import numpy as np

    return np.load(io.BytesIO(content), allow_pickle=False)


def _read_numpy_scalar(content: bytes) -> Any:
    import numpy as np

    array = _read_numpy(content)
    if array.shape != () or not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
        raise TypeError(f"a numpy scalar was expected, came {array.dtype} of shape {array.shape}")
    return array[()]


_MODELS = ("enum_value", "dataclass_value", "pydantic_model_value")
_READERS: dict[str, Callable[[Any], Any]] = {
    "none_value": lambda _: None,
    "list_value": lambda content: [deserialize(item) for item in content.payloads],
    "tuple_value": lambda content: tuple(deserialize(item) for item in content.payloads),
    "dict_value": lambda content: {k: deserialize(v) for k, v in content.payload_map.items()},
    "pandas_dataframe_value": _read_pandas,
    "polars_dataframe_value": _read_polars,
    "pandas_series_value": _read_pandas_series,
    "polars_series_value": _read_polars_series,
    "numpy_array_value": _read_numpy,
    "numpy_scalar_value": _read_numpy_scalar,
    "bytes_io_value": io.BytesIO,
}
