"""Columns of states: Arrow tables of keys and states, grouped, merged and finalised. Needs no Beam.

``group_states`` makes a table of states from rows, ``merge_states`` makes one from many, ``finalise`` makes results.
All three work on whole columns, one kernel call each; a state is 80 bytes however many rows it holds.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ._kernel import (
    RECORD,
    StateError,
    States,
    check_states,
    concat_states,
    empty_states,
    group_values,
    merge_groups,
    state_values,
    take_states,
)
from ._kernel.record import VERSION
from .keys import encode_keys, sort_keys
from .values import check_widenable, widen, widen_arrow

Mask = npt.NDArray[np.bool_]

RESULTS = ("logsumexp", "count", "max")
STATE = "state"

_SIZE = RECORD.itemsize
# As many records as the 32-bit offsets of a binary array reach.
_CHUNK = np.iinfo(np.int32).max // _SIZE


class StateType(pa.ExtensionType):
    """Arrow type of a column of states: binary, one record of ``LogSumExpAccumulator.to_bytes`` each.

    It survives IPC and Parquet, and loads as plain binary where this package is not imported. The metadata says
    version, kind and scale of the records; a column of a version that this release does not know loads, and is refused
    in use.
    """

    def __init__(self, version: int = VERSION, kind: str = "logsumexp", scale: str = "natural") -> None:
        self.version, self.kind, self.scale = version, kind, scale
        super().__init__(pa.binary(), "lse_stream.state")

    def __arrow_ext_serialize__(self) -> bytes:
        return json.dumps({"version": self.version, "kind": self.kind, "scale": self.scale}).encode()

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Self:
        found = json.loads(serialized)  # of a later version it may hold more
        return cls(found["version"], found["kind"], found["scale"])

    # Arrow asks these before it puts columns together; those of pa.ExtensionType look at name and storage alone.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, StateType) and self.__arrow_ext_serialize__() == other.__arrow_ext_serialize__()

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.__arrow_ext_serialize__())


pa.register_extension_type(StateType())


def states_to_arrow(states: States, null: Mask | None = None) -> pa.ChunkedArray:
    """The states (n,) as a column, without a copy, null where ``null`` (n,) is true."""
    states = np.ascontiguousarray(states)
    if null is not None and null.any():
        states = np.where(null, empty_states(1), states)
    chunks = []
    for start in range(0, max(states.size, 1), _CHUNK):
        part = states[start : start + _CHUNK]
        offsets = np.arange(part.size + 1, dtype=np.int32) * np.int32(_SIZE)
        valid = None if null is None else pa.array(~null[start : start + _CHUNK]).buffers()[1]
        buffers = [valid, pa.py_buffer(offsets), pa.py_buffer(part.view(np.uint8))]
        storage = pa.Array.from_buffers(pa.binary(), part.size, buffers)
        chunks.append(pa.ExtensionArray.from_storage(StateType(), storage))
    return pa.chunked_array(chunks, StateType())


def states_from_arrow(column: pa.ChunkedArray | pa.Array, name: str = STATE) -> tuple[States, Mask]:
    """The states (n,) of a column, checked, and where it is null; the state there is that of nothing.

    Args:
      column: of ``StateType``, or of binary as it loads without this package.
      name: what an error calls the column.

    Raises:
      TypeError: another type.
      StateError: a column of another version, kind or scale, or a record that is not canonical; column and row named.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    _check_state_type(column.type, name)
    parts, nulls = [empty_states(0)], [np.zeros(0, np.bool_)]
    for chunk in chunks:
        storage = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
        null = storage.is_null().to_numpy(zero_copy_only=False)
        row = sum(part.size for part in parts)
        found = _records(storage.drop_null() if null.any() else storage)
        if isinstance(found, tuple):
            row += int(np.flatnonzero(~null)[found[0]])
            raise StateError(row, f"column {name!r}, row {row}: expected a state of {_SIZE} bytes, found {found[1]}")
        try:
            check_states(found)
        except StateError as error:
            row += int(np.flatnonzero(~null)[error.row])
            raise StateError(row, f"column {name!r}, row {row}: {str(error).partition(': ')[2]}") from None
        if null.any():
            states = empty_states(null.size)
            states[~null] = found
            found = states
        parts.append(found)
        nulls.append(null)
    return concat_states(parts[1:] or parts), nulls[1] if len(nulls) == 2 else np.concatenate(nulls)


def _check_state_type(data_type: pa.DataType, name: str) -> None:
    if isinstance(data_type, StateType):
        expected = StateType()
        if data_type != expected:
            raise StateError(
                0,
                f"column {name!r}: expected states of version {expected.version}, kind {expected.kind}, scale "
                f"{expected.scale}, found version {data_type.version}, kind {data_type.kind}, scale {data_type.scale}",
            )
    elif not (pa.types.is_binary(data_type) or pa.types.is_large_binary(data_type)):
        raise TypeError(f"column {name!r}: expected states, found {data_type}")


def _records(storage: pa.Array) -> States | tuple[int, int]:
    """The records of a binary array without nulls, without a copy; or (row, size) of the first of another size."""
    offset_type = np.int32 if pa.types.is_binary(storage.type) else np.int64
    if not len(storage):
        return empty_states(0)
    _, offset_buffer, data = storage.buffers()
    offsets = np.frombuffer(offset_buffer, offset_type)[storage.offset : storage.offset + len(storage) + 1]
    sizes = np.diff(offsets)
    if (sizes != _SIZE).any():
        row = int((sizes != _SIZE).argmax())
        return row, int(sizes[row])
    return np.frombuffer(data, RECORD, len(storage), int(offsets[0]))


def check_names(keys: Sequence[str], *, others: Iterable[str]) -> None:
    """Raises TypeError for a str in place of a sequence of names, ValueError for a name that is used twice."""
    if isinstance(keys, str):
        raise TypeError(f"keys: expected a sequence of column names, found the str {keys!r}")
    taken = set(others)
    for name in keys:
        if name in taken:
            raise ValueError(
                f"key column {name!r}: expected names that differ from each other and from {sorted(others)}"
            )
        taken.add(name)


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if table.column_names.count(name) != 1:
        raise KeyError(f"column {name!r}: expected once among the columns {table.column_names}")
    return table.column(name)


def _with_states(keys: pa.Table, states: pa.ChunkedArray, name: str) -> pa.Table:
    return pa.table([*keys.columns, states], names=[*keys.column_names, name])


def group_states(table: pa.Table, keys: Sequence[str], value: str, *, skip_nulls: bool = True) -> pa.Table:
    """The states of the values of each key.

    Args:
      table: any number of rows and chunks.
      keys: names of the key columns: integers, floats, booleans, strings, binaries, dates, times, durations, decimals,
        nulls or dictionaries of these. Null is a key of its own, -0.0 is 0.0, NaN is one key. With no key columns all
        rows, also none, are one group.
      value: name of the column of numbers: integers, float16, float32, float64, or a dictionary of these.
      skip_nulls: leave null values out; if False, the state of a key with a null value is null. NaN is not null.

    Returns:
      The key columns, of the types they came in, and "state" of ``StateType``: one row per key, in no set order.

    Raises:
      KeyError: a column is not there.
      TypeError: a key or value column of another type.
      ValueError: an integer value beyond +-2^53, or column names that collide.
    """
    check_names(keys, others=[value, STATE, *RESULTS])
    column = _column(table, value)
    for name in keys:
        _column(table, name)
    check_widenable(column.type, f"column {value!r}")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    codes, key_table = encode_keys(table, keys)
    groups = key_table.num_rows if keys else 1
    null = None
    if column.null_count:
        valid = pa.chunked_array(column.is_valid().chunks, pa.bool_()).to_numpy()
        if not skip_nulls:
            null = np.zeros(groups, np.bool_)
            null[codes[~valid]] = True
        codes = codes[valid]
    arrays = [widen(array, f"column {value!r}") for array in widen_arrow(column, f"column {value!r}")]
    values = arrays[0] if len(arrays) == 1 else np.concatenate([np.zeros(0), *arrays])
    return _with_states(key_table, states_to_arrow(group_values(codes, values, groups), null), STATE)


def merge_states(tables: pa.Table | Iterable[pa.Table], keys: Sequence[str], *, state: str = STATE) -> pa.Table:
    """The states of each key merged: exactly as if all rows behind them had been grouped at once.

    Args:
      tables: of key columns and states, as from ``group_states``; more columns are left out. To merge to coarser keys,
        name fewer of them.
      keys: names of the key columns; none for one state over all.
      state: name of the column of states. A null state makes its key's merged state null.

    Returns:
      The key columns and the states, one row per key, in no set order.

    Raises:
      KeyError, TypeError, ValueError: as for ``group_states``; also for tables whose key columns differ in type, or no
        tables at all.
      StateError: a column of another version, kind or scale, or a damaged record; column and row named.
    """
    tables = [tables] if isinstance(tables, pa.Table) else list(tables)
    check_names(keys, others=[state])
    if not tables:
        raise ValueError("expected at least one table of states, found none")
    first = tables[0]
    for i, table in enumerate(tables):
        for name in keys:
            found, expected = _column(table, name).type, _column(first, name).type
            if found != expected:
                raise TypeError(f"table {i}, key column {name!r}: expected {expected} as in table 0, found {found}")
    parts = [states_from_arrow(_column(table, state), state) for table in tables]
    states = concat_states([states for states, _ in parts])
    absent = np.concatenate([null for _, null in parts])
    schema = pa.schema([(name, first.schema.field(name).type) for name in keys])
    rows = pa.concat_tables([table.select(list(keys)).cast(schema) for table in tables]) if keys else None
    if rows is None:
        codes, key_table, groups = np.zeros(states.size, np.int32), pa.table({}), 1
    else:
        codes, key_table = encode_keys(rows, keys)
        groups = key_table.num_rows
    null = None
    if absent.any():
        null = np.zeros(groups, np.bool_)
        null[codes[absent]] = True
    return _with_states(key_table, states_to_arrow(merge_groups(codes, states, groups), null), state)


def take_rows(table: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    """The rows of those numbers, in that order, like ``pa.Table.take``, but quick and without limit for states."""
    columns: list[Any] = []
    for name in table.column_names:
        column = table.column(name)
        if isinstance(column.type, StateType):
            states, null = states_from_arrow(column, name)
            columns.append(states_to_arrow(take_states(states, rows), null[rows] if null.any() else None))
        else:
            columns.append(column.take(pa.array(rows)))
    return pa.table(columns, names=table.column_names)


def sort_by_keys(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """The rows in the order of their keys, which ``lse_stream.keys`` defines: one table for one set of rows.

    Dictionaries are written anew, with their values in the order of the rows. The key columns come first.

    Raises:
      KeyError: a column is not there.
      TypeError: a column of a type that cannot be a key, or a str in place of names.
      ValueError: a key column named twice.
    """
    check_names(keys, others=())
    rows, key_table = sort_keys(table, keys)
    others = take_rows(table.drop_columns(list(keys)), rows)
    return pa.table([*key_table.columns, *others.columns], names=[*keys, *others.column_names])


def finalise(table: pa.Table, *, min_count: int = 0, state: str = STATE) -> pa.Table:
    """The results of a table of states: in place of the state column stand three.

    Args:
      table: as from ``group_states`` or ``merge_states``.
      min_count: with fewer terms the result is null. 0 gives -inf for nothing.
      state: name of the column of states.

    Returns:
      The other columns as they are, and ``logsumexp`` (float64), ``count`` (int64, the terms: -inf included, nulls not)
      and ``max`` (float64). All three are null where the state is.

    Raises:
      KeyError: no column ``state``.
      ValueError: another column has the name of a result, or a negative ``min_count``.
      StateError: a column of another version, kind or scale, or a damaged record; column and row named.
    """
    if min_count < 0:
        raise ValueError(f"min_count: expected 0 or more, found {min_count}")
    states, null = states_from_arrow(_column(table, state), state)
    position = table.column_names.index(state)
    check_names([name for name in table.column_names if name != state], others=RESULTS)
    few = states["count"] < min_count
    results = (
        pa.array(state_values(states), mask=null | few),
        pa.array(np.ascontiguousarray(states["count"]), mask=null),
        pa.array(np.ascontiguousarray(states["max"]), mask=null),
    )
    table = table.remove_column(position)
    for i, (name, result) in enumerate(zip(RESULTS, results, strict=True)):
        table = table.add_column(position + i, name, result)
    return table
