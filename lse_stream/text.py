"""Tables as text, for people."""

from typing import Any

import pyarrow as pa


def aligned(table: pa.Table, null: str = "null") -> list[str]:
    """The rows as lines, numbers to the right, below the names of the columns."""
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        cells = [_cell(name), *(null if x is None else _cell(x) for x in _plain(column).to_pylist())]
        width = max(map(len, cells))
        number = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
        columns.append([cell.rjust(width) if number else cell.ljust(width) for cell in cells])
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """With times as text: Python has neither nanoseconds nor, everywhere, time zones."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not pa.types.is_temporal(column.type):
        return column
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        import pyarrow.compute as pc  # its import takes longer than all the rest

        return pc.binary_join_element_wise(column.cast(pa.timestamp(column.type.unit)).cast(pa.string()), "Z", "")
    return column.cast(pa.string())


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and not (value and value.isprintable()):
        return repr(value)
    return str(value)
