"""The engine that runs plans on any runner of Beam."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsIter, AsSingleton, PBegin, PCollection

from ..columns import plain_strings
from ..keys import distinct_keys, with_own_dictionaries
from ..look_up import LookUp
from ..parquet.scan import Dataset, Reading
from ..parquet.sink import Counters, write_shard
from ..parquet.source import Convert, RowGroupReader
from ..plan import MAX_BROADCAST, Finish, OnTable, parts_of
from ..reduction import Reduction
from ..state_table import StateTable, from_ipc, split_by_shard, to_ipc
from .parquet_io import ReadTables, WriteShards, count_rows, file_of, row_groups_of
from .tables import INNER_SHARDS, LookUpTables, MergeTables, ReduceTables


@dataclass(frozen=True)
class Shards:
    """(shard, ``StateTable``) s, or (shard, ``pa.Table``) s of results."""

    pcoll: PCollection[tuple[int, Any]]


class BeamEngine:
    """Adds the steps of ``lse_stream.plan.Engine`` to a pipeline.

    Args:
      pipeline: which one.
      max_broadcast: how many keys every worker may hold in ``write_rows``.
    """

    def __init__(self, pipeline: beam.Pipeline, *, max_broadcast: int = MAX_BROADCAST) -> None:
        self._pipeline, self._max_broadcast = pipeline, max_broadcast

    def read(self, label: str, dataset: Dataset, convert: Convert | None = None) -> PCollection[pa.Table]:
        tables: PCollection[pa.Table] = self._pipeline | label >> ReadTables(dataset, convert)
        return tables

    def map(self, label: str, tables: Any, function: OnTable) -> PCollection[pa.Table]:
        mapping = beam.Map(function).with_output_types(pa.Table)
        mapped: PCollection[pa.Table] = _tables(label, tables) | label >> mapping
        return mapped

    def look_up(
        self,
        label: str,
        tables: PCollection[pa.Table],
        held: PCollection[pa.Table],
        make_function: Callable[[pa.Table], OnTable],
    ) -> PCollection[pa.Table]:
        found: PCollection[pa.Table] = tables | label >> LookUpTables(held, make_function)
        return found

    def reduce(self, label: str, tables: Any, reduction: Reduction, num_shards: int | None = None) -> Shards:
        reduced = ReduceTables(reduction, num_shards=num_shards or INNER_SHARDS, is_sorted=num_shards is not None)
        return Shards(_tables(label, tables) | label >> reduced)

    def merge(self, label: str, tables: Any, keys: Sequence[str], num_shards: int | None = None) -> Shards:
        shards, is_sorted = num_shards or INNER_SHARDS, num_shards is not None
        merged = MergeTables(keys, num_shards=shards, is_sorted=is_sorted, trusted=True)
        return Shards(_tables(label, tables) | label >> merged)

    def finish(self, label: str, states: Shards, function: Finish) -> Shards:
        results = beam.MapTuple(lambda shard, table: (shard, function(table)))
        return Shards(states.pcoll | label >> results.with_output_types(tuple[int, pa.Table]))

    def write(
        self,
        label: str,
        results: Shards,
        keys: Sequence[str],
        directory: str,
        num_shards: int = 1,
        counters: Counters = MappingProxyType({}),
    ) -> PCollection[str]:
        plain = beam.MapTuple(lambda shard, table: (shard, plain_strings(table)))
        shards = results.pcoll | f"{label}Strings" >> plain.with_output_types(tuple[int, pa.Table])
        paths: PCollection[str] = shards | label >> WriteShards(directory, num_shards, keys, counters)
        return paths

    def write_rows(
        self,
        label: str,
        dataset: Dataset,
        states: Shards,
        keys: Sequence[str],
        make_function: Callable[[StateTable], OnTable],
        schema: pa.Schema,
        directory: str,
    ) -> PCollection[str]:
        written = _WriteRows(dataset, states.pcoll, keys, make_function, schema, directory, self._max_broadcast)
        paths: PCollection[str] = self._pipeline | label >> written
        return paths


def _tables(label: str, tables: Any) -> PCollection[Any]:
    values: PCollection[Any] = tables
    if isinstance(tables, Shards):
        values = tables.pcoll | f"{label} from shards" >> beam.Values()
    return values


class _WriteRows(beam.PTransform[PBegin, PCollection[str]]):
    """Rows with what their keys' states make of them: they are read again, and never shuffled.

    The states of up to ``max_broadcast`` keys are sent to every worker. Of more keys, each part is sent those of its
    own, looked up by shard.
    """

    def __init__(
        self,
        dataset: Dataset,
        states: PCollection[tuple[int, StateTable]],
        keys: Sequence[str],
        make_function: Callable[[StateTable], OnTable],
        schema: pa.Schema,
        directory: str,
        max_broadcast: int,
    ) -> None:
        super().__init__()
        self._parts = [(number, *file_of(part)) for number, part in enumerate(parts_of(dataset))]
        self._states, self._keys, self._max_broadcast = states, list(keys), max_broadcast
        self._asked = _KeysOfPart(dataset.select(keys).reading, self._keys)
        self._writer = _WritePart(
            dataset.reading, len(self._parts), make_function, schema, directory, dataset.output_rows
        )

    def expand(self, pbegin: PBegin) -> PCollection[str]:
        parts = pbegin | "Parts" >> beam.Create(self._parts) | "Spread" >> beam.Reshuffle()
        counts = self._states | "Rows" >> beam.MapTuple(lambda _, table: table.num_rows)
        total = AsSingleton(counts | "Keys" >> beam.CombineGlobally(sum))
        limit = self._max_broadcast

        def few(label: str, elements: PCollection[Any]) -> PCollection[Any]:
            kept: PCollection[Any] = elements | label >> beam.Filter(lambda _, total: total <= limit, total)
            return kept

        def many(label: str, elements: PCollection[Any]) -> PCollection[Any]:
            kept: PCollection[Any] = elements | label >> beam.Filter(lambda _, total: total > limit, total)
            return kept

        broadcast = few("FewStates", self._states) | "Broadcast" >> beam.Values()
        few_paths = few("FewParts", parts) | "WriteFew" >> beam.ParDo(self._writer, AsIter(broadcast))
        by_number = many("ManyParts", parts) | "Number" >> beam.Map(lambda part: (part[0], part))
        asked = by_number | "KeysOfPart" >> beam.ParDo(self._asked).with_output_types(tuple[int, tuple[int, bytes]])
        # As bytes: what is joined has no type to Beam, which would pickle it.
        held = many("ManyStates", self._states) | "ToIpc" >> beam.MapTuple(
            lambda shard, table: (shard, table.to_ipc())
        ).with_output_types(tuple[int, bytes])
        found = (
            {"asked": asked, "states": held}
            | "ByShard" >> beam.CoGroupByKey()
            | "LookUp" >> beam.FlatMapTuple(_look_up).with_output_types(tuple[int, bytes])
        )
        many_paths = (
            {"part": by_number, "states": found}
            | "ByPart" >> beam.CoGroupByKey()
            | "Found" >> beam.Values()
            | "WriteMany" >> beam.ParDo(_WriteFound(self._writer))
        )
        paths: PCollection[str] = (few_paths, many_paths) | beam.Flatten()
        return paths


def _look_up(_: int, found: dict[str, list[Any]]) -> Iterator[tuple[int, bytes]]:
    """Of a shard: to each part the states of its keys."""
    [stream] = found["states"]
    states = StateTable.from_ipc(stream, trusted=True)
    held = LookUp(states.keys, states.num_rows)
    for number, keys in found["asked"]:
        yield number, states.take(held.rows(from_ipc(keys)).astype(np.int64)).to_ipc()


def _tables_of(part: Any, reading: Reading) -> Iterator[pa.Table]:
    reader = RowGroupReader(reading, count=count_rows)
    try:
        for row_group in row_groups_of(part[1:]):
            for table in reader.tables([row_group]):
                count_rows(table.num_rows)
                yield table
    finally:
        reader.close()


class _KeysOfPart(beam.DoFn):
    """Which keys a part has: (shard, (number of the part, IPC stream of keys))."""

    def __init__(self, reading: Reading, keys: list[str]) -> None:
        self._reading, self._keys = reading, keys

    def process(self, element: tuple[int, Any]) -> Iterator[tuple[int, tuple[int, bytes]]]:
        number, part = element
        distinct = distinct_keys(_tables_of(part, self._reading), self._keys)
        for shard, keys in enumerate(split_by_shard(distinct, self._keys, INNER_SHARDS)):
            yield shard, (number, to_ipc(with_own_dictionaries(keys, self._keys)))


class _WritePart(beam.DoFn):
    """Writes a part, with the states of its keys at hand; gives the path."""

    def __init__(
        self,
        reading: Reading,
        num_parts: int,
        make_function: Callable[[StateTable], OnTable],
        schema: pa.Schema,
        directory: str,
        row_group_rows: int,
    ) -> None:
        self._reading, self._num_parts, self._row_group_rows = reading, num_parts, row_group_rows
        self._make_function, self._schema, self._directory = make_function, schema, directory

    def setup(self) -> None:
        self._function: OnTable | None = None

    def process(self, part: Any, states: Iterable[StateTable]) -> Iterator[str]:
        # Of bounded input a side input is the same for every part.
        if self._function is None:
            self._function = self.function_of(states)
        yield self.write(part, self._function)

    def write(self, part: Any, function: OnTable) -> str:
        tables = (function(table) for table in _tables_of(part, self._reading))
        rows = self._row_group_rows
        return write_shard(self._directory, self._num_parts, part[0], tables, self._schema, row_group_rows=rows)

    def function_of(self, states: Iterable[StateTable]) -> OnTable:
        return self._make_function(StateTable.concat(list(states)))


class _WriteFound(beam.DoFn):
    """Writes a part that comes with the states of its own keys; gives the path."""

    def __init__(self, writer: _WritePart) -> None:
        self._writer = writer

    def process(self, found: dict[str, list[Any]]) -> Iterator[str]:
        for part in found["part"]:
            states = [StateTable.from_ipc(stream, trusted=True) for stream in found["states"]]
            yield self._writer.write(part, self._writer.function_of(states))
