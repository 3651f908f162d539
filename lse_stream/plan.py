"""What a program computes, said once: the steps that an engine carries out, in this process or in Beam.

A program takes an engine, names its steps, and knows nothing of how they are run::

    rows = engine.read("Read", dataset)
    states = engine.reduce("LogSumExp", rows, reduction, num_shards)
    results = engine.finish("Finalize", states, StateTable.finalize)
    engine.write("Write", results, directory, num_shards)

``lse_stream.local`` runs them in this process, ``lse_stream.beam.engine`` on any runner of Beam, with the same bytes.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Any, Protocol

import pyarrow as pa

from .parquet.scan import Dataset, RowGroup
from .parquet.sink import Counters
from .parquet.source import Prepare
from .reduction import Reduction
from .state_table import StateTable

# What to allow for a key of memory, in bytes: in an accumulator (measured: 60 to 125, up to twice that while it grows),
# and with the copies on its way to a file or another worker (230 in this process, 510 with Beam's embedded runner).
KEY_BYTES_HELD, KEY_BYTES = 280, 700

# How many keys a worker holds at once, of those that every row may look up: 0.7 GB.
MAX_BROADCAST = 1_000_000

# What a step gives, for others to take: it means something to its engine alone.
Tables = Any
States = Any

OnTable = Callable[[pa.Table], pa.Table]
# Makes results of states. It may be given any rows of a shard, and gives a row for each.
Finish = Callable[[StateTable], pa.Table]


class Engine(Protocol):
    """Carries steps out. ``Tables`` are of rows, of any size and in any order; ``States`` one per key, by shard.

    Labels are unique. Functions are picklable, and any thread may call them. Errors in rows or states are raised as
    ``lse_stream.parquet.scan.DataError`` with their place.
    """

    def read(self, label: str, dataset: Dataset, prepare: Prepare | None = None) -> Tables:
        """The rows of a dataset, ``prepare`` made of each table."""

    def map(self, label: str, tables: Tables, function: OnTable) -> Tables:
        """Tables from tables."""

    def look_up(self, label: str, tables: Tables, held: Tables, prepare: Callable[[pa.Table], OnTable]) -> Tables:
        """Tables from tables, by what ``prepare`` makes, once, of all rows of ``held``, which every worker holds."""

    def reduce(self, label: str, tables: Tables, reduction: Reduction, num_shards: int | None = None) -> States:
        """Rows to one state per key, or several side by side; in as many shards as suits unless a number is given."""

    def merge(self, label: str, tables: Tables, keys: Sequence[str], num_shards: int | None = None) -> States:
        """States, or tables with a column "state" that was checked, to one state for each of their keys, or coarser."""

    def finish(self, label: str, states: States, function: Finish) -> Tables:
        """Results of states, one row per key: to write, or to go on from."""

    def write(
        self,
        label: str,
        results: Tables,
        keys: Sequence[str],
        directory: str,
        num_shards: int = 1,
        counters: Counters = MappingProxyType({}),
    ) -> Any:
        """What ``finish`` gave to one file per shard, in the order of its key columns ``keys``, which come first."""

    def write_rows(
        self,
        label: str,
        dataset: Dataset,
        states: States,
        keys: Sequence[str],
        prepare: Callable[[StateTable], OnTable],
        schema: pa.Schema,
        directory: str,
    ) -> Any:
        """The rows of a dataset in their order, in a file for each of ``parts_of``.

        Args:
          states: looked up by the rows' columns ``keys``.
          prepare: makes, of states among which are those of all keys of a table, what a table becomes.
          schema: of what it becomes.
        """


# Rows of one file of ``write_rows``, which one worker writes.
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
