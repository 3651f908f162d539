"""Types of one column in several files: what they become together, and what does not go together."""

from itertools import permutations

import pyarrow as pa
import pytest

from lse_stream.parquet.schemas import unified_type

DICTIONARY = pa.dictionary(pa.int32(), pa.string())


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ([pa.int16()], pa.int16()),
        ([DICTIONARY], DICTIONARY),
        ([pa.null(), pa.null()], pa.null()),
        ([pa.null(), DICTIONARY], DICTIONARY),
        ([pa.string(), pa.large_string(), pa.string_view(), DICTIONARY], pa.string()),
        ([pa.large_string(), pa.null(), pa.string_view()], pa.string()),
        ([DICTIONARY, pa.dictionary(pa.int8(), pa.large_string())], pa.string()),
        ([DICTIONARY, pa.dictionary(pa.int8(), pa.string())], pa.string()),
        ([pa.dictionary(pa.int8(), pa.int32()), pa.int64()], pa.int64()),
        ([pa.binary(), pa.large_binary(), pa.binary(4)], pa.binary()),
        ([pa.int32(), pa.int64(), pa.int8()], pa.int64()),
        ([pa.uint8(), pa.uint32()], pa.uint32()),
        ([pa.uint8(), pa.int8()], pa.int16()),
        ([pa.uint8(), pa.int64()], pa.int64()),
        ([pa.uint32(), pa.int8()], pa.int64()),
        ([pa.uint64(), pa.int8()], None),
        ([pa.float32(), pa.float64()], pa.float64()),
        ([pa.float16(), pa.float32()], pa.float32()),
        ([pa.float32(), pa.int8()], pa.float32()),
        ([pa.float32(), pa.int16()], pa.float64()),
        ([pa.float64(), pa.int64(), pa.null()], pa.float64()),
        ([pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("ms")], pa.timestamp("us")),
        ([pa.timestamp("s", "UTC"), pa.timestamp("ns", "+00:00")], pa.timestamp("ns", "UTC")),
        ([pa.timestamp("s", "Asia/Tokyo"), pa.timestamp("us", "Asia/Tokyo")], pa.timestamp("us", "Asia/Tokyo")),
        ([pa.timestamp("s", "Asia/Tokyo"), pa.timestamp("s", "UTC")], None),
        ([pa.timestamp("s"), pa.timestamp("s", "UTC")], None),
        ([pa.date32(), pa.date64()], pa.date32()),
        ([pa.date32(), pa.timestamp("s")], None),
        ([pa.string(), pa.int64()], None),
        ([pa.string(), pa.binary()], None),
        ([pa.bool_(), pa.int8()], None),
        ([pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float64(), 3)], pa.list_(pa.float64())),
        ([pa.list_(pa.float64()), pa.list_(pa.string())], None),
        ([pa.list_(pa.float64()), pa.float64()], None),
    ],
)
def test_types_of_one_column(types: list[pa.DataType], expected: pa.DataType | None) -> None:
    for order in permutations(types):
        assert unified_type(order) == expected
        assert unified_type([*order, *order]) == expected
