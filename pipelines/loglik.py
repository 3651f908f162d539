"""Log-likelihood totals per key, in one level or two, and WAIC: ``python -m pipelines.loglik --help``."""

import sys
from collections.abc import Sequence
from functools import partial

import pyarrow as pa

from lse_stream.buffers import array_of, nulls_of, numbers_of
from lse_stream.files import join
from lse_stream.observations import (
    COUNT,
    DOUBTFUL,
    ELPD_WAIC,
    LPPD,
    P_WAIC,
    RESULTS,
    VALUE,
    WAIC,
    check_weights,
    count_unsure,
    values_of,
    waic_of,
)
from lse_stream.parquet.scan import Dataset, scan
from lse_stream.parquet.sink import COUNTERS, TERMS
from lse_stream.plan import Engine
from lse_stream.reduction import ColumnAggregation, Reduction
from lse_stream.scales import NATURAL
from lse_stream.state_column import STATE
from lse_stream.state_table import StateTable
from lse_stream.states.aggregations import LOG_LIKELIHOOD, LOGSUMEXP, WEIGHTED_LOGSUMEXP

from .command import UsageError
from .options import COMMON, Options, Parser, check_columns
from .output import OBSERVATIONS, OVERALL, TOTALS, make_table_directory
from .run import build_of, run, run_main
from .summary import head, pluralize, preview, read_totals

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

An observation's rows may lie in different files. It writes DIR/totals, one
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

UNSURE = "unsure"


def describe(
    engine: Engine,
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
    """What is computed: of the rows of ``dataset``, files in directories inside ``directory``, which exists.

    The values of ``dataset`` are the log-likelihood and, if there are two, the weight.
    """
    value, *weight = dataset.values
    tables = engine.read("Read", dataset, partial(check_weights, weight[0], inner) if weight else None)
    if inner != "none":
        value, names = VALUE, [*keys, *observation]
        aggregation = LOG_LIKELIHOOD if waic else WEIGHTED_LOGSUMEXP if weight else LOGSUMEXP
        reduction = Reduction(
            tuple(names), {STATE: ColumnAggregation(aggregation, NATURAL, dataset.values)}, skip_nulls
        )
        states = engine.reduce("Inner", tables, reduction, num_shards if per_observation else None)
        tables = engine.finish("Observations", states, partial(values_of, inner, ddof if waic else None))
        if per_observation:
            path, counters = make_table_directory(directory, OBSERVATIONS), {UNSURE: count_unsure} if waic else {}
            engine.write("WriteObservations", tables, names, path, num_shards, counters)
    columns = {name: name for name in (LPPD, P_WAIC, ELPD_WAIC)} if waic else {STATE: value}
    sums = {name: ColumnAggregation(LOG_LIKELIHOOD, NATURAL, (column,)) for name, column in columns.items()}
    totals = engine.reduce("Sum", tables, Reduction(tuple(keys), sums, skip_nulls), num_shards)
    overall = engine.merge("Merge", totals, [], 1)
    finish = partial(waic_of, ddof) if waic else partial(StateTable.finalize, results=RESULTS, keep_state=state)
    for name, parts, of, shards in ((TOTALS, totals, keys, num_shards), (OVERALL, overall, [], 1)):
        results = engine.finish(f"Finalize {name}", parts, finish)
        engine.write(f"Write {name}", results, of, make_table_directory(directory, name), shards, COUNTERS)


build = build_of(describe)


def _parse(argv: Sequence[str]) -> Options:
    words = ("input", "key", "value", "output", "num_shards", "state", "skip_nulls", *COMMON)
    parser = Parser(PROGRAM, DESCRIPTION, EXAMPLES, words)
    parser.add_argument(
        "--observation",
        action="append",
        default=[],
        metavar="COLUMN",
        help="column that, with the key columns, distinguishes observations; repeat it for more",
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

    plan = partial(
        describe,
        dataset=dataset,
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
    seconds = run(options, plan, dataset.num_rows)
    if not options.quiet:
        print(summary(dataset, options, seconds), flush=True)


def summary(dataset: Dataset, options: Options, seconds: float) -> str:
    """What was done, and the first totals."""
    totals, overall = (join(options.output, name) for name in (TOTALS, OVERALL))
    found = read_totals(totals)
    what = "row" if options.inner == "none" else "observation"
    lines = [
        f"{pluralize(dataset.num_rows, 'row')} of {pluralize(dataset.num_files, 'file')}: "
        f"{pluralize(found.counts[TERMS], what)} of {pluralize(found.rows, 'key')}, {seconds:.1f} s",
        f"results in {options.output}",
        *preview(_shown(totals, options.key, options.waic), found.rows),
    ]
    if options.key:
        lines += ["", "overall", *preview(_shown(overall, [], options.waic), 1)[1:]]
    if options.waic and options.per_observation:
        each = read_totals(join(options.output, OBSERVATIONS))
        if unsure := each.counts[UNSURE]:
            lines += [
                "",
                f"{unsure:,} of {pluralize(each.rows, 'observation')} with p_waic above {DOUBTFUL}: WAIC is in doubt",
            ]
    return "\n".join(lines)


def _shown(directory: str, keys: Sequence[str], waic: bool) -> pa.Table:
    if not waic:
        return head(directory, [*keys, *RESULTS])
    table = head(directory, [*keys, COUNT, *WAIC])
    elpd = table[ELPD_WAIC].combine_chunks()
    return table.append_column("waic", array_of(0.0 - 2.0 * numbers_of(elpd), null=nulls_of(elpd)))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns 0, 2 for what was found before any work, 1 for a fault during the run."""
    return run_main(PROGRAM, _run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
