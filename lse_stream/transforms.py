"""Log-sum-exp as Beam transforms, named in the manner of ``beam.combiners.Mean``."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import PCollection
from apache_beam.transforms.window import BoundedWindow
from apache_beam.utils.windowed_value import WindowedValue

from .arrow import RESULTS, STATE, check_names, group_states, merge_states, sort_by_keys, take_rows
from .combine_fn import LogSumExpCombineFn
from .keys import shard_of_keys


class LogSumExp:
    """Transforms that compute ``ln(sum(exp(x)))``, whose results depend on the multiset of inputs alone."""

    class Globally(beam.CombineGlobally):
        """PCollection of numbers to a PCollection of one float; ``-inf`` when there are none.

        Has the methods of ``beam.CombineGlobally``: ``without_defaults`` (needed outside the global window),
        ``as_singleton_view``, ``with_fanout``.
        """

        def __init__(self) -> None:
            beam.CombineGlobally.__init__(self, LogSumExpCombineFn())

    class PerKey(beam.CombinePerKey):
        """PCollection of (key, number) to a PCollection of (key, float), one per key.

        Has the methods of ``beam.CombinePerKey``: ``with_hot_key_fanout``.
        """

        def __init__(self) -> None:
            super().__init__(LogSumExpCombineFn())

    class PerKeyOfTables(beam.PTransform[PCollection[pa.Table], PCollection[tuple[int, pa.Table]]]):
        """PCollection of ``pa.Table`` to (shard, ``pa.Table``), exactly one per window and shard.

        Each table that comes out holds the key columns and "state", one row per key, sorted by key, and is the same
        whatever the order, size and bundling of the tables that went in. ``lse_stream.arrow.finalise`` turns it into
        results. A window that no table reached has no shards, as nothing tells their schema; one empty table does.

        Rows are reduced to states per table, then per bundle, and only then shuffled, as Arrow batches.

        Args:
          keys: names of the key columns; none for one global row.
          value: name of the column of numbers.
          num_shards: into how many tables the keys are spread, by a hash that is the same on every machine. One worker
            holds all keys of a shard: allow 700 bytes per key.
          skip_nulls: False makes the state of a key that has a null value null.
          max_states: how many distinct keys a bundle holds before it sends them on and starts afresh. As many as the
            default allows take up to 0.6 GB per worker thread.

        Raises:
          TypeError, ValueError: an argument is not as above, or column names collide.
          ValueError: the input has merging windows (sessions), which would merge by shard and not by key.
          Faults in the tables are raised as by ``group_states`` and ``merge_states`` when the pipeline runs.
        """

        def __init__(
            self,
            keys: Sequence[str],
            value: str,
            *,
            num_shards: int = 1,
            skip_nulls: bool = True,
            max_states: int = 1 << 20,
        ) -> None:
            super().__init__()
            check_names(keys, others=[value, STATE, *RESULTS])
            for name, number in (("num_shards", num_shards), ("max_states", max_states)):
                if number < 1:
                    raise ValueError(f"{name}: expected 1 or more, found {number}")
            self._group = _GroupBundle(list(keys), value, num_shards, max_states, skip_nulls=skip_nulls)
            self._merge = _MergeShard(list(keys), max_states)

        def expand(self, pcoll: PCollection[pa.Table]) -> PCollection[tuple[int, pa.Table]]:
            if pcoll.windowing.windowfn.is_merging():
                raise ValueError(f"expected windows that do not merge, found {pcoll.windowing.windowfn}")
            shards: PCollection[tuple[int, pa.Table]] = (
                pcoll
                | "GroupBundle" >> beam.ParDo(self._group).with_output_types(tuple[int, bytes])
                | "GroupByShard" >> beam.GroupByKey()
                | "MergeShard" >> beam.ParDo(self._merge)
            )
            return shards


class _GroupBundle(beam.DoFn):
    """Tables to (shard, IPC stream of states). Per window of a bundle every shard is sent, be it empty.

    So every shard comes out at the end, with the right schema. The output feeds a GroupByKey and must go on doing so:
    Beam loses what ``finish_bundle`` emits into a DoFn that has only ``process_batch``.
    """

    def __init__(self, keys: list[str], value: str, num_shards: int, max_states: int, *, skip_nulls: bool) -> None:
        self._keys = keys
        self._value = value
        self._num_shards = num_shards
        self._skip_nulls = skip_nulls
        self._max_states = max_states

    def start_bundle(self) -> None:
        self._tables: dict[BoundedWindow, list[pa.Table]] = {}
        self._buffered = 0
        self._limit = self._max_states
        self._merging_pays = True

    def process(self, table: pa.Table, window: Any = beam.DoFn.WindowParam) -> Iterator[WindowedValue]:
        states = group_states(table, self._keys, self._value, skip_nulls=self._skip_nulls)
        if states.num_rows > self._max_states // 2 and not self._merging_pays:
            yield from self._send(states, window)  # nearly all its keys would be new, and fill the buffer at once
            return
        self._tables.setdefault(window, []).append(states)
        self._buffered += states.num_rows
        if self._buffered <= self._limit:
            return
        unmerged = self._buffered
        self._tables = {window: [_merge(tables, self._keys)] for window, tables in self._tables.items()}
        self._buffered = sum(table.num_rows for [table] in self._tables.values())
        self._merging_pays = self._buffered < unmerged * 3 // 4
        # Twice what is there, so that the merging of a bundle is linear in its states.
        self._limit = max(self._max_states, 2 * self._buffered)
        if self._buffered > self._max_states:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield from self._flush()

    def _flush(self) -> Iterator[WindowedValue]:
        for window, tables in self._tables.items():
            yield from self._send(_merge(tables, self._keys), window)
        self._tables.clear()
        self._buffered = 0
        self._limit = self._max_states

    def _send(self, states: pa.Table, window: BoundedWindow) -> Iterator[WindowedValue]:
        for shard, part in enumerate(_split(states, self._keys, self._num_shards)):
            yield WindowedValue((shard, _to_ipc(part)), window.max_timestamp(), (window,))


class _MergeShard(beam.DoFn):
    """(shard, IPC streams of states) to (shard, one table, sorted by key)."""

    def __init__(self, keys: list[str], max_states: int) -> None:
        self._keys = keys
        self._max_states = max_states

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[tuple[int, pa.Table]]:
        shard, streams = element
        tables: list[pa.Table] = []
        buffered, limit = 0, self._max_states
        for stream in streams:
            tables.append(pa.ipc.open_stream(stream).read_all())
            buffered += tables[-1].num_rows
            # There may be more batches than memory holds; the doubling keeps the merging linear.
            if buffered > limit:
                tables = [_merge(tables, self._keys)]
                buffered = tables[0].num_rows
                limit = max(self._max_states, 2 * buffered)
        yield shard, sort_by_keys(_merge(tables, self._keys), self._keys)


def _merge(tables: list[pa.Table], keys: list[str]) -> pa.Table:
    """One table of states, each key once; each of the given ones has each key once already."""
    return tables[0] if len(tables) == 1 else merge_states(tables, keys)


def _split(table: pa.Table, keys: list[str], num_shards: int) -> Iterator[pa.Table]:
    """The rows of each shard in turn."""
    if num_shards == 1:
        yield table
        return
    shards = shard_of_keys(table, keys, num_shards)
    # A stable sort of numbers of 16 bits or fewer is a radix sort.
    by_shard = take_rows(table, np.argsort(shards.astype(np.min_scalar_type(num_shards)), kind="stable"))
    has_dictionary = any(pa.types.is_dictionary(column_type) for column_type in table.schema.types)
    start = 0
    for rows in np.bincount(shards, minlength=num_shards).tolist():
        part = by_shard.slice(start, rows)
        # A slice has the whole dictionary with it; sorting writes one anew.
        yield sort_by_keys(part, keys) if has_dictionary else part
        start += rows


def _to_ipc(table: pa.Table) -> bytes:
    """The table as an Arrow IPC stream. Unlike a pickle it holds a slice's own rows only.

    A state compresses from 92 bytes to about 35. That costs 0.25 us, and pays even within one process, since Beam
    copies what it shuffles a dozen times: 4e6 states took 12 s and 1.9 GB, compressed 7 s and 0.9 GB.
    """
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data
