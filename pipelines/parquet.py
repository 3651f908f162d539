"""Log-sum-exp per key over Parquet files: ``python -m pipelines.parquet --help``."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from lse_stream.parquet.scan import Dataset, scan
from lse_stream.parquet.sink import COUNTERS, NULLS, TERMS
from lse_stream.plan import Engine
from lse_stream.reduction import ColumnAggregation, Reduction
from lse_stream.scales import NATURAL
from lse_stream.state_column import STATE
from lse_stream.state_table import StateTable
from lse_stream.states.aggregations import LOGSUMEXP

from .options import Parser, check_columns
from .run import build_of, run, run_main
from .summary import head, pluralize, preview, read_totals, with_bonus

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


def describe(
    engine: Engine,
    dataset: Dataset,
    directory: str,
    *,
    keys: Sequence[str],
    num_shards: int = 1,
    skip_nulls: bool = True,
    min_count: int = 0,
    state: bool = False,
) -> Any:
    """What is computed: of the rows of ``dataset``, ``num_shards`` files in ``directory``, which exists."""
    aggregation = ColumnAggregation(LOGSUMEXP, NATURAL, dataset.values)
    rows = engine.read("Read", dataset)
    states = engine.reduce("LogSumExp", rows, Reduction(tuple(keys), {STATE: aggregation}, skip_nulls), num_shards)
    results = engine.finish("Finalize", states, partial(StateTable.finalize, min_count=min_count, keep_state=state))
    return engine.write("Write", results, keys, directory, num_shards, COUNTERS)


build = build_of(describe)


def _run(argv: Sequence[str]) -> None:
    options = Parser(PROGRAM, DESCRIPTION, EXAMPLES).parse(argv)
    check_columns({"key": options.key}, {"value": options.value}, [*RESULTS, STATE])
    dataset = scan(options.input, options.key, [options.value])
    plan = partial(
        describe,
        dataset=dataset,
        keys=options.key,
        num_shards=options.num_shards,
        skip_nulls=options.skip_nulls,
        min_count=options.min_count,
        state=options.state,
    )
    seconds = run(options, plan, dataset.num_rows)
    if not options.quiet:
        print(summary(dataset, options.output, seconds, options.key, skip_nulls=options.skip_nulls), flush=True)


def summary(dataset: Dataset, directory: str, seconds: float, keys: Sequence[str], *, skip_nulls: bool) -> str:
    """What was done, and the first rows."""
    found = read_totals(directory)
    nulls = dataset.num_rows - found.counts[TERMS]
    what = f"{nulls:,} null" if skip_nulls else f"{pluralize(found.counts[NULLS], 'key')} with a null"
    first = head(directory, [*keys, *RESULTS])
    return "\n".join(
        [
            f"{pluralize(dataset.num_rows, 'row')} ({what}) of {pluralize(dataset.num_files, 'file')}: "
            f"{pluralize(found.rows, 'key')} in {pluralize(found.files, 'file')}, {seconds:.1f} s",
            f"results in {directory}",
            *preview(with_bonus(first), found.rows),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns 0, 2 for what was found before any work, 1 for a fault during the run."""
    return run_main(PROGRAM, _run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
