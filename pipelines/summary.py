"""What the programs print when they are done: figures read from the output, and its first rows."""

import math
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from lse_stream.parquetio import find_files, open_file
from lse_stream.text import aligned

PREVIEW_ROWS = 8


def read_columns(directory: str, columns: Sequence[str]) -> pa.Table:
    """Those columns of all rows of a directory of results."""
    tables = []
    for path in find_files([directory]):
        with open_file(path) as source:
            tables.append(pq.ParquetFile(source).read(columns=list(columns)))
    return pa.concat_tables(tables)


def head(directory: str, columns: Sequence[str]) -> pa.Table:
    """Those columns of the first rows of a directory of results."""
    batches: list[pa.RecordBatch] = []
    rows = 0
    for path in find_files([directory]):
        with open_file(path) as source:
            file = pq.ParquetFile(source)
            schema = pa.schema([file.schema_arrow.field(name) for name in columns])
            for batch in file.iter_batches(PREVIEW_ROWS - rows, columns=list(columns)):
                batches.append(batch.select(columns))
                rows += batch.num_rows
                break
        if rows >= PREVIEW_ROWS:
            break
    return pa.Table.from_batches(batches) if batches else schema.empty_table()


def preview(table: pa.Table, num_rows: int) -> list[str]:
    """The rows as text in columns, below an empty line; and how many more of ``num_rows`` there are."""
    if not table.num_rows:
        return []
    more = num_rows - table.num_rows
    return ["", *aligned(table), *([f"... and {more:,} more"] if more > 0 else [])]


def with_bonus(table: pa.Table) -> pa.Table:
    """With what the smaller terms add to the largest one as the last column."""
    pairs = zip(table["logsumexp"].to_pylist(), table["max"].to_pylist(), strict=True)
    bonus = [value - largest if value is not None and math.isfinite(value) else None for value, largest in pairs]
    return table.append_column("bonus", pa.array(bonus, pa.float64()))


def counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
