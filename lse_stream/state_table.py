"""Tables of keys and states: grouped from rows, merged, split by shard, sorted and finalised."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ._kernel import StateError, rows_by_shard
from .buffers import Mask, array_of, nulls_of_column, take
from .keys import KeyIndex, column_of, key_schema, shard_of_keys, sort_keys, with_own_dictionaries
from .scales import Scale
from .state_column import STATE, states_from_arrow, states_to_arrow
from .states import KINDS, Kind, StateArray, check_same
from .values import check_widenable, widen, widen_arrow

Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Aggregate:
    """What states are made of: kind, scale, and the names of the columns of the kind's inputs."""

    kind: Kind
    scale: Scale
    values: tuple[str, ...]

    @classmethod
    def of(cls, kind: str, scale: Scale | str, value: str | Sequence[str]) -> Self:
        """By names.

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
        return cls(KINDS[kind], found, tuple(names))

    def inputs(self, table: pa.Table, codes: Codes) -> tuple[Codes, list[Floats], Codes | None]:
        """Codes and values of the rows in which no value is null; and the codes of the others, if there are any.

        Raises:
          KeyError, TypeError, ValueError: a column is not there, of another type, or has a value that does not serve.
        """
        pairs = list(zip(self.kind.inputs, self.values, strict=True))
        columns = [numbers_of_role(column_of(table, name), f"column {name!r}", role) for role, name in pairs]
        nulls = [null for column in columns if (null := nulls_of_column(column)) is not None]
        of_null = None
        if nulls:
            null = np.logical_or.reduce(nulls)
            of_null, codes = codes[null], codes[~null]
            if len(columns) > 1:
                columns = [column.filter(array_of(~null)) for column in columns]
        arrays = []
        for name, column in zip(self.values, columns, strict=True):
            parts = [widen(array, f"column {name!r}") for array in widen_arrow(column, f"column {name!r}")]
            arrays.append(parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0), *parts]))
        self.kind.check_inputs(arrays, [f"column {name!r}" for name in self.values])
        return codes, arrays, of_null


@dataclass(frozen=True)
class Reduction:
    """From rows to one state per key, or several side by side.

    Attributes:
      keys: names of the key columns.
      aggregates: by the name of its column, what each state is made of.
      skip_nulls: False makes the state of a key that has a null value null.
    """

    keys: tuple[str, ...]
    aggregates: Mapping[str, Aggregate]
    skip_nulls: bool = True

    @property
    def columns(self) -> list[str]:
        """Those that are read, each once."""
        values = [name for aggregate in self.aggregates.values() for name in aggregate.values]
        return list(dict.fromkeys([*self.keys, *values]))


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


def columns_of(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Some columns, as a table without metadata."""
    schema = pa.schema([(name, column_of(table, name).type) for name in names])
    return pa.Table.from_arrays([table.column(name) for name in names], schema=schema)


def plain_type(data_type: pa.DataType) -> pa.DataType:
    """The type of the values of a dictionary; any other as it is."""
    return data_type.value_type if pa.types.is_dictionary(data_type) else data_type


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A dictionary by its values; any other column as it is."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def numbers_of_role(column: pa.ChunkedArray, name: str, role: str) -> pa.ChunkedArray:
    """A column of numbers, checked; targets may be booleans."""
    if role == "target" and pa.types.is_boolean(column.type):
        return column.cast(pa.int8())
    check_widenable(column.type, name)
    return plain(column)


def check_results(kind: Kind, results: Sequence[str] | None, min_count: int) -> Sequence[str]:
    """The names of the results that are asked for: None for those of the kind.

    Raises:
      ValueError: no such result, one that is asked for twice, or a negative ``min_count``.
    """
    if min_count < 0:
        raise ValueError(f"min_count: expected 0 or more, found {min_count}")
    names = kind.columns if results is None else results
    if isinstance(names, str) or len(set(names)) < len(names):
        raise ValueError(f"results: expected a sequence of names, each once, found {names!r}")
    for name in names:
        if name not in kind.results:
            raise ValueError(f"results: expected some of {', '.join(kind.results)}, found {name!r}")
    return names


class States(NamedTuple):
    """A column of states (n,), and where it is null (n,); None where it nowhere is."""

    array: StateArray
    null: Mask | None

    def take(self, rows: Ints) -> "States":
        return States(self.array.take(rows), None if self.null is None else self.null[rows])

    def slice(self, start: int, rows: int) -> "States":
        part = slice(start, start + rows)
        return States(self.array.slice(start, rows), None if self.null is None else self.null[part])

    @staticmethod
    def concat(parts: Sequence["States"]) -> "States":
        array = StateArray.concat([part.array for part in parts])
        if all(part.null is None for part in parts):
            return States(array, None)
        masks = [np.zeros(len(part.array), np.bool_) if part.null is None else part.null for part in parts]
        return States(array, np.concatenate(masks))


@dataclass(frozen=True, eq=False)
class StateTable:
    """One row per key: the key columns (n,), and columns of states (n,) by their names. It never changes.

    The states are known to be in their one form: bytes from elsewhere are checked by ``from_arrow`` and ``from_ipc``,
    and not again.
    """

    keys: pa.Table
    states: Mapping[str, States]

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.states.values())).array)

    @property
    def nbytes(self) -> int:
        """About what it takes of memory."""
        return int(self.keys.nbytes) + sum(column.array.nbytes for column in self.states.values())

    @classmethod
    def group(cls, table: pa.Table, reduction: Reduction) -> Self:
        """The states of a table of rows; without keys one row, also of none. Raises as ``Aggregate.inputs``."""
        index = KeyIndex(key_schema(table, reduction.keys))
        codes = index.encode(table)
        states = {}
        for name, aggregate in reduction.aggregates.items():
            used, inputs, of_null = aggregate.inputs(table, codes)
            array = StateArray.group(aggregate.kind, aggregate.scale, used, inputs, len(index))
            null = None
            if of_null is not None and not reduction.skip_nulls:
                null = np.zeros(len(index), np.bool_)
                null[of_null] = True
            states[name] = States(array, null)
        return cls(index.keys(), states)

    @classmethod
    def merge(cls, tables: Sequence["StateTable"], keys: Sequence[str] | None = None) -> "StateTable":
        """The states of each key merged, of one table or more.

        Args:
          keys: names of the key columns: those of the tables, or fewer, to merge to coarser ones.

        Raises:
          TypeError: key columns of different types.
          StateError: states of two kinds or scales.
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
            states[name] = States(column.array.merge(codes, len(index)), null)
        return cls(index.keys(), states)

    @classmethod
    def concat(cls, tables: Sequence["StateTable"]) -> "StateTable":
        """The rows of all, of one table or more. Raises as ``merge``."""
        if len(tables) == 1:
            return tables[0]
        for i, table in enumerate(tables):
            tables[0].check_alike(table, f"table {i}, ")
        states = {name: States.concat([table.states[name] for table in tables]) for name in tables[0].states}
        return cls(pa.concat_tables([table.keys for table in tables]), states)

    def check_alike(self, other: "StateTable", place: str = "") -> None:
        """Raises TypeError for a table whose key columns have other types, StateError for other kinds or scales."""
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

    def slice(self, start: int, rows: int) -> "StateTable":
        """Some rows that follow each other."""
        states = {name: column.slice(start, rows) for name, column in self.states.items()}
        return StateTable(self.keys.slice(start, rows), states)

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
        """Results of a column of states by their names: as of ``finalise``."""
        array, null = self.states[name]
        few = array.counts < min_count if min_count > 0 else None
        masks = [mask for mask in (null, few) if mask is not None and mask.any()]
        either = np.logical_or.reduce(masks) if masks else None
        names = array.kind.columns if results is None else results
        return {name: array_of(array.result(name), null=null if name in ("count", "max") else either) for name in names}

    def finalise(
        self,
        results: Sequence[str] | None = None,
        *,
        min_count: int = 0,
        keep_state: bool = False,
        state: str = STATE,
    ) -> pa.Table:
        """The key columns and the results of a column of states, as of ``lse_stream.arrow.finalise``."""
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
          StateError: records of another version, kind or scale, or damaged ones; column and row named.
        """
        columns = {name: States(*states_from_arrow(column_of(table, name), name, trusted=trusted)) for name in states}
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

    A state compresses from 92 bytes to about 35. That costs 0.25 us, and pays even within one process, since Beam
    copies what it shuffles a dozen times: 4e6 states took 12 s and 1.9 GB, compressed 7 s and 0.9 GB.
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
