"""Values survive the wire, and its bytes are those that the protocol prescribes."""

import datetime
import io
import math
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal, assert_series_equal

from helpers.paths import SHARED
from helpers.wire_peer import arrow, compile_peer, npy, pandas_parquet, parquet, plain, reader
from mathllm.competition.protocol.messages import (
    INT_MAX,
    INT_MIN,
    DataModel,
    Payload,
    Request,
    deserialize,
    serialize,
)
from mathllm.competition.protocol.messages import request as make_request

few = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
primitives = st.one_of(
    texts,
    st.booleans(),
    st.integers(INT_MIN, INT_MAX),
    st.floats(width=32, allow_nan=False),
    st.none(),
)
nested = st.recursive(
    primitives,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(texts, inner, max_size=3),
    ),
    max_leaves=12,
)


def sent(value: Any) -> Any:
    """What the other side has after the value went over the wire as bytes."""
    payload = serialize(value)
    return deserialize(Payload.FromString(payload.SerializeToString()))


def same(left: Any, right: Any) -> bool:
    """Equal in type as well as in value, at every level."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    return left == right


@few
@given(nested)
def test_primitives_and_containers_come_back_with_their_types(value: Any) -> None:
    assert same(sent(value), value)


def test_true_is_not_one_and_a_tuple_is_not_a_list() -> None:
    assert sent(True) is True
    assert type(sent(1)) is int
    assert sent([(1, [2]), {"a": (None,)}]) == [(1, [2]), {"a": (None,)}]


def test_floats_lose_all_but_32_bits_and_keep_their_special_values() -> None:
    assert sent(0.1) == struct.unpack("<f", struct.pack("<f", 0.1))[0] != 0.1
    assert math.isnan(sent(math.nan))
    assert sent(-math.inf) == -math.inf
    assert math.copysign(1, sent(-0.0)) == -1


# Written by hand: tag = field number · 8 + wire type (0 varint, 2 length-delimited, 5 fixed
# 32 bits); a sint64 is zigzag, 2n for n ≥ 0 and −2n − 1 below; length before content.
GOLDEN = [
    ("a", b"\x0a\x01a"),
    ("", b"\x0a\x00"),
    (True, b"\x10\x01"),
    (False, b"\x10\x00"),
    (-3, b"\x18\x05"),
    (0, b"\x18\x00"),
    (150, b"\x18\xac\x02"),
    (INT_MIN, b"\x18" + b"\xff" * 9 + b"\x01"),
    (1.5, b"\x25\x00\x00\xc0\x3f"),
    (None, b"\x28\x01"),
    ([], b"\x32\x00"),
    ([1, "a"], b"\x32\x09" + b"\x0a\x02\x18\x02" + b"\x0a\x03\x0a\x01a"),
    ((), b"\x3a\x00"),
    ((None,), b"\x3a\x04" + b"\x0a\x02\x28\x01"),
    ({}, b"\x42\x00"),
    ({"k": -3}, b"\x42\x09" + b"\x0a\x07" + b"\x0a\x01k" + b"\x12\x02\x18\x05"),
]


@pytest.mark.parametrize(("value", "expected"), GOLDEN, ids=[repr(v) for v, _ in GOLDEN])
def test_bytes_are_those_of_the_protocol(value: Any, expected: bytes) -> None:
    assert serialize(value).SerializeToString(deterministic=True) == expected
    assert same(deserialize(Payload.FromString(expected)), value)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (pd.DataFrame({"a": [1]}), 9),
        (pl.DataFrame({"a": [1]}), 10),
        (pd.Series([1], name="a"), 11),
        (pl.Series("a", [1]), 12),
        (np.zeros(2), 13),
        (np.float64(1), 14),
        (io.BytesIO(b"x"), 15),
    ],
    ids=lambda v: v if isinstance(v, int) else type(v).__qualname__,
)
def test_special_types_stand_in_their_fields(value: Any, field: int) -> None:
    data = serialize(value).SerializeToString()
    assert data[0] == field * 8 + 2


def test_a_request_has_name_arguments_and_named_arguments_in_their_fields() -> None:
    assert make_request("f", [True]).SerializeToString() == b"\x0a\x01f\x12\x02\x10\x01"
    request = Request.FromString(b"\x0a\x01f\x1a\x07\x0a\x01k\x12\x02\x18\x05")
    assert request.name == "f"
    assert deserialize(request.kwargs["k"]) == -3


SCALARS = [
    *(np.int8(-1), np.int64(2**62), np.uint64(2**64 - 1), np.float16(7), np.float32("nan")),
    *(np.float64(0.1), np.longdouble(0.1), np.complex64(1j), np.bool_(True)),
]


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda s: f"{s.dtype}")
def test_numpy_scalars_come_back_as_scalars_of_their_type(scalar: Any) -> None:
    back = sent(scalar)
    assert type(back) is type(scalar)
    np.testing.assert_equal(back, scalar)


def test_a_numpy_scalar_of_the_other_byte_order_is_read() -> None:
    back = deserialize(Payload(numpy_scalar_value=npy(np.array(-7, ">i4"))))
    assert (type(back), back) == (np.int32, -7)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3), "f4"),
        np.array(5),
        np.arange(6, dtype=">i8").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(["ab", "c"]),
        np.array([b"ab"]),
        np.array(["2025-11-20"], "M8[D]"),
        np.array([True, False]),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_numpy_arrays_keep_dtype_shape_and_values(array: np.ndarray) -> None:
    back = sent(array)
    assert isinstance(back, np.ndarray)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


POLARS = pl.DataFrame(
    {
        "integers": [1, None, -(2**62)],
        "floats": [0.1, None, math.nan],
        "texts": ["é\x00\n", None, ""],
        "bools": [True, None, False],
        "lists": [[1, None], None, []],
        "structs": [{"a": 1}, {"a": None}, None],
        "days": [datetime.date(2025, 11, 20), None, None],
        "times": [datetime.datetime(2025, 11, 20, 1, 2, 3, 4), None, None],
    },
    strict=False,
).with_columns(
    small=pl.col("integers").cast(pl.Int8, strict=False),
    unsigned=pl.lit(2**63, pl.UInt64),
    single=pl.col("floats").cast(pl.Float32),
    binary=pl.col("texts").cast(pl.Binary),
    zoned=pl.col("times").dt.replace_time_zone("UTC"),
    nothing=pl.lit(None),
)


@pytest.mark.parametrize(
    "frame", [POLARS, POLARS.clear(), pl.DataFrame()], ids=["rows", "no rows", "nothing"]
)
def test_polars_frames_keep_types_nulls_and_values(frame: pl.DataFrame) -> None:
    assert_frame_equal(sent(frame), frame)


def test_the_values_of_polars_categories_survive_and_frames_with_enums_are_refused() -> None:
    series = pl.Series("e", ["x", "y", None], dtype=pl.Categorical())
    assert sent(series).to_list() == ["x", "y", None]
    assert sent(series.to_frame()).to_series().to_list() == ["x", "y", None]
    series = series.cast(pl.Enum(["x", "y"]))
    assert sent(series).to_list() == ["x", "y", None]
    with pytest.raises(TypeError, match="'e' of type Enum"):
        serialize(series.to_frame())


@pytest.mark.parametrize("column", POLARS.columns)
def test_polars_series_keep_name_and_type(column: str) -> None:
    assert_series_equal(sent(POLARS[column]), POLARS[column])


@pytest.mark.parametrize("write", [parquet, arrow])
def test_a_series_is_read_in_parquet_and_as_an_arrow_stream(write: Any) -> None:
    series = pl.Series("id", ["0e644e"])
    assert_series_equal(deserialize(Payload(polars_series_value=write(series.to_frame()))), series)


@pytest.mark.parametrize("kind", ["enum_value", "dataclass_value", "pydantic_model_value"])
def test_objects_of_a_module_are_refused_by_name(kind: str) -> None:
    model = DataModel(module="os", class_name="path", data="{}")
    with pytest.raises(PermissionError, match=rf"{kind} of os\.path"):
        deserialize(Payload(**{kind: model}))


def test_pandas_frames_and_series_keep_values_but_not_their_index() -> None:
    frame = pd.DataFrame({"id": ["000123", None], "x": [1.5, 2.5], "n": [1, 2]}, index=[7, 8])
    pd.testing.assert_frame_equal(sent(frame), frame.reset_index(drop=True))
    pd.testing.assert_series_equal(sent(frame["x"]), frame["x"].reset_index(drop=True))
    assert len(sent(frame.iloc[:0])) == 0
    assert list(sent(pd.Series([3, 4]))) == [3, 4]


def test_a_bytes_io_is_sent_whole_wherever_it_stands() -> None:
    stream = io.BytesIO(b"abc")
    stream.seek(2)
    assert sent(stream).read() == b"abc"


class Unknown:
    pass


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Unknown(), "Unknown"),
        (b"bytes", "builtins.bytes"),
        ({1, 2}, "builtins.set"),
        (1j, "builtins.complex"),
        (datetime.date(2025, 1, 1), "datetime.date"),
        (len, "builtin_function_or_method"),
        ({1: 2}, "builtins.int"),
        ([{"a": Unknown()}], "Unknown"),
        (np.str_("text"), "numpy.str_"),
        (np.datetime64("2025-01-01"), "numpy.datetime64"),
        (np.array([object()]), "object"),
        (pl.Series("x", [Unknown()], dtype=pl.Object), "Object"),
        (pl.DataFrame({"x": pl.Series([Unknown()], dtype=pl.Object)}), "Object"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_what_cannot_be_sent_is_refused_by_the_name_of_its_type(value: Any, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        serialize(value)


@pytest.mark.parametrize("value", [INT_MAX + 1, INT_MIN - 1, 10**40])
def test_an_integer_beyond_64_bits_is_refused(value: int) -> None:
    with pytest.raises(OverflowError, match="bits"):
        serialize(value)


@pytest.mark.parametrize("data", [b"", b"\xa2\x01\x02\x0a\x00"], ids=["empty", "field 20"])
def test_an_empty_payload_or_a_newer_kind_is_refused(data: bytes) -> None:
    with pytest.raises(TypeError, match="newer"):
        deserialize(Payload.FromString(data))


def test_nothing_is_ever_unpickled() -> None:
    sink = io.BytesIO()
    np.save(sink, np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        deserialize(Payload(numpy_array_value=sink.getvalue()))
    with pytest.raises(TypeError, match="scalar"):
        deserialize(Payload(numpy_scalar_value=npy(np.zeros(3))))


def test_importing_the_kernels_end_imports_no_heavy_package() -> None:
    code = (
        "import sys, mathllm.competition.protocol.server\n"
        "heavy = {'numpy', 'pandas', 'polars', 'pyarrow', 'torch', 'transformers'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Message classes from protoc; that they load beside ours is half of the test."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools compiles the independent description")
    return compile_peer(tmp_path_factory.mktemp("peer"))[0]


@few
@given(value=nested)
def test_generated_code_reads_and_writes_the_same_bytes(messages: ModuleType, value: Any) -> None:
    ours = serialize(value).SerializeToString(deterministic=True)
    theirs = messages.Payload.FromString(ours)
    assert same(plain(theirs), value)
    assert theirs.SerializeToString(deterministic=True) == ours


SPECIAL = [
    ("pandas_dataframe_value", pd.DataFrame({"a": [1, 2]}), pandas_parquet),
    ("polars_dataframe_value", pl.DataFrame({"a": [1, 2]}), arrow),
    ("pandas_series_value", pd.Series([1, 2], name="a"), lambda s: pandas_parquet(s.to_frame())),
    ("polars_series_value", pl.Series("a", ["x"]), lambda s: parquet(s.to_frame())),
    ("numpy_array_value", np.arange(3), npy),
    ("numpy_scalar_value", np.float32(2.5), npy),
]


@pytest.mark.parametrize(("field", "value", "write"), SPECIAL)
def test_special_types_agree_with_the_independent_side(
    messages: ModuleType, field: str, value: Any, write: Any
) -> None:
    theirs = messages.Payload(**{field: write(value)}).SerializeToString()
    assert repr(deserialize(Payload.FromString(theirs))) == repr(value)
    ours = messages.Payload.FromString(serialize(value).SerializeToString())
    assert ours.WhichOneof("value") == field
    assert repr(reader()[field](getattr(ours, field))) == repr(value)


@pytest.mark.data
def test_the_real_package_exchanges_every_kind_with_ours() -> None:
    """Runs where $KAGGLE_EVALUATION_DIR, or a folder beside the project, has the package."""
    shared = SHARED / "aimo3"
    folder = Path(os.environ.get("KAGGLE_EVALUATION_DIR", shared))
    if not (folder / "kaggle_evaluation" / "core" / "relay.py").is_file():
        pytest.skip("the competition's kaggle_evaluation package is not at hand")
    code = """
import numpy as np, pandas as pd, polars as pl
import kaggle_evaluation.core.relay as relay
from mathllm.competition.protocol.messages import Payload, deserialize, serialize
values = [1, -3, True, None, "a", 1.5, [1, (2,)], {"a": [None]}, np.float32(1.5), np.arange(3),
          pl.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]}), pd.Series([1], name="a"),
          pl.Series("a", ["x"])]
for value in values:
    theirs = relay._serialize(value).SerializeToString()
    assert repr(deserialize(Payload.FromString(theirs))) == repr(value), value
    ours = serialize(value).SerializeToString()
    ours = relay.kaggle_evaluation_proto.Payload.FromString(ours)
    assert repr(relay._deserialize(ours)) == repr(value), value
print("agreed")
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert run.stdout == "agreed\n", run.stderr
