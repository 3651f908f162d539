"""Parquet files found, and their footers checked, before any work."""

import dataclasses
import glob
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError, one_line
from ..files import is_local, match, open_file
from ..float64 import is_numeric_type
from ..keys import check_key_type

# Rows and (roughly) bytes of one table: keys, values and codes stay in the second-level cache, and the memory of a
# worker is bounded whatever the size of a row group.
TABLE_ROWS = 1 << 16
TABLE_BYTES = 1 << 28

# Rows of one row group of output: fixed, as it shapes the bytes.
OUTPUT_ROW_GROUP = 1 << 20

# SAMPLE footers are timed: where each takes less than AT_HAND seconds, ten times what a local one takes, the rest is
# read one by one; otherwise by FOOTER_THREADS, which wait for the network at the same time.
SAMPLE, AT_HAND, FOOTER_THREADS = 16, 0.0005, 16

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class RowGroup:
    """A unit of reading. ``index`` is None for a file without rows, which yields one table without rows."""

    path: str
    index: int | None
    partition: tuple[Any, ...]
    num_rows: int


@dataclass(frozen=True)
class Reading:
    """What a reader of row groups has to know.

    Attributes:
      file_columns: the columns to read from files.
      partition: the fields that come from ``name=value`` directories, in the order of ``RowGroup.partition``.
      values: which columns hold the numbers.
      schema: of the tables that are read, without metadata.
      table_rows: how many rows a table has at most.
    """

    file_columns: tuple[str, ...]
    partition: tuple[pa.Field, ...]
    values: tuple[str, ...]
    schema: pa.Schema
    table_rows: int


@dataclass(frozen=True)
class Dataset:
    """Parquet files whose footers were read and agree.

    Attributes:
      row_groups: of all files, in the order of their paths.
      reading: how their tables are read.
      num_files, num_rows: what the footers say.
      row_bytes: about how many bytes the columns of a row take.
      footers: by path.
      become: about how many rows a row becomes where it is read.
    """

    row_groups: tuple[RowGroup, ...]
    reading: Reading
    num_files: int
    num_rows: int
    row_bytes: int
    footers: Mapping[str, pq.FileMetaData] = dataclasses.field(repr=False, compare=False)
    become: int = 1

    @property
    def rows_read(self) -> int:
        """About how many rows there are once they are read."""
        return self.num_rows * self.become

    @property
    def output_rows(self) -> int:
        """Rows of a row group of output that has these rows: as many as fit into TABLE_BYTES."""
        return max(1, min(OUTPUT_ROW_GROUP, TABLE_BYTES // self.row_bytes))

    @property
    def schema(self) -> pa.Schema:
        return self.reading.schema

    @property
    def values(self) -> tuple[str, ...]:
        return self.reading.values

    def select(self, columns: Sequence[str]) -> "Dataset":
        """These files, with fewer columns read from them."""
        kept = tuple(name for name in self.reading.file_columns if name in columns)
        schema = pa.schema([*(self.schema.field(name) for name in kept), *self.reading.partition])
        values = tuple(name for name in self.values if name in columns)
        return replace(self, reading=replace(self.reading, file_columns=kept, values=values, schema=schema))

    def widen(self, become: int, converted_rows: int) -> "Dataset":
        """These files, whose rows become about so many each by a conversion: of fewer rows, a table has at most
        ``converted_rows`` then.
        """
        table_rows = max(1, min(self.reading.table_rows, converted_rows // max(become, 1)))
        return replace(self, reading=replace(self.reading, table_rows=table_rows), become=become)


def find_files(patterns: Sequence[str]) -> list[str]:
    """The files that paths, directories (searched for ``*.parquet``) and globs name, each once, sorted.

    Names that begin with "_" or "." are left out unless they are given in full, as Spark does.

    Raises:
      InputError: a pattern that names nothing.
    """
    found: set[str] = set()
    for pattern in patterns:
        paths = _find_local(pattern) if is_local(pattern) else _find_remote(pattern)
        if not paths:
            inside = " named *.parquet in it" if os.path.isdir(pattern) else ""
            raise InputError(f"{pattern}: expected a file, a directory or a glob of Parquet files, found none{inside}")
        found.update(paths)
    return sorted(found)


def _visible(paths: Sequence[str], given: str) -> list[str]:
    """The paths that are no left-overs, markers or checksums, judged by what of their names was not given in full."""

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


def _find_remote(pattern: str) -> list[str]:
    try:
        directory = pattern.rstrip("/") + "/"
        found = [] if pattern == directory else match(pattern)
        if found == [pattern]:
            return found
        return _visible(found, _fixed_part(pattern)) or _visible(
            match(directory + "**.parquet"), _fixed_part(directory + "*")
        )
    except Exception as error:  # whatever the filesystem's client raises
        raise InputError(f"{pattern}: expected a path that can be listed, found {one_line(error)}") from error


def hive_partition(path: str) -> dict[str, str | None]:
    pairs = [part.split("=", 1) for part in path.split("/")[:-1] if "=" in part]
    return {unquote(name): None if value == HIVE_NULL else unquote(value) for name, value in pairs}


def _read_footers(paths: Sequence[str]) -> list[tuple[pq.FileMetaData, pa.Schema]]:
    """The footers of all files: in parallel where a file has to be waited for, as on a network."""
    start = time.perf_counter()
    footers = [_read_footer(path) for path in paths[:SAMPLE]]
    # Of files at hand one takes some 0.04 ms, and threads that wait for each other's turn in Python four times that.
    if time.perf_counter() - start < AT_HAND * len(footers):
        return [*footers, *(_read_footer(path) for path in paths[SAMPLE:])]
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        return [*footers, *pool.map(_read_footer, paths[SAMPLE:])]


def _read_footer(path: str) -> tuple[pq.FileMetaData, pa.Schema]:
    try:
        with open_file(path) as source:
            file = pq.ParquetFile(source)
            return file.metadata, file.schema_arrow
    except Exception as error:  # pyarrow's, the operating system's, or a remote client's
        raise InputError(f"{path}: expected a readable Parquet file, found {one_line(error)}") from error


def first_schema(patterns: Sequence[str]) -> tuple[str, pa.Schema]:
    """The path of the first of the files, and its schema. Raises as ``scan``."""
    path = find_files(patterns)[0]
    return path, _read_footer(path)[1]


def scan(
    patterns: Sequence[str],
    keys: Sequence[str],
    values: Sequence[str],
    others: Mapping[str, Callable[[pa.DataType], str | None]] = MappingProxyType({}),
    *,
    all_columns: bool = False,
) -> Dataset:
    """Reads all footers and checks that every file can give the columns, of one type.

    Args:
      patterns: files, directories or globs, local or of any Beam filesystem. ``name=value`` directories give columns:
        int64 where all values are integers, else string, except of ``values``.
      keys: names of the key columns.
      values: names of the columns of numbers.
      others: names of further columns, and for each a function that says, of a type that does not serve, which one is
        expected.
      all_columns: read all columns, those of the directories as well, in the order of the files.

    Raises:
      InputError: a file that cannot be read, a column that is missing, of a type that does not serve, or of different
        types in two files.
    """
    paths = find_files(patterns)
    footers = _read_footers(paths)
    hive = [hive_partition(path) for path in paths]
    schemas = [schema for _, schema in footers]
    first = schemas[0]
    # Those of the directories can be any but values, and are all read where all columns are.
    in_path = list(dict.fromkeys([*keys, *(hive[0] if all_columns else ()), *others]))
    wanted = list(dict.fromkeys([*(first.names if all_columns else ()), *in_path, *values]))
    partition = [
        _partition_field(name, paths, hive)
        for name in in_path
        if any(name in values for values in hive) and not all(name in schema.names for schema in schemas)
    ]
    file_columns = [name for name in wanted if name not in {field.name for field in partition}]
    for path, schema, in_directories in zip(paths, schemas, hive, strict=True):
        copies = Counter(schema.names)
        for name in file_columns:
            _check_column(path, schema, copies[name], name, paths[0], first)
            if name in in_directories and (name in keys or name in others):
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
        if not is_numeric_type(first.field(name).type):
            raise InputError(
                f"{paths[0]}: value column {name!r}: expected integers, float16, float32 or float64, "
                f"found {first.field(name).type}"
            )
    # One file's schema may say that a column has no nulls where another's does not.
    table_schema = pa.schema([*(first.field(name).with_nullable(True) for name in file_columns), *partition])
    for name, expected in others.items():
        if what := expected(table_schema.field(name).type):
            raise InputError(f"{paths[0]}: column {name!r}: expected {what}, found {table_schema.field(name).type}")
    row_groups = []
    for path, (metadata, _), constants in zip(paths, footers, hive, strict=True):
        held = tuple(_constant(constants[field.name], field) for field in partition)
        rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        filled = [RowGroup(path, i, held, n) for i, n in enumerate(rows) if n]
        row_groups += filled or [RowGroup(path, None, held, 0)]
    row_bytes = max(_row_bytes(metadata, set(file_columns)) for metadata, _ in footers)
    reading = Reading(
        tuple(file_columns),
        tuple(partition),
        tuple(values),
        table_schema,
        max(1, min(TABLE_ROWS, TABLE_BYTES // row_bytes)),
    )
    num_rows = sum(metadata.num_rows for metadata, _ in footers)
    metadata_of = {path: metadata for path, (metadata, _) in zip(paths, footers, strict=True)}
    return Dataset(tuple(row_groups), reading, len(paths), num_rows, row_bytes, metadata_of)


def _row_bytes(metadata: pq.FileMetaData, columns: set[str]) -> int:
    """What the columns of a row take, by the first row group: encoded, but not compressed."""
    if not metadata.num_rows:
        return 1
    group = metadata.row_group(0)
    size = 0
    for chunk in (group.column(i) for i in range(group.num_columns)):
        # The path of a leaf: "level", of a nested column "key.part"; and a plain column's name may have a dot.
        path = chunk.path_in_schema
        if path in columns or path.split(".")[0] in columns:
            size += chunk.total_uncompressed_size
    rows: int = group.num_rows
    return size // max(rows, 1) + 1


def _check_column(path: str, schema: pa.Schema, copies: int, name: str, first_path: str, first: pa.Schema) -> None:
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
