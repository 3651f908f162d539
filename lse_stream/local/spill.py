"""Tables that memory does not hold, on disk; and sorted runs of results there."""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import pyarrow as pa

from ..columns import columns_of
from ..errors import DataError, one_line
from ..keys import sort_keys, with_dictionaries, without_dictionaries
from ..state_table import from_ipc, to_ipc
from ..table_functions import sort_by_keys, take_rows
from .units import Watch

# Rows that are in memory at a time when runs are merged: a block of each.
MERGED_ROWS = 1 << 20


@dataclass(frozen=True)
class Block:
    """Where a table is in the file."""

    offset: int
    size: int


class Spill:
    """A file for tables that memory does not hold. It has no name, so that nothing is left of it however a run ends.

    Args:
      directory: where the file is made, at the first table.
      watch: counts what is written.

    Raises:
      DataError: the file cannot be written.
    """

    def __init__(self, directory: str, watch: Watch) -> None:
        self._directory, self.watch = directory, watch
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._end = 0

    def write(self, data: bytes) -> Block:
        """Appends an Arrow IPC stream."""
        try:
            with self._lock:
                if self._file is None:
                    import tempfile  # with all that it imports

                    self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - it lives as long as this
                block = Block(self._end, len(data))
                self._end += len(data)
            view, offset = memoryview(data), block.offset
            while view:
                written = os.pwrite(self._file.fileno(), view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            raise DataError(
                f"{self._directory}: expected room for states that memory does not hold, found {one_line(error)}"
            ) from error
        self.watch.add(spilled=len(data))
        return block

    def read(self, block: Block) -> bytes:
        """The stream of a block."""
        assert self._file is not None
        data = bytearray()
        while len(data) < block.size:
            part = os.pread(self._file.fileno(), block.size - len(data), block.offset + len(data))
            if not part:
                raise DataError(
                    f"{self._directory}: expected {block.size} bytes that were put aside, found {len(data)}"
                )
            data += part
        return bytes(data)

    def close(self) -> None:
        """Frees the disk."""
        if self._file is not None:
            self._file.close()


class Runs:
    """Tables of results in a spill, each sorted by key and without a key that another has.

    Args:
      keys: names of the key columns.
      number: about how many tables there will be.
    """

    def __init__(self, spill: Spill, keys: Sequence[str], number: int) -> None:
        self._spill, self._keys = spill, list(keys)
        self._rows = max(MERGED_ROWS // number, 1)  # of a block, so that a block of each run is in memory
        self._runs: list[list[Block]] = []
        self._schema: pa.Schema | None = None

    def add(self, table: pa.Table) -> None:
        """Puts a table aside. Any thread may."""
        self._schema = table.schema
        table = sort_by_keys(without_dictionaries(table, self._keys), self._keys, trusted=True)
        starts = range(0, max(table.num_rows, 1), self._rows)
        parts = (table.slice(start, self._rows) for start in starts)
        self._runs.append([self._spill.write(to_ipc(part, compression="lz4")) for part in parts])

    def merged(self) -> Iterator[pa.Table]:
        """All rows, sorted by key, in tables of bounded size, of which there is one or more."""
        waiting = [(from_ipc(self._spill.read(block)) for block in run) for run in self._runs]
        held = [next(run) for run in waiting]
        more = [True] * len(held)
        while True:
            for i, run in enumerate(waiting):
                while more[i] and held[i].num_rows < self._rows // 2:  # less would be merged a few rows at a time
                    block = next(run, None)
                    more[i] = block is not None
                    held[i] = held[i] if block is None else pa.concat_tables([held[i], block])
            whole = pa.concat_tables(held)
            rows, _ = sort_keys(columns_of(whole, self._keys), self._keys)
            rank = np.empty(rows.size, np.int64)
            rank[rows] = np.arange(rows.size)
            ends = np.cumsum([table.num_rows for table in held])
            # Rows up to here come before every row that is still on disk.
            safe = min(
                (int(rank[end - 1]) + 1 for end, goes_on in zip(ends, more, strict=True) if goes_on), default=rows.size
            )
            yield with_dictionaries(take_rows(whole, rows[:safe], trusted=True), self._schema)
            if not any(more):
                return
            starts = [0, *ends[:-1]]
            taken = [int((rank[start:end] < safe).sum()) for start, end in zip(starts, ends, strict=True)]
            held = [table.slice(n) for table, n in zip(held, taken, strict=True)]
