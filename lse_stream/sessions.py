"""Sessions of rows: found by key and gap, merged where they overlap, and what of them has come out already."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .buffers import take
from .columns import column_of, columns_of
from .event_times import WINDOW, Micros, event_times
from .keys import encode_keys, shard_of_keys, with_own_dictionaries
from .reduction import ColumnAggregation
from .state_column import STATE, states_from_arrow, states_to_arrow
from .state_table import from_ipc, to_ipc
from .states.arrays import StateArray
from .table_functions import sort_by_keys, take_rows

Codes = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_TIME = pa.timestamp("us", "UTC")
# What an IPC stream has beside what comes out.
_OURS = ("panes", "is_new", "is_closed")


class _Chains(NamedTuple):
    """Intervals (n,) that overlap one after the other.

    Attributes:
      numbers: of the chain of each interval, int32 (n,).
      first: the number of an interval of each chain, int64 (chains,).
      starts, ends: microseconds (chains,).
    """

    numbers: Codes
    first: Ints
    starts: Micros
    ends: Micros


def _chains(codes: Codes, starts: Micros, ends: Micros) -> _Chains:
    """The chains of intervals (n,) with the same code, in the order of codes and starts: as Beam merges sessions."""
    order = np.lexsort((starts, codes))
    codes, starts, ends = codes[order], starts[order], ends[order]
    # The latest end so far, of the same code: ranks by code and end, of which any of a code is above all before.
    by_end = np.lexsort((ends, codes))
    ranks = np.empty_like(by_end)
    ranks[by_end] = np.arange(by_end.size)
    latest = ends[by_end[np.maximum.accumulate(ranks)]]
    begins = np.ones(codes.size, np.bool_)
    begins[1:] = (codes[1:] != codes[:-1]) | (starts[1:] >= latest[:-1])
    numbers = np.empty(codes.size, np.int32)
    numbers[order] = np.cumsum(begins) - 1
    first = np.flatnonzero(begins)
    last = np.append(first[1:], codes.size) - 1 if first.size else first
    return _Chains(numbers, order[first], starts[first], latest[last])


@dataclass(frozen=True, eq=False)
class SessionTable:
    """Sessions (n,), of which those of one key do not overlap. It never changes.

    Attributes:
      keys: columns (n,).
      starts, ends: microseconds since 1970, int64 (n,); an end is the time of the last row and a gap.
      states: of the rows (n,).
      panes: how many panes of it have come out, int64 (n,).
      is_new: whether rows came since the last one (n,).
      is_closed: whether one came at the session's end (n,).
    """

    keys: pa.Table
    starts: Micros
    ends: Micros
    states: StateArray
    panes: Ints
    is_new: Flags
    is_closed: Flags

    @property
    def num_rows(self) -> int:
        return int(self.starts.size)

    @property
    def nbytes(self) -> int:
        """About what it takes of memory."""
        return int(self.keys.nbytes) + self.states.nbytes + 26 * self.num_rows

    @classmethod
    def find(cls, table: pa.Table, keys: Sequence[str], column: ColumnAggregation, event_time: str, gap: int) -> Self:
        """The sessions of rows; without those of which a value is null.

        Args:
          keys, event_time: names of columns.
          column: what the states are made of.
          gap: microseconds.

        Raises:
          KeyError, TypeError, ValueError: as ``ColumnAggregation.inputs``, ``encode_keys`` and ``event_times``.
        """
        rows, inputs, _ = column.inputs(table, np.arange(table.num_rows, dtype=np.int32))
        times = event_times(column_of(table, event_time), event_time)[rows]
        encoded = encode_keys(table, keys)
        codes = encoded.codes[rows]
        chains = _chains(codes, times, times + gap)
        sessions = chains.first.size
        states = StateArray.group(column.aggregation, column.scale, chains.numbers, inputs, sessions)
        return cls(
            _take(encoded.keys, codes[chains.first]),
            chains.starts,
            chains.ends,
            states,
            np.zeros(sessions, np.int64),
            np.ones(sessions, np.bool_),
            np.zeros(sessions, np.bool_),
        )

    @classmethod
    def merge(cls, tables: Sequence["SessionTable"]) -> "SessionTable":
        """The sessions of one table or more: as if they were of one table of rows.

        Raises:
          TypeError: keys of different types.
        """
        keys = pa.concat_tables([table.keys for table in tables])
        starts, ends, before, were_new, were_closed = (
            np.concatenate([getattr(table, name) for table in tables])
            for name in ("starts", "ends", "panes", "is_new", "is_closed")
        )
        codes = np.zeros(starts.size, np.int32)
        if keys.num_columns:
            codes, keys = encode_keys(keys, keys.column_names)
        chains = _chains(codes, starts, ends)
        sessions = chains.first.size
        panes = np.zeros(sessions, np.int64)
        np.maximum.at(panes, chains.numbers, before)
        is_new, is_closed = (
            np.bincount(chains.numbers[flags], minlength=sessions) > 0 for flags in (were_new, were_closed)
        )
        states = StateArray.concat([table.states for table in tables]).merge(chains.numbers, sessions)
        keys = _take(keys, codes[chains.first])
        return cls(keys, chains.starts, chains.ends, states, panes, is_new, is_closed)

    def take(self, rows: Ints) -> Self:
        """The sessions of those numbers, in that order."""
        return type(self)(
            _take(self.keys, rows),
            self.starts[rows],
            self.ends[rows],
            self.states.take(rows),
            self.panes[rows],
            self.is_new[rows],
            self.is_closed[rows],
        )

    def slice(self, start: int, num_rows: int) -> Self:
        """Some sessions that follow each other."""
        return self.take(np.arange(start, start + num_rows))

    def split(self, num_shards: int) -> Iterator[tuple[int, Self]]:
        """(shard, its sessions), of those that have some; without keys all are in the first."""
        names = self.keys.column_names
        shards = shard_of_keys(self.keys, names, num_shards) if names else np.zeros(self.num_rows, np.int32)
        for shard in np.unique(shards).tolist():
            yield shard, self.take(np.flatnonzero(shards == shard))

    def to_arrow(self) -> pa.Table:
        """The keys, the times of the windows and the states."""
        times = [pa.array(column, pa.int64()).cast(_TIME) for column in (self.starts, self.ends)]
        columns = [*self.keys.columns, *times, states_to_arrow(self.states)]
        return pa.Table.from_arrays(columns, names=[*self.keys.column_names, *WINDOW, STATE])

    def to_ipc(self) -> bytes:
        """All of it as an Arrow IPC stream."""
        table = self.to_arrow()
        for name in _OURS:
            table = table.append_column(name, pa.array(getattr(self, name)))
        return to_ipc(with_own_dictionaries(table, self.keys.column_names))

    @classmethod
    def from_ipc(cls, stream: bytes) -> Self:
        """Of such a stream, which is one of ours."""
        table = from_ipc(stream)
        names = table.column_names[: -len((*WINDOW, STATE, *_OURS))]
        starts, ends = (event_times(table.column(name), name) for name in WINDOW)
        states, _ = states_from_arrow(table.column(STATE), trusted=True)
        return cls(columns_of(table, names), starts, ends, states, *(table.column(name).to_numpy() for name in _OURS))


def _take(keys: pa.Table, rows: npt.NDArray[np.integer]) -> pa.Table:
    numbers = rows.astype(np.int64, copy=False)
    return pa.Table.from_arrays([take(column, numbers) for column in keys.columns], schema=keys.schema)


def last_panes(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Of panes of sessions, as ``SessionTable.to_arrow`` gives them, the last of each, by key and time.

    Those that overlap are of one session as it grew: the one of the most terms is its last.
    """
    table = sort_by_keys(table, [*keys, *WINDOW], trusted=True)
    starts, ends = (event_times(table.column(name), name) for name in WINDOW)
    codes = encode_keys(table, keys).codes
    states, _ = states_from_arrow(table.column(STATE), trusted=True)
    numbers = _chains(codes, starts, ends).numbers
    order = np.lexsort((states.counts, numbers))
    return take_rows(table, np.sort(order[np.flatnonzero(np.diff(numbers[order], append=-1))]), trusted=True)
