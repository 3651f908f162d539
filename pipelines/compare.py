"""Models compared by their elpd per observation: ``python -m pipelines.compare --help``.

It holds one number per observation and model, and works in this process alone: there is nothing for a runner to do.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lse_stream.buffers import nulls_of_column
from lse_stream.columns import value_type_of
from lse_stream.errors import InputError, errors_of_writing
from lse_stream.files import is_local, join
from lse_stream.float64 import column_to_float64_exact
from lse_stream.keys import describe_key, encode_keys
from lse_stream.look_up import LookUp
from lse_stream.model_comparison import FEW_OBSERVATIONS, SMALL_DIFFERENCE, WEIGHTS, compare_models
from lse_stream.observations import COUNT, ELPD_LOO, ELPD_WAIC, LPPD, P_LOO, P_WAIC, PARETO_K, VALUE
from lse_stream.parquet.scan import Dataset, find_files, scan
from lse_stream.parquet.sink import write_shard
from lse_stream.parquet.source import RowGroupReader
from lse_stream.predicates import Condition
from lse_stream.table_functions import sort_by_keys, take_rows

from .command import ArgumentParser, UsageError
from .options import Options, add_words, check_columns, given
from .output import OBSERVATIONS, OVERALL, check_apart, prepare_output
from .picture import add_picture_option, check_picture, save_picture
from .provenance import write_provenance
from .run import errors_as_run_error, run_main, staged
from .summary import aligned, pluralize

PROGRAM = "compare"

DESCRIPTION = """\
Compares models by their expected log predictive density (elpd), from what
loglik --per_observation wrote of each: which predicts best, by how much, how
sure that is, and with what weights they would best predict together.

  elpd_diff  the elpd less that of the best model
  se_diff    its standard error, from the differences of the observations
  p_worse    the probability that the model is worse than the best
  weight     stacking: of the mixture that predicts best; pseudo-bma: as
             Akaike weights; pseudo-bma+: these over a Bayesian bootstrap
  bad_k      observations whose Pareto k says that their elpd is not reliable

The output is a table with a row per model, best first: the same bytes for any
order of files and rows, and on every machine.
"""

EXAMPLES = """\
examples:
  # two models of the progress of diabetes: which predicts better?
  COMMAND loglik --input pipelines/samples/diabetes_draws.parquet \\
      --key model --observation patient --value log_likelihood \\
      --inner logmeanexp --loo --per_observation --output out/loo
  PROGRAM --input out/loo --model model \\
      --output out/compared

  # models that loglik was run for one by one, with a picture
  PROGRAM --input linear=out/linear spline=out/spline \\
      --weights pseudo-bma+ --picture out/models.svg --output out/models
"""

# By an elpd: the columns of p, k, and how many draws they come from.
BESIDE = {ELPD_LOO: {"p": P_LOO, "pareto_k": PARETO_K, "draws": COUNT}, ELPD_WAIC: {"p": P_WAIC}}
# With one of these the results begin in a table that loglik wrote.
RESULTS = (VALUE, COUNT, LPPD, *BESIDE)

Floats = npt.NDArray[np.float64]


class Source(NamedTuple):
    """Files of one model; of several where there is no name."""

    model: str | None
    path: str


class Columns(NamedTuple):
    """What is read: columns that name observations, that of elpd, and by the names of arguments those beside it."""

    observation: list[str]
    value: str
    beside: dict[str, str]


# --- what is given ----------------------------------------------------------------------------------------------------


def sources_of(inputs: Sequence[str], model: str | None) -> list[Source]:
    """The files that --input names, and the models they are of where no column says it.

    Raises:
      UsageError: a model twice, by its name or by its files.
      InputError: results of loglik without observations.
    """
    sources: list[Source] = []
    for text in inputs:
        name, equals, path = text.partition("=")
        if model is not None or not equals or "/" in name:
            name, path = "", text
        elif not (name and path):
            raise UsageError(f"--input {text}: expected NAME=DIR, found no such pair")
        place = _observations_in(path)
        if model is None and not name:
            name = os.path.basename(path.rstrip("/").removesuffix(f"/{OBSERVATIONS}")).removesuffix(".parquet")
        if model is None and name in (source.model for source in sources):
            raise UsageError(f"--input {text}: expected each model once, found {name!r} again: give it another NAME=")
        same = next((source for source in sources if os.path.realpath(source.path) == os.path.realpath(place)), None)
        if same is not None and is_local(place):
            raise UsageError(f"--input {text}: expected results of another model, found those of {same.model or path}")
        sources.append(Source(name or None, place))
    if model is None and len(sources) < 2:
        raise UsageError(
            f"--input {inputs[0]}: expected two models or more, or --model for the column that tells them apart, "
            "found one"
        )
    return sources


def _observations_in(path: str) -> str:
    inside, overall = (join(path, name) for name in (OBSERVATIONS, OVERALL))
    if _has_files(inside):
        return inside
    if _has_files(overall):
        raise InputError(f"--input {path}: expected {OBSERVATIONS}, from loglik --per_observation, found totals alone")
    return path


def _has_files(path: str) -> bool:
    try:
        return bool(find_files([path]))
    except InputError:
        return False


def columns_of(
    tables: Sequence[Sequence[str]], value: str | None, observation: Sequence[str], model: str | None
) -> Columns:
    """Which of the columns that loglik wrote are read, given their names in each table.

    Raises:
      InputError: there is no elpd, or no column that names observations.
    """
    names = tables[0]
    if value is None:
        value = next((name for name in BESIDE if name in names), None)
        if value is None:
            raise InputError(
                f"--value: expected {' or '.join(BESIDE)} among the columns of the input, found {', '.join(names)}"
            )
    if value not in names:
        raise InputError(f"--value {value}: expected a column of the input, found {', '.join(names)}")
    if not observation:
        first = next(i for i, name in enumerate(names) if name in (*RESULTS, value))
        observation = [name for name in names[:first] if name != model]
        if not observation:
            raise InputError(f"--observation: expected columns that name observations, found none before {names[0]!r}")
    beside = BESIDE.get(value, {}).items()
    of_all = {argument: name for argument, name in beside if all(name in table for table in tables)}
    return Columns(list(observation), value, of_all)


# --- what is read -----------------------------------------------------------------------------------------------------


def scan_sources(
    sources: Sequence[Source], columns: Columns, model: str | None, where: Condition | None = None
) -> dict[str | None, Dataset]:
    """The files of each model, checked; of all together where a column tells models apart."""
    keys = [*columns.observation, *([] if model is None else [model])]
    paths: dict[str | None, list[str]] = {}
    for source in sources:
        paths.setdefault(source.model, []).append(source.path)
    datasets = {}
    for name, of_model in paths.items():
        dataset = scan(of_model, keys, [columns.value, *columns.beside.values()], where=where)
        if not dataset.num_rows:
            chosen = " that --where chooses" if dataset.total_rows else ""
            raise InputError(f"{', '.join(of_model)}: expected observations, found no rows{chosen}")
        datasets[name] = dataset
    return datasets


def read_tables(datasets: Mapping[str | None, Dataset], model: str | None) -> dict[str, pa.Table]:
    """The rows of each model."""
    tables = {name: _read(dataset) for name, dataset in datasets.items()}
    if model is None:
        return {str(name): table for name, table in tables.items()}
    [table] = tables.values()
    codes, keys = encode_keys(table, [model])
    texts = keys.column(model).cast(pa.string()).to_pylist()
    return {
        str(text): take_rows(table.drop_columns([model]), np.flatnonzero(codes == code))
        for code, text in enumerate(texts)
    }


def _read(dataset: Dataset) -> pa.Table:
    reader = RowGroupReader(dataset.reading, footers=dataset.footers, stamps=dataset.stamps)
    try:
        files = groupby(dataset.row_groups, key=lambda group: group.path)
        tables = [table for _, groups in files for table in reader.tables(list(groups))]
    finally:
        reader.close()
    return pa.concat_tables(tables)


def compare(tables: Mapping[str, pa.Table], columns: Columns, **options: Any) -> pa.Table:
    """The models compared, by observations in the order of their keys.

    Raises:
      InputError: observations that are not those of every model, once each, with numbers.
    """
    keys = columns.observation
    names = sorted(tables)
    if len(names) < 2:
        raise InputError(f"expected two models or more to compare, found {', '.join(names)}")
    first, *others = names
    held = sort_by_keys(tables[first], keys)
    rows = {first: np.arange(held.num_rows, dtype=np.int32)}
    here = _look_up(first, held, keys)
    for name in others:
        there = tables[name]
        for key in keys:
            types = [value_type_of(table.column(key).type) for table in (held, there)]
            if types[0] != types[1]:
                raise InputError(
                    f"model {name!r}: column {key!r}: expected {types[0]} as in model {first!r}, found {types[1]}"
                )
        rows[name] = _find(_look_up(name, there, keys), held, keys, name)
        if there.num_rows > held.num_rows:
            _find(here, there, keys, first)
    found = {name: held if name == first else tables[name] for name in names}
    for name, table in found.items():
        null = nulls_of_column(table.column(columns.value))
        if null is not None:
            where = f"observation {describe_key(table, keys, int(null.argmax()))}, model {name!r}"
            raise InputError(f"column {columns.value!r}, {where}: expected an elpd below +inf, found null")

    def numbers(column: str) -> dict[str, Floats]:
        return {name: _numbers(table.column(column))[rows[name]] for name, table in found.items()}

    beside: dict[str, Any] = {argument: numbers(column) for argument, column in columns.beside.items()}
    try:
        return compare_models(
            numbers(columns.value),
            **beside,
            describe=lambda row: f"observation {describe_key(held, keys, row)}",
            **options,
        )
    except ValueError as error:
        raise InputError(f"column {columns.value!r}, {error}") from None


def _look_up(model: str, table: pa.Table, keys: Sequence[str]) -> LookUp:
    try:
        return LookUp(table.select(keys), table.num_rows, what="observation")
    except ValueError as error:
        raise InputError(f"model {model!r}: {error}") from None


def _find(look_up: LookUp, table: pa.Table, keys: Sequence[str], model: str) -> npt.NDArray[np.int32]:
    """The rows of a model's table that have the observations of another."""
    found = look_up.find(table)
    missing = np.flatnonzero(found < 0)
    if missing.size:
        named = sort_by_keys(take_rows(table.select(keys), missing), keys)
        raise InputError(
            f"observation {describe_key(named, keys, 0)}: expected in every model, found none in model {model!r}"
        )
    return found


def _numbers(column: pa.ChunkedArray) -> Floats:
    """The numbers of a column, NaN where it is null."""
    null = nulls_of_column(column)
    values = column_to_float64_exact(column)
    if null is None:
        return values
    out = np.full(len(column), np.nan)
    out[~null] = values
    return out


# --- what is shown ----------------------------------------------------------------------------------------------------


def summary(table: pa.Table) -> list[str]:
    """The models as text, and what is to be taken with care."""
    shown = [name for name in table.column_names if name != "count" and table[name].null_count < table.num_rows]
    lines = ["", *aligned(table.select(shown), null="")]
    if "diagnostic" in shown:
        lines += [
            "",
            f"se_diff and p_worse are not reliable for fewer than {FEW_OBSERVATIONS} observations, and for differences "
            f"below {SMALL_DIFFERENCE:g}",
        ]
    for row in table.to_pylist():
        if row["bad_k"]:
            lines += [
                "",
                f"{row['bad_k']:,} of {pluralize(row['count'], 'observation')} of {row['model']} with a k too large: "
                "their elpd is not reliable",
            ]
    return lines


def draw(table: pa.Table, value: str, path: str) -> None:
    """Draws elpd, and the differences to the best, with one and two standard errors; the same bytes each time."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(9.0, 1.5 + 0.5 * table.num_rows), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(table.num_rows)
    for axes, name, error, color in ((left, "elpd", "se", "tab:blue"), (right, "elpd_diff", "se_diff", "tab:red")):
        x, spread = _numbers(table[name]), _numbers(table[error])
        drawn = np.isfinite(x)  # a model that rules an observation out is nowhere
        for width, line in ((2.0, 1.5), (1.0, 4.0)):
            some = drawn & np.isfinite(spread)
            low, high = x[some] - width * spread[some], x[some] + width * spread[some]
            axes.hlines(places[some], low, high, color=color, linewidth=line)
        axes.plot(x[drawn], places[drawn], "o", color="white", markeredgecolor=color, markersize=7)
        if drawn[0]:
            axes.axvline(x[0], color="gray", linestyle="--", linewidth=1.0, zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
    labels = [f"{row['model']} ({row['weight']:.2f})" for row in table.to_pylist()]
    left.set_yticks(places, labels, parse_math=False)
    left.set_ylim(table.num_rows - 0.5, -0.5)
    left.set_xlabel(value)
    right.set_xlabel("difference to the best")
    figure.suptitle("Models (weights), with 1 and 2 standard errors")
    save_picture(figure, path, PROGRAM)


# --- the program ------------------------------------------------------------------------------------------------------


def _parse(argv: Sequence[str]) -> Options:
    parser = ArgumentParser(PROGRAM, DESCRIPTION, EXAMPLES, "--input DIR DIR --output DIR [OPTION ...]")
    parser.add_argument(
        "--input",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=DIR",
        help="a model, and the directory that loglik wrote of it, or files like those in DIR/observations; without "
        "NAME= it is the directory's",
    )
    parser.add_argument(
        "--model", metavar="COLUMN", help="column that tells models apart, where --input has those of several"
    )
    parser.add_argument(
        "--observation",
        action="append",
        default=[],
        metavar="COLUMN",
        help="column that tells observations apart; repeat it for more (default: all before the results but --model)",
    )
    parser.add_argument(
        "--value", metavar="COLUMN", help=f"column of elpd (default {ELPD_LOO} where it is, else {ELPD_WAIC})"
    )
    parser.add_argument("--weights", choices=list(WEIGHTS), default="stacking", help="default stacking")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws of pseudo-bma+ (default 0)")
    parser.add_argument(
        "--ddof",
        type=int,
        choices=(0, 1),
        default=1,
        help="of se_diff: 1 for sample variances (default), as R's loo, 0 for those of ArviZ",
    )
    add_picture_option(parser)
    add_words(parser, ["where", "output", "overwrite", "quiet", "traceback"])
    parsed = parser.parse_args(argv)
    options = Options(**vars(parsed), program=PROGRAM, given=given(parser, parsed))
    for word in ("input", "output"):
        if not getattr(options, word):
            raise UsageError(f"--{word}: expected a value, found none")
    if not 0 <= options.seed < 1 << 64:
        raise UsageError(f"--seed: expected 0 to 2^64 - 1, found {options.seed}")
    if options.picture is not None:
        check_picture(options.picture, overwrite=options.overwrite)
        check_apart(options.output, [options.picture], "the picture")
    models = [] if options.model is None else [options.model]
    check_columns({"model": models, "observation": options.observation}, {"value": options.value}, [])
    return options


def _run(argv: Sequence[str]) -> None:
    options = _parse(argv)
    start = time.monotonic()
    sources = sources_of(options.input, options.model)
    names = [scan([source.path], [], [], all_columns=True).schema.names for source in sources]
    columns = columns_of(names, options.value, options.observation, options.model)
    datasets = scan_sources(sources, columns, options.model, options.where)
    prepare_output(options.output, [source.path for source in sources], overwrite=options.overwrite)
    with errors_as_run_error(options):
        tables = read_tables(datasets, options.model)
    found = compare(tables, columns, weights=options.weights, seed=options.seed, ddof=options.ddof)
    with staged(options) as directory:
        write_shard(directory, 1, 0, [found], found.schema)
        write_provenance(directory, options, sum(dataset.total_rows for dataset in datasets.values()))
        if options.picture is not None:
            with errors_of_writing(options.picture):
                draw(found, columns.value, options.picture)
    if not options.quiet:
        what = f"{pluralize(found.num_rows, 'model')}, {pluralize(found['count'][0].as_py(), 'observation')}"
        lines = [
            f"{what}: {columns.value}, weights by {options.weights}, {time.monotonic() - start:.1f} s",
            f"results in {options.output}",
            *([] if options.picture is None else [f"picture in {options.picture}"]),
            *summary(found),
        ]
        print("\n".join(lines), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns 0, 2 for what was found before anything was written, 1 for a fault during the run."""
    return run_main(PROGRAM, _run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
