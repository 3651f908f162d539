"""Tables of keys and states: grouped, merged, split by shard, sorted and finalized; to and from Arrow and IPC."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ._kernel import StateError, rows_by_shard
from .buffers import Mask, array_of, take
from .columns import column_of, columns_of
from .keys import KeyIndex, describe_key, key_schema, shard_of_keys, sort_keys, with_own_dictionaries
from .reduction import Reduction
from .state_column import STATE, states_from_arrow, states_to_arrow
from .states.aggregations import MOST_DIGITS
from .states.arrays import StateArray, check_same
from .states.results import INT128, result_of

Ints = npt.NDArray[np.int64]


def result_to_arrow(states: StateArray, name: str, null: Mask | None) -> pa.Array:
    """A result (n,) of states (n,), null where ``null`` (n,) is, and the extremes of no integers.

    Raises:
      KeyError, StateError: as ``result_of``.
    """
    values = result_of(states, name)
    if values.dtype != INT128:
        return array_of(values, null=null)
    if name != "sum":
        none = states.counts == 0
        null = none if null is None else null | none
    return array_of(values, pa.decimal128(MOST_DIGITS, states.aggregation.digits), null)


class StatesColumn(NamedTuple):
    """A column of states (n,), and where it is null (n,); None where it nowhere is."""

    array: StateArray
    null: Mask | None

    def take(self, rows: Ints) -> "StatesColumn":
        return StatesColumn(self.array.take(rows), None if self.null is None else self.null[rows])

    def slice(self, start: int, num_rows: int) -> "StatesColumn":
        part = slice(start, start + num_rows)
        return StatesColumn(self.array.slice(start, num_rows), None if self.null is None else self.null[part])

    @staticmethod
    def concat(parts: Sequence["StatesColumn"]) -> "StatesColumn":
        array = StateArray.concat([part.array for part in parts])
        if all(part.null is None for part in parts):
            return StatesColumn(array, None)
        masks = [np.zeros(len(part.array), np.bool_) if part.null is None else part.null for part in parts]
        return StatesColumn(array, np.concatenate(masks))


@dataclass(frozen=True, eq=False)
class StateTable:
    """One row per key: the key columns (n,), and columns of states (n,) by their names. It never changes.

    The states are known to be canonical: bytes from elsewhere are checked by ``from_arrow`` and ``from_ipc``,
    and not again.
    """

    keys: pa.Table
    states: Mapping[str, StatesColumn]

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.states.values())).array)

    @property
    def nbytes(self) -> int:
        """About what it takes of memory."""
        return int(self.keys.nbytes) + sum(column.array.nbytes for column in self.states.values())

    @classmethod
    def group(cls, table: pa.Table, reduction: Reduction) -> Self:
        """The states of a table of rows; without keys one row, even if the table is empty.

        Raises:
          KeyError, TypeError, ValueError: as ``ColumnAggregation.inputs``.
        """
        index = KeyIndex(key_schema(table, reduction.keys))
        codes = index.encode(table)
        states = {}
        for name, column in reduction.aggregations.items():
            used, inputs, of_null = column.inputs(table, codes)
            array = StateArray.group(column.aggregation, column.scale, used, inputs, len(index))
            null = None
            if of_null is not None and not reduction.skip_nulls:
                null = np.zeros(len(index), np.bool_)
                null[of_null] = True
            states[name] = StatesColumn(array, null)
        return cls(index.keys(), states)

    @classmethod
    def merge(cls, tables: Sequence["StateTable"], keys: Sequence[str] | None = None) -> "StateTable":
        """The states of each key merged, of one table or more.

        Args:
          keys: names of the key columns: those of the tables, or fewer, to merge to coarser ones.

        Raises:
          TypeError: key columns of different types.
          StateError: states of two aggregations or scales.
        """
        whole = cls.concat(tables)
        index = KeyIndex(whole.keys.schema if keys is None else key_schema(whole.keys, keys))
        codes = index.encode(whole.keys) if whole.keys.num_columns else np.zeros(whole.num_rows, np.int32)
        states = {}
        for name, column in whole.states.items():
            null = None
            if column.null is not None:
                null = np.zeros(len(index), np.bool_)
                null[codes[column.null]] = True
            states[name] = StatesColumn(column.array.merge(codes, len(index)), null)
        return cls(index.keys(), states)

    @classmethod
    def concat(cls, tables: Sequence["StateTable"]) -> "StateTable":
        """The rows of all, of one table or more. Raises as ``merge``."""
        if len(tables) == 1:
            return tables[0]
        for i, table in enumerate(tables):
            tables[0].check_alike(table, f"table {i}, ")
        states = {name: StatesColumn.concat([table.states[name] for table in tables]) for name in tables[0].states}
        return cls(pa.concat_tables([table.keys for table in tables]), states)

    def check_alike(self, other: "StateTable", place: str = "") -> None:
        """Raises TypeError for a table with key columns of other types, StateError for other aggregations or scales."""
        if not self.keys.schema.equals(other.keys.schema):
            for name, expected in zip(self.keys.schema.names, self.keys.schema.types, strict=True):
                found = other.keys.schema.field(name).type
                if found != expected:
                    raise TypeError(f"{place}key column {name!r}: expected {expected} as in table 0, found {found}")
        for name, column in self.states.items():
            try:
                check_same(column.array, other.states[name].array)
            except StateError as error:
                raise StateError(error.row, f"{place}{error}") from None

    def select(self, keys: Sequence[str]) -> "StateTable":
        """The rows with fewer key columns, which may make them repeat."""
        return StateTable(columns_of(self.keys, keys), self.states)

    def take(self, rows: Ints) -> "StateTable":
        """The rows of those numbers, in that order."""
        columns = [take(column, rows) for column in self.keys.columns]
        keys = pa.Table.from_arrays(columns, schema=self.keys.schema)
        return StateTable(keys, {name: column.take(rows) for name, column in self.states.items()})

    def slice(self, start: int, num_rows: int) -> "StateTable":
        """Some rows that follow each other."""
        states = {name: column.slice(start, num_rows) for name, column in self.states.items()}
        return StateTable(self.keys.slice(start, num_rows), states)

    def split(self, num_shards: int) -> list["StateTable"]:
        """The rows of each shard; without keys all are in the first."""
        if num_shards == 1:
            return [self]
        if not self.keys.num_columns:
            return [self, *[self.slice(0, 0)] * (num_shards - 1)]
        rows, ends = rows_by_shard(shard_of_keys(self.keys, self.keys.column_names, num_shards), num_shards)
        by_shard = self.take(rows)
        return [by_shard.slice(start, end - start) for start, end in pairwise([0, *ends.tolist()])]

    def order(self) -> tuple[Ints, pa.Table]:
        """The row numbers in the order of the keys, and the keys in that order."""
        if not self.keys.num_columns:
            return np.arange(self.num_rows), self.keys
        return sort_keys(self.keys, self.keys.column_names)

    def sort(self) -> "StateTable":
        """The rows in the order of their keys; dictionaries are written anew, with their values in that order."""
        rows, keys = self.order()
        return StateTable(keys, {name: column.take(rows) for name, column in self.states.items()})

    def results(self, name: str, results: Sequence[str] | None, min_count: int) -> dict[str, pa.Array]:
        """Results of a column of states by their names: as of ``finalize``."""
        array, null = self.states[name]
        few = array.counts < min_count if min_count > 0 else None
        masks = [mask for mask in (null, few) if mask is not None and mask.any()]
        either = np.logical_or.reduce(masks) if masks else None
        names = array.aggregation.columns if results is None else results
        try:
            return {
                name: result_to_arrow(array, name, null if name in ("count", "min", "max") else either)
                for name in names
            }
        except StateError as error:
            names = self.keys.column_names
            place = f"key {describe_key(self.keys, names, error.row)}" if names else f"state {error.row}"
            raise StateError(error.row, f"{place}: {str(error).partition(': ')[2]}") from None

    def finalize(
        self,
        results: Sequence[str] | None = None,
        *,
        min_count: int = 0,
        keep_state: bool = False,
        state: str = STATE,
    ) -> pa.Table:
        """The key columns and the results of a column of states, as of ``lse_stream.table_functions.finalize``."""
        columns: dict[str, Any] = dict(zip(self.keys.column_names, self.keys.columns, strict=True))
        columns |= self.results(state, results, min_count)
        if keep_state:
            columns[state] = states_to_arrow(*self.states[state])
        return pa.Table.from_arrays(list(columns.values()), names=list(columns))

    def to_arrow(self) -> pa.Table:
        """The key columns and the states."""
        states = [states_to_arrow(*column) for column in self.states.values()]
        return pa.Table.from_arrays([*self.keys.columns, *states], names=[*self.keys.column_names, *self.states])

    @classmethod
    def from_arrow(
        cls, table: pa.Table, keys: Sequence[str], states: Sequence[str] = (STATE,), *, trusted: bool = False
    ) -> Self:
        """Of key columns and columns of states, which are checked unless they are ``trusted``. Keys may repeat.

        Raises:
          KeyError, TypeError: a column is not there, or of another type.
          StateError: records of another version, aggregation or scale, or damaged ones; column and row named.
        """
        columns = {
            name: StatesColumn(*states_from_arrow(column_of(table, name), name, trusted=trusted)) for name in states
        }
        return cls(columns_of(table, keys), columns)

    def to_ipc(self, *, compression: str = "zstd") -> bytes:
        """The table as an Arrow IPC stream."""
        table = with_own_dictionaries(self.to_arrow(), self.keys.column_names).replace_schema_metadata(
            {_KEYS: str(self.keys.num_columns)}
        )
        return to_ipc(table, compression=compression)

    @classmethod
    def from_ipc(cls, stream: bytes | memoryview, *, trusted: bool = False) -> Self:
        """The table of such a stream; raises as ``from_arrow``."""
        table = from_ipc(stream)
        keys = int((table.schema.metadata or {})[_KEYS])
        names = table.column_names
        return cls.from_arrow(table, names[:keys], names[keys:], trusted=trusted)


def split_by_shard(table: pa.Table, keys: Sequence[str], num_shards: int) -> Iterator[pa.Table]:
    """The rows of each shard in turn, in their order."""
    if num_shards == 1:
        yield table
        return
    rows, ends = rows_by_shard(shard_of_keys(table, keys, num_shards), num_shards)
    by_shard = pa.Table.from_arrays([take(column, rows) for column in table.columns], schema=table.schema)
    for start, end in pairwise([0, *ends.tolist()]):
        yield by_shard.slice(start, end - start)


# How many of an IPC stream's columns are keys.
_KEYS = b"lse_stream.keys"


def to_ipc(table: pa.Table, *, compression: str = "zstd") -> bytes:
    """The table as an Arrow IPC stream. Unlike a pickle it holds a slice's own rows only.

    A state with an int64 key and its offset is 92 bytes, compressed about 35. That costs 0.25 us, and pays even within
    one process, since Beam copies what it shuffles a dozen times: 4e6 states took 12 s and 1.9 GB, compressed 7 s and
    0.9 GB.
    """
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression, use_threads=False)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_ipc(stream: bytes | memoryview) -> pa.Table:
    """The table of an Arrow IPC stream."""
    options = pa.ipc.IpcReadOptions(use_threads=False)
    return pa.ipc.open_stream(stream, options=options).read_all()
