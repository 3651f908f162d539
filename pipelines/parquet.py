"""Log-sum-exp per key over Parquet files: ``python -m pipelines.parquet --help``."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from lse_stream.columns import value_type_of
from lse_stream.float64 import is_numeric_type
from lse_stream.integers import digits_of_type
from lse_stream.parquet.scan import Dataset, scan
from lse_stream.parquet.sink import COUNTERS, NULLS, TERMS
from lse_stream.plan import Engine
from lse_stream.reduction import ColumnAggregation, Reduction, check_results
from lse_stream.scales import NATURAL, Scale
from lse_stream.state_column import STATE
from lse_stream.state_table import StateTable
from lse_stream.states.aggregations import (
    EFFECTIVE_SAMPLE_SIZE,
    EXACT_SUM,
    LOG_LIKELIHOOD,
    LOGSUMEXP,
    MOST_DIGITS,
    WEIGHTED_LOGSUMEXP,
    Aggregation,
    exact_sum,
    find_aggregation,
)

from .command import UsageError
from .key_options import KeyOptions
from .options import Options, Parser, check_columns
from .run import build_of, run, run_main
from .summary import files_of, head, none_chosen, pluralize, preview, read_totals, with_bonus

PROGRAM = "parquet"

DESCRIPTION = """\
Totals a column of Parquet files by key: ln(sum(exp(value))), with the count of
terms and their max; or other results of the same rows.

kinds and their results:
  logsumexp              logsumexp, max, logmeanexp, bonus (over the max),
                         exp_bonus; on any --scale
  ... with --weight      logsumexp, log_abs_sum, sign, max, weight (their sum),
                         logmeanexp; on any --scale
  log_likelihood         log_likelihood (the plain sum), max, logsumexp,
                         logmeanexp, mean, variance, sum_of_squares
  effective_sample_size  effective_sample_size, max, largest_weight, logsumexp,
                         logmeanexp
  exact_sum              sum, mean, variance, min, max of plain numbers; of
                         integers and decimals sum, min and max are decimals

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

  # the equivalent level (Leq) of each station and hour, by durations
  PROGRAM --input levels/ --key station \\
      --key time --truncate time=hour --value level --scale decibel \\
      --weight seconds --result logmeanexp --output out/leq

  # plain totals, exact and the same for any order of the rows
  PROGRAM --input sales/ --key shop \\
      --value amount --kind exact_sum --output out/sales

  # one total over all rows, in a form that later totals can be merged with
  PROGRAM --input 'logs/day=*/*.parquet' \\
      --value logit --state --output out/total
"""

KINDS = (LOGSUMEXP.name, LOG_LIKELIHOOD.name, EFFECTIVE_SAMPLE_SIZE.name, EXACT_SUM.name)
COUNT = "count"


def describe(
    engine: Engine,
    dataset: Dataset,
    directory: str,
    *,
    keys: Sequence[str],
    values: Sequence[str] | None = None,
    kind: str = LOGSUMEXP.name,
    scale: Scale | str = NATURAL,
    results: Sequence[str] | None = None,
    num_shards: int = 1,
    skip_nulls: bool = True,
    min_count: int = 0,
    state: bool = False,
) -> Any:
    """What is computed: of the rows of ``dataset``, ``num_shards`` files in ``directory``, which exists.

    Args:
      values: names of the columns of the aggregation; None for ``dataset.values``.
      kind, scale: of the aggregation.
      results: names of results, with "count"; None for those of the aggregation's columns.
    """
    aggregation = ColumnAggregation.of(kind, scale, dataset.values if values is None else values)
    # Weights that are none, and decimals of too many digits, are found where their file is known.
    value_type = value_type_of(dataset.schema.field(aggregation.values[0]).type)
    may_overflow = pa.types.is_decimal(value_type) and (value_type.bit_width > 128 or value_type.scale < 0)
    check = partial(_checked, aggregation) if len(aggregation.values) > 1 or may_overflow else None
    rows = engine.read("Read", dataset, check)
    states = engine.reduce("LogSumExp", rows, Reduction(tuple(keys), {STATE: aggregation}, skip_nulls), num_shards)
    finish = partial(StateTable.finalize, results=results, min_count=min_count, keep_state=state)
    return engine.write("Write", engine.finish("Finalize", states, finish), keys, directory, num_shards, COUNTERS)


def _checked(aggregation: ColumnAggregation, table: pa.Table) -> pa.Table:
    aggregation.inputs(table, np.zeros(table.num_rows, np.int32))
    return table


build = build_of(describe)


def _run(argv: Sequence[str]) -> None:
    parser = Parser(PROGRAM, DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--kind", choices=KINDS, metavar="KIND", default=LOGSUMEXP.name, help="what is computed (default %(default)s)"
    )
    parser.add_argument(
        "--scale",
        type=_scale,
        default=NATURAL,
        help="of the values: natural (default), log2, log10, decibel, magnitude, 'base B', 'temperature T'",
    )
    parser.add_argument("--weight", metavar="COLUMN", help="column of weights of the terms")
    parser.add_argument(
        "--result",
        action="append",
        metavar="NAME",
        help="result to write, beside the count; repeat it for more (default: some of them)",
    )
    options = parser.parse(argv)
    kind = _kind(options)
    results = list(dict.fromkeys([*options.result, COUNT])) if options.result else list(kind.columns)
    check_columns({"key": options.key}, {"value": options.value, "weight": options.weight}, [*results, STATE])
    values = [options.value] if options.weight is None else [options.value, options.weight]
    key_options = KeyOptions(options)
    if kind == EXACT_SUM:
        found = scan(options.input, key_options.sources, [], {options.value: _expected_numbers}, where=options.where)
        digits = digits_of_type(value_type_of(found.schema.field(options.value).type))
        kind = kind if digits is None else exact_sum(digits)
    else:
        found = scan(options.input, key_options.sources, values, where=options.where)
    dataset = key_options.coarsen(found)
    plan = partial(
        describe,
        dataset=dataset,
        keys=options.key,
        values=values,
        kind=kind.name,
        scale=options.scale,
        results=results,
        num_shards=options.num_shards,
        skip_nulls=options.skip_nulls,
        min_count=options.min_count,
        state=options.state,
    )
    seconds = run(options, plan, dataset.num_rows, input_rows=dataset.total_rows)
    if not options.quiet:
        print(summary(dataset, options, results, seconds), flush=True)


def _expected_numbers(data_type: pa.DataType) -> str | None:
    held = value_type_of(data_type)
    if (digits_of_type(held) or 0) > MOST_DIGITS:
        return f"decimals of at most {MOST_DIGITS} digits after the point"
    if digits_of_type(held) is not None or is_numeric_type(held):
        return None
    return "integers, floats, decimals or booleans"


def _scale(text: str) -> Scale:
    try:
        return Scale(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("scale: ")) from None


def _kind(options: Options) -> Aggregation:
    """The aggregation, which knows the scale and the results that are asked for."""
    kind = find_aggregation(options.kind)
    if options.weight is not None:
        if kind != LOGSUMEXP:
            raise UsageError(f"--weight: expected none with --kind {kind.name}, found {options.weight}")
        kind = WEIGHTED_LOGSUMEXP
    try:
        kind.check_scale(options.scale)
        check_results(kind, options.result)
    except ValueError as error:
        option, _, what = str(error).partition(": ")
        raise UsageError(f"--{option.removesuffix('s')}: {what}") from None
    return kind


def summary(dataset: Dataset, options: Options, results: Sequence[str], seconds: float) -> str:
    """What was done, and the first rows."""
    found = read_totals(options.output)
    if dataset.reading.where is not None:
        what = f"{pluralize(found.counts[TERMS], 'term')} chosen"
    elif options.skip_nulls:
        what = f"{dataset.total_rows - found.counts[TERMS]:,} null"
    else:
        what = f"{pluralize(found.counts[NULLS], 'key')} with a null"
    first = head(options.output, [*options.key, *results])
    if options.kind == LOGSUMEXP.name and options.weight is None and options.result is None:
        first = with_bonus(first)
    return "\n".join(
        [
            f"{pluralize(dataset.total_rows, 'row')} ({what}) of {files_of(dataset)}: "
            f"{pluralize(found.rows, 'key')} in {pluralize(found.files, 'file')}, {seconds:.1f} s",
            f"results in {options.output}",
            *_hint(dataset, options),
            *none_chosen(dataset, found.counts[TERMS]),
            *preview(first, found.rows),
        ]
    )


def _hint(dataset: Dataset, options: Options) -> list[str]:
    """What to say where money was taken for a logarithm."""
    data_type = dataset.reading.file_schema.field(options.value).type
    if options.kind != LOGSUMEXP.name or options.scale != NATURAL or not pa.types.is_decimal(data_type):
        return []
    return [f"NOTE: {options.value} has decimals, whose plain sum --kind {EXACT_SUM.name} gives"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns 0, 2 for what was found before any work, 1 for a fault during the run."""
    return run_main(PROGRAM, _run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
