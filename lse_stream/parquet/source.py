"""Row groups read as tables of bounded size, checked."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq

from ..buffers import repeated
from ..columns import column_at, value_type_of, without_views
from ..errors import DataError, one_line
from ..files import open_file
from ..float64 import check_integers
from .scan import Reading, RowGroup, Stamp, stamp_of

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
      footers, stamps: those that are at hand, by path: a file that is not as it was then is a fault.
      use_threads: decode columns in parallel.
      count: is told how many rows were read and do not come out.
    """

    def __init__(
        self,
        reading: Reading,
        convert: Convert | None = None,
        *,
        footers: Mapping[str, pq.FileMetaData] = MappingProxyType({}),
        stamps: Mapping[str, Stamp] = MappingProxyType({}),
        use_threads: bool = False,
        count: Callable[[int], object] = bool,
    ) -> None:
        self._count = count
        self._reading = reading
        self._convert = convert
        self._footers, self._stamps = footers, stamps
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
            except DataError:
                raise
            except Exception as error:  # whatever a decoder or a filesystem raises
                self._check_unchanged(row_groups[0].path)
                place = self._damaged(row_groups)
                raise DataError(f"{place}: expected to read all rows, found {one_line(error)}") from error
            if table is None:
                self._check_unchanged(row_groups[0].path)
                return
            try:
                chosen = self._chosen(table)
                self._check_integers(chosen)
                made = chosen if self._convert is None else self._convert(chosen)
                yield from [made] if isinstance(made, pa.Table) else made
            except ValueError as error:
                for row_group in row_groups if len(row_groups) > 1 else ():  # a table may reach over several
                    for _ in self.tables([row_group]):
                        pass
                start = f", from row {row}" if row else ""
                of = "" if self._reading.where is None else ", of the rows chosen"
                raise DataError(f"{_place(row_groups[0])}{start}{of}, {error}") from None
            row += table.num_rows

    def _read(self, row_groups: Sequence[RowGroup]) -> Iterator[pa.Table]:
        file = self._open(row_groups[0].path)
        self._check_unchanged(row_groups[0].path)
        if any(_is_other(row_group, file.metadata) for row_group in row_groups):
            raise _changed(row_groups[0].path)
        columns = self._reading.file_schema.names
        if row_groups[0].index is None:
            yield self._with_partition(pa.Table.from_batches([], file.schema_arrow), row_groups[0])
            return
        batches = file.iter_batches(
            self._reading.table_rows,
            row_groups=[row_group.index for row_group in row_groups],
            columns=columns,
            use_threads=self._use_threads,
        )
        for batch in batches:
            yield self._with_partition(pa.Table.from_batches([batch]), row_groups[0])

    def _with_partition(self, table: pa.Table, row_group: RowGroup) -> pa.Table:
        names = [*self._reading.file_schema.names, *(field.name for field in self._reading.partition)]
        columns = [column_at(table, name) for name in self._reading.file_schema.names]
        for field, value in zip(self._reading.partition, row_group.partition, strict=True):
            columns.append(pa.chunked_array([repeated(value, field.type, table.num_rows)]))
        return pa.Table.from_arrays(columns, names)

    def _chosen(self, table: pa.Table) -> pa.Table:
        """The rows and columns that are to come out."""
        fields = [*self._reading.file_schema, *self._reading.partition]
        table = pa.Table.from_arrays(_typed(table.columns, fields), table.column_names)
        if self._reading.where is not None:
            chosen = without_views(table).filter(self._reading.where.mask(table))
            self._count(table.num_rows - chosen.num_rows)
            table = chosen
        table, schema = self._reading.coarsening(table), self._reading.schema
        return pa.Table.from_arrays(_typed([table.column(name) for name in schema.names], schema), schema=schema)

    def _check_unchanged(self, path: str) -> None:
        """Raises DataError where a file is another than the one that was scanned, as far as that can be seen."""
        found = stamp_of(path)  # of one that is gone, whoever opens it says so
        if found is not None and found != self._stamps.get(path, found):
            raise _changed(path)

    def _damaged(self, row_groups: Sequence[RowGroup]) -> str:
        """File, row group and column that cannot be read, as far as they can be found."""
        for row_group in row_groups if row_groups[0].index is not None else ():
            for column in self._reading.file_schema.names:
                try:
                    for _ in self._open(row_group.path).iter_batches(row_groups=[row_group.index], columns=[column]):
                        pass
                except Exception:
                    return f"{_place(row_group)}, column {column!r}"
        return _place(row_groups[0])

    def _check_integers(self, table: pa.Table) -> None:
        """An integer that float64 does not hold is found here, where its file and row group are known."""
        for name in self._integers:
            check_integers(table.column(name), f"column {name!r}")


def _typed(columns: Sequence[pa.ChunkedArray], fields: Iterable[pa.Field]) -> list[pa.ChunkedArray]:
    pairs = zip(columns, fields, strict=True)
    return [column if column.type == field.type else _cast(column, field) for column, field in pairs]


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    try:
        if pa.types.is_decimal(column.type) and field.type == pa.float64():
            column = column.cast(pa.string())  # which is read as the nearest float, where a division is rounded twice
        return column.cast(field.type)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"column {field.name!r}: expected values that {field.type} holds, the type of all files together, found "
            f"{one_line(error)}"
        ) from error


def _is_other(row_group: RowGroup, metadata: pq.FileMetaData) -> bool:
    index = row_group.index
    if index is None:
        return False
    return bool(index >= metadata.num_row_groups or metadata.row_group(index).num_rows != row_group.num_rows)


def _changed(path: str) -> DataError:
    return DataError(f"{path}: expected the file as it was when the run began, found that it has changed since")


def _place(row_group: RowGroup) -> str:
    return row_group.path if row_group.index is None else f"{row_group.path}, row group {row_group.index}"
