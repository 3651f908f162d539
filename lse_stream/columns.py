"""Columns of Arrow tables: found by name, dictionaries by their values, numbers checked."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from .buffers import LARGE_OF_VIEW
from .float64 import check_numeric_type, is_numeric_type


def as_table(table: object) -> pa.Table:
    """A table of pyarrow, of what can be seen as one.

    Args:
      table: a ``pyarrow.Table`` or ``RecordBatch``, a DataFrame of pandas or Polars, a relation of DuckDB, a
        ``pyarrow.dataset.Dataset``, or whatever has ``__arrow_c_stream__``. NaN of pandas' arrays of NumPy stays NaN.

    Raises:
      TypeError: none of these.
    """
    if isinstance(table, pa.Table):
        return table
    if isinstance(table, pa.RecordBatch):
        return pa.Table.from_batches([table])
    if hasattr(table, "dtypes") and hasattr(table, "items"):  # of pandas, which would hand over its NaN as nulls
        return pa.table({str(name): of_pandas(column) for name, column in table.items()})
    if hasattr(table, "__arrow_c_stream__"):
        return pa.table(table)
    if callable(to_table := getattr(table, "to_table", None)):
        return as_table(to_table())
    raise TypeError(
        f"expected a table of pyarrow, a DataFrame, or what else has __arrow_c_stream__, found {type(table).__name__}"
    )


def of_pandas(column: Any) -> pa.Array | pa.ChunkedArray:
    """A series of pandas as a column; NaN of arrays of NumPy stays NaN."""
    is_of_numpy = isinstance(column.dtype, np.dtype) and column.dtype.kind == "f"
    return pa.array(column.to_numpy() if is_of_numpy else column)


def check_table(table: object) -> None:
    """Raises TypeError for what is no Arrow table."""
    if not isinstance(table, pa.Table | pa.RecordBatch):
        raise TypeError(f"expected a pyarrow.Table, found {type(table).__name__}")


def column_of(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column.

    Raises:
      TypeError: no table.
      KeyError: it is missing, or contained more than once.
    """
    check_table(table)
    if table.column_names.count(name) != 1:
        raise KeyError(f"column {name!r}: expected once among the columns {table.column_names}")
    column = table.column(name)
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])  # of a record batch


def columns_of(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Some columns, as a table without metadata."""
    check_table(table)
    schema = pa.schema([(name, column_of(table, name).type) for name in names])
    return pa.Table.from_arrays([column_of(table, name) for name in names], schema=schema)


def field_path(schema: pa.Schema, name: str) -> list[pa.Field] | None:
    """The column and its fields down to the one of a name; None where there is none."""
    first, *rest = [name] if name in schema.names else name.split(".")
    if schema.names.count(first) != 1:
        return None
    path = [schema.field(first)]
    for part in rest:
        parent = path[-1].type
        if not pa.types.is_struct(parent) or parent.get_field_index(part) < 0:
            return None
        path.append(parent.field(part))
    return path


def column_at(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column, or the field of one, null where any around it is."""
    if name in table.column_names:
        return table.column(name)
    import pyarrow.compute as pc  # its import takes longer than most runs

    first, *rest = name.split(".")
    if first not in table.column_names:  # of a table that has got it since the file was written
        return pa.chunked_array([pa.nulls(table.num_rows)])
    return pc.struct_field(table.column(first), rest)


def value_type_of(data_type: pa.DataType) -> pa.DataType:
    """The type of the values of a dictionary; any other as it is."""
    return data_type.value_type if pa.types.is_dictionary(data_type) else data_type


def decode_dictionary(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A dictionary by its values; any other column as it is."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def is_string_type(data_type: pa.DataType) -> bool:
    """Whether values are strings, in any form, or those of a dictionary are."""
    held = value_type_of(data_type)
    return bool(pa.types.is_string(held) or pa.types.is_large_string(held) or pa.types.is_string_view(held))


def plain_strings(table: pa.Table) -> pa.Table:
    """The table with all columns of strings as plain ones, which do not tell who has written them."""
    for position, field in enumerate(table.schema):
        if is_string_type(field.type) and field.type != pa.string():
            column = decode_dictionary(table.column(position)).cast(pa.string())
            table = table.set_column(position, field.with_type(pa.string()), column)
    return table


def without_views(table: pa.Table) -> pa.Table:
    """The table with columns of views as large ones, of which Arrow can choose rows."""
    for position, field in enumerate(table.schema):
        if (large := LARGE_OF_VIEW.get(field.type)) is not None:
            table = table.set_column(position, field.with_type(large), table.column(position).cast(large))
    return table


def is_list_type(data_type: pa.DataType) -> bool:
    """Whether an Arrow type is of lists of numbers."""
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(data_type) for test in tests) and is_numeric_type(data_type.value_type)


def expected_lists(data_type: pa.DataType) -> str | None:
    """What is expected of a type that is not of lists of numbers; None for one that is."""
    return None if is_list_type(data_type) else "lists of integers, float16, float32 or float64"


def numeric_column(column: pa.ChunkedArray, name: str, role: str = "value") -> pa.ChunkedArray:
    """A column of numbers, dictionaries by their values; one with the role "target" may be of booleans.

    Raises:
      TypeError: a column of another type; ``name`` is what the error calls it.
    """
    if role == "target" and pa.types.is_boolean(column.type):
        return column.cast(pa.int8())
    check_numeric_type(column.type, name)
    return decode_dictionary(column)
