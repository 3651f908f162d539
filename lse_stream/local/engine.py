"""Steps and passes.

A pass takes what a source has, the row groups of a dataset or the states of a reduction, in units that threads share,
and carries each table through all steps that follow, up to the next reduction or a file. Every thread has accumulators
of its own, which live from table to table; where they outgrow the memory that they may take, their states are put
aside on disk by shard of the keys, and the next pass merges shard by shard.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from ..arrow import LookUp, take_rows
from ..buffers import array_of
from ..key_accumulator import RowAccumulator, StateAccumulator
from ..keys import encode_keys, shard_of_keys, sort_keys
from ..parquet.scan import Dataset, RowGroup
from ..parquet.sink import OUTPUT_ROW_GROUP, Counters, ShardWriter
from ..parquet.source import Prepare, RowGroupReader
from ..plan import Finish, OnTable, parts_of
from ..state_table import Reduction, StateTable, columns_of
from .spill import Runs, Spill, SpilledStates
from .units import Queue, Unit, Watch, run_threads

# Rows of one table on the way: keys, values and codes stay in the second-level cache.
BATCH_ROWS = 1 << 16

# Of more keys than this, the threads' states are merged by all threads, in shards.
MANY_KEYS = 1 << 18

# What merging takes of memory beside the accumulators, as a multiple of them.
WORKING_MEMORY = 2.5

# Into at least how many shards states are spilled, and at most.
LEAST_SHARDS, MOST_SHARDS = 64, 4096

# --- steps ------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Step:
    """What is done with each table, and the steps that take what comes of it."""

    takers: list["_Step"] = field(default_factory=list, init=False)


@dataclass(eq=False)
class _Map(_Step):
    function: Callable[[Any], pa.Table]


@dataclass(eq=False)
class _Collect(_Step):
    """All tables, for a look-up."""

    tables: list[pa.Table] = field(default_factory=list, init=False)


@dataclass(eq=False)
class _LookUp(_Step):
    held: _Collect
    prepare: Callable[[pa.Table], OnTable]
    function: OnTable | None = field(default=None, init=False)


@dataclass(eq=False)
class _Write(_Step):
    keys: list[str]
    directory: str
    num_shards: int
    counters: Counters


@dataclass(eq=False)
class _Source(_Step):
    """Where a pass begins."""


@dataclass(eq=False)
class _Read(_Source):
    dataset: Dataset
    prepare: Prepare | None


@dataclass(eq=False)
class _Reduce(_Source):
    """From rows to states, or from states to merged ones: the end of one pass, and the beginning of another."""

    keys: tuple[str, ...]
    accumulator: Callable[[], RowAccumulator | StateAccumulator]
    add: Callable[[Any, Any], None]
    num_shards: int
    spilled: SpilledStates | None = field(default=None, init=False)
    # After the pass that ends here: the parts of shards, each with keys that no other has.
    parts: list[tuple[int, Callable[[], StateTable]]] = field(default_factory=list, init=False)


@dataclass(eq=False)
class _WriteRows(_Source):
    dataset: Dataset
    states: _Reduce
    keys: list[str]
    prepare: Callable[[StateTable], OnTable]
    schema: pa.Schema
    directory: str


def _steps_after(step: _Step) -> Iterator[_Step]:
    """All steps of the pass that begins there."""
    for taker in step.takers:
        yield taker
        if not isinstance(taker, _Source):
            yield from _steps_after(taker)


class _Lane:
    """What one thread has accumulated in a pass."""

    def __init__(self) -> None:
        self.accumulators: dict[_Reduce, RowAccumulator | StateAccumulator] = {}
        self.states: dict[_Reduce, StateTable] = {}
        self.results: dict[_Write, dict[int, list[pa.Table]]] = defaultdict(lambda: defaultdict(list))
        self.collected: dict[_Collect, list[pa.Table]] = defaultdict(list)


# --- the engine -------------------------------------------------------------------------------------------------------


class LocalEngine:
    """Carries the steps of ``lse_stream.plan.Engine`` out, at ``run``.

    Args:
      threads: how many.
      memory: about how many bytes states may fill, and what merging them takes.
      temp: a directory for states beyond that.
      watch: shows how far it is, and can end it.
    """

    def __init__(self, *, threads: int, memory: int, temp: str, watch: Watch) -> None:
        self._threads, self._memory, self._watch = threads, memory, watch
        self._spill = Spill(temp, watch)
        self._sources: list[_Source] = []
        self._runs: dict[tuple[_Write, int], Runs] = {}

    def read(self, label: str, dataset: Dataset, prepare: Prepare | None = None) -> _Step:
        del label
        return self._begin(_Read(dataset, prepare))

    def map(self, label: str, tables: _Step, function: OnTable) -> _Step:
        del label
        return _follow(tables, _Map(function))

    def look_up(self, label: str, tables: _Step, held: _Step, prepare: Callable[[pa.Table], OnTable]) -> _Step:
        del label
        collect = _Collect()
        _follow(held, collect)
        return _follow(tables, _LookUp(collect, prepare))

    def reduce(self, label: str, tables: _Step, reduction: Reduction, num_shards: int | None = None) -> _Step:
        del label
        step = _Reduce(reduction.keys, partial(RowAccumulator, reduction), RowAccumulator.add, num_shards or 1)
        _follow(tables, step)
        return self._begin(step)

    def merge(self, label: str, tables: _Step, keys: Sequence[str], num_shards: int | None = None) -> _Step:
        del label

        def add(accumulator: StateAccumulator, table: StateTable | pa.Table) -> None:
            if not isinstance(table, StateTable):
                table = StateTable.from_arrow(table, keys, trusted=True)
            accumulator.add(table)

        step = _Reduce(tuple(keys), partial(StateAccumulator, tuple(keys)), add, num_shards or 1)
        _follow(tables, step)
        return self._begin(step)

    def finish(self, label: str, states: _Step, function: Finish) -> _Step:
        del label
        return _follow(states, _Map(function))

    def write(
        self,
        label: str,
        results: _Step,
        keys: Sequence[str],
        directory: str,
        num_shards: int = 1,
        counters: Counters = MappingProxyType({}),
    ) -> None:
        del label
        _follow(results, _Write(list(keys), directory, num_shards, counters))

    def write_rows(
        self,
        label: str,
        dataset: Dataset,
        states: _Step,
        keys: Sequence[str],
        prepare: Callable[[StateTable], OnTable],
        schema: pa.Schema,
        directory: str,
    ) -> None:
        del label
        assert isinstance(states, _Reduce)
        assert not states.takers  # a pass over them would let go of them
        self._begin(_WriteRows(dataset, states, list(keys), prepare, schema, directory))

    def _begin(self, source: _Source) -> _Step:
        self._sources.append(source)
        return source

    def run(self) -> None:
        """Runs all steps. Raises what a step raises, and ``StoppedError`` where the watch was stopped."""
        try:
            waiting = list(self._sources)
            while waiting:
                source = next(source for source in waiting if not self._needs(source) & set(waiting))
                self._pass(source)
                waiting.remove(source)
        finally:
            self._spill.close()

    def _needs(self, source: _Source) -> set[_Source]:
        """The sources whose passes have to be over before that of one begins."""
        ends = {step: each for each in self._sources for step in _steps_after(each)}
        needed: set[_Source] = {ends[source]} if isinstance(source, _Reduce) else set()
        if isinstance(source, _WriteRows):
            needed = {ends[source.states]}
        return needed | {ends[step.held] for step in _steps_after(source) if isinstance(step, _LookUp)}

    # --- a pass -------------------------------------------------------------------------------------------------------

    def _pass(self, source: _Source) -> None:
        steps = list(_steps_after(source))
        for step in steps:
            if isinstance(step, _LookUp):
                step.function = step.prepare(pa.concat_tables(step.held.tables))
        if not steps and not isinstance(source, _WriteRows):
            return
        queue = Queue(self._units(source))
        lanes = [_Lane() for _ in range(self._threads)]
        try:
            run_threads([partial(self._work, queue, source, lane) for lane in lanes], self._watch)
        finally:
            queue.discard()
        if isinstance(source, _Reduce):
            source.parts = []
        for step in steps:
            if isinstance(step, _Collect):
                step.tables = [table for lane in lanes for table in lane.collected[step]]
            elif isinstance(step, _Reduce):
                self._watch.phase = "merging"
                self._settle(step, [lane.states.pop(step) for lane in lanes if step in lane.states])
            elif isinstance(step, _Write):
                self._watch.phase = "writing"
                self._write(step, [lane.results.pop(step, {}) for lane in lanes])

    def _work(self, queue: Queue, source: _Source, lane: _Lane) -> None:
        """One thread's part of a pass."""
        while (unit := queue.take()) is not None:
            while (item := unit.next()) is not None:
                self._watch.check()
                number, table = item
                if isinstance(source, _WriteRows):
                    unit.write(number, table(), self._watch)
                else:
                    self._carry(source, unit.shard, table, lane)
        for step, accumulator in lane.accumulators.items():
            table = accumulator.table()
            if table is not None:
                lane.states[step] = table
        lane.accumulators.clear()

    def _carry(self, source: _Source, shard: int, table: Any, lane: _Lane, step: _Step | None = None) -> None:
        """Takes a table through the steps after one, which is the source if there is none."""
        for taker in (step or source).takers:
            if isinstance(taker, _Map | _LookUp):
                assert taker.function is not None
                self._carry(source, shard, taker.function(table), lane, taker)
            elif isinstance(taker, _Reduce):
                self._accumulate(source, taker, table, lane)
            elif isinstance(taker, _Collect):
                lane.collected[taker].append(table)
            elif isinstance(taker, _Write) and isinstance(source, _Reduce) and source.spilled is not None:
                self._runs[taker, shard].add(table)
            elif isinstance(taker, _Write):
                lane.results[taker][shard].append(table)

    def _accumulate(self, source: _Source, step: _Reduce, table: Any, lane: _Lane) -> None:
        accumulator = lane.accumulators.get(step)
        if accumulator is None:
            accumulator = lane.accumulators[step] = step.accumulator()
        step.add(accumulator, table)
        if accumulator.nbytes * WORKING_MEMORY * self._threads > self._memory and len(accumulator) > 1:
            full = accumulator.table()
            del lane.accumulators[step], accumulator
            if full is not None:
                self._spilled_states(source, step).add(full)

    # --- states -------------------------------------------------------------------------------------------------------

    def _spilled_states(self, source: _Source, step: _Reduce) -> SpilledStates:
        """Where the states of a reduction are put aside, in as many shards as are to fit into memory one by one."""
        with self._watch.lock:
            if step.spilled is None:
                expected = 1.0
                if isinstance(source, _Read):
                    expected = source.dataset.num_rows / max(self._watch.rows, 1)
                shards = min(max(LEAST_SHARDS, int(8 * self._threads * expected)), MOST_SHARDS)
                step.spilled = SpilledStates(self._spill, -(-shards // step.num_shards) * step.num_shards)
            return step.spilled

    def _settle(self, step: _Reduce, tables: list[StateTable]) -> None:
        """Makes of the threads' states the parts of shards."""
        keys = sum(table.num_rows for table in tables)
        spilled = step.spilled
        if spilled is not None:
            run_threads([partial(spilled.add, table) for table in tables], self._watch)
            shards = range(spilled.num_shards)
            step.parts = [(shard % step.num_shards, partial(self._load, step, shard)) for shard in shards]
            return
        if len(tables) == 1 or keys <= MANY_KEYS or not step.keys:
            merged = tables[0] if len(tables) == 1 else StateTable.merge(tables)
            step.parts = [(i, partial(_itself, part)) for i, part in enumerate(merged.split(step.num_shards))]
            return
        shards = range(-(-4 * self._threads // step.num_shards) * step.num_shards)
        numbers: list[Any] = [None] * len(tables)

        def hash_keys(i: int) -> None:
            numbers[i] = shard_of_keys(tables[i].keys, step.keys, len(shards)).astype(np.int16)

        run_threads([partial(hash_keys, i) for i in range(len(tables))], self._watch)
        parts: list[StateTable | None] = [None] * len(shards)
        waiting = iter(shards)

        def merge() -> None:
            for shard in waiting:
                self._watch.check()
                accumulator = StateAccumulator(step.keys)
                for table, number in zip(tables, numbers, strict=True):
                    accumulator.add(table.take(np.flatnonzero(number == shard)))
                parts[shard] = accumulator.table()

        run_threads([merge] * self._threads, self._watch)
        step.parts = [(i % step.num_shards, partial(_itself, part)) for i, part in enumerate(parts) if part is not None]

    def _load(self, step: _Reduce, shard: int) -> StateTable:
        """The merged states of a shard that was put aside."""
        assert step.spilled is not None
        accumulator = StateAccumulator(step.keys)
        for table in step.spilled.tables(shard):
            accumulator.add(table)
        merged = accumulator.table()
        assert merged is not None
        return merged

    # --- what is read -------------------------------------------------------------------------------------------------

    def _units(self, source: _Source) -> list[Unit]:
        if isinstance(source, _Read):
            self._watch.phase = "reading"
            dataset, groups = source.dataset, _neighbours(source.dataset, self._threads)
            # With fewer units than threads, columns are decoded in parallel.
            use_threads = len(groups) < self._threads
            return [Unit(partial(self._tables, dataset, group, source.prepare, use_threads)) for group in groups]
        if isinstance(source, _WriteRows):
            self._watch.phase = "writing"
            return self._units_of_parts(source)
        assert isinstance(source, _Reduce)
        if source.spilled is not None:
            for step in _steps_after(source):
                if isinstance(step, _Write):
                    self._runs |= {(step, i): Runs(self._spill, step.keys) for i in range(step.num_shards)}
        return [Unit(partial(_slices, part), shard=shard) for shard, part in source.parts]

    def _tables(
        self, dataset: Dataset, row_groups: Sequence[RowGroup], prepare: Prepare | None, use_threads: bool = False
    ) -> Iterator[pa.Table]:
        """The rows of row groups, in order; tiny tables are joined."""
        reader = RowGroupReader(
            dataset.reading, prepare, footers=dataset.footers, table_rows=BATCH_ROWS, use_threads=use_threads
        )
        held: list[pa.Table] = []
        rows, enough = 0, min(BATCH_ROWS, dataset.reading.table_rows) // 2
        try:
            for _, group in groupby(row_groups, lambda row_group: row_group.path):
                for table in reader.tables(list(group)):
                    self._watch.add(rows=table.num_rows)
                    held.append(table)
                    rows += table.num_rows
                    if rows >= enough:
                        yield _joined(held)
                        held, rows = [], 0
            if held:
                yield _joined(held)
        finally:
            reader.close()

    # --- what is written ----------------------------------------------------------------------------------------------

    def _write(self, step: _Write, lanes: list[dict[int, list[pa.Table]]]) -> None:
        """Writes the results of a pass, sorted."""
        waiting = iter(range(step.num_shards))

        def write() -> None:
            for shard in waiting:
                runs = self._runs.pop((step, shard), None)
                tables = [table for lane in lanes for table in lane.pop(shard, [])]
                writer: ShardWriter | None = None
                try:
                    for table in runs.merged() if runs is not None else _sorted(tables, step.keys):
                        self._watch.check()
                        if writer is None:
                            writer = ShardWriter(
                                step.directory,
                                step.num_shards,
                                shard,
                                table.schema,
                                keys=step.keys,
                                counters=step.counters,
                            )
                        writer.write(table)
                    assert writer is not None
                    writer.close()
                except BaseException:
                    if writer is not None:
                        writer.discard()
                    raise

        run_threads([write] * min(self._threads, step.num_shards), self._watch)

    def _units_of_parts(self, source: _WriteRows) -> list[Unit]:
        parts, states = parts_of(source.dataset), source.states
        function = None
        if states.spilled is None:
            function = source.prepare(StateTable.concat([part() for _, part in states.parts]))

        def tables(part: list[RowGroup]) -> Iterator[Callable[[], pa.Table]]:
            become = function or source.prepare(self._states_of(source, part))
            for table in self._tables(source.dataset, part, None):
                yield partial(become, table)

        rows = source.dataset.reading.table_rows
        return [
            Unit(
                partial(tables, part),
                writer=partial(ShardWriter, source.directory, len(parts), number, source.schema, rows),
            )
            for number, part in enumerate(parts)
        ]

    def _states_of(self, source: _WriteRows, part: list[RowGroup]) -> StateTable:
        """The states of a part's keys, of those that were put aside."""
        keys, spilled = source.keys, source.states.spilled
        assert spilled is not None
        tables = self._tables(source.dataset.select(keys), part, None)
        distinct = encode_keys(pa.concat_tables([encode_keys(table, keys).keys for table in tables]), keys).keys
        shards = shard_of_keys(distinct, keys, spilled.num_shards)
        found = []
        for shard in np.unique(shards).tolist():
            self._watch.check()
            states = self._load(source.states, shard)
            asked = distinct.take(array_of(np.flatnonzero(shards == shard)))
            rows = LookUp(states.keys, states.num_rows).rows(asked)
            found.append(states.take(rows.astype(np.int64)))
        return StateTable.concat(found)


def _follow(tables: _Step, step: _Step) -> _Step:
    tables.takers.append(step)
    return step


def _itself(table: StateTable) -> StateTable:
    return table


def _slices(part: Callable[[], StateTable]) -> Iterator[StateTable]:
    table = part()
    for start in range(0, max(table.num_rows, 1), BATCH_ROWS):
        yield table.slice(start, BATCH_ROWS)


def _joined(tables: list[pa.Table]) -> pa.Table:
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables).combine_chunks()


def _neighbours(dataset: Dataset, threads: int) -> list[list[RowGroup]]:
    """Row groups that follow each other, so many together that a unit is worth the taking."""
    units: list[list[RowGroup]] = []
    rows = least = max(BATCH_ROWS, dataset.num_rows // (32 * threads))
    files = max(1, dataset.num_files // (8 * threads))
    paths: set[str] = set()
    for row_group in dataset.row_groups:
        if rows >= least or len(paths) >= files > 1:
            units.append([])
            rows, paths = 0, set()
        units[-1].append(row_group)
        rows += row_group.num_rows
        paths.add(row_group.path)
    return units


def _sorted(tables: list[pa.Table], keys: Sequence[str]) -> Iterator[pa.Table]:
    """All rows by key, in tables of a row group; one without rows where there are none."""
    whole = pa.concat_tables(tables).combine_chunks()
    key_columns = columns_of(whole, keys)
    rows, key_columns = sort_keys(key_columns, keys) if keys else (np.arange(whole.num_rows), key_columns)
    others = whole.drop_columns(list(keys))
    for start in range(0, max(rows.size, 1), OUTPUT_ROW_GROUP):
        part = take_rows(others, rows[start : start + OUTPUT_ROW_GROUP], trusted=True)
        columns = [*key_columns.slice(start, OUTPUT_ROW_GROUP).columns, *part.columns]
        yield pa.Table.from_arrays(columns, names=[*keys, *part.column_names])
