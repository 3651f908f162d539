"""The Engine protocol: the steps by which a program describes what it computes, in this process or in Beam.

A program takes an engine, names its steps, and knows nothing of how they are run::

    rows = engine.read("Read", dataset)
    states = engine.reduce("LogSumExp", rows, reduction, num_shards)
    results = engine.finish("Finalize", states, StateTable.finalize)
    engine.write("Write", results, keys, directory, num_shards)

``lse_stream.local`` runs them in this process, ``lse_stream.beam.engine`` on any runner of Beam, with the same bytes.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Any, Protocol

import pyarrow as pa

from .parquet.scan import Dataset, RowGroup
from .parquet.sink import Counters
from .parquet.source import Convert
from .reduction import Reduction
from .state_table import StateTable

# Bytes of memory to allow per key: in an accumulator (measured: 60 to 125, up to twice that while it grows),
# and with the copies on its way to a file or another worker (230 in this process, 510 with Beam's embedded runner).
KEY_BYTES_HELD, KEY_BYTES = 280, 700

# How many keys a worker holds at once, of those that every row may look up: 0.7 GB.
MAX_BROADCAST = 1_000_000

# What a step returns, for other steps to take: only its engine looks into it.
TablesHandle = Any
StatesHandle = Any

OnTable = Callable[[pa.Table], pa.Table]
# Makes results of states. It may be given any rows of a shard, and gives a row for each.
Finish = Callable[[StateTable], pa.Table]


class Engine(Protocol):
    """Carries steps out. Tables are of rows, of any size and in any order; states are one per key, by shard.

    Labels are unique. Functions are picklable, and any thread may call them. Errors in rows or states are raised as
    ``lse_stream.errors.DataError`` with their place.
    """

    def read(self, label: str, dataset: Dataset, convert: Convert | None = None) -> TablesHandle:
        """The rows of a dataset, each table converted by ``convert``."""

    def map(self, label: str, tables: TablesHandle, function: OnTable) -> TablesHandle:
        """Tables from tables."""

    def look_up(
        self, label: str, tables: TablesHandle, held: TablesHandle, make_function: Callable[[pa.Table], OnTable]
    ) -> TablesHandle:
        """Tables from tables, by what ``make_function`` makes, once per worker, of the rows of ``held``."""

    def reduce(
        self, label: str, tables: TablesHandle, reduction: Reduction, num_shards: int | None = None
    ) -> StatesHandle:
        """Rows to one state per key, or several side by side; in as many shards as suits unless a number is given."""

    def merge(
        self, label: str, tables: TablesHandle, keys: Sequence[str], num_shards: int | None = None
    ) -> StatesHandle:
        """States, or tables with a column "state" that was checked, to one state for each of their keys, or coarser."""

    def finish(self, label: str, states: StatesHandle, function: Finish) -> TablesHandle:
        """Results of states, one row per key: to write, or to go on from."""

    def write(
        self,
        label: str,
        results: TablesHandle,
        keys: Sequence[str],
        directory: str,
        num_shards: int = 1,
        counters: Counters = MappingProxyType({}),
    ) -> Any:
        """Writes the results of ``finish``, sorted by ``keys``, their first columns, to one file per shard."""

    def write_rows(
        self,
        label: str,
        dataset: Dataset,
        states: StatesHandle,
        keys: Sequence[str],
        make_function: Callable[[StateTable], OnTable],
        schema: pa.Schema,
        directory: str,
    ) -> Any:
        """The rows of a dataset in their order, in a file for each of ``parts_of``.

        Args:
          states: looked up by the rows' columns ``keys``.
          make_function: given states that include all keys of a table, returns the function that converts that table.
          schema: of the converted tables.
        """


# Rows of one file of ``write_rows``, which one worker writes: some seconds of work, and files of 100 MB or so.
PART_ROWS = 1 << 22


def parts_of(dataset: Dataset) -> list[list[RowGroup]]:
    """The row groups of each file that ``write_rows`` writes: they follow each other in one file of the input."""
    parts: list[list[RowGroup]] = []
    for _, row_groups in groupby(dataset.row_groups, lambda row_group: row_group.path):
        rows = PART_ROWS
        for row_group in row_groups:
            if rows >= PART_ROWS:
                parts.append([])
                rows = 0
            parts[-1].append(row_group)
            rows += row_group.num_rows
    return parts
