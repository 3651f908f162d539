"""The engine that runs a plan in this process: passes over tables, by threads.

A pass takes what a source has, the row groups of a dataset or the states of a reduction, in units that threads share,
and carries each table through all steps that follow, up to the next reduction or a file. Every thread has accumulators
of its own, which live from table to table; where they outgrow the memory that they may take, their states are put
aside on disk by shard of the keys, and the next pass merges shard by shard.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from ..columns import plain_strings
from ..key_accumulators import Reducer, RowReducer, StateReducer
from ..keys import distinct_keys
from ..look_up import LookUp
from ..parquet.scan import TABLE_ROWS, Dataset, RowGroup
from ..parquet.sink import Counters, ShardWriter
from ..parquet.source import Convert, RowGroupReader
from ..plan import KEY_BYTES, KEY_BYTES_HELD, Finish, OnTable, parts_of
from ..reduction import Reduction
from ..state_table import StateTable, split_by_shard
from .ordering import groups_in_order, in_order
from .partitions import Partitions
from .spill import Runs, Spill
from .units import Queue, Unit, Watch, run_threads

# A thread with more keys than this hands them over to accumulators by shard, which all threads share: so many groups
# and their index no longer fit a second-level cache, and each thread would have them all.
MANY_KEYS = 1 << 17
# Threads that have states of more bytes than this together merge them by shard, too, each some shards.
MANY_BYTES = 1 << 23
# Into how many shards at least, so that threads seldom wait for each other, and at most, as each has buffers.
LEAST_SHARDS, MOST_SHARDS = 32, 4096
# Rows that are split by shard at once, so that a shard has some thousands: each shard costs 0.1 ms.
SPLIT_ROWS, ROWS_PER_SHARD = 1 << 18, 1 << 12
# The part of a thread's memory that rows may fill while they wait to be split, and that a loaded shard may fill.
WAITING_SHARE = LOADED_SHARE = 1 / 8
# Into how many units a thread's part of the row groups, and of the files, goes: enough that threads end together.
UNITS_PER_THREAD, FILE_UNITS_PER_THREAD = 32, 8

# How much memory keys take in all, over what their accumulators hold.
WORKING_MEMORY = KEY_BYTES / KEY_BYTES_HELD

# --- steps ------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Step:
    """What is done with each table, and the steps that take what comes of it."""

    takers: list["_Step"] = field(default_factory=list, init=False)


@dataclass(eq=False)
class _MapStep(_Step):
    function: Callable[[Any], pa.Table]


@dataclass(eq=False)
class _CollectStep(_Step):
    """All tables, for a look-up."""

    tables: list[pa.Table] = field(default_factory=list, init=False)


@dataclass(eq=False)
class _LookUpStep(_Step):
    held: _CollectStep
    make_function: Callable[[pa.Table], OnTable]
    function: OnTable | None = field(default=None, init=False)


@dataclass(eq=False)
class _WriteStep(_Step):
    keys: list[str]
    directory: str
    num_shards: int
    counters: Counters


@dataclass(eq=False)
class _Source(_Step):
    """Where a pass begins."""


@dataclass(eq=False)
class _ReadStep(_Source):
    dataset: Dataset
    convert: Convert | None


@dataclass(eq=False)
class _ReduceStep(_Source):
    """From rows to states, or from states to merged ones: the end of one pass, and the beginning of another."""

    reducer: Any
    num_shards: int
    partitions: Partitions | None = field(default=None, init=False)
    # After the pass that ends here: the parts of shards, each with keys that no other has.
    parts: list[tuple[int, Callable[[], StateTable]]] = field(default_factory=list, init=False)

    @property
    def spilled(self) -> bool:
        return self.partitions is not None and self.partitions.spilled


@dataclass(eq=False)
class _WriteRowsStep(_Source):
    dataset: Dataset
    states: _ReduceStep
    keys: list[str]
    make_function: Callable[[StateTable], OnTable]
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

    def __init__(self, number: int) -> None:
        self.number = number
        self.accumulators: dict[_ReduceStep, Any] = {}
        self.states: dict[_ReduceStep, StateTable] = {}
        self.waiting: dict[_ReduceStep, list[Any]] = defaultdict(list)
        self.rows_waiting: dict[_ReduceStep, int] = defaultdict(int)
        self.bytes_waiting: dict[_ReduceStep, int] = defaultdict(int)
        self.results: dict[_WriteStep, dict[int, list[pa.Table]]] = defaultdict(lambda: defaultdict(list))
        self.collected: dict[_CollectStep, list[pa.Table]] = defaultdict(list)


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
        self._runs: dict[tuple[_WriteStep, int], Runs] = {}

    def read(self, label: str, dataset: Dataset, convert: Convert | None = None) -> _Step:
        del label
        return self._begin(_ReadStep(dataset, convert))

    def map(self, label: str, tables: _Step, function: OnTable) -> _Step:
        del label
        return _follow(tables, _MapStep(function))

    def look_up(self, label: str, tables: _Step, held: _Step, make_function: Callable[[pa.Table], OnTable]) -> _Step:
        del label
        collect = _CollectStep()
        _follow(held, collect)
        return _follow(tables, _LookUpStep(collect, make_function))

    def reduce(self, label: str, tables: _Step, reduction: Reduction, num_shards: int | None = None) -> _Step:
        del label
        return self._reduce(tables, RowReducer(reduction), num_shards)

    def merge(self, label: str, tables: _Step, keys: Sequence[str], num_shards: int | None = None) -> _Step:
        del label
        return self._reduce(tables, StateReducer(keys, trusted=True), num_shards)

    def _reduce(self, tables: _Step, reducer: Reducer, num_shards: int | None) -> _Step:
        step = _ReduceStep(reducer, num_shards or 1)
        _follow(tables, step)
        return self._begin(step)

    def finish(self, label: str, states: _Step, function: Finish) -> _Step:
        del label
        return _follow(states, _MapStep(function))

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
        plain = _follow(results, _MapStep(plain_strings))
        _follow(plain, _WriteStep(list(keys), directory, num_shards, counters))

    def write_rows(
        self,
        label: str,
        dataset: Dataset,
        states: _Step,
        keys: Sequence[str],
        make_function: Callable[[StateTable], OnTable],
        schema: pa.Schema,
        directory: str,
    ) -> None:
        del label
        assert isinstance(states, _ReduceStep)
        assert not states.takers  # a pass over them would free them
        self._begin(_WriteRowsStep(dataset, states, list(keys), make_function, schema, directory))

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
        needed: set[_Source] = {ends[source]} if isinstance(source, _ReduceStep) else set()
        if isinstance(source, _WriteRowsStep):
            needed = {ends[source.states]}
        return needed | {ends[step.held] for step in _steps_after(source) if isinstance(step, _LookUpStep)}

    # --- a pass -------------------------------------------------------------------------------------------------------

    def _pass(self, source: _Source) -> None:
        steps = list(_steps_after(source))
        for step in steps:
            if isinstance(step, _LookUpStep):
                step.function = step.make_function(pa.concat_tables(step.held.tables))
        if not steps and not isinstance(source, _WriteRowsStep):
            return
        queue = Queue(self._units(source))
        if isinstance(source, _WriteRowsStep):
            self._write_in_turn(queue)
            return
        lanes = [_Lane(number) for number in range(self._threads)]
        try:
            run_threads([partial(self._work, queue, source, lane) for lane in lanes], self._watch)
        finally:
            queue.discard()
        if isinstance(source, _ReduceStep):
            source.parts = []
        for step in steps:
            if isinstance(step, _CollectStep):
                step.tables = [table for lane in lanes for table in lane.collected[step]]
            elif isinstance(step, _ReduceStep):
                self._watch.phase = "merging"
                self._settle(source, step, [lane.states.pop(step) for lane in lanes if step in lane.states])
            elif isinstance(step, _WriteStep):
                self._watch.phase = "writing"
                self._write(step, [lane.results.pop(step, {}) for lane in lanes])

    def _work(self, queue: Queue, source: _Source, lane: _Lane) -> None:
        """One thread's part of a pass."""
        while (unit := queue.take()) is not None:
            while (item := unit.next()) is not None:
                self._watch.check()
                _, table = item
                self._carry(source, unit.shard, table, lane)
        for step in lane.waiting:
            self._flush(step, lane)
        for step, accumulator in lane.accumulators.items():
            table = accumulator.table()
            if table is not None:
                lane.states[step] = table
        lane.accumulators.clear()

    def _carry(self, source: _Source, shard: int, table: Any, lane: _Lane, step: _Step | None = None) -> None:
        """Takes a table through the steps after one, which is the source if there is none."""
        for taker in (step or source).takers:
            if isinstance(taker, _MapStep | _LookUpStep):
                assert taker.function is not None
                self._carry(source, shard, taker.function(table), lane, taker)
            elif isinstance(taker, _ReduceStep):
                self._accumulate(source, taker, table, lane)
            elif isinstance(taker, _CollectStep):
                lane.collected[taker].append(table)
            elif isinstance(taker, _WriteStep) and isinstance(source, _ReduceStep) and source.spilled:
                self._runs[taker, shard].add(table)
            elif isinstance(taker, _WriteStep):
                lane.results[taker][shard].append(table)

    def _accumulate(self, source: _Source, step: _ReduceStep, table: Any, lane: _Lane) -> None:
        prepared = step.reducer.prepare(table)
        if step.partitions is not None:
            lane.waiting[step].append(prepared)
            lane.rows_waiting[step] += prepared.num_rows
            lane.bytes_waiting[step] += prepared.nbytes
            enough = max(SPLIT_ROWS, ROWS_PER_SHARD * len(step.partitions))
            room = WAITING_SHARE * self._memory / self._threads
            if lane.rows_waiting[step] >= enough or lane.bytes_waiting[step] > room:
                self._flush(step, lane)
            return
        accumulator = lane.accumulators.get(step)
        if accumulator is None:
            accumulator = lane.accumulators[step] = step.reducer.accumulator()
        accumulator.add(prepared)
        if len(accumulator) > MANY_KEYS or (
            len(accumulator) > 1 and accumulator.nbytes * WORKING_MEMORY * self._threads > self._memory
        ):
            del lane.accumulators[step]
            self._partitions(source, step).absorb(accumulator.table(), self._first(step, lane))

    def _flush(self, step: _ReduceStep, lane: _Lane) -> None:
        """Adds to the partitions what waits for them, and what was accumulated before there were any."""
        assert step.partitions is not None
        if (accumulator := lane.accumulators.pop(step, None)) is not None:
            step.partitions.absorb(accumulator.table(), self._first(step, lane))
        waiting, lane.waiting[step] = lane.waiting[step], []
        if waiting:
            lane.rows_waiting[step] = lane.bytes_waiting[step] = 0
            step.partitions.add(waiting, self._first(step, lane))

    def _first(self, step: _ReduceStep, lane: _Lane) -> int:
        """The shard that a thread begins with, a different one for each."""
        return lane.number * len(step.partitions or ()) // self._threads

    # --- states -------------------------------------------------------------------------------------------------------

    def _partitions(self, source: _Source, step: _ReduceStep) -> Partitions:
        """Where the states of many keys are, in as many shards as are to fit into memory one by one."""
        with self._watch.lock:
            if step.partitions is None:
                # There may be as many keys as rows.
                rows = source.dataset.rows_read if isinstance(source, _ReadStep) else self._watch.rows
                room = LOADED_SHARE * self._memory / self._threads
                number = min(max(LEAST_SHARDS, int(rows * KEY_BYTES_HELD / room)), MOST_SHARDS)
                number = -(-number // step.num_shards) * step.num_shards
                memory = int(self._memory / WORKING_MEMORY)
                step.partitions = Partitions(step.reducer, number, memory, self._spill)
            return step.partitions

    def _settle(self, source: _Source, step: _ReduceStep, tables: list[StateTable]) -> None:
        """Makes of the threads' states the parts of shards."""
        is_much = sum(table.num_rows for table in tables) > 2 * MANY_KEYS or sum(t.nbytes for t in tables) > MANY_BYTES
        if step.reducer.keys and len(tables) > 1 and is_much:
            self._partitions(source, step)
        partitions = step.partitions
        if partitions is None:
            merged = tables[0] if len(tables) == 1 else StateTable.merge(tables)
            step.parts = [(i, partial(_itself, part)) for i, part in enumerate(merged.split(step.num_shards))]
            return
        firsts = [i * len(partitions) // len(tables) for i in range(len(tables))]
        jobs = [partial(partitions.absorb, table, first) for table, first in zip(tables, firsts, strict=True)]
        run_threads(jobs, self._watch)
        shards = range(len(partitions))
        step.parts = [(shard % step.num_shards, partial(partitions.load, shard)) for shard in shards]

    # --- what is read -------------------------------------------------------------------------------------------------

    def _units(self, source: _Source) -> list[Unit]:
        if isinstance(source, _ReadStep):
            self._watch.phase = "reading"
            dataset, groups = source.dataset, _neighbours(source.dataset, self._threads)
            # With fewer units than threads, columns are decoded in parallel.
            use_threads = len(groups) < self._threads
            return [Unit(partial(self._tables, dataset, group, source.convert, use_threads)) for group in groups]
        if isinstance(source, _WriteRowsStep):
            self._watch.phase = "writing"
            return self._units_of_parts(source)
        assert isinstance(source, _ReduceStep)
        if not source.spilled:
            return [Unit(partial(_slices, part), shard=shard) for shard, part in source.parts]
        for step in _steps_after(source):
            if isinstance(step, _WriteStep):
                number = -(-len(source.parts) // step.num_shards)
                self._runs |= {(step, i): Runs(self._spill, step.keys, number) for i in range(step.num_shards)}
        # Each part as a whole, as it makes one sorted run.
        return [Unit(partial(_whole, part), shard=shard) for shard, part in source.parts]

    def _tables(
        self, dataset: Dataset, row_groups: Sequence[RowGroup], convert: Convert | None, use_threads: bool = False
    ) -> Iterator[pa.Table]:
        """The rows of row groups, in order; tiny tables are joined."""
        reader = RowGroupReader(
            dataset.reading,
            convert,
            footers=dataset.footers,
            stamps=dataset.stamps,
            use_threads=use_threads,
            count=lambda left_out: self._watch.add(rows=left_out),
        )
        held: list[pa.Table] = []
        # Half of what a reader's own tables have at most: a joined one has less than one and a half of that.
        rows, enough = 0, dataset.reading.table_rows // 2
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

    def _write(self, step: _WriteStep, lanes: list[dict[int, list[pa.Table]]]) -> None:
        """Writes the results of a pass, sorted: shards at the same time, or, of one, its row groups in turn."""
        tables = [[table for lane in lanes for table in lane.pop(shard, [])] for shard in range(step.num_shards)]
        runs = [self._runs.pop((step, shard), None) for shard in range(step.num_shards)]

        def writer(shard: int, schema: pa.Schema) -> ShardWriter:
            return ShardWriter(step.directory, step.num_shards, shard, schema, keys=step.keys, counters=step.counters)

        if step.num_shards == 1 and runs[0] is None:
            groups = groups_in_order(tables[0], step.keys, self._threads, self._watch)
            if groups is not None:
                unit = Unit(partial(iter, groups), writer=partial(writer, 0, tables[0][0].schema))
                self._write_in_turn(Queue([unit]))
                return
        waiting = iter(range(step.num_shards))

        def write() -> None:
            for shard in waiting:
                parts, run = tables[shard], runs[shard]
                tables[shard] = []
                sorted_tables = in_order(parts, step.keys) if run is None else run.merged()
                first = next(sorted_tables)
                open_writer = writer(shard, first.schema)
                try:
                    for table in chain([first], sorted_tables):
                        self._watch.check()
                        open_writer.write(table)
                    open_writer.close()
                except BaseException:
                    open_writer.discard()
                    raise

        run_threads([write] * min(self._threads, step.num_shards), self._watch)

    def _write_in_turn(self, queue: Queue) -> None:
        """Threads make tables at the same time, and write them one after another."""

        def work() -> None:
            while (unit := queue.take()) is not None:
                while (item := unit.next()) is not None:
                    self._watch.check()
                    number, make = item
                    unit.write(number, make(), self._watch)

        try:
            run_threads([work] * self._threads, self._watch)
        finally:
            queue.discard()

    def _units_of_parts(self, source: _WriteRowsStep) -> list[Unit]:
        parts, states = parts_of(source.dataset), source.states
        function = None
        if not states.spilled:
            function = source.make_function(StateTable.concat([part() for _, part in states.parts]))

        def tables(part: list[RowGroup]) -> Iterator[Callable[[], pa.Table]]:
            become = function or source.make_function(self._states_of(source, part))
            for table in self._tables(source.dataset, part, None):
                yield partial(become, table)

        rows = source.dataset.output_rows
        return [
            Unit(
                partial(tables, part),
                writer=partial(ShardWriter, source.directory, len(parts), number, source.schema, rows),
            )
            for number, part in enumerate(parts)
        ]

    def _states_of(self, source: _WriteRowsStep, part: list[RowGroup]) -> StateTable:
        """The states of a part's keys, of those that were put aside."""
        keys, partitions = source.keys, source.states.partitions
        assert partitions is not None
        distinct = distinct_keys(self._tables(source.dataset.select(keys), part, None), keys)
        found = []
        for shard, asked in enumerate(split_by_shard(distinct, keys, len(partitions))):
            self._watch.check()
            if asked.num_rows or shard == 0:  # one of them shows the types where nothing is asked
                states = partitions.load(shard, keep=True)
                rows = LookUp(states.keys, states.num_rows).rows(asked)
                found.append(states.take(rows.astype(np.int64)))
        return StateTable.concat(found)


def _follow(tables: _Step, step: _Step) -> _Step:
    tables.takers.append(step)
    return step


def _itself(table: StateTable) -> StateTable:
    return table


def _whole(part: Callable[[], StateTable]) -> Iterator[StateTable]:
    yield part()


def _slices(part: Callable[[], StateTable]) -> Iterator[StateTable]:
    table = part()
    for start in range(0, max(table.num_rows, 1), TABLE_ROWS):
        yield table.slice(start, TABLE_ROWS)


def _joined(tables: list[pa.Table]) -> pa.Table:
    if len(tables) == 1:
        return tables[0]
    joined = pa.concat_tables(tables)
    # Dictionaries may have more values together than their indices can count.
    return joined if any(map(pa.types.is_dictionary, joined.schema.types)) else joined.combine_chunks()


def _neighbours(dataset: Dataset, threads: int) -> list[list[RowGroup]]:
    """Row groups that follow each other, so many together that a unit is large enough."""
    units: list[list[RowGroup]] = []
    rows = least = max(dataset.reading.table_rows, dataset.num_rows // (UNITS_PER_THREAD * threads))
    files = max(1, dataset.num_files // (FILE_UNITS_PER_THREAD * threads))
    paths: set[str] = set()
    for row_group in dataset.row_groups:
        if rows >= least or len(paths) >= files > 1:
            units.append([])
            rows, paths = 0, set()
        units[-1].append(row_group)
        rows += row_group.num_rows
        paths.add(row_group.path)
    return units
