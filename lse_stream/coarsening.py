"""Coarser keys: times cut to hours, days or months, numbers cut to bins, values mapped to groups."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .buffers import Mask, array_of, nulls_of, numbers_of, scalar_of
from .columns import decode_dictionary, value_type_of

# To what times are cut; the weeks begin on Monday.
UNITS = ("minute", "hour", "day", "week", "month", "quarter", "year")
# Of these, dates can be cut to all but the first.
_OF_TIMES_ALONE = ("minute", "hour")

# Up to there, the edges of bins are quotients of whole numbers that floating point holds.
MOST_BINS = 2**53


@dataclass(frozen=True)
class Coarsening:
    """What becomes of the key columns of a table.

    Attributes:
      truncate: by the names of columns of timestamps or dates, one of ``UNITS``.
      bins: by the names of columns of numbers, the width of a bin: a number becomes the lower edge of its own, the
        largest multiple of the width that is not above it, rounded to the nearest float where it is none.
      mapped: by the name of a column, a table of two columns: its values, each once, and what they become. The
        column takes the name of the second.
    """

    truncate: Mapping[str, str] = field(default_factory=dict)
    bins: Mapping[str, Decimal] = field(default_factory=dict)
    mapped: Mapping[str, pa.Table] = field(default_factory=dict)

    def source_of(self, name: str) -> str:
        """The column that a column of the outcome is made from."""
        return next((source for source, groups in self.mapped.items() if groups.column_names[1] == name), name)

    def schema_of(self, schema: pa.Schema) -> pa.Schema:
        """What becomes of the schema of a table.

        Raises:
          TypeError: a column cannot be cut as is asked; the message begins with ``truncate`` or ``bin``.
        """
        for name, unit in self.truncate.items():
            data_type = schema.field(name).type
            is_cut = pa.types.is_date(data_type) and unit not in _OF_TIMES_ALONE
            if not (pa.types.is_timestamp(data_type) or is_cut):
                raise TypeError(
                    f"truncate {name}={unit}: expected timestamps, or dates for days and more, found {data_type}"
                )
        for name, width in self.bins.items():
            data_type = value_type_of(schema.field(name).type)
            if not (pa.types.is_integer(data_type) or data_type in (pa.float32(), pa.float64())):
                raise TypeError(f"bin {name}={width}: expected integers, float32 or float64, found {data_type}")
            if pa.types.is_integer(data_type) and width % 1:
                raise TypeError(f"bin {name}={width}: expected a whole number for a column of {data_type}")
        return self(pa.Table.from_batches([], schema)).schema

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with those of its columns changed.

        Raises:
          ValueError: a value that is not in its map, or in none of 2^53 bins on either side of 0; column and row named.
        """
        for name, unit in self.truncate.items():
            if name in table.column_names:
                table = _with(table, name, _truncated(table.column(name), unit))
        for name, width in self.bins.items():
            if name in table.column_names:
                table = _with(table, name, _binned(name, decode_dictionary(table.column(name)), width))
        for name, groups in self.mapped.items():
            if name in table.column_names:
                table = _with(table, name, _mapped(name, table.column(name), groups), groups.column_names[1])
        return table


def _with(table: pa.Table, name: str, column: pa.ChunkedArray, new_name: str | None = None) -> pa.Table:
    return table.set_column(table.column_names.index(name), new_name or name, column)


def _truncated(column: pa.ChunkedArray, unit: str) -> pa.ChunkedArray:
    import pyarrow.compute as pc  # its import takes longer than most runs

    zone = getattr(column.type, "tz", None)
    if zone is None:
        return pc.floor_temporal(column, unit=unit).cast(column.type)
    # By the local time, of which in autumn an hour comes twice: with the same distance to UTC as before.
    naive, local = column.cast(pa.timestamp(column.type.unit)), pc.local_timestamp(column)
    cut = pc.floor_temporal(local, unit=unit)
    if unit in _OF_TIMES_ALONE:
        return pc.subtract(cut, pc.subtract(local, naive)).cast(column.type)
    return pc.assume_timezone(cut, zone, ambiguous="earliest", nonexistent="latest").cast(column.type)


def _mapped(name: str, column: pa.ChunkedArray, groups: pa.Table) -> pa.ChunkedArray:
    import pyarrow.compute as pc

    values = groups.column(0).combine_chunks()
    column = column.cast(values.type)
    if pa.types.is_floating(values.type):  # -0.0 is 0.0
        zero = scalar_of(0.0, values.type)
        values, column = pc.add(values, zero), pc.add(column, zero)
    rows = pc.index_in(column, values)
    missing = column.filter(pc.and_(rows.is_null(), column.is_valid()))
    if len(missing):
        raise ValueError(f"column {name!r}: expected values that its map contains, found {missing[0]}")
    return groups.column(1).take(rows)


def _binned(name: str, column: pa.ChunkedArray, width: Decimal) -> pa.ChunkedArray:
    cut = _cut_integers if pa.types.is_integer(column.type) else _cut_floats
    chunks: list[pa.Array] = []
    for chunk in column.chunks:
        null = nulls_of(chunk)
        numbers = numbers_of(chunk)
        edges, is_cut = cut(numbers, width)
        if null is not None:
            is_cut |= null
        if not is_cut.all():
            row = int(is_cut.argmin())
            before = sum(len(each) for each in chunks)
            raise ValueError(
                f"column {name!r}, row {before + row}: expected a number with a bin of {width} of its "
                f"own, found {numbers[row]}"
            )
        chunks.append(array_of(edges, column.type, null))
    return pa.chunked_array(chunks, column.type)


def _cut_integers(numbers: npt.NDArray[Any], width: Decimal) -> tuple[npt.NDArray[Any], Mask]:
    """Lower edges (n,), and where they are of that type."""
    wide = numbers.astype(np.uint64 if numbers.dtype == np.uint64 else np.int64)
    edges = wide - wide % wide.dtype.type(width)
    return edges.astype(numbers.dtype), (edges <= wide) & (edges >= np.iinfo(numbers.dtype).min)


def _cut_floats(numbers: npt.NDArray[Any], width: Decimal) -> tuple[npt.NDArray[Any], Mask]:
    """Likewise, and where no edge nearby is rounded twice; what is not finite stays as it is."""
    number, divisor = width.as_integer_ratio()
    is_finite = np.isfinite(numbers)
    x = np.where(is_finite, numbers, 0).astype(np.float64)

    def edges(bins: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        return (bins * number / divisor).astype(numbers.dtype)

    with np.errstate(over="ignore"):
        bins = np.floor(x * divisor / number)
    is_cut = np.abs(bins) < MOST_BINS // number - 2
    bins[~is_cut] = 0
    for _ in range(2):  # by how much the quotient may be off
        bins -= edges(bins) > x
        bins += edges(bins + 1) <= x
    return np.where(is_finite, edges(bins) + numbers.dtype.type(0), numbers), is_cut
