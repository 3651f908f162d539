"""Row groups read as tables of bounded size, checked."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq

from ..buffers import repeated
from ..columns import value_type_of
from ..errors import DataError, one_line
from ..files import open_file
from ..float64 import LARGEST_INTEGER, to_float64_exact, valid_numbers
from .scan import Reading, RowGroup

# Bytes of a column that are read from a file at once: large enough that a disk or a network is not asked for every
# page.
BUFFER_BYTES = 1 << 20

# Makes of a table what comes out, a table or several in turn; raises ValueError for one with a fault, and names the
# column.
Convert = Callable[[pa.Table], pa.Table | Iterator[pa.Table]]


class RowGroupReader:
    """Reads row groups, checked. Close it in the end.

    Args:
      reading: of the row groups' dataset.
      convert: makes of each table what comes out.
      footers: those that are at hand, by path.
      use_threads: decode columns in parallel.
    """

    def __init__(
        self,
        reading: Reading,
        convert: Convert | None = None,
        *,
        footers: Mapping[str, pq.FileMetaData] = MappingProxyType({}),
        use_threads: bool = False,
    ) -> None:
        self._reading = reading
        self._convert = convert
        self._footers = footers
        self._use_threads = use_threads
        self._opened: tuple[str, pq.ParquetFile] | None = None
        types = [(name, value_type_of(reading.schema.field(name).type)) for name in reading.values]
        self._integers = [name for name, held in types if pa.types.is_integer(held) and held.bit_width == 64]

    def _open(self, path: str) -> pq.ParquetFile:
        # The row groups of a file often follow each other: it is opened once then.
        if self._opened is None or self._opened[0] != path:
            self.close()
            # Reading ahead, which is the default, would bring whole columns of a row group of any size into memory.
            file = pq.ParquetFile(
                open_file(path),
                metadata=self._footers.get(path),
                pre_buffer=False,
                buffer_size=BUFFER_BYTES,
                page_checksum_verification=True,
            )
            self._opened = path, file
        return self._opened[1]

    def close(self) -> None:
        """Closes the file that is open."""
        if self._opened:
            self._opened[1].close(force=True)
            self._opened = None

    def tables(self, row_groups: Sequence[RowGroup]) -> Iterator[pa.Table]:
        """The rows of row groups of one file, in order, as tables of bounded size.

        Raises:
          DataError: they cannot be read, or there is a fault in them; file, row group and column named.
        """
        tables = self._read(row_groups)
        row = 0
        while True:
            try:
                table = next(tables, None)
            except Exception as error:  # whatever a decoder or a filesystem raises
                place = self._damaged(row_groups)
                raise DataError(f"{place}: expected to read all rows, found {one_line(error)}") from error
            if table is None:
                return
            try:
                self._check_integers(table)
                made = table if self._convert is None else self._convert(table)
                yield from [made] if isinstance(made, pa.Table) else made
            except ValueError as error:
                for row_group in row_groups if len(row_groups) > 1 else ():  # a table may reach over several
                    for _ in self.tables([row_group]):
                        pass
                raise DataError(f"{_place(row_groups[0])}{f', from row {row}' if row else ''}, {error}") from None
            row += table.num_rows

    def _read(self, row_groups: Sequence[RowGroup]) -> Iterator[pa.Table]:
        file = self._open(row_groups[0].path)
        columns = list(self._reading.file_columns)
        if row_groups[0].index is None:
            yield self._with_partition(pa.Table.from_batches([], file.schema_arrow).select(columns), row_groups[0])
            return
        batches = file.iter_batches(
            self._reading.table_rows,
            row_groups=[row_group.index for row_group in row_groups],
            columns=columns,
            use_threads=self._use_threads,
        )
        for batch in batches:
            yield self._with_partition(pa.Table.from_batches([batch]).select(columns), row_groups[0])

    def _with_partition(self, table: pa.Table, row_group: RowGroup) -> pa.Table:
        columns = table.columns
        for field, value in zip(self._reading.partition, row_group.partition, strict=True):
            columns.append(pa.chunked_array([repeated(value, field.type, table.num_rows)]))
        return pa.Table.from_arrays(columns, schema=self._reading.schema)

    def _damaged(self, row_groups: Sequence[RowGroup]) -> str:
        """File, row group and column that cannot be read, as far as they can be found."""
        for row_group in row_groups if row_groups[0].index is not None else ():
            for column in self._reading.file_columns:
                try:
                    for _ in self._open(row_group.path).iter_batches(row_groups=[row_group.index], columns=[column]):
                        pass
                except Exception:
                    return f"{_place(row_group)}, column {column!r}"
        return _place(row_groups[0])

    def _check_integers(self, table: pa.Table) -> None:
        """An integer that float64 does not hold is found here, where its file and row group are known."""
        for name in self._integers:
            for array in valid_numbers(table.column(name)):
                if array.size and max(-int(array.min()), int(array.max())) > LARGEST_INTEGER:
                    to_float64_exact(array, f"column {name!r}")  # raises


def _place(row_group: RowGroup) -> str:
    return row_group.path if row_group.index is None else f"{row_group.path}, row group {row_group.index}"
