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

# Counters, in the namespace lse_stream: how many rows or states were reduced; how many were shuffled, as either; and in
# how many bytes.
REDUCED, SHUFFLED, SHUFFLED_BYTES = "rows_reduced", "rows_shuffled", "bytes_shuffled"

# What an element of the shuffle begins with; an Arrow IPC stream of it follows.
STATES_TAG, ROWS_TAG = b"S", b"R"


class _ByShard(beam.PTransform[PCollection[Any], PCollection[tuple[int, StateTable]]]):
    """Tables to (shard, ``StateTable``), one per window and shard.

    Args:
      reducer: of the tables.
      num_shards: into how many tables the keys are spread.
      max_states: how many distinct keys a bundle holds before it sends them on and starts afresh.
      pre_aggregate: whole seconds of processing time, within which the states of a shard are merged to one part.
      is_sorted: whether a table comes out in the order of its keys.

    Attributes:
      check: raises what would be raised for a table that is the only one.

    Raises:
      ValueError: a number below 1; an input in windows that merge, or in a windowing as ``PreCombinePerKey`` refuses.
    """

    def __init__(
        self,
        reducer: Reducer,
        *,
        num_shards: int = 1,
        max_states: int = MAX_STATES,
        pre_aggregate: int | None = None,
        is_sorted: bool = True,
    ) -> None:
        super().__init__()
        for name, number in (("num_shards", num_shards), ("max_states", max_states)):
            if number < 1:
                raise ValueError(f"{name}: expected 1 or more, found {number}")
        self.check = reducer.check
        self._group = _GroupBundle(reducer, num_shards, max_states)
        self._merge = _MergeShard(reducer, is_sorted=is_sorted)
        self._pre_aggregate = (
            PreAggregate(self._merge.merge_streams, pre_aggregate) if pre_aggregate is not None else None
        )

    def expand(self, pcoll: PCollection[Any]) -> PCollection[tuple[int, StateTable]]:
        if pcoll.windowing.windowfn.is_merging():
            raise ValueError(f"expected windows that do not merge, found {pcoll.windowing.windowfn}")
        check_windowing(pcoll.windowing)
        parts = pcoll | "GroupBundle" >> beam.ParDo(self._group).with_output_types(tuple[int, bytes])
        shards: PCollection[tuple[int, StateTable]] = (
            (parts if self._pre_aggregate is None else parts | "PreAggregate" >> self._pre_aggregate)
            | "GroupByShard" >> beam.GroupByKey()
            | "MergeShard" >> beam.ParDo(self._merge).with_output_types(tuple[int, StateTable])
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
    """Tables to (shard, states or rows). Per window of a bundle every shard is sent, be it empty.

    So every shard comes out at the end, with the right schema. The output feeds a GroupByKey and must go on doing so:
    Beam loses what ``finish_bundle`` emits into a DoFn that has only ``process_batch``.
    """

    def __init__(self, reducer: Reducer, num_shards: int, max_states: int) -> None:
        self._num_shards, self._max_states = num_shards, max_states
        self._reducer: Any = reducer
        names = (REDUCED, SHUFFLED, SHUFFLED_BYTES)
        self._reduced, self._shuffled, self._bytes = (Metrics.counter("lse_stream", name) for name in names)

    def start_bundle(self) -> None:
        self._held: dict[BoundedWindow, Any] = {}
        self._policy = BundlePolicy(self._max_states, may_send_rows=bool(self._reducer.columns))

    def process(self, table: Any, window: Any = beam.DoFn.WindowParam) -> Iterator[WindowedValue]:
        self._reduced.inc(table.num_rows)
        if self._policy.sends(table.num_rows):
            prepared = self._reducer.prepare(table)
            for shard, rows in enumerate(self._reducer.split([prepared], self._num_shards)):
                data = ROWS_TAG + to_ipc(with_own_dictionaries(rows, self._reducer.keys))
                yield self._element(shard, rows.num_rows, data, window)
            return
        accumulator = self._held.get(window)
        if accumulator is None:
            accumulator = self._held[window] = self._reducer.accumulator()
        accumulator.add(self._reducer.prepare(table))
        if self._policy.is_full(table.num_rows, sum(len(each) for each in self._held.values())):
            yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield from self._flush()

    def _flush(self) -> Iterator[WindowedValue]:
        held, self._held = self._held, {}
        for window, accumulator in held.items():
            for shard, part in enumerate(accumulator.table().split(self._num_shards)):
                yield self._element(shard, part.num_rows, STATES_TAG + part.to_ipc(), window)

    def _element(self, shard: int, num_rows: int, data: bytes, window: BoundedWindow) -> WindowedValue:
        self._shuffled.inc(num_rows)
        self._bytes.inc(len(data))
        return WindowedValue((shard, data), window.max_timestamp(), (window,))


class _MergeShard(beam.DoFn):
    """(shard, states or rows) to (shard, ``StateTable``)."""

    def __init__(self, reducer: Reducer, *, is_sorted: bool = True) -> None:
        self._reducer: Any = reducer
        self._is_sorted = is_sorted

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[tuple[int, StateTable]]:
        shard, parts = element
        if (merged := self._merged(parts)) is not None:
            yield shard, merged.sort() if self._is_sorted else merged

    def merge_streams(self, parts: Iterable[bytes]) -> bytes:
        """Merges several elements into one element of states."""
        merged = self._merged(parts)
        assert merged is not None
        return STATES_TAG + merged.to_ipc()

    def _merged(self, parts: Iterable[bytes]) -> StateTable | None:
        """One table; None where there is no part, as in a pane that fires with nothing new in it."""
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
