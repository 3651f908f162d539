"""What the footer of a Parquet file says of the values in a row group."""

import json
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..columns import value_type_of
from ..predicates import DAY_NANOS, Range

_NANOS = {"milliseconds": 10**6, "microseconds": 1000, "nanoseconds": 1}

# Some writers keep the beginning of longer strings alone.
_MAYBE_CUT = 64


def ranges_of(
    metadata: pq.FileMetaData, row_group: int, schema: pa.Schema, columns: Collection[str]
) -> dict[str, Range]:
    """Of some columns by name, where they are not nested; ``schema`` is that of the file.

    Bounds are None where the footer has none that can be relied on: of strings that may be cut, of decimals, and of
    floating-point numbers if one is NaN.
    """
    group = metadata.row_group(row_group)
    found = {}
    for index in range(group.num_columns):
        chunk = group.column(index)
        name = chunk.path_in_schema
        if name in columns and not pa.types.is_nested(data_type := schema.field(name).type):
            found[name] = _range_of(chunk, value_type_of(data_type), group.num_rows)
    return found


def _range_of(chunk: Any, data_type: pa.DataType, num_rows: int) -> Range:
    statistics = chunk.statistics
    if statistics is None:
        return Range()
    nulls = statistics.null_count if statistics.has_null_count else None
    bounds = _bounds(statistics, data_type) if statistics.has_min_max else None
    return Range(bounds, has_null=nulls != 0, has_value=nulls != num_rows)


def _bounds(statistics: Any, data_type: pa.DataType) -> tuple[Any, Any] | None:
    types = pa.types
    if types.is_timestamp(data_type) and statistics.physical_type == "INT64":
        unit = json.loads(statistics.logical_type.to_json()).get("timeUnit")
        return (statistics.min_raw * _NANOS[unit], statistics.max_raw * _NANOS[unit]) if unit in _NANOS else None
    if types.is_date32(data_type) and statistics.physical_type == "INT32":
        return statistics.min_raw * DAY_NANOS, statistics.max_raw * DAY_NANOS
    if types.is_string(data_type) or types.is_large_string(data_type) or types.is_string_view(data_type):
        held = statistics.min_raw, statistics.max_raw
        with suppress(UnicodeDecodeError):  # of one that was cut within a character
            return (held[0].decode(), held[1].decode()) if max(map(len, held)) < _MAYBE_CUT else None
        return None
    low, high = statistics.min, statistics.max
    if types.is_boolean(data_type) or types.is_integer(data_type):
        return (low, high) if isinstance(low, int) and low <= high else None
    if types.is_float32(data_type) or types.is_float64(data_type):
        return (low, high) if low <= high else None  # not with NaN
    return None
