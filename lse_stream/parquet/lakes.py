"""Tables of Delta Lake and Apache Iceberg as lists of Parquet files, of one snapshot.

A pattern is "delta:PATH", or "iceberg:CATALOG.TABLE" with a catalog as pyiceberg is configured; "@" and a number
at its end names an older version or snapshot. What takes more than to read the files, such as rows that are marked as
deleted, is refused by name.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from ..errors import InputError, one_line
from ..files import is_local

DELTA, ICEBERG = "delta:", "iceberg:"

# What a table of Delta Lake may ask of its readers, where it makes no use of it in the files.
_FEATURES = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", "deletionVectors", "columnMapping"}


@dataclass(frozen=True)
class Snapshot:
    """A table as it was at some moment.

    Attributes:
      name: a pattern that names it for good.
      files: by path, the values of the columns that the table keeps out of its files, as text; None for null.
      schema: of the table: a column that a file does not have is null there.
    """

    name: str
    files: Mapping[str, Mapping[str, str | None]]
    schema: pa.Schema


def is_lake(pattern: str) -> bool:
    """Whether a pattern names a table."""
    return pattern.startswith((DELTA, ICEBERG))


def pinned(pattern: str) -> str:
    """A pattern that names the same files for good; one of no table as it is. Raises as ``snapshot_of``."""
    return snapshot_of(pattern).name if is_lake(pattern) else pattern


def place_of_table(pattern: str) -> str:
    """The directory of a table of Delta Lake; any other pattern as it is."""
    return _split(pattern)[1] if pattern.startswith(DELTA) else pattern


@lru_cache(maxsize=16)
def snapshot_of(pattern: str) -> Snapshot:
    """The snapshot that a pattern names.

    Raises:
      InputError: the package is missing, there is no such table or state of it, or it has what is not read here.
    """
    kind, name, version = _split(pattern)
    try:
        return _delta(name, version) if kind == DELTA else _iceberg(name, version)
    except InputError:
        raise
    except ImportError:
        package = "deltalake" if kind == DELTA else "pyiceberg"
        raise InputError(f"{pattern}: expected the package {package} (pip install {package}), found none") from None
    except Exception as error:  # whatever these packages raise
        raise InputError(f"{pattern}: expected a table that can be read, found {one_line(error)}") from error


def _split(pattern: str) -> tuple[str, str, int | None]:
    kind = DELTA if pattern.startswith(DELTA) else ICEBERG
    name = pattern.removeprefix(kind)
    table, at, version = name.rpartition("@")
    return (kind, table, int(version)) if at and version.isdecimal() else (kind, name, None)


def _delta(path: str, version: int | None) -> Snapshot:
    from deltalake import DeltaTable

    table = DeltaTable(path, version=version)
    name = f"{DELTA}{path}@{table.version()}"
    asked = set(table.protocol().reader_features or ()) - _FEATURES
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        asked.add("columnMapping")
    if pa.table(table.deletion_vectors()).num_rows:
        asked.add("deletionVectors")
    if asked:
        raise InputError(f"{name}: expected files that hold the table as it is, found {', '.join(sorted(asked))}")
    schema = pa.schema(table.schema().to_arrow())
    columns = table.metadata().partition_columns
    actions = pa.table(table.get_add_actions(flatten=True))
    values = {column: _texts(actions.column(f"partition.{column}")) for column in columns}
    files = {
        _real(f"{path.rstrip('/')}/{unquote(file)}"): {column: values[column][row] for column in columns}
        for row, file in enumerate(actions.column("path").to_pylist())
    }
    return _snapshot(name, files, schema)


def _real(path: str) -> str:
    """The one name of a local file, by which it is known however a table was named."""
    return os.path.realpath(path) if is_local(path) else path


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    texts: list[str | None] = column.cast(pa.string()).to_pylist()
    return texts


def _iceberg(name: str, version: int | None) -> Snapshot:
    from pyiceberg.catalog import load_catalog
    from pyiceberg.transforms import IdentityTransform

    catalog, _, identifier = name.partition(".")
    table: Any = load_catalog(catalog).load_table(identifier)
    current = table.current_snapshot()
    snapshot = version if version is not None or current is None else current.snapshot_id
    pinned_name = f"{ICEBERG}{name}" if snapshot is None else f"{ICEBERG}{name}@{snapshot}"
    scan = table.scan(snapshot_id=snapshot)
    projection = scan.projection()
    schema = projection.as_arrow()
    files = {}
    for task in scan.plan_files():
        path = _real(task.file.file_path.removeprefix("file://"))
        if task.delete_files:
            raise InputError(f"{pinned_name}: expected files that hold all rows, found files of deleted rows of {path}")
        fields = enumerate(table.specs()[task.file.spec_id].fields)
        # Files that a table took over may not have the columns by which they are partitioned.
        of_itself = {
            projection.find_column_name(field.source_id): task.file.partition[i]
            for i, field in fields
            if isinstance(field.transform, IdentityTransform)
        }
        files[path] = {
            column: _texts(pa.chunked_array([pa.array([value], schema.field(column).type)]))[0]
            for column, value in of_itself.items()
        }
    return _snapshot(pinned_name, files, schema)


def check_names(snapshot: Snapshot, path: str, schema: pa.Schema) -> None:
    """Raises InputError where a file calls a column other than the table does; ``schema`` is that of the file."""
    names = {_id_of(field): field.name for field in snapshot.schema}
    known = {name for number, name in names.items() if number is not None}
    for field in schema:
        found = _id_of(field)
        # One that was dropped, and came back as another, has the same name and another number.
        if found is not None and names.get(found, field.name if field.name not in known else None) != field.name:
            raise InputError(
                f"{snapshot.name}: expected columns that were never renamed or made anew, found "
                f"{names.get(found, field.name)!r} as {field.name!r} in {path}"
            )


def _id_of(field: pa.Field) -> bytes | None:
    found: bytes | None = (field.metadata or {}).get(b"PARQUET:field_id")
    return found


def _snapshot(name: str, files: Mapping[str, Mapping[str, str | None]], schema: pa.Schema) -> Snapshot:
    if not files:
        raise InputError(f"{name}: expected a table with files, found none")
    return Snapshot(name, files, schema)
