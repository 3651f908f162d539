"""Log-sum-exp per key over Parquet files: ``python -m pipelines.parquet --help``."""

import sys
from collections.abc import Sequence

import apache_beam as beam
import pyarrow.compute as pc
from apache_beam.pvalue import PCollection

from lse_stream.arrow import STATE
from lse_stream.parquetio import Dataset, ReadTables, WriteShards, find_files, scan
from lse_stream.transforms import Finalise, LogSumExp

from .options import Parser, check_columns
from .run import guarded, run
from .summary import counted, head, preview, read_columns, with_bonus

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

RESULTS = ("logsumexp", "count", "max")


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
    [value] = dataset.values
    paths: PCollection[str] = (
        pipeline
        | "ReadTables" >> ReadTables(dataset)
        | "LogSumExp" >> LogSumExp.PerKeyOfTables(keys, value, num_shards=num_shards, skip_nulls=skip_nulls)
        | "Finalise" >> Finalise(min_count=min_count, keep_state=state)
        | "WriteShards" >> WriteShards(directory, num_shards)
    )
    return paths


def _run(argv: Sequence[str]) -> None:
    options = Parser(PROGRAM, DESCRIPTION, EXAMPLES).parse(argv)
    check_columns({"key": options.key}, {"value": options.value}, [*RESULTS, STATE])
    dataset = scan(options.input, options.key, [options.value])

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
        print(summary(dataset, options.output, seconds, options.key, skip_nulls=options.skip_nulls), flush=True)


def summary(dataset: Dataset, directory: str, seconds: float, keys: Sequence[str], *, skip_nulls: bool) -> str:
    """What was done, and the first rows. Counted from the output, so exact also where a runner tried work again."""
    counts = read_columns(directory, ["count"])["count"]
    nulls = dataset.num_rows - (pc.sum(counts).as_py() or 0)
    what = f"{nulls:,} null" if skip_nulls else f"{counted(counts.null_count, 'key')} with a null"
    first = head(directory, [*keys, *RESULTS])
    return "\n".join(
        [
            f"{counted(dataset.num_rows, 'row')} ({what}) of {counted(dataset.num_files, 'file')}: "
            f"{counted(len(counts), 'key')} in {counted(len(find_files([directory])), 'file')}, {seconds:.1f} s",
            f"results in {directory}",
            *preview(with_bonus(first), len(counts)),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns 0, 2 for what was found before any work, 1 for a fault in mid-run."""
    return guarded(PROGRAM, _run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
