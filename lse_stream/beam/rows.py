"""Tables of results as Beam's rows with a schema, for SQL, YAML and transforms in other languages."""

import datetime
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import PCollection, Row
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.utils.timestamp import Timestamp

from ..columns import column_of, decode_dictionary, value_type_of

# The dates that Python has, in days since 1970.
_FIRST_DAY, _LAST_DAY = ((day - datetime.date(1970, 1, 1)).days for day in (datetime.date.min, datetime.date.max))


class ToRows(beam.PTransform[PCollection[tuple[int, pa.Table]], PCollection[Any]]):
    """(shard, ``pa.Table``), as from ``Finalize``, to a ``beam.Row`` for each row, with a schema of Beam's.

    What takes rows takes them: ``GroupBy``, ``SqlTransform``, sinks in other languages. Numbers, strings, booleans and
    bytes are Python's, dates ``datetime.date``, timestamps Beam's ``Timestamp``; each may be None.

    Args:
      schema: the columns that are to be fields, in their order.

    Raises:
      TypeError: a column of a type that Beam's rows do not have.
      KeyError, TypeError: when the pipeline runs: a table without such a column, or with one of another type.
      ValueError: likewise, a date beyond the years 1 to 9999, or a time that is not in whole microseconds.

    >>> from lse_stream.beam import Finalize, LogSumExp
    >>> schema = pa.schema([("model", pa.string()), ("logsumexp", pa.float64())])
    >>> rows = pa.table({"model": ["a", "a", "b"], "x": [0.0, 0.0, 5.0]})
    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     results = pipeline | beam.Create([rows]) | LogSumExp.PerKeyFromTables(["model"], "x") | Finalize()
    ...     _ = results | ToRows(schema) | beam.Map(print)
    Row(model='a', logsumexp=0.6931471805599453)
    Row(model='b', logsumexp=5.0)
    """

    def __init__(self, schema: pa.Schema) -> None:
        super().__init__()
        self._schema = schema
        self._fields = [(field.name, field_type(field.type)) for field in schema]
        for field, (_, python_type) in zip(schema, self._fields, strict=True):
            if python_type is Any:
                raise TypeError(f"field {field.name!r}: expected a type that Beam's rows have, found {field.type}")

    def expand(self, tables: PCollection[tuple[int, pa.Table]]) -> PCollection[Any]:
        rows_of_shard = partial(_rows_of_shard, self._schema)
        of_fields = RowTypeConstraint.from_fields(self._fields)
        rows: PCollection[Any] = tables | "Rows" >> beam.FlatMapTuple(rows_of_shard).with_output_types(of_fields)
        return rows


def _rows_of_shard(schema: pa.Schema, _: int, table: pa.Table) -> Iterator[Row]:
    columns = [column_of(table, name) for name in schema.names]
    for field, column in zip(schema, columns, strict=True):
        if column.type != field.type:
            raise TypeError(f"column {field.name!r}: expected {field.type} as in the schema, found {column.type}")
    yield from rows_of(with_beam_times(pa.Table.from_arrays(columns, schema=schema)), schema.names)


def field_type(data_type: pa.DataType) -> Any:
    """The type of a field of Beam's rows for the values of a column; Any where they have none."""
    for is_type, python_type in (
        (pa.types.is_boolean, bool),
        (pa.types.is_integer, int),
        (pa.types.is_floating, float),
        (pa.types.is_string, str),
        (pa.types.is_large_string, str),
        (pa.types.is_binary, bytes),
        (pa.types.is_date, datetime.date),
        (pa.types.is_timestamp, Timestamp),
    ):
        if is_type(value_type_of(data_type)):
            return python_type | None
    return Any


def with_beam_times(table: pa.Table) -> pa.Table:
    """The table with timestamps in microseconds and dates in days, all of which Beam's rows can have."""
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        value_type = value_type_of(column.type)
        if pa.types.is_timestamp(value_type):
            column = decode_dictionary(column)
            try:
                column = column.cast(pa.timestamp("us"))
            except pa.ArrowInvalid as error:
                raise ValueError(f"column {name!r}: expected times in whole microseconds, found {error}") from None
        elif pa.types.is_date(value_type):
            column = decode_dictionary(column).cast(pa.date32())
            days = column.cast(pa.int32()).drop_null().to_numpy()
            if (beyond := days[(days < _FIRST_DAY) | (days > _LAST_DAY)]).size:
                raise ValueError(
                    f"column {name!r}: expected dates in the years 1 to 9999, found {beyond[0]} days since 1970"
                )
        columns.append(column)
    return pa.Table.from_arrays(columns, names=table.column_names)


def rows_of(table: pa.Table, names: Sequence[str]) -> Iterator[Row]:
    """The rows of a table as ``with_beam_times`` gives it."""
    columns = [_python_values(table.column(name)) for name in names]
    for values in zip(*columns, strict=True):
        yield Row(**dict(zip(names, values, strict=True)))


def _python_values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        micros = column.cast(pa.int64()).to_pylist()
        return [None if each is None else Timestamp(micros=each) for each in micros]
    return list(column.to_pylist())
