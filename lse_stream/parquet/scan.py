"""Parquet files found, and their footers checked, before any work."""

import dataclasses
import glob
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from ..buffers import repeated
from ..coarsening import Coarsening
from ..columns import decode_dictionary
from ..errors import InputError, nearest, one_line
from ..files import is_local, match, open_file
from ..float64 import is_numeric_type
from ..keys import check_key_type
from ..predicates import Condition, Predicate, Range, natural
from ..state_column import STATE
from .lakes import Snapshot, check_names, is_lake, snapshot_of
from .schemas import unified_type, with_nested
from .statistics import ranges_of

# Rows and (roughly) bytes of one table: keys, values and codes stay in the second-level cache, and the memory of a
# worker is bounded whatever the size of a row group.
TABLE_ROWS = 1 << 16
TABLE_BYTES = 1 << 28

# Rows of one row group of output: fixed, as it shapes the bytes.
OUTPUT_ROW_GROUP = 1 << 20

# SAMPLE footers are timed: where each takes less than AT_HAND seconds, ten times what a local one takes, the rest is
# read one by one; otherwise by FOOTER_THREADS, which wait for the network at the same time.
SAMPLE, AT_HAND, FOOTER_THREADS = 16, 0.0005, 16

Stamp = tuple[int, int]

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"

# How names of Parquet files end, in letters of any case.
SUFFIXES = (".parquet", ".parq", ".pq")


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
      file_schema: the columns to read from files, and the types that they take: those of the files may differ.
      partition: the fields that come from ``name=value`` directories, in the order of ``RowGroup.partition``.
      values: which columns hold the numbers.
      schema: of the tables that come out, without metadata.
      table_rows: how many rows a table has at most.
      where: which rows come out; None for all.
      where_columns: those that it needs.
      coarsening: what becomes of the columns, once rows are chosen.
    """

    file_schema: pa.Schema
    partition: tuple[pa.Field, ...]
    values: tuple[str, ...]
    schema: pa.Schema
    table_rows: int
    where: Predicate | None = None
    where_columns: tuple[str, ...] = ()
    coarsening: Coarsening = dataclasses.field(default_factory=Coarsening)


@dataclass(frozen=True)
class Dataset:
    """Parquet files whose footers were read and agree.

    Attributes:
      row_groups: of all files, in the order of their paths; but not those of which it is known that no row is chosen.
      reading: how their tables are read.
      num_files, num_rows: what the footers say, of these row groups.
      total_rows: likewise, of all row groups.
      skipped: how many row groups are left out.
      row_bytes: about how many bytes the columns of a row take.
      footers: by path.
      stamps: of local files, by path: when they were changed last, and their size.
      become: about how many rows a row becomes where it is read.
    """

    row_groups: tuple[RowGroup, ...]
    reading: Reading
    num_files: int
    num_rows: int
    total_rows: int
    row_bytes: int
    footers: Mapping[str, pq.FileMetaData] = dataclasses.field(repr=False, compare=False)
    stamps: Mapping[str, Stamp] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    become: int = 1
    skipped: int = 0

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
        partition = [field.name for field in self.reading.partition]
        schema = pa.schema([field for field in self.schema if field.name in columns or field.name in partition])
        needed = {*map(self.reading.coarsening.source_of, columns), *self.reading.where_columns}
        kept = pa.schema([field for field in self.reading.file_schema if field.name in needed])
        values = tuple(name for name in self.values if name in columns)
        return replace(self, reading=replace(self.reading, file_schema=kept, values=values, schema=schema))

    def without_rows(self) -> "Dataset":
        """These files, of which no row is read."""
        first = replace(self.row_groups[0], index=None, num_rows=0)
        return replace(self, row_groups=(first,), num_rows=0)

    def coarsen(self, coarsening: Coarsening) -> "Dataset":
        """These files, with columns changed where they are read. Raises TypeError as ``Coarsening.schema_of``."""
        schema = coarsening.schema_of(self.schema)
        return replace(self, reading=replace(self.reading, coarsening=coarsening, schema=schema))

    def widen(self, become: int, converted_rows: int) -> "Dataset":
        """These files, whose rows become about so many each by a conversion.

        Of fewer rows, a table has at most ``converted_rows`` then.
        """
        table_rows = max(1, min(self.reading.table_rows, converted_rows // max(become, 1)))
        return replace(self, reading=replace(self.reading, table_rows=table_rows), become=become)


def find_files(patterns: Sequence[str]) -> list[str]:
    """The files that paths, directories (searched for names with ``SUFFIXES``) and globs name, each once, sorted.

    A link to a file that is named, too, is left out. So are names that begin with "_" or ".", unless they are given in
    full, as Spark does.

    Raises:
      InputError: a pattern that names nothing.
    """
    found: dict[str, str] = {}
    real_directory = cache(os.path.realpath)  # which asks for every part of a path
    for pattern in patterns:
        if is_lake(pattern):
            found |= {path: path for path in snapshot_of(pattern).files}
            continue
        paths = _find_local(pattern) if is_local(pattern) else _find_remote(pattern)
        if not paths:
            inside = f" named *{', *'.join(SUFFIXES)} in it" if os.path.isdir(pattern) else ""
            raise InputError(f"{pattern}: expected a file, a directory or a glob of Parquet files, found none{inside}")
        for path in paths:
            real = path
            if is_local(path):
                directory, name = os.path.split(path)
                real = os.path.realpath(path) if os.path.islink(path) else os.path.join(real_directory(directory), name)
            found[real] = min(found.get(real, path), path, key=lambda name: (name != real, name))
    return sorted(found.values())


def _is_parquet(path: str) -> bool:
    return path.lower().endswith(SUFFIXES)


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
            if os.path.isdir(os.path.join(path, "_delta_log")):
                raise InputError(
                    f"{pattern}: expected delta:{pattern}, as it is a table of Delta Lake, found a directory"
                )
            inside = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
            found += _visible([path for path in inside if _is_parquet(path)], path)
        else:
            found.append(path)
    return found


def _find_remote(pattern: str) -> list[str]:
    try:
        directory = pattern.rstrip("/") + "/"
        found = [] if pattern == directory else match(pattern)
        if found == [pattern]:
            return found
        below = [] if found else [path for path in match(directory + "**") if _is_parquet(path)]
        return _visible(found, _fixed_part(pattern)) or _visible(below, _fixed_part(directory + "*"))
    except Exception as error:  # whatever the filesystem's client raises
        raise InputError(f"{pattern}: expected a path that can be listed, found {one_line(error)}") from error


def hive_partition(path: str) -> dict[str, str | None]:
    """The columns that the ``name=value`` directories of a path give."""
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


def stamp_of(path: str) -> Stamp | None:
    """When a local file was changed last, in nanoseconds, and its size; None of one elsewhere, or that is gone."""
    if not is_local(path):
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


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
    where: Condition | None = None,
) -> Dataset:
    """Reads all footers and checks that every file can give the columns, of one type.

    Args:
      patterns: files, directories or globs, local or of any Beam filesystem; or tables, as of ``lakes``. ``name=value``
        directories give columns: int64 where all values are integers, else string, except of ``values``.
      keys: names of the key columns. A name that no column has, such as "nest.k", is that of a field of one.
      values: names of the columns of numbers. Booleans are read as 0 and 1, decimals as float64, rounded once.
      others: names of further columns, and for each a function that says, of a type that does not serve, which one is
        expected.
      all_columns: read all columns, those of the directories as well, in the order of the files.
      where: of the rows those for which it is true. Row groups are left out where their statistics, or their
        directories, tell that it is true of none.

    Raises:
      InputError: a file that cannot be read, a column that is missing, of a type that does not serve, or of different
        types in two files.
    """
    asked = where.columns if where else ()
    paths = find_files(patterns)
    stamps = {path: stamp for path in paths if (stamp := stamp_of(path)) is not None}
    footers = _read_footers(paths)
    snapshots = [snapshot_of(pattern) for pattern in patterns if is_lake(pattern)]
    tables = {path: snapshot for snapshot in snapshots for path in snapshot.files}
    hive = [tables[path].files[path] if path in tables else hive_partition(path) for path in paths]
    plain = [
        _as_of_table(tables[path], path, schema) if path in tables else schema
        for path, (_, schema) in zip(paths, footers, strict=True)
    ]
    schemas = [with_nested(schema, [*keys, *values, *others, *asked]) for schema in plain]
    # Those of the directories can be any but values, and are all read where all columns are.
    in_path = list(dict.fromkeys([*keys, *(hive[0] if all_columns else ()), *others]))
    out = list(dict.fromkeys([*(plain[0].names if all_columns else ()), *in_path, *values]))
    in_path = list(dict.fromkeys([*in_path, *(name for name in asked if name not in values)]))
    wanted = list(dict.fromkeys([*out, *in_path]))
    partition = [
        _partition_field(name, paths, hive, tables)
        for name in in_path
        if any(name in values for values in hive) and not all(name in schema.names for schema in schemas)
    ]
    file_columns = [name for name in wanted if name not in {field.name for field in partition}]
    types_of: dict[str, dict[pa.DataType, str]] = {name: {} for name in file_columns}
    for path, schema, of_file, in_directories in zip(paths, schemas, plain, hive, strict=True):
        copies = Counter(schema.names)
        for name in file_columns:
            _check_column(path, schema, copies[name], name, where if name in asked and name not in out else None)
            _add_type(types_of[name], path, schema.field(name))
            if name in in_directories and name in in_path:
                _check_agrees(path, name, in_directories[name])
        for field in partition:
            if field.name in schema.names:
                raise InputError(f"{path}: column {field.name!r}: expected in the path as elsewhere, found in the file")
        if all_columns and (more := set(of_file.names) - set(file_columns)):
            raise InputError(f"{path}: expected the columns of {paths[0]}, found more: {', '.join(sorted(more))}")
    # One file's schema may say that a column has no nulls where another's does not.
    types = {name: unified_type(list(found)) for name, found in types_of.items()}
    file_schema = pa.schema([pa.field(name, data_type) for name, data_type in types.items()])
    predicate = _predicate(paths[0], where, pa.schema([*file_schema, *partition]))
    types |= {name: _type_of_values(types[name]) for name in values if name in types}
    table_schema = pa.schema([*(pa.field(name, data_type) for name, data_type in types.items()), *partition])
    _check_types(paths[0], table_schema, [name for name in keys if name in file_columns], values, others)
    row_groups, skipped = [], 0
    for path, (metadata, _), schema, constants in zip(paths, footers, schemas, hive, strict=True):
        held = tuple(_constant(constants[field.name], field) for field in partition)
        rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        filled = [RowGroup(path, i, held, n) for i, n in enumerate(rows) if n]
        if predicate is not None:
            known = {field.name: _range_of(field, value) for field, value in zip(partition, held, strict=True)}
            few = [
                each
                for each in filled
                if True in predicate.outcomes(ranges_of(metadata, each.index or 0, schema, asked) | known)
            ]
            skipped, filled = skipped + len(filled) - len(few), few
        row_groups += filled or [RowGroup(path, None, held, 0)]
    row_bytes = max(_row_bytes(metadata, set(file_columns)) for metadata, _ in footers)
    reading = Reading(
        file_schema,
        tuple(partition),
        tuple(values),
        pa.schema([field for field in table_schema if field.name in out]),
        max(1, min(TABLE_ROWS, TABLE_BYTES // row_bytes)),
        predicate,
        asked,
    )
    num_rows = sum(row_group.num_rows for row_group in row_groups)
    total_rows = sum(metadata.num_rows for metadata, _ in footers)
    metadata_of = {path: metadata for path, (metadata, _) in zip(paths, footers, strict=True)}
    return Dataset(
        tuple(row_groups), reading, len(paths), num_rows, total_rows, row_bytes, metadata_of, stamps, skipped=skipped
    )


def _predicate(path: str, where: Condition | None, schema: pa.Schema) -> Predicate | None:
    if where is None:
        return None
    try:
        return where.of(schema)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: condition {where.text!r}: {error}") from None


def _range_of(field: pa.Field, constant: int | str | None) -> Range:
    if constant is None:
        return Range(has_value=False)
    bounds = None
    with suppress(pa.ArrowInvalid):  # which is told where it is read
        bounds = natural(repeated(constant, field.type, 1)[0])
    return Range(None if bounds is None else (bounds, bounds), has_null=False)


def _check_types(
    path: str,
    schema: pa.Schema,
    keys: Sequence[str],
    values: Sequence[str],
    others: Mapping[str, Callable[[pa.DataType], str | None]],
) -> None:
    """Raises InputError for a column of a type that does not serve."""
    for name in keys:
        try:
            check_key_type(name, schema.field(name).type)
        except TypeError as error:
            raise InputError(f"{path}: {error}") from None
    for name in values:
        found = schema.field(name).type
        if not is_numeric_type(found):
            expected = "integers, floats, decimals or booleans"
            raise InputError(f"{path}: value column {name!r}: expected {expected}, found {found}")
    for name, expected_of in others.items():
        if what := expected_of(schema.field(name).type):
            raise InputError(f"{path}: column {name!r}: expected {what}, found {schema.field(name).type}")


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


def _check_column(path: str, schema: pa.Schema, copies: int, name: str, where: Condition | None) -> None:
    """Raises InputError for a column that is not there once. What a condition alone names may be meant as a string."""
    if copies != 1:
        hint = nearest(name, schema.names)
        if name == STATE:
            hint = " (--state of a program writes it)"
        elif where is not None and (not hint or f'"{name}"' in where.text):
            hint = " (a string is in '...')"
        found = f"it {copies} times" if copies else f"columns {', '.join(schema.names)}{hint}"
        raise InputError(f"{path}: column {name!r}: expected once in the file, found {found}")


def _check_agrees(path: str, name: str, text: str | None) -> None:
    """Raises InputError unless a column that is in the file, too, is there what the directory says, in all rows."""
    with open_file(path) as source:
        found = decode_dictionary(pq.ParquetFile(source).read(columns=[name]).column(0)).unique()
    try:
        expected = pa.array([text], pa.string()).cast(found.type)
    except pa.ArrowInvalid:
        expected = None
    other = [value for value in found.to_pylist() if expected is None or value != expected[0].as_py()]
    if other:
        raise InputError(f"{path}: column {name!r}: expected {text!r} as in the path, found {other[0]!r} in the file")


def _type_of_values(data_type: pa.DataType) -> pa.DataType:
    """The type in which numbers are read."""
    if pa.types.is_boolean(data_type):
        return pa.int8()
    # Of values that are all null no file may say what they are.
    return pa.float64() if pa.types.is_null(data_type) or pa.types.is_decimal(data_type) else data_type


def _add_type(found: dict[pa.DataType, str], path: str, column: pa.Field) -> None:
    """Adds the type of a column, with the first path that has it; raises InputError where it goes not with another."""
    if column.type not in found:
        for other, first in found.items():
            if unified_type([other, column.type]) is None:
                raise InputError(f"{path}: column {column.name!r}: expected {other} as in {first}, found {column.type}")
        found[column.type] = path


def _as_of_table(table: Snapshot, path: str, schema: pa.Schema) -> pa.Schema:
    """The schema of a file, with the columns that its table has got since it was written."""
    check_names(table, path, schema)
    more = [field for field in table.schema if field.name not in schema.names and field.name not in table.files[path]]
    return pa.schema([*schema, *more])


def _partition_field(
    name: str, paths: Sequence[str], hive: Sequence[Mapping[str, str | None]], tables: Mapping[str, Snapshot]
) -> pa.Field:
    for path, values in zip(paths, hive, strict=True):
        if name not in values:
            raise InputError(f"{path}: column {name!r}: expected a directory {name}=... in the path, found none")
    types = [table.schema.field(name).type for table in tables.values() if name in table.schema.names]
    if types and (found := unified_type(types)) is not None:
        return pa.field(name, found)
    integers = all(_is_int64(text) for values in hive if (text := values[name]) is not None)
    return pa.field(name, pa.int64() if integers else pa.string())


def _is_int64(text: str) -> bool:
    # What int() takes beyond this, such as "1_000" or " 7", is text to others.
    return re.fullmatch("-?[0-9]{1,19}", text) is not None and -(2**63) <= int(text) < 2**63


def _constant(text: str | None, field: pa.Field) -> int | str | None:
    return int(text) if text is not None and field.type == pa.int64() else text
