"""Stored states merged to coarser keys: ``python -m pipelines.rollup --help``."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from lse_stream.errors import InputError
from lse_stream.parquet.panes import SUPERSEDED
from lse_stream.parquet.scan import Dataset, scan
from lse_stream.parquet.sink import COUNTERS, TERMS
from lse_stream.plan import Engine
from lse_stream.state_column import STATE, aggregation_of, check_states, expected_states
from lse_stream.state_table import StateTable

from .key_options import KeyOptions
from .options import COARSER, COMMON, Parser, check_columns
from .run import build_of, run, run_main
from .summary import files_of, head, none_chosen, pluralize, preview, read_totals

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
    num_shards: int = 1,
    min_count: int = 0,
    state: bool = False,
) -> Any:
    """What is computed: of the states of ``dataset``, ``num_shards`` files in ``directory``.

    Args:
      dataset: all columns of results with states.
      directory: it must exist.
      keys: names of columns.
    """
    tables = engine.read("Read", dataset.select([*keys, STATE]), check_states)
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


def _run(argv: Sequence[str]) -> None:
    words = ("input", "where", "key", *COARSER, "output", "num_shards", "state", "min_count", *COMMON)
    options = Parser(PROGRAM, DESCRIPTION, EXAMPLES, words).parse(argv)
    key_options = KeyOptions(options)
    check_columns({"key": options.key}, {}, [STATE])
    dataset = scan(options.input, [], [], {STATE: expected_states}, all_columns=True, where=options.where)
    for path, metadata in dataset.footers.items():
        if SUPERSEDED in (metadata.metadata or {}):
            raise InputError(
                f"{path}: expected each row to count once, found sessions that longer ones in other files may contain, "
                "as rows came late: have stream write --panes discarding to roll sessions up"
            )
    dataset = key_options.coarsen(dataset)

    plan = partial(
        describe,
        dataset=dataset,
        keys=options.key,
        num_shards=options.num_shards,
        min_count=options.min_count,
        state=options.state,
    )
    seconds = run(options, plan, dataset.num_rows, input_rows=dataset.total_rows)
    if not options.quiet:
        print(summary(dataset, options.output, seconds, options.key), flush=True)


def summary(dataset: Dataset, directory: str, seconds: float, keys: Sequence[str]) -> str:
    """What was done, and the first rows."""
    found = read_totals(directory)
    results = results_of(dataset, keys) or [COUNT]
    return "\n".join(
        [
            f"{pluralize(dataset.total_rows, 'state')} of {files_of(dataset)}: "
            f"{pluralize(found.rows, 'key')} in {pluralize(found.files, 'file')}, "
            f"{pluralize(found.counts[TERMS], 'term')}, {seconds:.1f} s",
            f"results in {directory}",
            *none_chosen(dataset, found.counts[TERMS]),
            *preview(head(directory, [*keys, *results]), found.rows),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns 0, 2 for what was found before any work, 1 for a fault during the run."""
    return run_main(PROGRAM, _run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
