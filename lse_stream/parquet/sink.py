"""Files of results, which appear whole or not at all."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..buffers import is_primitive
from ..errors import DataError, errors_of_writing
from ..files import join, part_name, whole_file
from ..float64 import valid_numbers
from ..keys import with_own_dictionaries
from .scan import OUTPUT_ROW_GROUP

# Counts something in each table that is written.
Counters = Mapping[str, Callable[[pa.Table], int]]

# What is counted of results that have a column "count".
TERMS, NULLS = "terms", "nulls"


def _count_terms(table: pa.Table) -> int:
    return sum(int(numbers.sum()) for numbers in valid_numbers(table["count"]))


def _count_nulls(table: pa.Table) -> int:
    return int(table["count"].null_count)


COUNTERS: Counters = {TERMS: _count_terms, NULLS: _count_nulls}


class ShardWriter:
    """Writes the rows of tables to the file of a shard.

    The bytes depend on the rows, ``row_group_rows`` and the counters alone, not on how rows are spread over tables. The
    file has its name only when it is whole, and one that is there already is replaced at once.

    Args:
      directory: where to; it must exist.
      num_shards, shard: of how many it is which.
      schema: of the tables.
      row_group_rows: rows of a row group.
      keys: columns whose dictionaries, if they are any, are written anew for each row group.
      prefix: what the file's name begins with.
      counters: what is counted on the way, for the file's metadata: see ``read_counts``.

    Raises:
      DataError: the file cannot be written.
    """

    def __init__(
        self,
        directory: str,
        num_shards: int,
        shard: int,
        schema: pa.Schema,
        row_group_rows: int | None = None,
        *,
        keys: Sequence[str] = (),
        prefix: str = "",
        counters: Counters = MappingProxyType({}),
    ) -> None:
        self.path = join(directory, prefix + part_name(shard, num_shards))
        self._rows = row_group_rows or OUTPUT_ROW_GROUP
        self._keys = keys
        self._held: list[pa.Table] = []
        self._num_rows = 0
        self._counters, self._counts = counters, dict.fromkeys(counters, 0)
        self._stack, self._is_discarded = ExitStack(), False
        with self._errors_as_data_error():
            sink = self._stack.enter_context(whole_file(self.path))
            # Results are nearly all distinct, and so are keys that are numbers: a dictionary is of no use to them.
            distinct = [
                f.name for f in schema if pa.types.is_floating(f.type) or (f.name in keys and is_primitive(f.type))
            ]
            dictionary = [name for name in schema.names if name not in distinct]
            self._writer = pq.ParquetWriter(
                sink, schema, compression="zstd", use_dictionary=dictionary, write_page_checksum=True
            )
            self._stack.callback(self._writer.close)

    def write(self, table: pa.Table) -> None:
        """Adds rows."""
        for name, count in self._counters.items():
            self._counts[name] += count(table)
        self._held.append(table)
        self._num_rows += table.num_rows
        while self._num_rows >= self._rows:
            rows = pa.concat_tables(self._held)
            self._write(rows.slice(0, self._rows))
            self._held = [rows.slice(self._rows)]
            self._num_rows -= self._rows

    def _write(self, rows: pa.Table) -> None:
        with self._errors_as_data_error():
            rows = with_own_dictionaries(rows, self._keys)
            try:
                rows = rows.combine_chunks()
            except pa.ArrowInvalid:  # dictionaries of several row groups have too many values together
                of_dictionaries = [field.name for field in rows.schema if pa.types.is_dictionary(field.type)]
                rows = with_own_dictionaries(rows, of_dictionaries).combine_chunks()
            self._writer.write_table(rows, row_group_size=self._rows)

    def close(self) -> str:
        """Puts the file in place; gives its path. Raises DataError for one that was discarded."""
        if self._is_discarded:
            raise DataError(f"{self.path}: expected a file to put in place, found that it was discarded")
        if self._num_rows:
            self._write(pa.concat_tables(self._held))
        with self._errors_as_data_error():
            counts = {_COUNT + name: str(n) for name, n in self._counts.items()}
            self._writer.add_key_value_metadata({_FORMAT: _FORMAT_VERSION} | counts)
            self._stack.close()
        return self.path

    def discard(self) -> None:
        """Closes the file, of which nothing appears."""
        self._is_discarded = True
        fault = RuntimeError("discarded")
        with suppress(Exception):  # another error is on its way already
            self._stack.__exit__(type(fault), fault, None)

    @contextmanager
    def _errors_as_data_error(self) -> Iterator[None]:
        with errors_of_writing(self.path):
            try:
                yield
            except OSError:
                self.discard()
                raise


def write_shard(
    directory: str, num_shards: int, shard: int, tables: Iterable[pa.Table], schema: pa.Schema, **options: Any
) -> str:
    """Writes the rows of ``tables`` to the file of a shard, and gives its path; arguments as of ``ShardWriter``."""
    writer = ShardWriter(directory, num_shards, shard, schema, **options)
    try:
        for table in tables:
            writer.write(table)
        return writer.close()
    except BaseException:
        writer.discard()
        raise


# What the metadata of every file of results has, and what those of the counters begin with.
_FORMAT, _FORMAT_VERSION = "lse_stream", "1"
_COUNT = f"{_FORMAT}."


def is_result(metadata: pq.FileMetaData) -> bool:
    """Whether a file was written by a ``ShardWriter``."""
    return _FORMAT.encode() in (metadata.metadata or {})


def read_counts(metadata: pq.FileMetaData) -> dict[str, int]:
    """What was counted while a file of results was written, by the names of the counters."""
    found = metadata.metadata or {}
    return {
        name.decode().removeprefix(_COUNT): int(value)
        for name, value in found.items()
        if name.decode(errors="replace").startswith(_COUNT)
    }
