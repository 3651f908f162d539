"""Tables as text, for people."""

from typing import Any

import pyarrow as pa


def aligned(table: pa.Table, null: str = "null") -> list[str]:
    """The rows as lines, numbers to the right, below the names of the columns."""
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        cells = [_cell(name), *(null if x is None else _cell(x) for x in _plain(column))]
        width = max(map(len, cells))
        number = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
        columns.append([cell.rjust(width) if number else cell.ljust(width) for cell in cells])
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]


def _plain(column: pa.ChunkedArray) -> list[Any]:
    """The values, times as text: Python has neither nanoseconds nor, everywhere, time zones."""
    data_type = column.type
    if pa.types.is_dictionary(data_type):
        return _plain(column.cast(data_type.value_type))
    zone = ""
    if pa.types.is_timestamp(data_type) and data_type.tz is not None:
        column, zone = column.cast(pa.timestamp(data_type.unit)), "Z"
    if pa.types.is_temporal(data_type):
        column = column.cast(pa.string())
    return [text if text is None or not zone else text + zone for text in column.to_pylist()]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and not (value and value.isprintable()):
        return repr(value)
    return str(value)
