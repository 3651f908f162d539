"""Softmax of every row within its key: ``python -m pipelines.softmax --help``."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from lse_stream.columns import expected_lists, is_list_type
from lse_stream.errors import InputError
from lse_stream.keyed_softmax import KeyedSoftmax
from lse_stream.list_functions import log_softmax, softmax, softmax_type
from lse_stream.parquet.scan import Dataset, first_schema, scan
from lse_stream.plan import MAX_BROADCAST, Engine, OnTable
from lse_stream.reduction import ColumnAggregation, Reduction
from lse_stream.scales import NATURAL
from lse_stream.state_column import STATE
from lse_stream.state_table import StateTable
from lse_stream.states.aggregations import LOGSUMEXP

from .command import UsageError
from .key_options import KeyOptions
from .options import COARSER, COMMON, Parser, check_columns
from .run import build_of, run, run_main
from .summary import files_of, head, pluralize, preview, read_totals

PROGRAM = "softmax"

DESCRIPTION = """\
Adds to every row of Parquet files its share of its key, as columns
log_softmax, value - ln(sum(exp(value of the key's rows))), and softmax, the
exponential of that.

Of a column of lists each is a key of its own, and the results are lists.

Rows and other columns stay as they are, and rows keep their order: the files
written, part-00000 and on, hold the rows of the input files in the order of
their paths, a file of more than 4 million rows in several parts. Columns of
directories named column=value become columns of the files.
"""

EXAMPLES = """\
examples:
  # each storm's share in the damage of its season
  PROGRAM --input pipelines/samples/storms.parquet \\
      --key season --value category --output out/shares

  # attention over documents, per query
  PROGRAM --input scores/ --key query --value score \\
      --output out/weights
"""

RESULTS = ("log_softmax", "softmax")

# Up to how many columns all are shown.
SHOWN = 8


def describe(engine: Engine, dataset: Dataset, directory: str, *, keys: Sequence[str], lists: str | None = None) -> Any:
    """What is computed: the rows of ``dataset``, all their columns, to files in ``directory``, which exists.

    Args:
      keys: whose rows share what is 1.
      lists: in place of ``dataset.values`` and keys, a column of lists, in each of which that is shared.
    """
    if lists is None:
        [value], data_type = dataset.values, pa.float64()
        rows = engine.read("Read", dataset.select([*keys, value]))
        make_function: Callable[[StateTable], OnTable] = partial(KeyedSoftmax, keys=list(keys), value=value)
    else:
        value, data_type = lists, softmax_type(dataset.schema.field(lists).type)
        rows = engine.read("Read", dataset.without_rows(), partial(_no_values, value))
        make_function = partial(_softmax_of_lists, value)
    reduction = Reduction(tuple(keys), {STATE: ColumnAggregation(LOGSUMEXP, NATURAL, (value,))})
    states = engine.reduce("LogSumExp", rows, reduction)
    schema = pa.schema([*dataset.schema, *(pa.field(name, data_type) for name in RESULTS)])
    return engine.write_rows("Write", dataset, states, keys, make_function, schema, directory)


def _no_values(name: str, _: pa.Table) -> pa.Table:
    return pa.table({name: pa.nulls(0, pa.float64())})


def _softmax_of_lists(value: str, _: StateTable) -> OnTable:
    return partial(_with_softmax, value)


def _with_softmax(value: str, table: pa.Table) -> pa.Table:
    lists = table.column(value)
    try:
        results = [log_softmax(lists), softmax(lists)]
    except ValueError as error:
        raise ValueError(f"column {value!r}: {error}") from error
    return pa.Table.from_arrays([*table.columns, *results], [*table.column_names, *RESULTS])


build = build_of(describe)


def _run(argv: Sequence[str]) -> None:
    words = ("input", "where", "key", *COARSER, "value", "output", *COMMON)
    parser = Parser(PROGRAM, DESCRIPTION, EXAMPLES, words)
    parser.add_argument(
        "--max_broadcast",
        type=int,
        default=MAX_BROADCAST,
        metavar="N",
        help="with --runner: how many keys every worker may hold (default %(default)s, some 0.7 GB); of more, each "
        "part of the output is sent its own. The output is the same",
    )
    options = parser.parse(argv)
    if options.max_broadcast < 1:
        raise UsageError(f"--max_broadcast: expected 1 or more, found {options.max_broadcast}")
    check_columns({"key": options.key}, {"value": options.value}, RESULTS)
    key_options = KeyOptions(options)
    _, first = first_schema(options.input)
    index = first.get_field_index(options.value)
    of_lists = index >= 0 and is_list_type(first.field(index).type)
    if of_lists and options.key:
        raise UsageError(f"--key: expected none where --value {options.value} is lists, found {options.key[0]}")
    values, lists = ([], {options.value: expected_lists}) if of_lists else ([options.value], {})
    dataset = scan(options.input, key_options.sources, values, lists, all_columns=True, where=options.where)
    dataset = key_options.coarsen(dataset)
    for name in RESULTS:
        if name in dataset.schema.names:
            path = dataset.row_groups[0].path
            raise InputError(f"{path}: expected columns other than {' and '.join(RESULTS)}, found column {name!r}")

    plan = partial(describe, dataset=dataset, keys=options.key, lists=options.value if of_lists else None)
    reads = 2 * dataset.num_rows
    seconds = run(options, plan, reads, input_rows=dataset.total_rows, max_broadcast=options.max_broadcast)
    if not options.quiet:
        columns = dataset.schema.names if len(dataset.schema.names) <= SHOWN else [*options.key, options.value]
        found = read_totals(options.output)
        lines = [
            f"{pluralize(found.rows, 'row')} of {files_of(dataset)} "
            f"to {pluralize(found.files, 'file')}, {seconds:.1f} s",
            f"results in {options.output}",
            *preview(head(options.output, [*columns, *RESULTS]), found.rows),
        ]
        print("\n".join(lines), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns 0, 2 for what was found before any work, 1 for a fault during the run."""
    return run_main(PROGRAM, _run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
