"""What the programs print when they are done: figures read from the output, its first rows, tables as text."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lse_stream.buffers import array_of
from lse_stream.files import open_file
from lse_stream.parquet.scan import Dataset, find_files
from lse_stream.parquet.sink import read_counts

PREVIEW_ROWS = 8
# Characters of a value: longer ones are cut.
_CELL = 60


class Totals(NamedTuple):
    """What the footers of a directory of results contain: rows, files, and what was counted while they were written."""

    rows: int
    files: int
    counts: Counter[str]


def read_totals(directory: str) -> Totals:
    """Reads the footers alone. As a file is written as a whole, this is exact also where work was tried again."""
    rows, counts, paths = 0, Counter[str](), find_files([directory])
    for path in paths:
        with open_file(path) as source:
            metadata = pq.read_metadata(source)
        rows += metadata.num_rows
        counts.update(read_counts(metadata))
    return Totals(rows, len(paths), counts)


def files_of(dataset: Dataset) -> str:
    """The files that were read; and of rows that were chosen, what did not need to be read."""
    files = pluralize(dataset.num_files, "file")
    if dataset.reading.where is None:
        return files
    row_groups = dataset.skipped + sum(row_group.index is not None for row_group in dataset.row_groups)
    return f"{files} (skipped {dataset.skipped:,} of {pluralize(row_groups, 'row group')})"


def none_chosen(dataset: Dataset, terms: int) -> list[str]:
    """What to say where a condition is true for no row."""
    return ["no row fulfils --where"] if dataset.reading.where is not None and not terms else []


def head(directory: str, columns: Sequence[str]) -> pa.Table:
    """Those columns of the first rows of a directory of results."""
    batches: list[pa.RecordBatch] = []
    rows = 0
    for path in find_files([directory]):
        with open_file(path) as source:
            file = pq.ParquetFile(source, pre_buffer=False)
            schema = pa.schema([file.schema_arrow.field(name) for name in columns])
            for batch in file.iter_batches(PREVIEW_ROWS - rows, columns=list(columns)):
                batches.append(batch.select(columns))
                rows += batch.num_rows
                break
        if rows >= PREVIEW_ROWS:
            break
    return pa.Table.from_batches(batches, schema)


def preview(table: pa.Table, num_rows: int) -> list[str]:
    """The rows as text in columns, below an empty line; and how many more of ``num_rows`` there are."""
    if not table.num_rows:
        return []
    more = num_rows - table.num_rows
    return ["", *aligned(table), *([f"... and {more:,} more"] if more > 0 else [])]


def with_bonus(table: pa.Table) -> pa.Table:
    """The table with a column ``bonus``: logsumexp - max, what the smaller terms add to the largest one."""
    pairs = zip(table["logsumexp"].to_pylist(), table["max"].to_pylist(), strict=True)
    bonus = [value - largest if value is not None and math.isfinite(value) else math.nan for value, largest in pairs]
    found = np.array(bonus, np.float64)
    return table.append_column("bonus", array_of(found, null=np.isnan(found)))


def pluralize(number: int, thing: str) -> str:
    """A number of things: "1 row", "2,000 rows"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def aligned(table: pa.Table, null: str = "null") -> list[str]:
    """The rows of a table as lines of text, numbers to the right, below the names of the columns."""
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        cells = [_cell(name), *(null if x is None else _cell(x) for x in _python_values(column))]
        width = max(map(len, cells))
        number = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
        columns.append([cell.rjust(width) if number else cell.ljust(width) for cell in cells])
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]


def _python_values(column: pa.ChunkedArray) -> list[Any]:
    """The values, times as text: Python has neither nanoseconds nor, everywhere, time zones."""
    data_type = column.type
    if pa.types.is_dictionary(data_type):
        return _python_values(column.cast(data_type.value_type))
    zone = ""
    if pa.types.is_timestamp(data_type) and data_type.tz is not None:
        column, zone = column.cast(pa.timestamp(data_type.unit)), "Z"
    if pa.types.is_temporal(data_type):
        column = column.cast(pa.string())
    return [text if text is None or not zone else text + zone for text in column.to_pylist()]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and (value in ("", "null") or not value.isprintable()):
        value = repr(value)
    text = str(value)
    return text if len(text) <= _CELL else f"{text[: _CELL - 3]}..."
