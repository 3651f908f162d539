"""Log-likelihood totals per key, in one level or two, leave-one-out and WAIC: ``python -m pipelines.loglik --help``."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lse_stream.buffers import array_of, nulls_of, numbers_of
from lse_stream.errors import errors_of_writing
from lse_stream.files import join, names_below, open_file
from lse_stream.layouts import OBSERVATION
from lse_stream.observations import (
    BAD,
    COUNT,
    DOUBTFUL,
    ELPD_WAIC,
    LOO,
    MC_VARIANCE,
    PARETO_K,
    RESULTS,
    ROWS,
    VALUE,
    VERY_BAD,
    WAIC,
    Evaluation,
    check_weights,
    classify,
    count_unsure,
    evaluate,
    of_whole_draws,
    sums_of,
    total,
    values_of,
)
from lse_stream.parquet.scan import Dataset
from lse_stream.parquet.sink import COUNTERS, TERMS
from lse_stream.parquet.source import Convert
from lse_stream.plan import Engine
from lse_stream.reduction import ColumnAggregation, Reduction
from lse_stream.scales import NATURAL
from lse_stream.state_column import STATE
from lse_stream.state_table import StateTable
from lse_stream.states.aggregations import LOG_LIKELIHOOD, LOGSUMEXP, WEIGHTED_LOGSUMEXP
from lse_stream.states.leave_one_out import LARGEST_GOOD_K, good_k, values_to_keep

from .command import UsageError
from .log_likelihoods import Found, found_by
from .options import COARSER, COMMON, Options, Parser, check_columns
from .output import OBSERVATIONS, OVERALL, TOTALS, check_apart, make_table_directory
from .picture import add_picture_option, check_picture, save_picture
from .run import build_of, errors_as_run_error, run, run_here, run_main
from .summary import files_of, head, none_chosen, pluralize, preview, read_totals

PROGRAM = "loglik"

DESCRIPTION = """\
Totals log-likelihoods by key, exactly: the sum over observations, where an
observation may be many rows.

--inner says what an observation's rows are:
  none         every row is an observation: sum(value)
  logsumexp    components of a mixture: sum over observations of
               ln(sum(exp(value))), or of ln(sum(weight * exp(value)))
  logmeanexp   posterior draws: sum over observations of
               ln(mean(exp(value))), the log pointwise predictive density;
               with --loo also how well each observation is predicted by
               the others (PSIS-LOO), with --waic an approximation of that

An observation's rows may lie in different files. With logmeanexp, draws may
also be in other layouts, of Parquet files and (--wide) of CmdStan's CSV files:
  --wide PATTERN            a row is a draw, a column an observation
  --value LISTS             a row is a draw, with a list of all observations,
                            which are called by their positions, from 0
  --value LISTS --observation COLUMN
                            a row is an observation, with a list of its draws
  --value state             a row is a state that --per_observation --state
                            wrote: of chains or batches that are merged here
In rows, --group leaves out groups in place of observations: the values of a
group and a draw (--draw) are summed first.

It writes DIR/totals, one row per key, DIR/overall, one row in all, and with
--per_observation DIR/observations: the same bytes for any order of files and
rows, number of workers, runner and machine.
"""

EXAMPLES = """\
examples:
  # two models of the progress of diabetes: which predicts better?
  PROGRAM --input pipelines/samples/diabetes_draws.parquet \\
      --key model --observation patient --value log_likelihood \\
      --inner logmeanexp --loo --per_observation --output out/loo

  # evidence of a mixture, per fold: rows are (fold, observation, component)
  PROGRAM --input data/ --key fold --observation id \\
      --value log_density --weight mixing_weight --inner logsumexp \\
      --output out/mixture

  # what CmdStan has written, a file for each chain: leave-one-out
  PROGRAM --input 'chain_*.csv' --wide 'log_lik[*]' \\
      --inner logmeanexp --loo --output out/loo

  # a column for each observation, and two models in one file
  PROGRAM --input wide.parquet --wide 'log_lik.*' \\
      --key model --inner logmeanexp --waic --output out/models

  # a list of all observations for each draw
  PROGRAM --input draws.parquet --value log_lik \\
      --inner logmeanexp --loo --per_observation --output out/lists

  # leave out a patient, of whom there are many rows for each draw
  PROGRAM --input visits.parquet --value log_lik \\
      --group patient --draw draw --inner logmeanexp --loo --output out/patients

  # chains together, each evaluated with --draws 4000 --per_observation --state
  PROGRAM --input 'out/chain_*/observations' \\
      --value state --observation patient \\
      --inner logmeanexp --loo --output out/all

  # one exact total of a column
  PROGRAM --input data/ --value loglik --output out/total
"""

INNER = ("none", "logsumexp", "logmeanexp")

UNSURE = "unsure"
NO_EVALUATION = Evaluation()


def describe(
    engine: Engine,
    dataset: Dataset,
    directory: str,
    *,
    keys: Sequence[str] = (),
    observation: Sequence[str] = (),
    inner: str = "none",
    evaluation: Evaluation = NO_EVALUATION,
    per_observation: bool = False,
    num_shards: int = 1,
    skip_nulls: bool = True,
    state: bool = False,
    layout: Convert | None = None,
    draw: Sequence[str] = (),
    stored: bool = False,
) -> None:
    """What is computed: of the rows of ``dataset``, files in directories inside ``directory``, which exists.

    The values of ``dataset`` are the log-likelihood and, if there are two, the weight.

    Args:
      layout: makes the tables of ``dataset`` rows, where they are not.
      draw: columns that tell draws apart, where the rows of an observation and a draw are to be summed.
      stored: the rows of ``dataset`` are states of observations.
    """
    names, value = [*keys, *observation], VALUE
    tables, columns = _rows(engine, dataset, names, inner, skip_nulls, layout, draw)
    if inner == "none":
        (value,) = columns
    else:
        shards = num_shards if per_observation else None
        if stored:
            states = engine.merge("Inner", tables, names, shards)
        else:
            aggregation = evaluation.aggregation if evaluation else WEIGHTED_LOGSUMEXP if columns[1:] else LOGSUMEXP
            aggregations = {STATE: ColumnAggregation(aggregation, NATURAL, columns)}
            if draw:
                aggregations[ROWS] = ColumnAggregation(LOG_LIKELIHOOD, NATURAL, (ROWS,))
            states = engine.reduce("Inner", tables, Reduction(tuple(names), aggregations, skip_nulls), shards)
        finish = partial(evaluate, evaluation, state) if evaluation else partial(values_of, inner, state)
        tables = engine.finish("Observations", states, partial(of_whole_draws, finish) if draw else finish)
        if per_observation:
            counters = {UNSURE: count_unsure} if evaluation.waic else {}
            path = make_table_directory(directory, OBSERVATIONS)
            engine.write("WriteObservations", tables, names, path, num_shards, counters)
        if evaluation.loo:
            tables = engine.map("Classify", tables, classify)
    summed = {name: name for name in evaluation.per_observation} if evaluation else {STATE: value}
    sums = {name: ColumnAggregation(LOG_LIKELIHOOD, NATURAL, (column,)) for name, column in summed.items()}
    totals = engine.reduce("Sum", tables, Reduction(tuple(keys), sums, skip_nulls), num_shards)
    overall = engine.merge("Merge", totals, [], 1)
    finish = (
        partial(total, evaluation) if evaluation else partial(StateTable.finalize, results=RESULTS, keep_state=state)
    )
    for name, parts, of, shards in ((TOTALS, totals, keys, num_shards), (OVERALL, overall, [], 1)):
        results = engine.finish(f"Finalize {name}", parts, finish)
        engine.write(f"Write {name}", results, of, make_table_directory(directory, name), shards, COUNTERS)


def _rows(
    engine: Engine,
    dataset: Dataset,
    names: list[str],
    inner: str,
    skip_nulls: bool,
    layout: Convert | None,
    draw: Sequence[str],
) -> tuple[Any, tuple[str, ...]]:
    """The rows of observations, which have the key columns ``names``, and which of their columns are the values."""
    if layout is not None:
        return engine.read("Read", dataset, layout), (VALUE,)
    _, *weight = dataset.values
    tables = engine.read("Read", dataset, partial(check_weights, weight[0], inner) if weight else None)
    if not draw:
        return tables, dataset.values
    reduction = Reduction(
        (*names, *draw), {STATE: ColumnAggregation(LOG_LIKELIHOOD, NATURAL, dataset.values)}, skip_nulls
    )
    return engine.finish("SumOfDraws", engine.reduce("Draws", tables, reduction), partial(sums_of, names)), (VALUE,)


def smallest(options: Options, found: Found) -> int:
    """How many of the smallest values of an observation leave-one-out needs."""
    if found.stored is not None:
        return found.stored.parameter or 1
    return values_to_keep(_most_draws(options, found) if options.draws is None else options.draws, _r_eff(options))


def _r_eff(options: Options) -> float:
    return 1.0 if options.r_eff is None else float(options.r_eff)


def _most_draws(options: Options, found: Found) -> int:
    """How many draws the observation has that has most: by the footers, or a pass over the data in this process."""
    if found.draws is not None:
        return max(found.draws, 1)
    counts: list[int] = []

    def note(states: StateTable) -> pa.Table:
        counts.append(int(states.states[STATE].array.counts.max(initial=0)))
        return states.keys

    def count(engine: Engine, /, *, directory: str) -> None:
        del directory
        names = [*options.key, *found.observation]
        tables, values = _rows(
            engine, found.dataset, names, options.inner, options.skip_nulls, found.layout, options.draw
        )
        reduction = Reduction(tuple(names), {STATE: ColumnAggregation(LOGSUMEXP, NATURAL, values)}, options.skip_nulls)
        engine.finish("Count", engine.reduce("Count draws", tables, reduction), note)

    run_here(options, count, options.output, found.dataset.rows_read)
    return max(counts, default=1) or 1


build = build_of(describe)


def _parse(argv: Sequence[str]) -> Options:
    words = ("input", "where", "key", *COARSER, "output", "num_shards", "state", "skip_nulls", *COMMON)
    parser = Parser(PROGRAM, DESCRIPTION, EXAMPLES, words)
    parser.add_argument("--value", metavar="COLUMN", help="column of log-likelihoods, of lists or of states, see above")
    parser.add_argument(
        "--wide",
        metavar="PATTERN",
        help="in place of --value: a column for each observation, such as 'log_lik[*]', where * stands for the index, "
        "in brackets or behind dots",
    )
    parser.add_argument(
        "--observation",
        action="append",
        default=[],
        metavar="COLUMN",
        help="column that, with the key columns, distinguishes observations; repeat it for more",
    )
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="COLUMN",
        help="in place of --observation: column of groups, whose rows are summed for each draw; repeat it for more",
    )
    parser.add_argument(
        "--draw",
        action="append",
        default=[],
        metavar="COLUMN",
        help="with --group: column that tells draws apart; repeat it for more, such as chain and number",
    )
    parser.add_argument("--inner", choices=INNER, default="none", help="what an observation's rows are (default none)")
    parser.add_argument("--weight", metavar="COLUMN", help="column of weights of an observation's rows")
    parser.add_argument(
        "--waic", action="store_true", help="with --inner logmeanexp, also p_waic, elpd_waic and its standard error"
    )
    parser.add_argument(
        "--ddof",
        type=int,
        choices=(0, 1),
        help="of WAIC's variances: 1 for samples (default), 0 for those of ArviZ",
    )
    parser.add_argument(
        "--loo",
        action="store_true",
        help="with --inner logmeanexp, leave-one-out cross-validation by Pareto smoothed importance sampling",
    )
    parser.add_argument(
        "--draws",
        type=int,
        metavar="N",
        help="draws of an observation, in all parts that will ever be merged (without it they are counted first)",
    )
    parser.add_argument("--r_eff", type=float, metavar="R", help="effective over actual draws, for --loo (default 1)")
    parser.add_argument(
        "--tail", choices=("floor", "r"), help="the tail's length: rounded down (default), or up as R's loo does"
    )
    parser.add_argument("--per_observation", action="store_true", help="also write DIR/observations")
    add_picture_option(parser)
    options = parser.parse(argv)
    two_levels = options.inner != "none"
    _check_layout(options)
    for word in ("observation", "weight", "per_observation"):
        if getattr(options, word) and not two_levels:
            raise UsageError(f"--{word}: expected --inner logsumexp or logmeanexp with it, found none")
    for word in ("waic", "loo"):
        if not getattr(options, word):
            continue
        if options.inner != "logmeanexp":
            needs = "--inner logmeanexp with it, and --observation unless the value is a column of lists"
            raise UsageError(f"--{word}: expected {needs}, found --inner {options.inner}")
        if options.weight:
            raise UsageError(f"--{word}: expected no --weight with it, found one")
        if options.state and not options.per_observation:
            raise UsageError(f"--state: expected --per_observation with it and --{word}, found none")
    for word, other in (("draws", "loo"), ("r_eff", "loo"), ("tail", "loo"), ("ddof", "waic")):
        if getattr(options, word) is not None and not getattr(options, other):
            raise UsageError(f"--{word}: expected --{other} with it, found none")
    if options.picture is not None:
        for word in ("loo", "per_observation"):
            if not getattr(options, word):
                raise UsageError(f"--picture: expected --{word} with it, for its Pareto k, found none")
        check_picture(options.picture, overwrite=options.overwrite)
        check_apart(options.output, [options.picture], "the picture")
    try:
        values_to_keep(1 if options.draws is None else options.draws, _r_eff(options))
    except ValueError as error:
        raise UsageError(f"--{error}") from error
    uses = ((OBSERVATION, options.wide), (ROWS, options.group), (MC_VARIANCE, options.loo))
    on_the_way = [name for name, used in uses if used]
    check_columns(
        {"key": options.key, "observation": options.observation, "group": options.group, "draw": options.draw},
        {"value": options.value, "weight": options.weight},
        list(dict.fromkeys([*RESULTS, VALUE, *WAIC, *LOO, PARETO_K, STATE, *on_the_way])),
    )
    return options


def _check_layout(options: Options) -> None:
    """What can be said before any file is seen."""
    if options.value is None and options.wide is None:
        raise UsageError("--value: expected it, or --wide, found none")
    for word in ("wide", "group"):
        if getattr(options, word) and options.inner != "logmeanexp":
            raise UsageError(f"--{word}: expected --inner logmeanexp with it, found {options.inner}")
    for word in ("value", "observation", "weight", "group"):
        if options.wide is not None and getattr(options, word):
            raise UsageError(f"--{word}: expected none with --wide, found one")
    for word in ("observation", "weight"):
        if options.group and getattr(options, word):
            raise UsageError(f"--{word}: expected none with --group, found one")
    for word, other in (("group", "draw"), ("draw", "group")):
        if getattr(options, word) and not getattr(options, other):
            raise UsageError(f"--{word}: expected --{other} with it, found none")
    if options.wide is not None and options.wide.count("*") != 1:
        raise UsageError(f"--wide {options.wide}: expected one * where the index stands, as in 'log_lik[*]'")
    if options.inner == "logsumexp" and not options.observation:
        raise UsageError("--inner logsumexp: expected --observation, found none")


def _run(argv: Sequence[str]) -> None:
    options = _parse(argv)
    evaluation = Evaluation(
        waic=options.waic,
        ddof=1 if options.ddof is None else options.ddof,
        loo=options.loo,
        r_eff=_r_eff(options),
        round_up=options.tail == "r",
    )

    start = time.monotonic()
    with found_by(options) as found:

        def plan(engine: Engine, /, *, directory: str) -> None:
            describe(
                engine,
                found.dataset,
                directory,
                keys=options.key,
                observation=found.observation,
                inner=options.inner,
                evaluation=replace(evaluation, smallest=smallest(options, found)) if options.loo else evaluation,
                per_observation=options.per_observation,
                num_shards=options.num_shards,
                skip_nulls=options.skip_nulls,
                state=options.state,
                layout=found.layout,
                draw=options.draw,
                stored=found.stored is not None,
            )

        rows = found.dataset.total_rows
        run(options, plan, found.dataset.rows_read, input_rows=rows, temporary=found.temporary)
    if options.picture is not None:
        with errors_as_run_error(options), errors_of_writing(options.picture):
            draw_pareto_k(join(options.output, OBSERVATIONS), options.picture)
    if not options.quiet:
        print(summary(found, options, evaluation, time.monotonic() - start), flush=True)


def summary(source: Found, options: Options, evaluation: Evaluation, seconds: float) -> str:
    """What was done, and the first totals."""
    totals, overall = (join(options.output, name) for name in (TOTALS, OVERALL))
    found = read_totals(totals)
    what = "row" if options.inner == "none" else "group" if options.group else "observation"
    warmup = f", without {pluralize(source.warmup, 'draw')} of warm-up" if source.warmup else ""
    read = pluralize(source.dataset.total_rows, "row" if source.stored is None else "state")
    nulls = f" with {pluralize(source.nulls, 'null')}" if source.nulls else ""
    lines = [
        f"{read} of {files_of(source.dataset)}{nulls}{warmup}: "
        f"{pluralize(found.counts[TERMS], what)} of {pluralize(found.rows, 'key')}, {seconds:.1f} s",
        f"results in {options.output}",
        *none_chosen(source.dataset, found.counts[TERMS]),
        *_missing_draws(source, evaluation),
        *([] if options.picture is None else [f"picture in {options.picture}"]),
        *preview(_shown(totals, options.key, evaluation), found.rows),
    ]
    if options.key:
        lines += ["", "overall", *preview(_shown(overall, [], evaluation), 1)[1:]]
    if evaluation.waic and options.per_observation:
        each = read_totals(join(options.output, OBSERVATIONS))
        if unsure := each.counts[UNSURE]:
            lines += [
                "",
                f"{unsure:,} of {pluralize(each.rows, 'observation')} with p_waic above {DOUBTFUL}: WAIC is in doubt",
            ]
    if evaluation.loo and found.counts[TERMS]:
        [counts] = head(overall, [COUNT, BAD, VERY_BAD]).to_pylist()
        lines += ["", _advice(counts[COUNT], counts[BAD] or 0, counts[VERY_BAD] or 0)]
    return "\n".join(lines)


def _missing_draws(source: Found, evaluation: Evaluation) -> list[str]:
    """What to say where a null takes the place of a draw."""
    if not (source.nulls and (evaluation.loo or evaluation.waic)):
        return []
    return [
        f"NOTE: {pluralize(source.nulls, 'log-likelihood')} null: such an observation has fewer draws than the others"
    ]


def _advice(observations: int, bad: int, very_bad: int) -> str:
    """What the Pareto k mean, as the paper and ArviZ have it."""
    large = bad + very_bad
    if not large:
        return "Pareto k is good for all observations: elpd_loo can be relied on"
    return (
        f"{large:,} of {pluralize(observations, 'observation')} with a Pareto k that is too large, {very_bad:,} of "
        "them above 1: there,\nand in the total, elpd_loo cannot be relied on. The model does not expect these "
        "observations, or (a k of inf)\ntheir draws are too few or too much alike to tell. Refit without each of them, "
        "use K-fold cross-validation,\nor look for a model with heavier tails. DIR/observations (--per_observation) "
        "has the k of each"
    )


def draw_pareto_k(directory: str, path: str) -> None:
    """Draws the Pareto k of a table of observations, in its order, as ``az.plot_khat``; the same bytes each time."""
    import matplotlib.figure

    paths = [join(directory, name) for name in sorted(names_below(directory))]
    tables = [pq.read_table(open_file(path), columns=[PARETO_K, COUNT]).drop_null() for path in paths]
    k, draws = (
        np.concatenate([numbers_of(chunk) for table in tables for chunk in table[name].chunks])
        for name in (PARETO_K, COUNT)
    )
    limits, fitted = good_k(draws), np.isfinite(k)
    top = max(1.2, 1.1 * float(k[fitted].max(initial=0.0)))
    figure = matplotlib.figure.Figure(figsize=(9.0, 4.0), layout="constrained")
    axes = figure.subplots()
    number = np.arange(k.size)
    for some, color in ((k <= limits, "tab:blue"), ((k > limits) & (k <= 1.0), "tab:orange"), (k > 1.0, "tab:red")):
        axes.plot(number[some & fitted], k[some & fitted], "+", color=color, rasterized=True)
        axes.plot(number[some & ~fitted], np.full((some & ~fitted).sum(), top), "^", color=color, rasterized=True)
    for limit in {float(limits.max()) if limits.size else LARGEST_GOOD_K, 1.0}:
        axes.axhline(limit, color="gray", linestyle="--", linewidth=1.0, zorder=0)
    axes.set_xlabel("observation, by its place in the table (triangles: no fit)")
    axes.set_ylabel("Pareto k")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{(k > limits).sum():,} of {k.size:,} observations with a Pareto k that is too large")
    save_picture(figure, path, PROGRAM)


def _shown(directory: str, keys: Sequence[str], evaluation: Evaluation) -> pa.Table:
    if not evaluation:
        return head(directory, [*keys, *RESULTS])
    table = head(directory, [*keys, COUNT, *evaluation.totals])
    if not evaluation.waic:
        return table
    elpd = table[ELPD_WAIC].combine_chunks()
    return table.append_column("waic", array_of(0.0 - 2.0 * numbers_of(elpd), null=nulls_of(elpd)))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns 0, 2 for what was found before any work, 1 for a fault during the run."""
    return run_main(PROGRAM, _run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
