"""Softmax of every row within its key: ``python -m pipelines.softmax --help``."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from lse_stream.errors import InputError
from lse_stream.keyed_softmax import KeyedSoftmax
from lse_stream.parquet.scan import Dataset, scan
from lse_stream.plan import MAX_BROADCAST, Engine
from lse_stream.reduction import ColumnAggregation, Reduction
from lse_stream.scales import NATURAL
from lse_stream.state_column import STATE
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


def describe(engine: Engine, dataset: Dataset, directory: str, *, keys: Sequence[str]) -> Any:
    """What is computed: the rows of ``dataset``, all their columns, to files in ``directory``, which exists."""
    [value] = dataset.values
    rows = engine.read("Read", dataset.select([*keys, value]))
    reduction = Reduction(tuple(keys), {STATE: ColumnAggregation(LOGSUMEXP, NATURAL, dataset.values)})
    states = engine.reduce("LogSumExp", rows, reduction)
    schema = pa.schema([*dataset.schema, *(pa.field(name, pa.float64()) for name in RESULTS)])
    softmax = partial(KeyedSoftmax, keys=list(keys), value=value)
    return engine.write_rows("Write", dataset, states, keys, softmax, schema, directory)


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
    dataset = scan(options.input, key_options.sources, [options.value], all_columns=True, where=options.where)
    dataset = key_options.coarsen(dataset)
    for name in RESULTS:
        if name in dataset.schema.names:
            path = dataset.row_groups[0].path
            raise InputError(f"{path}: expected columns other than {' and '.join(RESULTS)}, found column {name!r}")

    plan = partial(describe, dataset=dataset, keys=options.key)
    rows = dataset.num_rows
    seconds = run(options, plan, 2 * rows, input_rows=rows, max_broadcast=options.max_broadcast)
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
