"""Parquet in and out of Beam: footers checked before any work, row groups read as tables, shards written as files."""

import glob
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PBegin, PCollection
from apache_beam.utils.timestamp import Timestamp

from .keys import check_key_type
from .values import is_widenable, widen, widen_arrow

# Rows and (roughly) bytes of one table: they bound the memory of a worker, whatever the size of a row group.
TABLE_ROWS = 1 << 20
TABLE_BYTES = 1 << 28

# Bytes of a column that are read from a file at once.
BUFFER_BYTES = 1 << 20

# Rows of one row group of the output: fixed, as it shapes the bytes.
OUTPUT_ROW_GROUP = 1 << 20

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"

Prepare = Callable[[pa.Table], pa.Table]


class InputError(ValueError):
    """The input cannot be used, found before any work. One line: file, column, expected, found."""


class DataError(ValueError):
    """Found in mid-run: damaged input, or a file that cannot be written. One line: file, row group, column, expected,
    found.
    """


class RowCounter:
    """Counts rows over the threads of this process, for whoever shows progress."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows = 0

    def add(self, rows: int) -> None:
        with self._lock:
            self._rows += rows

    def read(self) -> int:
        return self._rows


rows_read = RowCounter()
# The same as a metric, for runners whose workers are elsewhere.
ROWS_READ = "rows_read"


def is_local(path: str) -> bool:
    return FileSystems.get_scheme(path) is None


def open_file(path: str) -> pa.NativeFile:
    """A file of any Beam filesystem for random access."""
    if is_local(path):
        return pa.OSFile(path)
    return pa.PythonFile(FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED), mode="r")


# --- footers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowGroup:
    """A unit of reading. ``index`` is None for a file without rows, which yields one table without rows."""

    path: str
    index: int | None
    partition: tuple[Any, ...]
    num_rows: int


@dataclass(frozen=True)
class Dataset:
    """Parquet files whose footers were read and agree.

    Attributes:
      row_groups: of all files, in the order of their paths.
      file_columns: the columns to read from files.
      partition: the fields that come from ``name=value`` directories, in the order of ``RowGroup.partition``.
      values: which columns hold the numbers.
      schema: of the tables that are read, without metadata.
      num_files, num_rows: what the footers say.
      row_bytes: about how many bytes the columns of a row take.
    """

    row_groups: tuple[RowGroup, ...]
    file_columns: tuple[str, ...]
    partition: tuple[pa.Field, ...]
    values: tuple[str, ...]
    schema: pa.Schema
    num_files: int
    num_rows: int
    row_bytes: int

    @property
    def table_rows(self) -> int:
        """How many rows a table has at most."""
        return max(1, min(TABLE_ROWS, TABLE_BYTES // self.row_bytes))

    def select(self, columns: Sequence[str]) -> "Dataset":
        """The same files with fewer columns read from them."""
        kept = tuple(name for name in self.file_columns if name in columns)
        schema = pa.schema([*(self.schema.field(name) for name in kept), *self.partition])
        values = tuple(name for name in self.values if name in columns)
        return replace(self, file_columns=kept, values=values, schema=schema)


def find_files(patterns: Sequence[str], option: str = "input") -> list[str]:
    """The files that paths, directories (searched for ``*.parquet``) and globs name, each once, sorted.

    Names that begin with "_" or "." are left out unless they are given in full, as Spark does. Errors tell the
    ``option`` that gave the patterns.

    Raises:
      InputError: a pattern that names nothing.
    """
    found: set[str] = set()
    for pattern in patterns:
        paths = _find_local(pattern) if is_local(pattern) else _find_remote(pattern, option)
        if not paths:
            raise InputError(
                f"--{option} {pattern}: expected a file, a directory or a glob of Parquet files, found none"
            )
        found.update(paths)
    return sorted(found)


def _visible(paths: Sequence[str], given: str) -> list[str]:
    """Those that are no left-overs, markers or checksums, by the part of their names that was not given in full."""

    def hidden(name: str) -> bool:
        return name.startswith(".") or (name.startswith("_") and "=" not in name)

    return [path for path in paths if not any(map(hidden, path[len(given) :].split("/")))]


def _fixed_part(pattern: str) -> str:
    """The directories before the first wildcard."""
    return re.split(r"[*?\[]", pattern)[0].rpartition("/")[0]


def _find_local(pattern: str) -> list[str]:
    found = []
    exists = os.path.exists(pattern)
    for path in [pattern] if exists else _visible(glob.glob(pattern, recursive=True), _fixed_part(pattern)):
        path = os.path.abspath(path)
        if os.path.isdir(path):
            inside = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
            found += _visible([path for path in inside if path.endswith(".parquet")], path)
        else:
            found.append(path)
    return found


def _find_remote(pattern: str, option: str) -> list[str]:
    def match(pattern: str) -> list[str]:
        return [file.path for result in FileSystems.match([pattern]) for file in result.metadata_list]

    try:
        directory = pattern.rstrip("/") + "/"
        found = [] if pattern == directory else match(pattern)
        if found == [pattern]:
            return found
        return _visible(found, _fixed_part(pattern)) or _visible(
            match(directory + "**.parquet"), _fixed_part(directory + "*")
        )
    except Exception as error:  # whatever the filesystem's client raises
        raise InputError(
            f"--{option} {pattern}: expected a path that can be listed, found {one_line(error)}"
        ) from error


def one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _hive_partition(path: str) -> dict[str, str | None]:
    pairs = [part.split("=", 1) for part in PurePosixPath(path).parent.parts if "=" in part]
    return {unquote(name): None if value == HIVE_NULL else unquote(value) for name, value in pairs}


def _read_footer(path: str) -> tuple[pq.FileMetaData, pa.Schema]:
    try:
        with open_file(path) as source:
            file = pq.ParquetFile(source)
            return file.metadata, file.schema_arrow
    except Exception as error:  # pyarrow's, the operating system's, or a remote client's
        raise InputError(f"{path}: expected a readable Parquet file, found {one_line(error)}") from error


def scan(
    patterns: Sequence[str],
    keys: Sequence[str],
    values: Sequence[str],
    others: Mapping[str, Callable[[pa.DataType], str | None]] = MappingProxyType({}),
    *,
    all_columns: bool = False,
    option: str = "input",
) -> Dataset:
    """Reads all footers and checks that every file can give the columns, of one type.

    Args:
      patterns: files, directories or globs, local or of any Beam filesystem. ``name=value`` directories give columns:
        int64 where all values are integers, else string.
      keys: names of the key columns.
      values: names of the columns of numbers.
      others: names of further columns, and for each what tells of a type that does not serve which one is expected.
      all_columns: read all columns, those of the directories as well, in the order of the files.
      option: which one gave the patterns, for errors.

    Raises:
      InputError: a file that cannot be read, a column that is missing, of a type that does not serve, or of different
        types in two files.
    """
    paths = find_files(patterns, option)
    with ThreadPoolExecutor(16) as pool:
        footers = list(pool.map(_read_footer, paths))
    hive = [_hive_partition(path) for path in paths]
    schemas = [schema for _, schema in footers]
    first = schemas[0]
    # Those of the directories can be keys, and are read as such where all are.
    in_path = list(dict.fromkeys([*keys, *(hive[0] if all_columns else ())]))
    wanted = list(dict.fromkeys([*(first.names if all_columns else ()), *in_path, *values, *others]))
    partition = [
        _partition_field(name, paths, hive)
        for name in in_path
        if any(name in values for values in hive) and not all(name in schema.names for schema in schemas)
    ]
    file_columns = [name for name in wanted if name not in {field.name for field in partition}]
    for path, schema in zip(paths, schemas, strict=True):
        for name in file_columns:
            _check_column(path, schema, name, paths[0], first)
            if name in _hive_partition(path) and name in keys:
                raise InputError(f"{path}: column {name!r}: expected in the file or in the path, found in both")
        for field in partition:
            if field.name in schema.names:
                raise InputError(f"{path}: column {field.name!r}: expected in the path as elsewhere, found in the file")
        if all_columns and (more := set(schema.names) - set(file_columns)):
            raise InputError(f"{path}: expected the columns of {paths[0]}, found more: {', '.join(sorted(more))}")
    for name in keys:
        if name in file_columns:
            try:
                check_key_type(name, first.field(name).type)
            except TypeError as error:
                raise InputError(f"{paths[0]}: {error}") from None
    for name in values:
        if not is_widenable(first.field(name).type):
            raise InputError(
                f"{paths[0]}: value column {name!r}: expected integers, float16, float32 or float64, "
                f"found {first.field(name).type}"
            )
    for name, expected in others.items():
        if what := expected(first.field(name).type):
            raise InputError(f"{paths[0]}: column {name!r}: expected {what}, found {first.field(name).type}")
    row_groups = []
    for path, (metadata, _), constants in zip(paths, footers, hive, strict=True):
        held = tuple(_constant(constants[field.name], field) for field in partition)
        rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        filled = [RowGroup(path, i, held, n) for i, n in enumerate(rows) if n]
        row_groups += filled or [RowGroup(path, None, held, 0)]
    return Dataset(
        tuple(row_groups),
        tuple(file_columns),
        tuple(partition),
        tuple(values),
        # One file may tell that a column has no nulls where another does not.
        pa.schema([*(first.field(name).with_nullable(True) for name in file_columns), *partition]),
        len(paths),
        sum(metadata.num_rows for metadata, _ in footers),
        max(_row_bytes(metadata, set(file_columns)) for metadata, _ in footers),
    )


def _row_bytes(metadata: pq.FileMetaData, columns: set[str]) -> int:
    """What the columns of a row take, by the first row group: encoded, but not compressed."""
    if not metadata.num_rows:
        return 1
    group = metadata.row_group(0)
    chunks = [group.column(i) for i in range(group.num_columns)]
    size: int = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns)
    rows: int = group.num_rows
    return size // max(rows, 1) + 1


def _check_column(path: str, schema: pa.Schema, name: str, first_path: str, first: pa.Schema) -> None:
    copies = schema.names.count(name)
    if copies != 1:
        columns = ", ".join(schema.names)
        found = f"it {copies} times" if copies else f"columns {columns}"
        raise InputError(f"{path}: column {name!r}: expected once in the file, found {found}")
    if schema.field(name).type != first.field(name).type:
        raise InputError(
            f"{path}: column {name!r}: expected {first.field(name).type} as in {first_path}, "
            f"found {schema.field(name).type}"
        )


def _partition_field(name: str, paths: Sequence[str], hive: Sequence[dict[str, str | None]]) -> pa.Field:
    for path, values in zip(paths, hive, strict=True):
        if name not in values:
            raise InputError(f"{path}: column {name!r}: expected a directory {name}=... in the path, found none")
    integers = all(_is_int64(text) for values in hive if (text := values[name]) is not None)
    return pa.field(name, pa.int64() if integers else pa.string())


def _is_int64(text: str) -> bool:
    # What int() takes beyond this, such as "1_000" or " 7", is text to others.
    return re.fullmatch("-?[0-9]{1,19}", text) is not None and -(2**63) <= int(text) < 2**63


def _constant(text: str | None, field: pa.Field) -> int | str | None:
    return int(text) if text is not None and pa.types.is_integer(field.type) else text


# --- source -----------------------------------------------------------------------------------------------------------


class ReadTables(beam.PTransform[PBegin, PCollection[pa.Table]]):
    """The needed columns of all rows of a ``Dataset``, as tables of at most ``dataset.table_rows`` rows.

    Work is spread by row groups. A damaged page raises ``DataError`` with file, row group and column, and so does a
    table in which ``prepare`` finds a fault.

    Args:
      prepare: makes of each table what comes out; raises ValueError for one with a fault, and names the column.
    """

    def __init__(self, dataset: Dataset, prepare: Prepare | None = None) -> None:
        super().__init__()
        self._dataset = dataset
        self._prepare = prepare

    def expand(self, pbegin: PBegin) -> PCollection[pa.Table]:
        tables: PCollection[pa.Table] = (
            pbegin
            | "RowGroups" >> beam.Create(self._dataset.row_groups)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(_ReadRowGroup(self._dataset, self._prepare))
        )
        return tables


class RowGroupReader:
    """Reads row groups of a ``Dataset``, checked; ``prepare`` is as of ``ReadTables``. Close it in the end."""

    def __init__(self, dataset: Dataset, prepare: Prepare | None = None) -> None:
        self._columns = list(dataset.file_columns)
        self._schema = dataset.schema
        self._partition = dataset.partition
        self._values = dataset.values
        self._table_rows = dataset.table_rows
        self._prepare = prepare
        self._opened: tuple[str, pq.ParquetFile] | None = None

    def _open(self, path: str) -> pq.ParquetFile:
        # The row groups of a file often follow each other: its footer is read once then.
        if self._opened is None or self._opened[0] != path:
            self.close()
            # Reading ahead, which is the default, would bring whole columns of a row group of any size into memory.
            file = pq.ParquetFile(
                open_file(path), pre_buffer=False, buffer_size=BUFFER_BYTES, page_checksum_verification=True
            )
            self._opened = path, file
        return self._opened[1]

    def close(self) -> None:
        if self._opened:
            self._opened[1].close(force=True)
            self._opened = None

    def tables(self, row_group: RowGroup) -> Iterator[pa.Table]:
        """The rows in order, as tables of at most ``dataset.table_rows`` rows.

        Raises:
          DataError: they cannot be read, or there is a fault in them; file, row group and column named.
        """
        place = row_group.path if row_group.index is None else f"{row_group.path}, row group {row_group.index}"
        tables = self._read(row_group)
        start = 0
        while True:
            try:
                table = next(tables, None)
            except Exception as error:  # whatever a decoder or a filesystem raises
                column = self._damaged_column(row_group)
                raise DataError(f"{place}{column}: expected to read all rows, found {one_line(error)}") from error
            if table is None:
                return
            try:
                self._check_integers(table)
                prepared = table if self._prepare is None else self._prepare(table)
            except ValueError as error:
                rows = f", from row {start}" if start else ""
                raise DataError(f"{place}{rows}, {error}") from None
            start += table.num_rows
            rows_read.add(table.num_rows)
            Metrics.counter("lse_stream", ROWS_READ).inc(table.num_rows)
            yield prepared

    def _read(self, row_group: RowGroup) -> Iterator[pa.Table]:
        file = self._open(row_group.path)
        if row_group.index is None:
            yield self._with_partition(file.schema_arrow.empty_table().select(self._columns), row_group)
            return
        batches = file.iter_batches(
            self._table_rows, row_groups=[row_group.index], columns=self._columns, use_threads=False
        )
        for batch in batches:
            yield self._with_partition(pa.Table.from_batches([batch]).select(self._columns), row_group)

    def _with_partition(self, table: pa.Table, row_group: RowGroup) -> pa.Table:
        for field, value in zip(self._partition, row_group.partition, strict=True):
            table = table.append_column(field, pa.repeat(pa.scalar(value, field.type), table.num_rows))
        return pa.Table.from_arrays(table.columns, schema=self._schema)

    def _damaged_column(self, row_group: RowGroup) -> str:
        for column in self._columns if row_group.index is not None else ():
            try:
                for _ in self._open(row_group.path).iter_batches(self._table_rows, [row_group.index], [column]):
                    pass
            except Exception:
                return f", column {column!r}"
        return ""

    def _check_integers(self, table: pa.Table) -> None:
        """An integer that float64 does not hold is found here, where its file and row group are known."""
        for name in self._values:
            column = table.column(name)
            held = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
            if pa.types.is_integer(held) and held.bit_width == 64:
                for array in widen_arrow(column):
                    widen(array, f"column {name!r}")


class _ReadRowGroup(beam.DoFn):
    """A RowGroup to tables."""

    def __init__(self, dataset: Dataset, prepare: Prepare | None) -> None:
        self._dataset = dataset
        self._prepare = prepare

    def setup(self) -> None:
        self._reader = RowGroupReader(self._dataset, self._prepare)

    def process(self, row_group: RowGroup) -> Iterator[pa.Table]:
        yield from self._reader.tables(row_group)

    def teardown(self) -> None:
        self._reader.close()


# --- sink -------------------------------------------------------------------------------------------------------------


class WriteShards(beam.PTransform[PCollection[tuple[int, pa.Table]], PCollection[str]]):
    """(shard, table) to one Parquet file each; gives the paths.

    Files are named ``part-00000-of-0000N.parquet``. Equal tables give equal bytes with one version of pyarrow. A bundle
    that is tried again writes the same file again, and a file has its name only when it is whole.

    Args:
      directory: where to, on any Beam filesystem; it must exist.
      num_shards: N.
    """

    def __init__(self, directory: str, num_shards: int) -> None:
        super().__init__()
        self._write = partial(write_shard, directory, num_shards)

    def expand(self, shards: PCollection[tuple[int, pa.Table]]) -> PCollection[str]:
        write = self._write
        paths: PCollection[str] = shards | "Write" >> beam.MapTuple(
            lambda shard, table: write(shard, table.schema, [table])
        )
        return paths


class WriteWindows(beam.PTransform[PCollection[tuple[int, pa.Table]], PCollection[str]]):
    """(shard, table) in windows to one Parquet file per window and shard; gives the paths.

    Files are named ``START-END-part-00000-of-0000N.parquet``, with the window's times in UTC as in 20170905T120000, so
    that names sort by window (of the years 0 to 9999). A file appears whole; a further pane of the window replaces it,
    and so does a bundle that is tried again. Each table is one file, however many windows a bundle closes.

    Args:
      directory: where to, on any Beam filesystem; it must exist.
      num_shards: N.
      each_pane: keep every pane, in a file of its own with the pane's index ahead of the part: those of discarding
        panes, which only together are the whole.
    """

    def __init__(self, directory: str, num_shards: int, *, each_pane: bool = False) -> None:
        super().__init__()
        self._write = _WriteWindow(directory, num_shards, each_pane=each_pane)

    def expand(self, shards: PCollection[tuple[int, pa.Table]]) -> PCollection[str]:
        paths: PCollection[str] = shards | "Write" >> beam.ParDo(self._write)
        return paths


class _WriteWindow(beam.DoFn):
    def __init__(self, directory: str, num_shards: int, *, each_pane: bool) -> None:
        self._directory = directory
        self._num_shards = num_shards
        self._each_pane = each_pane

    def process(
        self,
        element: tuple[int, pa.Table],
        window: Any = beam.DoFn.WindowParam,
        pane: Any = beam.DoFn.PaneInfoParam,
    ) -> Iterator[str]:
        shard, table = element
        pane_name = f"pane-{pane.index:05d}-" if self._each_pane else ""
        prefix = f"{_compact(window.start)}-{_compact(window.end)}-{pane_name}"
        yield write_shard(self._directory, self._num_shards, shard, table.schema, [table], prefix=prefix)


def _compact(time: Timestamp) -> str:
    micros = np.datetime64(time.micros, "us")
    seconds = micros.astype("datetime64[s]")
    # Without a zone's letter: what follows a whole second, "-", sorts before the point of a fraction.
    text = str(micros if micros != seconds else seconds).replace(":", "")
    return text[:1] + text[1:].replace("-", "")  # years before 0 keep their sign


def write_shard(
    directory: str,
    num_shards: int,
    shard: int,
    schema: pa.Schema,
    tables: Iterable[pa.Table],
    row_group_rows: int | None = None,
    prefix: str = "",
) -> str:
    """Writes the rows of ``tables`` to the file of a shard, whose name begins with ``prefix``, and gives its path.

    The bytes depend on the rows and ``row_group_rows`` alone, not on how they are spread over tables. A file that is
    there already is replaced at once.

    Raises:
      DataError: it cannot be written.
    """
    row_group_rows = row_group_rows or OUTPUT_ROW_GROUP
    name = f"{prefix}part-{shard:05d}-of-{num_shards:05d}.parquet"
    path = FileSystems.join(directory, name)
    # An object appears whole when its writer is closed; a local file has to be renamed.
    written = FileSystems.join(directory, f".{name}.{os.urandom(8).hex()}") if is_local(directory) else path
    try:
        with (
            FileSystems.create(written, compression_type=CompressionTypes.UNCOMPRESSED) as sink,
            pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, compression="zstd") as writer,
        ):
            for rows in _row_groups(tables, row_group_rows):
                writer.write_table(rows, row_group_size=row_group_rows)
        if written != path:
            os.replace(written, path)
    except OSError as error:
        raise DataError(f"{path}: expected a file that can be written, found {one_line(error)}") from error
    return path


def _row_groups(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The rows in tables of one chunk, each of ``size`` rows but the last."""
    held: list[pa.Table] = []
    num_rows = 0
    for table in tables:
        held.append(table)
        num_rows += table.num_rows
        while num_rows >= size:
            rows = pa.concat_tables(held)
            yield rows.slice(0, size).combine_chunks()
            held = [rows.slice(size)]
            num_rows -= size
    if num_rows:
        yield pa.concat_tables(held).combine_chunks()
