"""Stored states merged to coarser keys: ``python -m pipelines.rollup --help``."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from lse_stream.buffers import array_of, numbers_of
from lse_stream.coarsening import coarsen
from lse_stream.columns import value_type_of
from lse_stream.errors import InputError, one_line
from lse_stream.keys import check_key_type
from lse_stream.parquet.panes import SUPERSEDED
from lse_stream.parquet.scan import Dataset, scan
from lse_stream.parquet.sink import COUNTERS, TERMS
from lse_stream.plan import Engine
from lse_stream.state_column import STATE, aggregation_of, expected_states
from lse_stream.state_table import StateTable

from .command import UsageError
from .options import COMMON, Parser, check_columns
from .run import build_of, run, run_main
from .summary import head, pluralize, preview, read_totals

PROGRAM = "rollup"

DESCRIPTION = """\
Merges results that were written with --state to coarser keys: key columns that
are not named are dropped, times are cut to hours, days or months, values are
mapped to groups.

The files are, byte for byte, those that one job over all the rows behind the
states would have written.
"""

EXAMPLES = """\
examples:
  # every storm's fixes once, then the seasons from them
  COMMAND parquet --input pipelines/samples/storm_fixes.parquet \\
      --key season --key name --value category --state --output out/storms
  PROGRAM --input out/storms --key season --output out/rolled

  # hours to days, from any number of runs
  PROGRAM --input 'hourly/*' --key model --key time \\
      --truncate time=day --state --output out/daily

  # models to families: families.csv has the columns model and family
  PROGRAM --input out/models --key family \\
      --map model=families.csv --output out/families
"""

COUNT = "count"
UNITS = ("minute", "hour", "day", "week", "month", "quarter", "year")


def describe(
    engine: Engine,
    dataset: Dataset,
    directory: str,
    *,
    keys: Sequence[str],
    truncate: Mapping[str, str] = MappingProxyType({}),
    mapped: Mapping[str, pa.Table] = MappingProxyType({}),
    num_shards: int = 1,
    min_count: int = 0,
    state: bool = False,
) -> Any:
    """What is computed: of the states of ``dataset``, ``num_shards`` files in ``directory``.

    Args:
      dataset: all columns of results with states.
      directory: it must exist.
      keys: names of columns, after truncation and mapping.
      truncate, mapped: as of ``lse_stream.coarsening.coarsen``.
    """
    read = dataset.select([*keys, *truncate, *mapped, STATE])
    tables = engine.read("Read", read, partial(coarsen, dict(truncate), dict(mapped)))
    states = engine.merge("Merge", tables, keys, num_shards)
    finish = partial(StateTable.finalize, results=results_of(dataset, keys), min_count=min_count, keep_state=state)
    results = engine.finish("Finalize", states, finish)
    return engine.write("Write", results, keys, directory, num_shards, COUNTERS)


build = build_of(describe)


def results_of(dataset: Dataset, keys: Sequence[str]) -> list[str] | None:
    """The results that the files have beside the states: the output has them too.

    None, for the default ones of the aggregation, where there are none beside the states, or where the type of the
    column does not name the aggregation.
    """
    found = aggregation_of(dataset.schema.field(STATE).type, STATE)
    results = [name for name in dataset.schema.names if found and name in found[0].results and name not in keys]
    return results if COUNT in results else None


def _pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"--{option} {text}: expected COLUMN=..., found no such pair")
        if name in pairs:
            raise UsageError(f"--{option} {text}: expected each column once, found {name} twice")
        pairs[name] = value
    return pairs


def _read_map(name: str, path: str, dataset: Dataset) -> pa.Table:
    """The two columns of a file that maps the values of a column, checked."""
    data_type = value_type_of(dataset.schema.field(name).type)
    try:
        if path.endswith(".parquet"):
            table = pq.ParquetFile(path).read()
        else:
            convert = pa.csv.ConvertOptions(column_types={name: data_type}, strings_can_be_null=False)
            table = pa.csv.read_csv(path, convert_options=convert)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"--map {name}={path}: expected a readable CSV or Parquet file, found {one_line(error)}"
        ) from error
    if table.num_columns != 2 or table.column_names[0] != name:
        raise InputError(
            f"--map {name}={path}: expected two columns, {name!r} and the one to map it to, found {table.column_names}"
        )
    try:
        table = table.set_column(0, name, table.column(0).cast(data_type))
    except pa.ArrowException as error:
        raise InputError(f"--map {name}={path}: expected values of {data_type}, found {one_line(error)}") from error
    counts = table.column(0).value_counts()
    again = counts.field("values").filter(array_of(numbers_of(counts.field("counts")) > 1))
    if len(again):
        raise InputError(f"--map {name}={path}: expected each value once, found {again[0]} more often")
    return table


def _run(argv: Sequence[str]) -> None:
    words = ("input", "key", "output", "num_shards", "state", "min_count", *COMMON)
    parser = Parser(PROGRAM, DESCRIPTION, EXAMPLES, words)
    parser.add_argument(
        "--truncate",
        action="append",
        default=[],
        metavar="COLUMN=UNIT",
        help=f"cut the times of a key column to one of {', '.join(UNITS)} (the weeks begin on Monday)",
    )
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="COLUMN=FILE",
        help="map the values of a key column as FILE says, CSV with a header or Parquet, of two columns: the values, "
        "and what they become. The column takes the name of the second",
    )
    options = parser.parse(argv)
    truncate, maps = _pairs("truncate", options.truncate), _pairs("map", options.map)
    for name, unit in truncate.items():
        if unit not in UNITS:
            raise UsageError(f"--truncate {name}={unit}: expected one of {', '.join(UNITS)}, found {unit!r}")
    check_columns({"key": options.key}, {}, [STATE])
    dataset = scan(options.input, [], [], {STATE: expected_states}, all_columns=True)
    for path, metadata in dataset.footers.items():
        if SUPERSEDED in (metadata.metadata or {}):
            raise InputError(
                f"{path}: expected each row to count once, found sessions that longer ones in other files may contain, "
                "as rows came late: have stream write --panes discarding to roll sessions up"
            )
    columns = dataset.schema.names
    for option, names in (("truncate", truncate), ("map", maps)):
        for name in names:
            if name not in columns:
                raise InputError(f"--{option} {name}: expected a column of the input, found {', '.join(columns)}")
    for name, unit in truncate.items():
        data_type = dataset.schema.field(name).type
        days = pa.types.is_date(data_type) and unit not in ("minute", "hour")
        if not (pa.types.is_timestamp(data_type) or days):
            raise InputError(
                f"--truncate {name}={unit}: expected timestamps, or dates for days and more, found {data_type}"
            )
    mapped = {name: _read_map(name, path, dataset) for name, path in maps.items()}
    types = {name: dataset.schema.field(name).type for name in columns if name not in mapped}
    for name, table in mapped.items():
        group = table.schema.field(1)
        if group.name in types:
            raise InputError(f"--map {name}={maps[name]}: expected the name of a new column, found {group.name!r}")
        types[group.name] = group.type
    for name in options.key:
        if name not in types:
            raise InputError(f"--key {name}: expected a column of the input, found {', '.join(types)}")
        try:
            check_key_type(name, types[name])
        except TypeError as error:
            raise InputError(f"--key {name}: {error}") from None

    plan = partial(
        describe,
        dataset=dataset,
        keys=options.key,
        truncate=truncate,
        mapped=mapped,
        num_shards=options.num_shards,
        min_count=options.min_count,
        state=options.state,
    )
    seconds = run(options, plan, dataset.num_rows)
    if not options.quiet:
        print(summary(dataset, options.output, seconds, options.key), flush=True)


def summary(dataset: Dataset, directory: str, seconds: float, keys: Sequence[str]) -> str:
    """What was done, and the first rows."""
    found = read_totals(directory)
    results = results_of(dataset, keys) or [COUNT]
    return "\n".join(
        [
            f"{pluralize(dataset.num_rows, 'state')} of {pluralize(dataset.num_files, 'file')}: "
            f"{pluralize(found.rows, 'key')} in {pluralize(found.files, 'file')}, "
            f"{pluralize(found.counts[TERMS], 'term')}, {seconds:.1f} s",
            f"results in {directory}",
            *preview(head(directory, [*keys, *results]), found.rows),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns 0, 2 for what was found before any work, 1 for a fault during the run."""
    return run_main(PROGRAM, _run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
