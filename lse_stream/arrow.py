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

from ._kernel import StateError, weights_of
from ._kernel.record import VERSION
from .keys import describe_key, encode_keys, sort_keys
from .scales import NATURAL, Scale
from .states import KINDS, LOGSUMEXP, Kind, StateArray, check_same, log_weights
from .values import check_widenable, widen, widen_arrow

Mask = npt.NDArray[np.bool_]

STATE = "state"

# As many words as the 32-bit offsets of a binary array reach.
_CHUNK_WORDS = np.iinfo(np.int32).max // 8


class StateType(pa.ExtensionType):
    """Arrow type of a column of states: binary, one record of an accumulator's ``to_bytes`` each.

    It survives IPC and Parquet, and loads as plain binary where this package is not imported. The metadata says
    version, kind and scale of the records; a column of a version that this release does not know loads, and is refused
    in use.
    """

    def __init__(
        self,
        version: int = VERSION,
        kind: str = LOGSUMEXP.name,
        scale: str = NATURAL.name,
        storage_type: pa.DataType | None = None,
    ) -> None:
        self.version, self.kind, self.scale = version, kind, scale
        super().__init__(storage_type or pa.binary(), "lse_stream.state")

    def __arrow_ext_serialize__(self) -> bytes:
        return json.dumps({"version": self.version, "kind": self.kind, "scale": self.scale}).encode()

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Self:
        try:
            found = json.loads(serialized)  # of a later version it may hold more
            return cls(int(found["version"]), str(found["kind"]), str(found["scale"]), storage_type)
        except (ValueError, KeyError, TypeError):
            return cls(0, "unknown", "unknown", storage_type)  # it loads all the same, and is refused in use

    def __str__(self) -> str:
        return f"lse_stream.state of version {self.version}, kind {self.kind}, scale {self.scale}"

    # Arrow asks these before it puts columns together; those of pa.ExtensionType look at name and storage alone.
    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, StateType)
            and self.storage_type == other.storage_type
            and self.__arrow_ext_serialize__() == other.__arrow_ext_serialize__()
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.__arrow_ext_serialize__())


pa.register_extension_type(StateType())


def states_to_arrow(states: StateArray, null: Mask | None = None) -> pa.ChunkedArray:
    """The states (n,) as a column, null where ``null`` (n,) is true; without a copy those of log-sum-exp."""
    if null is not None and null.any():
        nothing = StateArray.empty(states.kind, states.scale, 1)
        states = StateArray.concat([states, nothing]).take(np.where(null, len(states), np.arange(len(states))))
    state_type = StateType(VERSION, states.kind.name, states.scale.name)
    words, offsets = states.to_words()
    chunks: list[pa.Array] = []
    start = 0
    while start < len(states) or not chunks:
        end = int(np.searchsorted(offsets, offsets[start] + _CHUNK_WORDS, side="right")) - 1
        part = ((offsets[start : end + 1] - offsets[start]) * 8).astype(np.int32)
        valid = None if null is None else pa.array(~null[start:end]).buffers()[1]
        buffers = [valid, pa.py_buffer(part), pa.py_buffer(words[offsets[start] : offsets[end]])]
        storage = pa.Array.from_buffers(pa.binary(), end - start, buffers)
        chunks.append(pa.ExtensionArray.from_storage(state_type, storage))
        start = end
    return pa.chunked_array(chunks, state_type)


def states_from_arrow(column: pa.ChunkedArray | pa.Array, name: str = STATE) -> tuple[StateArray, Mask]:
    """The states (n,) of a column, checked, and where it is null; the state there is that of nothing.

    Args:
      column: of ``StateType``, or of binary as it loads without this package.
      name: what an error calls the column.

    Raises:
      TypeError: another type.
      StateError: records of another version, of two kinds or scales, or not canonical; column and row named.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    expected = kind_of(column.type, name)
    parts: list[StateArray] = []
    nulls: list[Mask] = []
    for chunk in chunks:
        storage = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
        null = storage.is_null().to_numpy(zero_copy_only=False)
        try:
            if not null.all():
                parts.append(_records(storage.drop_null() if null.any() else storage, expected))
                expected = parts[0].kind, parts[0].scale
        except StateError as error:
            row = sum(mask.size for mask in nulls) + int(np.flatnonzero(~null)[error.row])
            raise StateError(row, f"column {name!r}, row {row}: {str(error).partition(': ')[2]}") from None
        nulls.append(null)
    is_null = np.concatenate([np.zeros(0, np.bool_), *nulls])
    nothing = StateArray.empty(*(expected or (LOGSUMEXP, NATURAL)), min(is_null.size, 1))
    if not is_null.any():
        return StateArray.concat(parts or [nothing]), is_null
    states = StateArray.concat([*parts, nothing])
    return states.take(np.where(is_null, len(states) - 1, np.cumsum(~is_null) - 1)), is_null


def kind_of(data_type: pa.DataType, name: str) -> tuple[Kind, Scale] | None:
    """What a column's type says of its states; None for plain binary, whose records say it."""
    storage = data_type.storage_type if isinstance(data_type, StateType) else data_type
    if not (pa.types.is_binary(storage) or pa.types.is_large_binary(storage)):
        held = f" of {storage}" if isinstance(data_type, StateType) else ""
        raise TypeError(f"column {name!r}: expected states, as binary or large_binary, found {data_type}{held}")
    if not isinstance(data_type, StateType):
        return None
    found = f"version {data_type.version}, kind {data_type.kind}, scale {data_type.scale}"
    if data_type.version != VERSION or data_type.kind not in KINDS:
        raise StateError(
            0, f"column {name!r}: expected states of version {VERSION}, of kind {' or '.join(KINDS)}, found {found}"
        )
    try:
        scale = Scale.of(data_type.scale)
        KINDS[data_type.kind].check_scale(scale)
    except ValueError as error:
        raise StateError(0, f"column {name!r}: expected states of a known scale, found {found}: {error}") from error
    return KINDS[data_type.kind], scale


def _records(storage: pa.Array, expected: tuple[Kind, Scale] | None) -> StateArray:
    """The states of a binary array of one or more, without nulls."""
    n = len(storage)
    offset_type = np.int32 if pa.types.is_binary(storage.type) else np.int64
    _, offset_buffer, data = storage.buffers()
    offsets = np.frombuffer(offset_buffer, offset_type)[storage.offset : storage.offset + n + 1].astype(np.int64)
    sizes = np.diff(offsets)
    if (sizes % 8).any():
        row = int((sizes % 8 != 0).argmax())
        raise StateError(row, f"state {row}: expected a multiple of 8 bytes, found {sizes[row]}")
    held = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
    words = np.require(held.view(np.uint64), requirements="A")
    return StateArray.from_words(words, (offsets - offsets[0]) // 8, expected)


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


def group_states(
    table: pa.Table,
    keys: Sequence[str],
    value: str | Sequence[str],
    *,
    kind: str = LOGSUMEXP.name,
    scale: Scale | str = NATURAL,
    skip_nulls: bool = True,
) -> pa.Table:
    """The states of the values of each key.

    Args:
      table: any number of rows and chunks.
      keys: names of the key columns: integers, floats, booleans, strings, binaries, dates, times, durations, decimals,
        nulls or dictionaries of these. Null is a key of its own, -0.0 is 0.0, NaN is one key. With no key columns all
        rows, also none, are one group.
      value: name of the column of numbers: integers, float16, float32, float64, or a dictionary of these. For
        "weighted_logsumexp" the names of values and weights, for "cross_entropy" of logits and targets, which may be
        booleans.
      kind: "logsumexp", "weighted_logsumexp", "log_likelihood", "effective_sample_size" or "cross_entropy".
      scale: a ``Scale`` or its name, for the first two kinds.
      skip_nulls: leave out rows with a null value; if False, the state of a key that has one is null. NaN is not null.

    Returns:
      The key columns, of the types they came in, and "state" of ``StateType``: one row per key, in no set order.

    Raises:
      KeyError: a column is not there.
      TypeError: a key or value column of another type.
      ValueError: an integer value beyond +-2^53, a weight that is not finite, or column names that collide.
    """
    found_kind, found_scale, names = check_kind(kind, scale, value)
    check_names(keys, others=[*names, STATE, *found_kind.columns])
    for name in keys:
        _column(table, name)
    columns = [
        _numbers(_column(table, name), f"column {name!r}", role)
        for role, name in zip(found_kind.inputs, names, strict=True)
    ]
    codes, key_table = encode_keys(table, keys)
    groups = key_table.num_rows if keys else 1
    null, arrays = None, []
    if any(column.null_count for column in columns):
        valid = np.logical_and.reduce([column.is_valid().to_numpy() for column in columns])
        if not skip_nulls:
            null = np.zeros(groups, np.bool_)
            null[codes[~valid]] = True
        codes = codes[valid]
        columns = [column.filter(pa.array(valid)) for column in columns] if len(columns) > 1 else columns
    for name, column in zip(names, columns, strict=True):
        parts = [widen(array, f"column {name!r}") for array in widen_arrow(column, f"column {name!r}")]
        arrays.append(parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0), *parts]))
    found_kind.check_inputs(arrays, [f"column {name!r}" for name in names])
    states = StateArray.group(found_kind, found_scale, codes, arrays, groups)
    return _with_states(key_table, states_to_arrow(states, null), STATE)


def check_kind(kind: str, scale: Scale | str, value: str | Sequence[str]) -> tuple[Kind, Scale, list[str]]:
    """The kind and scale of those names, and the names of the value columns.

    Raises:
      ValueError: no such kind or scale, a scale that the kind does not know, or another number of value columns.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected {', '.join(KINDS)}, found {kind!r}")
    found = Scale.of(scale)
    KINDS[kind].check_scale(found)
    names, inputs = [value] if isinstance(value, str) else list(value), KINDS[kind].inputs
    if len(names) != len(inputs):
        raise ValueError(f"value: expected {len(inputs)} names for {kind} ({', '.join(inputs)}), found {names}")
    return KINDS[kind], found, names


def _numbers(column: pa.ChunkedArray, name: str, role: str) -> pa.ChunkedArray:
    if role == "target" and pa.types.is_boolean(column.type):
        return column.cast(pa.int8())
    check_widenable(column.type, name)
    return plain(column)


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
    parts = []
    for i, table in enumerate(tables):
        try:
            parts.append(states_from_arrow(_column(table, state), state))
            check_same(parts[0][0], parts[-1][0])
        except StateError as error:
            raise StateError(error.row, f"table {i}, {error}" if len(tables) > 1 else str(error)) from None
    states = StateArray.concat([states for states, _ in parts])
    absent = np.concatenate([null for _, null in parts])
    schema = pa.schema([(name, first.schema.field(name).type) for name in keys])
    rows = pa.concat_tables([table.select(list(keys)).cast(schema) for table in tables]) if keys else None
    if rows is None:
        codes, key_table, groups = np.zeros(len(states), np.int32), pa.table({}), 1
    else:
        codes, key_table = encode_keys(rows, keys)
        groups = key_table.num_rows
    null = None
    if absent.any():
        null = np.zeros(groups, np.bool_)
        null[codes[absent]] = True
    return _with_states(key_table, states_to_arrow(states.merge(codes, groups), null), state)


def take_rows(table: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    """The rows of those numbers, in that order, like ``pa.Table.take``, but quick and without limit for states."""
    columns: list[Any] = []
    for name in table.column_names:
        column = table.column(name)
        if isinstance(column.type, StateType):
            states, null = states_from_arrow(column, name)
            columns.append(states_to_arrow(states.take(rows), null[rows] if null.any() else None))
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


def finalise(
    table: pa.Table,
    *,
    results: Sequence[str] | None = None,
    min_count: int = 0,
    state: str = STATE,
    keep_state: bool = False,
) -> pa.Table:
    """The results of a table of states: they stand in place of the state column.

    Args:
      table: as from ``group_states`` or ``merge_states``.
      results: names of results; by default those that ``lse_stream.states`` lists as the kind's columns. Log-sum-exp
        has logsumexp, count, max, logmeanexp, bonus and effective_number.
      min_count: with fewer terms the results are null, but for count and max. 0 gives -inf for nothing.
      state: name of the column of states.
      keep_state: keep that column too, as the last.

    Returns:
      The other columns as they are, and the results: float64, and ``count`` (the terms: -inf included, nulls not)
      int64. All are null where the state is.

    Raises:
      KeyError: no column ``state``.
      ValueError: another column has the name of a result, no such result, or a negative ``min_count``.
      StateError: a column of another version, or a damaged record; column and row named.
    """
    if min_count < 0:
        raise ValueError(f"min_count: expected 0 or more, found {min_count}")
    states, null = states_from_arrow(_column(table, state), state)
    names = states.kind.columns if results is None else results
    if isinstance(names, str) or len(set(names)) < len(names):
        raise ValueError(f"results: expected a sequence of names, each once, found {names!r}")
    for name in names:
        if name not in states.kind.results:
            raise ValueError(f"results: expected some of {', '.join(states.kind.results)}, found {name!r}")
    position = table.column_names.index(state)
    for name in table.column_names:
        if name != state and name in names:
            raise ValueError(f"column {name!r}: expected a name other than the results {', '.join(names)}")
    few = states.counts < min_count
    field, column = table.schema.field(state), table.column(state)
    table = table.remove_column(position)
    for i, name in enumerate(names):
        mask = null if name in ("count", "max") else null | few
        table = table.add_column(position + i, name, pa.array(states.result(name), mask=mask))
    return table.append_column(field, column) if keep_state else table


def rows_of_keys(
    states: pa.Table, table: pa.Table, keys: Sequence[str], *, what: str = "state"
) -> npt.NDArray[np.int32]:
    """In which row of ``states``, which has each key once, the key of each row of a table is found.

    Args:
      what: what errors call a row of ``states``.

    Raises:
      KeyError: a column is not there, or a row's key has no state.
      TypeError: key columns of different types.
      ValueError: ``states`` has a key twice.
    """
    if not keys:
        if states.num_rows != 1:
            raise ValueError(f"expected one {what} where there are no keys, found {states.num_rows}")
        return np.zeros(table.num_rows, np.int32)
    schema = pa.schema([(name, _column(states, name).type) for name in keys])
    for name in keys:
        if plain_type(_column(table, name).type) != plain_type(schema.field(name).type):
            raise TypeError(
                f"key column {name!r}: expected {schema.field(name).type} as in the {what}s, "
                f"found {table.schema.field(name).type}"
            )
    both = [t.select(list(keys)).cast(schema) for t in (states, table)]
    codes, _ = encode_keys(pa.concat_tables(both), keys)
    # Codes go in order of first appearance, and so are the row numbers of the states.
    again = codes[: states.num_rows] != np.arange(states.num_rows)
    if again.any():
        found = describe_key(states, keys, int(again.argmax()))
        raise ValueError(f"expected one {what} for every key, found more for {found}")
    codes = codes[states.num_rows :]
    if codes.size and codes.max() >= states.num_rows:
        missing = describe_key(table, keys, int(codes.argmax()))
        raise KeyError(f"expected one {what} for every key, found none for {missing}")
    return codes


def plain_type(data_type: pa.DataType) -> pa.DataType:
    """The type of the values of a dictionary; any other as it is."""
    return data_type.value_type if pa.types.is_dictionary(data_type) else data_type


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A dictionary by its values; any other column as it is."""
    return column.cast(plain_type(column.type))


def log_softmax_of_keys(
    table: pa.Table, states: pa.Table, keys: Sequence[str], value: str, *, state: str = STATE
) -> pa.Table:
    """The table with columns "log_softmax" and "softmax": of each value, against the state of its key.

    Args:
      table: rows, as for ``group_states``.
      states: key columns of the same types and log-sum-exp states on the natural scale, each key once. They may come
        from elsewhere, such as a merge over many tables.
      keys, value: names of columns.

    Returns:
      The rows in their order; null where the value or the state is.

    Raises:
      KeyError: a column is not there, or a row's key has no state.
      TypeError, ValueError, StateError: as ``group_states`` and ``merge_states``.
    """
    check_names(keys, others=())
    for name in ("log_softmax", "softmax"):
        if name in table.column_names:
            raise ValueError(f"column {name!r}: expected a name other than those of the results")
    kind, scale, _ = check_kind(LOGSUMEXP.name, NATURAL, value)
    column = _numbers(_column(table, value), f"column {value!r}", kind.inputs[0])
    records, absent = states_from_arrow(_column(states, state), state)
    check_same(StateArray.empty(kind, scale, 0), records)
    codes = rows_of_keys(states, table, keys)
    null = column.is_null().to_numpy() | absent[codes] if table.num_rows else np.zeros(0, np.bool_)
    values = np.zeros(table.num_rows)
    found = [widen(part, f"column {value!r}") for part in widen_arrow(column, f"column {value!r}")]
    values[column.is_valid().to_numpy()] = np.concatenate([np.zeros(0), *found])
    if table.num_rows < states.num_rows:  # there may be far more states than are asked for
        used, rank = np.unique(codes, return_inverse=True)
        records, codes = records.take(used.astype(np.int64)), rank.astype(np.int32)
    logs, weights = log_weights(records, codes, values), weights_of(records.sums[0], codes, values)
    return table.append_column("log_softmax", pa.array(logs, mask=null)).append_column(
        "softmax", pa.array(weights, mask=null)
    )
