"""Log-sum-exp per key over Parquet files: ``python -m pipelines.parquet --help``."""

import math
import sys
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.pvalue import PCollection

from lse_stream.parquetio import Dataset, ReadTables, WriteShards, find_files, open_file, scan
from lse_stream.transforms import LogSumExp

from .options import UsageError, parse
from .run import guarded, run

PROGRAM = "parquet"

DESCRIPTION = """\
Totals a column of Parquet files by key: ln(sum(exp(value))), with the count of
terms and their max.

The result is a function of the rows alone: the same bytes for any order of
files and rows, number of workers, runner and machine.
"""

EXAMPLES = """\
examples:
  # the combined category of the storms of each season
  PROGRAM --input pipelines/samples/storms.parquet \\
      --key season --value category --output out/seasons

  # a compound key, over a directory, into four files
  PROGRAM --input data/ --key model --key fold \\
      --value loglik --num_shards 4 --output out/models

  # one total over all rows, in a form that later totals can be merged with
  PROGRAM --input 'logs/day=*/*.parquet' \\
      --value logit --state --output out/total
"""

PREVIEW_ROWS = 8


def build(
    pipeline: beam.Pipeline,
    dataset: Dataset,
    directory: str,
    *,
    keys: Sequence[str],
    num_shards: int = 1,
    skip_nulls: bool = True,
    min_count: int = 0,
    state: bool = False,
) -> PCollection[str]:
    """Adds the graph to a pipeline: the rows of ``dataset`` to ``num_shards`` files in ``directory``; their paths.

    The directory must exist. ``stage`` of ``pipelines.output`` makes one aside, ``publish`` puts it in place after the
    run.
    """
    paths: PCollection[str] = (
        pipeline
        | "ReadTables" >> ReadTables(dataset)
        | "LogSumExp" >> LogSumExp.PerKeyOfTables(keys, dataset.value, num_shards=num_shards, skip_nulls=skip_nulls)
        | "WriteShards" >> WriteShards(directory, num_shards, min_count=min_count, state=state)
    )
    return paths


def _run(argv: Sequence[str]) -> None:
    options = parse(PROGRAM, DESCRIPTION, EXAMPLES, argv)
    reserved = {options.value, "logsumexp", "count", "max", "state"}
    for i, name in enumerate(options.key):
        if name in reserved or name in options.key[:i]:
            raise UsageError(
                f"--key {name}: expected a column other than --value and the columns of the result "
                "(logsumexp, count, max, state), named once"
            )
    dataset = scan(options.input, options.key, options.value)

    def graph(pipeline: beam.Pipeline, directory: str) -> None:
        build(
            pipeline,
            dataset,
            directory,
            keys=options.key,
            num_shards=options.num_shards,
            skip_nulls=options.skip_nulls,
            min_count=options.min_count,
            state=options.state,
        )

    seconds = run(options, graph, dataset.num_rows)
    if not options.quiet:
        print(summary(dataset, options.output, seconds, len(options.key), skip_nulls=options.skip_nulls), flush=True)


def summary(dataset: Dataset, directory: str, seconds: float, num_keys: int, *, skip_nulls: bool) -> str:
    """What was done, and the first rows. Counted from the output, so exact also where a runner tried work again."""
    preview: list[pa.RecordBatch] = []
    keys = terms = null_keys = rows = 0
    parts = find_files([directory])
    for path in parts:
        with open_file(path) as source:
            file = pq.ParquetFile(source)
            for batch in file.iter_batches(columns=["count"]):
                keys += batch.num_rows
                terms += pc.sum(batch["count"]).as_py() or 0
                null_keys += batch["count"].null_count
            if rows < PREVIEW_ROWS and file.metadata.num_rows:
                columns = file.schema_arrow.names[: num_keys + 3]
                preview.append(next(file.iter_batches(PREVIEW_ROWS - rows, columns=columns)))
                rows += preview[-1].num_rows
    nulls = f"{dataset.num_rows - terms:,} null" if skip_nulls else f"{_number(null_keys, 'key')} with a null"
    lines = [
        f"{_number(dataset.num_rows, 'row')} ({nulls}) of {_number(dataset.num_files, 'file')}: "
        f"{_number(keys, 'key')} in {_number(len(parts), 'file')}, {seconds:.1f} s",
        f"results in {directory}",
    ]
    if preview:
        lines += ["", *_aligned(pa.Table.from_batches(preview))]
    if keys > rows:
        lines.append(f"... and {keys - rows:,} more")
    return "\n".join(lines)


def _number(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _aligned(table: pa.Table) -> list[str]:
    """The rows as text in columns, with what the smaller terms add to the largest one as the last."""
    pairs = zip(table["logsumexp"].to_pylist(), table["max"].to_pylist(), strict=True)
    bonus = [value - largest if value is not None and math.isfinite(value) else None for value, largest in pairs]
    table = table.append_column("bonus", pa.array(bonus, pa.float64()))
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        cells = [_cell(name), *map(_cell, _plain(column).to_pylist())]
        width = max(map(len, cells))
        number = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
        columns.append([cell.rjust(width) if number else cell.ljust(width) for cell in cells])
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """With times as text: Python has neither nanoseconds nor, everywhere, time zones."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not pa.types.is_temporal(column.type):
        return column
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        return pc.binary_join_element_wise(column.cast(pa.timestamp(column.type.unit)).cast(pa.string()), "Z", "")
    return column.cast(pa.string())


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and not (value and value.isprintable()):
        return repr(value)
    return "null" if value is None else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns 0, 2 for what was found before any work, 1 for a fault in mid-run."""
    return guarded(PROGRAM, _run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
