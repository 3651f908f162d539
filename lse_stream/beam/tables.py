"""Transforms that reduce tables of rows, or merge tables of states, to one state per key, by shard."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import AsIter, PCollection
from apache_beam.transforms.window import BoundedWindow
from apache_beam.utils.windowed_value import WindowedValue

from ..key_accumulators import Reducer, RowReducer, StateAccumulator, StateReducer
from ..keys import with_own_dictionaries
from ..reduction import Reduction
from ..state_table import StateTable, from_ipc, to_ipc
from . import coders as coders  # for its effect: tables travel by these coders
from .bundle_policy import BundlePolicy
from .pre_aggregate import PreAggregate, check_windowing

# How many distinct keys a bundle holds before it sends them on: up to 0.7 GB per worker thread (``plan.KEY_BYTES``).
MAX_STATES = 1 << 20

# Into how many shards the keys go that are not written, so that the cores of a usual worker can all merge them; each
# costs an element per bundle.
INNER_SHARDS = 16

# Counters, in the namespace lse_stream: how many rows or states were reduced, and how many nulls there were among them.
REDUCED, NULLS = "rows_reduced", "nulls"
# How many went to the shuffle as they were, and as states; and in how many bytes.
ROWS_SHUFFLED, STATES_SHUFFLED, BYTES_SHUFFLED = "rows_shuffled", "states_shuffled", "bytes_shuffled"

# What an element of the shuffle begins with; an Arrow IPC stream of it follows. That of the third kind has no rows, and
# ahead of it are the number of shards, in four bytes, and a bit for each of them.
STATES_TAG, ROWS_TAG, SENT_TAG = b"S", b"R", b"E"

# The key of elements that tell to which shards a bundle has sent something: the others come out too, without rows.
SENT = -1

# How many bytes of columns an element of the shuffle holds at most.
ELEMENT_BYTES = 1 << 23


class ToShards(beam.PTransform[PCollection[Any], PCollection[tuple[int, bytes]]]):
    """Tables to (shard, part), for ``ShardParts`` to merge.

    Per bundle and window there is one of each shard that holds something, or several of ``ELEMENT_BYTES``; and one with
    the key ``SENT``, where the input has an end.

    Args:
      reducer: of the tables.
      num_shards: into how many tables the keys are spread.
      max_states: how many distinct keys a bundle holds before it sends them on and starts afresh.

    Raises:
      ValueError: a number below 1; an input in windows that merge, or in a windowing as ``PreCombinePerKey`` refuses.
    """

    def __init__(self, reducer: Reducer, *, num_shards: int = 1, max_states: int = MAX_STATES) -> None:
        super().__init__()
        for name, number in (("num_shards", num_shards), ("max_states", max_states)):
            if number < 1:
                raise ValueError(f"{name}: expected 1 or more, found {number}")
        self._reducer, self._num_shards, self._max_states = reducer, num_shards, max_states

    def expand(self, pcoll: PCollection[Any]) -> PCollection[tuple[int, bytes]]:
        if pcoll.windowing.windowfn.is_merging():
            raise ValueError(f"expected windows that do not merge, found {pcoll.windowing.windowfn}")
        check_windowing(pcoll.windowing)
        group = _GroupBundle(self._reducer, self._num_shards, self._max_states, has_end=pcoll.is_bounded)
        parts: PCollection[tuple[int, bytes]] = pcoll | beam.ParDo(group).with_output_types(tuple[int, bytes])
        return parts


class _ByShard(beam.PTransform[PCollection[Any], PCollection[tuple[int, StateTable]]]):
    """Tables to (shard, ``StateTable``), one per window and shard.

    Args:
      reducer, options: as of ``ToShards``.
      pre_aggregate: whole seconds of processing time, within which the parts of a shard are merged to one.
      is_sorted: whether a table comes out in the order of its keys.

    Attributes:
      check: raises what would be raised for a table that is the only one.

    Raises:
      ValueError: as ``ToShards``.
    """

    def __init__(
        self, reducer: Reducer, *, pre_aggregate: int | None = None, is_sorted: bool = True, **options: Any
    ) -> None:
        super().__init__()
        self.check = reducer.check
        self._to_shards = ToShards(reducer, **options)
        self._parts = parts = ShardParts(reducer, is_sorted=is_sorted)
        self._pre_aggregate = None if pre_aggregate is None else PreAggregate(parts.merge, pre_aggregate)

    def expand(self, pcoll: PCollection[Any]) -> PCollection[tuple[int, StateTable]]:
        parts = pcoll | "GroupBundle" >> self._to_shards
        shards: PCollection[tuple[int, StateTable]] = (
            (parts if self._pre_aggregate is None else parts | "PreAggregate" >> self._pre_aggregate)
            | "GroupByShard" >> beam.GroupByKey()
            | "MergeShard" >> beam.FlatMapTuple(self._parts.tables).with_output_types(tuple[int, StateTable])
        )
        return shards


class ReduceTables(_ByShard):
    """PCollection of ``pa.Table`` s of rows to (shard, ``StateTable``); arguments as of ``MergeTables``."""

    def __init__(self, reduction: Reduction, **options: Any) -> None:
        super().__init__(RowReducer(reduction), **options)


class MergeTables(_ByShard):
    """PCollection of states, ``StateTable`` s or ``pa.Table`` s with a column "state", to (shard, ``StateTable``).

    Args:
      keys: names of the key columns: those of the tables, or fewer.
      trusted: the column was checked where its bytes came in.
      num_shards, max_states, pre_aggregate: as of ``LogSumExp.PerKeyFromTables``.
    """

    def __init__(self, keys: Sequence[str], *, trusted: bool = False, **options: Any) -> None:
        super().__init__(StateReducer(keys, trusted=trusted), **options)


class _GroupBundle(beam.DoFn):
    """Tables to (shard, states or rows), and where there are several shards and an end to (SENT, which of them).

    The output feeds a GroupByKey, or a DoFn with state, and must go on doing so: Beam loses what ``finish_bundle``
    emits into a DoFn that has only ``process_batch``.
    """

    def __init__(self, reducer: Reducer, num_shards: int, max_states: int, *, has_end: bool = True) -> None:
        self._num_shards, self._max_states, self._has_end = num_shards, max_states, has_end
        self._reducer: Any = reducer
        names = REDUCED, NULLS, ROWS_SHUFFLED, STATES_SHUFFLED, BYTES_SHUFFLED
        self._counters = {name: Metrics.counter("lse_stream", name) for name in names}

    def start_bundle(self) -> None:
        self._held: dict[BoundedWindow, Any] = {}
        self._policy = BundlePolicy(self._max_states, may_send_rows=bool(self._reducer.columns))

    def process(self, table: Any, window: Any = beam.DoFn.WindowParam) -> Iterator[WindowedValue]:
        self._counters[REDUCED].inc(table.num_rows)
        prepared = self._reducer.prepare(table)
        self._counters[NULLS].inc(self._reducer.nulls_in(prepared))
        if self._policy.sends(table.num_rows):
            yield from self._send(self._reducer.split([prepared], self._num_shards), self._rows_part, window)
            return
        accumulator = self._held.get(window)
        if accumulator is None:
            accumulator = self._held[window] = self._reducer.accumulator()
        accumulator.add(prepared)
        if self._policy.is_full(table.num_rows, sum(len(each) for each in self._held.values())):
            yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield from self._flush()

    def _flush(self) -> Iterator[WindowedValue]:
        held, self._held = self._held, {}
        for window, accumulator in held.items():
            yield from self._send(accumulator.table().split(self._num_shards), _states_part, window)

    def _rows_part(self, rows: pa.Table) -> bytes:
        return ROWS_TAG + to_ipc(with_own_dictionaries(rows, self._reducer.keys))

    def _send(
        self, tables: Iterable[Any], encode: Callable[[Any], bytes], window: BoundedWindow
    ) -> Iterator[WindowedValue]:
        sent = 0
        for shard, table in enumerate(tables):
            if table.num_rows or self._num_shards == 1:
                sent |= 1 << shard
                for piece in pieces_of(table):
                    self._counters[ROWS_SHUFFLED if isinstance(piece, pa.Table) else STATES_SHUFFLED].inc(
                        piece.num_rows
                    )
                    yield self._element(shard, encode(piece), window)
        if self._num_shards > 1 and self._has_end:
            of_none = encode(table.slice(0, 0))
            yield self._element(SENT, _sent_part(sent, self._num_shards, of_none), window)

    def _element(self, shard: int, data: bytes, window: BoundedWindow) -> WindowedValue:
        self._counters[BYTES_SHUFFLED].inc(len(data))
        return WindowedValue((shard, data), window.max_timestamp(), (window,))


def pieces_of(table: Any) -> Iterator[Any]:
    """A table, or parts of it that take ``ELEMENT_BYTES`` each."""
    rows = max(1, ELEMENT_BYTES * table.num_rows // max(table.nbytes, 1))
    for start in range(0, max(table.num_rows, 1), rows):
        yield table.slice(start, min(rows, table.num_rows - start))


def _states_part(table: StateTable) -> bytes:
    return STATES_TAG + table.to_ipc()


def _sent_part(shards: int, num_shards: int, of_none: bytes) -> bytes:
    """To which shards something was sent, as bits of a number; and the part of a shard without rows."""
    return b"".join(
        [SENT_TAG, num_shards.to_bytes(4, "little"), shards.to_bytes(-(-num_shards // 8), "little"), of_none]
    )


def _sent(parts: Sequence[bytes]) -> tuple[int, int, bytes]:
    """Of such parts, one or more, what they are made of, with the shards of any."""
    num_shards = int.from_bytes(parts[0][1:5], "little")
    end = 5 + -(-num_shards // 8)
    sent = 0
    for part in parts:
        sent |= int.from_bytes(part[5:end], "little")
    return sent, num_shards, parts[0][end:]


class ShardParts:
    """What ``ToShards`` has sent to a shard, merged. Arguments as of ``_ByShard``."""

    table_type = StateTable

    def __init__(self, reducer: Reducer, *, is_sorted: bool = True) -> None:
        self._reducer: Any = reducer
        self._is_sorted = is_sorted

    def tables(self, shard: int, parts: Iterable[bytes]) -> Iterator[tuple[int, StateTable]]:
        """(shard, table), one; of the key SENT one for each shard to which nothing was sent.

        None where there is no part, as in a pane that fires with nothing new in it.
        """
        if shard == SENT:
            yield from self._not_sent(parts)
        elif (merged := self._merged(parts)) is not None:
            yield shard, merged.sort() if self._is_sorted else merged

    def merge(self, parts: Iterable[bytes]) -> list[bytes]:
        """One part or more, merged to as few as an element of the shuffle may be large."""
        held = list(parts)
        if held[0][:1] == SENT_TAG:
            return [_sent_part(*_sent(held))]
        merged = self._merged(held)
        assert merged is not None
        return [_states_part(piece) for piece in pieces_of(merged)]

    def tables_and_parts(self, shard: int, parts: Iterable[bytes]) -> tuple[list[tuple[int, StateTable]], list[bytes]]:
        """What ``tables`` and ``merge`` give, of one part or more."""
        if shard == SENT:
            sent = self.merge(parts)
            return list(self._not_sent(sent)), sent
        [(_, table)] = self.tables(shard, parts)
        return [(shard, table)], [_states_part(piece) for piece in pieces_of(table)]

    def _not_sent(self, parts: Iterable[bytes]) -> Iterator[tuple[int, StateTable]]:
        if held := list(parts):
            sent, num_shards, of_none = _sent(held)
            table = self._merged([of_none])
            assert table is not None
            for shard in range(num_shards):
                if not sent >> shard & 1:
                    yield shard, table

    def _merged(self, parts: Iterable[bytes]) -> StateTable | None:
        states, rows = StateAccumulator(self._reducer.keys), self._reducer.accumulator()
        empty: StateTable | None = None
        for part in parts:
            data = memoryview(part)[1:]
            if part[:1] == ROWS_TAG:
                rows.add(from_ipc(data))
                continue
            table = StateTable.from_ipc(data, trusted=True)
            empty = table
            # Without keys a merge of no states is one empty state; but the other shards than the first have none.
            if table.num_rows:
                states.add(table)
        if (of_rows := rows.table()) is not None:
            states.add(of_rows)
        merged = states.table()
        return empty if merged is None else merged


class ToArrow(beam.PTransform[PCollection[tuple[int, StateTable]], PCollection[tuple[int, pa.Table]]]):
    """(shard, ``StateTable``) to (shard, ``pa.Table``)."""

    def expand(self, shards: PCollection[tuple[int, StateTable]]) -> PCollection[tuple[int, pa.Table]]:
        tables: PCollection[tuple[int, pa.Table]] = shards | beam.MapTuple(
            lambda shard, states: (shard, states.to_arrow())
        ).with_output_types(tuple[int, pa.Table])
        return tables


class LookUpTables(beam.PTransform[PCollection[pa.Table], PCollection[pa.Table]]):
    """Tables to tables, by the function that ``make_function`` makes, once per worker, of all rows of ``held``."""

    def __init__(
        self, held: PCollection[pa.Table], make_function: Callable[[pa.Table], Callable[[pa.Table], pa.Table]]
    ) -> None:
        super().__init__()
        self._held, self._look_up = held, _LookUp(make_function)

    def expand(self, tables: PCollection[pa.Table]) -> PCollection[pa.Table]:
        found: PCollection[pa.Table] = tables | beam.ParDo(self._look_up, AsIter(self._held)).with_output_types(
            pa.Table
        )
        return found


class _LookUp(beam.DoFn):
    def __init__(self, make_function: Callable[[Any], Callable[[pa.Table], pa.Table]]) -> None:
        self._make_function = make_function

    def setup(self) -> None:
        self._function: Callable[[pa.Table], pa.Table] | None = None

    def process(self, table: pa.Table, held: Iterable[pa.Table]) -> Iterator[pa.Table]:
        # Of bounded input a side input is the same for every table.
        if self._function is None:
            self._function = self._make_function(pa.concat_tables(held))
        yield self._function(table)
