"""Log-likelihood totals per key, in one level or two, and WAIC: ``python -m pipelines.loglik --help``."""

import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import PCollection

from lse_stream.arrow import STATE, finalise, states_from_arrow
from lse_stream.keys import describe_key
from lse_stream.parquetio import DataError, Dataset, ReadTables, WriteShards, scan
from lse_stream.states import variances
from lse_stream.transforms import Finalise, LogLikelihood, LogSumExp, MergeStates, WeightedLogSumExp
from lse_stream.values import widen, widen_arrow

from .command import UsageError
from .options import Parser, check_columns
from .output import OBSERVATIONS, OVERALL, TOTALS, make_directory
from .run import guarded, run
from .summary import counted, head, preview, read_columns

PROGRAM = "loglik"

DESCRIPTION = """\
Totals log-likelihoods by key, exactly: the sum over observations, where an
observation may be many rows.

--inner says what an observation's rows are:
  none         every row is an observation: sum(value)
  logsumexp    components of a mixture: sum over observations of
               ln(sum(exp(value))), or of ln(sum(weight * exp(value)))
  logmeanexp   posterior draws: sum over observations of
               ln(mean(exp(value))), the log pointwise predictive density

An observation's rows may lie in different files. Written are DIR/totals, one
row per key, DIR/overall, one row in all, and with --per_observation
DIR/observations: the same bytes for any order of files and rows, number of
workers, runner and machine.
"""

EXAMPLES = """\
examples:
  # two models of the progress of diabetes: which predicts better?
  PROGRAM --input pipelines/samples/diabetes_draws.parquet \\
      --key model --observation patient --value log_likelihood \\
      --inner logmeanexp --waic --output out/waic

  # evidence of a mixture, per fold: rows are (fold, observation, component)
  PROGRAM --input data/ --key fold --observation id \\
      --value log_density --weight mixing_weight --inner logsumexp \\
      --output out/mixture

  # one exact total of a column
  PROGRAM --input data/ --value loglik --output out/total
"""

INNER = ("none", "logsumexp", "logmeanexp")

# Into how many shards observations go that are not written, so that all cores merge them.
INNER_SHARDS = 16

# Columns of the totals; with --waic these too (Vehtari, Gelman, Gabry, Statistics and Computing 27, 2017).
RESULTS = ("log_likelihood", "count", "max")
LPPD, P_WAIC, ELPD_WAIC, SE = WAIC = ("lppd", "p_waic", "elpd_waic", "se")
# Beyond this p_waic of an observation the same paper calls WAIC unreliable.
DOUBTFUL = 0.4
# Columns of the observations, beside those.
VALUE, COUNT = "value", "count"


def build(
    pipeline: beam.Pipeline,
    dataset: Dataset,
    directory: str,
    *,
    keys: Sequence[str] = (),
    observation: Sequence[str] = (),
    inner: str = "none",
    waic: bool = False,
    ddof: int = 1,
    per_observation: bool = False,
    num_shards: int = 1,
    skip_nulls: bool = True,
    state: bool = False,
) -> None:
    """Adds the graph to a pipeline: the rows of ``dataset`` to files in directories inside ``directory``, which exists.

    The values of ``dataset`` are the log-likelihood and, if there are two, the weight.
    """
    value, *weight = dataset.values
    tables = pipeline | "ReadTables" >> ReadTables(dataset, partial(_check_weights, weight, inner) if weight else None)
    if inner != "none":
        value, names = VALUE, [*keys, *observation]
        combine: Any = LogLikelihood if waic else WeightedLogSumExp if weight else LogSumExp
        shards = num_shards if per_observation else max(num_shards, INNER_SHARDS)
        observations = (
            tables
            | "Inner" >> combine.PerKeyOfTables(names, dataset.values, num_shards=shards, skip_nulls=skip_nulls)
            | "Observations" >> beam.MapTuple(partial(_observations, names, inner, ddof if waic else None))
        )
        if per_observation:
            path = make_directory(directory, OBSERVATIONS)
            observations | "WriteObservations" >> WriteShards(path, num_shards)
        tables = observations | "Tables" >> beam.Values()

    def sums(column: str) -> PCollection[tuple[int, pa.Table]]:
        outer = LogLikelihood.PerKeyOfTables(keys, column, num_shards=num_shards, skip_nulls=skip_nulls)
        states: PCollection[tuple[int, pa.Table]] = tables | f"Sum {column}" >> outer
        return states

    totals = {column: sums(column) for column in ((LPPD, P_WAIC, ELPD_WAIC) if waic else (value,))}
    overall = {
        column: states | f"Tables {column}" >> beam.Values() | f"Merge {column}" >> MergeStates.PerKeyOfTables([])
        for column, states in totals.items()
    }
    for name, parts, shards in ((TOTALS, totals, num_shards), (OVERALL, overall, 1)):
        if waic:
            results = (
                parts | f"Join {name}" >> beam.CoGroupByKey() | f"WAIC {name}" >> beam.MapTuple(partial(_waic, ddof))
            )
        else:
            results = parts[value] | f"Finalise {name}" >> Finalise(RESULTS, keep_state=state)
        results | f"Write {name}" >> WriteShards(make_directory(directory, name), shards)


def _check_weights(weight: Sequence[str], inner: str, table: pa.Table) -> pa.Table:
    for name in weight:
        least = 0.0 if inner == "logmeanexp" else -math.inf
        for array in widen_arrow(table.column(name)):
            weights = widen(array, f"column {name!r}")
            wrong = ~(np.isfinite(weights) & (weights >= least))
            if wrong.any():
                expected = "finite weights" + (" of 0 or more, to take a mean by" if least == 0.0 else "")
                raise ValueError(f"column {name!r}: expected {expected}, found {weights[wrong.argmax()]}")
    return table


def _observations(
    names: Sequence[str], inner: str, ddof: int | None, shard: int, table: pa.Table
) -> tuple[int, pa.Table]:
    """States per observation to values; with a ``ddof`` also what WAIC has of each."""
    results = finalise(table, results=[inner, COUNT])
    results = results.rename_columns({inner: VALUE})
    if ddof is None:
        return shard, results
    states, null = states_from_arrow(table.column(STATE))
    few = (states.counts <= ddof) & ~null
    if few.any():
        row = int(few.argmax())
        raise DataError(
            f"observation {describe_key(table, names, row)}: expected {ddof + 1} draws or more, for a variance, "
            f"found {states.counts[row]}"
        )
    p_waic = variances(states, ddof)
    for name, column in ((LPPD, results[VALUE]), (P_WAIC, p_waic), (ELPD_WAIC, results[VALUE].to_numpy() - p_waic)):
        results = results.append_column(name, column if name == LPPD else pa.array(column, mask=null))
    return shard, results


def _waic(ddof: int, shard: int, parts: dict[str, list[pa.Table]]) -> tuple[int, pa.Table]:
    """The states of each column of the observations, which have the same keys in the same order, to totals."""
    tables = {name: table for name, [table] in parts.items()}
    results = finalise(tables[LPPD], results=RESULTS)
    for name, table in tables.items():
        results = results.append_column(name, finalise(table, results=RESULTS[:1])[RESULTS[0]])
    states, null = states_from_arrow(tables[ELPD_WAIC].column(STATE))
    with np.errstate(invalid="ignore"):
        return shard, results.append_column(SE, pa.array(np.sqrt(states.counts * variances(states, ddof)), mask=null))


def _parse(argv: Sequence[str]) -> Namespace:
    words = ("input", "key", "value", "output", "num_shards", "state", "skip_nulls", "overwrite", "quiet", "traceback")
    parser = Parser(PROGRAM, DESCRIPTION, EXAMPLES, words)
    parser.add_argument(
        "--observation",
        action="append",
        default=[],
        metavar="COLUMN",
        help="column that, with the key columns, tells observations apart; repeat it for more",
    )
    parser.add_argument("--inner", choices=INNER, default="none", help="what an observation's rows are (default none)")
    parser.add_argument("--weight", metavar="COLUMN", help="column of weights of an observation's rows")
    parser.add_argument(
        "--waic",
        action="store_true",
        help="with --inner logmeanexp, also lppd, p_waic, elpd_waic and its standard error",
    )
    parser.add_argument(
        "--ddof", type=int, choices=(0, 1), default=1, help="1 for sample variances (default), 0 for those of ArviZ"
    )
    parser.add_argument("--per_observation", action="store_true", help="also write DIR/observations")
    options = parser.parse(argv)
    two_levels = options.inner != "none"
    if two_levels and not options.observation:
        raise UsageError(f"--inner {options.inner}: expected --observation, found none")
    for word in ("observation", "weight", "per_observation"):
        if getattr(options, word) and not two_levels:
            raise UsageError(f"--{word}: expected --inner logsumexp or logmeanexp with it, found none")
    if options.waic and options.inner != "logmeanexp":
        raise UsageError(f"--waic: expected --inner logmeanexp with it, found {options.inner}")
    for word in ("weight", "state"):
        if options.waic and getattr(options, word):
            raise UsageError(f"--waic: expected no --{word} with it, found one")
    check_columns(
        {"key": options.key, "observation": options.observation},
        {"value": options.value, "weight": options.weight},
        [*RESULTS, VALUE, *WAIC, STATE],
    )
    return options


def _run(argv: Sequence[str]) -> None:
    options = _parse(argv)
    values = [options.value] if options.weight is None else [options.value, options.weight]
    dataset = scan(options.input, [*options.key, *options.observation], values)

    def graph(pipeline: beam.Pipeline, directory: str) -> None:
        build(
            pipeline,
            dataset,
            directory,
            keys=options.key,
            observation=options.observation,
            inner=options.inner,
            waic=options.waic,
            ddof=options.ddof,
            per_observation=options.per_observation,
            num_shards=options.num_shards,
            skip_nulls=options.skip_nulls,
            state=options.state,
        )

    seconds = run(options, graph, dataset.num_rows)
    if not options.quiet:
        print(summary(dataset, options, seconds), flush=True)


def summary(dataset: Dataset, options: Namespace, seconds: float) -> str:
    """What was done, and the first totals."""
    totals, overall = (FileSystems.join(options.output, name) for name in (TOTALS, OVERALL))
    counts = read_columns(totals, [COUNT])[COUNT]
    what = "row" if options.inner == "none" else "observation"
    lines = [
        f"{counted(dataset.num_rows, 'row')} of {counted(dataset.num_files, 'file')}: "
        f"{counted(pc.sum(counts).as_py() or 0, what)} of {counted(len(counts), 'key')}, {seconds:.1f} s",
        f"results in {options.output}",
        *preview(_shown(totals, options.key, options.waic), len(counts)),
    ]
    if options.key:
        lines += ["", "overall", *preview(_shown(overall, [], options.waic), 1)[1:]]
    if options.waic and options.per_observation:
        p_waic = read_columns(FileSystems.join(options.output, OBSERVATIONS), [P_WAIC])[P_WAIC]
        if doubtful := pc.sum(pc.greater(p_waic, DOUBTFUL)).as_py():
            lines += [
                "",
                f"{doubtful:,} of {counted(len(p_waic), 'observation')} with p_waic above {DOUBTFUL}: WAIC is in doubt",
            ]
    return "\n".join(lines)


def _shown(directory: str, keys: Sequence[str], waic: bool) -> pa.Table:
    if not waic:
        return head(directory, [*keys, *RESULTS])
    table = head(directory, [*keys, COUNT, *WAIC])
    return table.append_column("waic", pc.multiply(table[ELPD_WAIC], -2.0))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns 0, 2 for what was found before any work, 1 for a fault in mid-run."""
    return guarded(PROGRAM, _run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
