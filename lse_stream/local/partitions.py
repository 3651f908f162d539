"""The states of many keys by shard: each key in one place for all threads, and what memory does not hold on disk."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..key_accumulators import Reducer, StateAccumulator
from ..state_table import StateTable
from .spill import Block, Spill


@dataclass(eq=False)
class _Partition:
    lock: threading.Lock = field(default_factory=threading.Lock)
    accumulator: Any = None
    blocks: list[Block] = field(default_factory=list)


class Partitions:
    """Accumulators by shard of the keys, which all threads add to.

    Args:
      reducer: of what is added.
      number: of shards.
      memory: how many bytes the accumulators may take; states beyond that go to ``spill``.
    """

    def __init__(self, reducer: Reducer, number: int, memory: int, spill: Spill) -> None:
        self._reducer, self._spill = reducer, spill
        self._most = memory // number
        self._partitions = [_Partition() for _ in range(number)]
        self.spilled = False

    def __len__(self) -> int:
        return len(self._partitions)

    def add(self, tables: Sequence[Any], first: int) -> None:
        """Adds tables that the reducer has prepared. Threads that begin elsewhere are less in each other's way."""
        parts = list(self._reducer.split(tables, len(self)))
        for shard in [*range(first, len(self)), *range(first)]:
            if parts[shard].num_rows:
                self._spill.watch.check()
                self._change(shard, "add", parts[shard])

    def absorb(self, table: StateTable, first: int) -> None:
        """Merges in what an accumulator held. Even a table without rows contains the types of the keys."""
        parts = table.split(len(self))
        for shard in [*range(first, len(self)), *range(first)]:
            self._change(shard, "absorb", parts[shard])

    def _change(self, shard: int, how: str, part: Any) -> None:
        partition = self._partitions[shard]
        with partition.lock:
            if partition.accumulator is None:
                partition.accumulator = self._reducer.accumulator()
            accumulator: Any = partition.accumulator
            getattr(accumulator, how)(part)
            if accumulator.nbytes <= self._most or len(accumulator) == 1:
                return
            partition.accumulator = None
        # Others go on with a new one meanwhile.
        self.spilled = True
        block = self._spill.write(accumulator.table().to_ipc(compression="lz4"))
        with partition.lock:
            partition.blocks.append(block)

    def load(self, shard: int, *, keep: bool = False) -> StateTable:
        """The states of a shard, once no thread adds any more; freed, unless ``keep``."""
        partition = self._partitions[shard]
        with partition.lock:
            if (held := partition.accumulator) is not None and not isinstance(held, StateTable):
                held = held.table()
            partition.accumulator = held if keep else None
        table: StateTable | None = held
        if partition.blocks:
            merged = StateAccumulator(self._reducer.keys)
            if held is not None:
                merged.add(held)
            for block in partition.blocks:
                merged.add(StateTable.from_ipc(self._spill.read(block), trusted=True))
            table = merged.table()
        assert table is not None
        return table
