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
Totals a column of Parquet files by key: ln(sum(exp(value))), its count of terms and its max, for every key.

The result is a function of the rows alone: the same bytes for any order of files and rows, number of workers,
runner and machine.
"""

EXAMPLES = """\
examples:
  the combined category of the storms of each season:
    PROGRAM --input pipelines/samples/storms.parquet --key season --value category --output out/seasons
  a compound key, over a directory, in four files:
    PROGRAM --input data/ --key model --key fold --value log_likelihood --num_shards 4 --output out/evidence
  one total over all rows, kept in a form that later totals can be merged with:
    PROGRAM --input 'logs/day=*/*.parquet' --value logit --state --output out/total
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
        print(summary(dataset, options.output, seconds, len(options.key)))


def summary(dataset: Dataset, directory: str, seconds: float, num_keys: int) -> str:
    """What was done, and the first rows. Counted from the output, so exact also where a runner tried work again."""
    preview: list[pa.Table] = []
    keys = terms = rows = 0
    parts = find_files([directory])
    for path in parts:
        with open_file(path) as source:
            file = pq.ParquetFile(source)
            for batch in file.iter_batches(columns=["count"]):
                keys += batch.num_rows
                terms += pc.sum(batch["count"]).as_py() or 0
            if rows < PREVIEW_ROWS and file.metadata.num_rows:
                columns = file.schema_arrow.names[: num_keys + 3]
                preview.append(next(file.iter_batches(PREVIEW_ROWS - rows, columns=columns)))
                rows += preview[-1].num_rows
    lines = [
        f"{dataset.num_rows:,} rows, {dataset.num_rows - terms:,} nulls, {keys:,} keys, "
        f"{dataset.num_files:,} files read, {len(parts):,} written, {seconds:.1f} s",
        f"results in {directory}",
        "",
    ]
    table = [row for part in preview for row in part.to_pylist()]
    return "\n".join(lines + _aligned(table, more=keys - rows))


def _aligned(rows: list[dict[str, Any]], *, more: int) -> list[str]:
    if not rows:
        return ["no keys"]
    for row in rows:
        value, largest = row["logsumexp"], row["max"]
        # What the smaller terms add to the largest one.
        row["bonus"] = value - largest if value is not None and math.isfinite(value) else None
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return [*lines, f"... and {more:,} more"] if more else lines


def _cell(value: Any) -> str:
    return "null" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns 0, 2 for what was found before any work, 1 for a fault in mid-run."""
    return guarded(PROGRAM, _run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
