"""Cross-entropy of logits and labels: ``python -m pipelines.cross_entropy --help``."""

import math
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import AsIter, PCollection

from lse_stream._kernel import StateError
from lse_stream.accumulator import LogSumExpAccumulator
from lse_stream.arrow import STATE, finalise, plain, plain_type, rows_of_keys, states_from_arrow
from lse_stream.compute import cross_entropy, label_outside
from lse_stream.keys import describe_key
from lse_stream.parquetio import DataError, Dataset, InputError, ReadTables, WriteShards, scan
from lse_stream.rows import gradient
from lse_stream.transforms import CrossEntropy, LogLikelihood, MergeStates
from lse_stream.values import is_widenable

from .command import UsageError
from .options import Parser, check_columns
from .output import OVERALL, TOTALS, make_directory
from .run import guarded, run
from .summary import counted, head, preview, read_columns

PROGRAM = "cross_entropy"

DESCRIPTION = """\
Sums ln(sum(exp(logits))) - logit of the label over examples, by key and in
all: the cross-entropy, its mean, and perplexity.

The logits of an example are a list in one column (--logits), the label their
index from 0; or rows of (example, class, logit) in any order and in any files
(--value, --class, --example), the label one of the classes: a column of the
same rows, or of other files (--labels), which every worker holds.

Written are DIR/totals, one row per key, and DIR/overall, one row in all:
count of examples, sum, mean, perplexity.
"""

EXAMPLES = """\
examples:
  # a classifier of handwritten digits, and how well it knows each of them
  PROGRAM \\
      --input pipelines/samples/digits_logits.parquet \\
      --logits logits --label label --key label --output out/digits

  # logits in shards by class, labels in a file of their own, in bits
  PROGRAM --input 'shards/*.parquet' --example id \\
      --class token --value logit --labels labels.parquet \\
      --label token_id --ignore_label=-100 --unit bits --output out/loss
"""

# Columns of tables on the way.
LOGIT, TARGET, LOSS = "logit", "target", "loss"
COUNT, SUM, MEAN, PERPLEXITY = RESULTS = ("count", "sum", "mean", "perplexity")
UNITS = {"nats": 1.0, "bits": math.log(2.0)}

# Into how many shards examples go on their way, so that all cores merge them.
SHARDS = 16


def losses_of_lists(
    pipeline: beam.Pipeline,
    dataset: Dataset,
    *,
    keys: Sequence[str],
    logits: str,
    label: str,
    example: Sequence[str] = (),
    ignored: Any = None,
) -> PCollection[pa.Table]:
    """Tables of the key columns and "loss", in nats, a row for each example: a list of logits and a label.

    The loss is null where the label is ``ignored``. Errors name an example by the columns ``example``, beside its row.
    """
    prepare = partial(_list_losses, list(keys), logits, label, list(example), ignored)
    tables: PCollection[pa.Table] = pipeline | "ReadTables" >> ReadTables(dataset, prepare)
    return tables


def losses_of_rows(
    pipeline: beam.Pipeline,
    dataset: Dataset,
    labels: Dataset | None,
    *,
    keys: Sequence[str],
    example: Sequence[str],
    classes: str,
    label: str,
    ignored: Any = None,
) -> PCollection[pa.Table]:
    """The same where a row is a class of an example. Its label is a column of each, or of ``labels``, by example."""
    names = [*keys, *example]
    [value] = dataset.values
    prepare = partial(_check_no_nulls, [value, classes] if labels else [value, classes, label])
    tables: PCollection[pa.Table] = pipeline | "ReadTables" >> ReadTables(dataset, prepare)
    if labels:
        held = pipeline | "ReadLabels" >> ReadTables(labels, partial(_check_no_nulls, [label]))
        tables = tables | "Label" >> beam.Map(partial(_with_label, list(example), label), AsIter(held))
    losses: PCollection[pa.Table] = (
        tables
        | "Targets" >> beam.Map(partial(_targets, names, value, classes, label, ignored))
        | "Examples" >> CrossEntropy.PerKeyOfTables(names, [LOGIT, TARGET], num_shards=SHARDS)
        | "Losses" >> beam.MapTuple(partial(_losses, list(keys), names))
    )
    return losses


def write_totals(
    losses: PCollection[pa.Table], directory: str, *, keys: Sequence[str], num_shards: int = 1, unit: str = "nats"
) -> None:
    """Writes the totals of tables of losses to files in directories inside ``directory``, which exists."""
    totals = losses | "Sum" >> LogLikelihood.PerKeyOfTables(keys, LOSS, num_shards=num_shards)
    overall = totals | "Tables" >> beam.Values() | "Merge" >> MergeStates.PerKeyOfTables([])
    for name, states, shards in ((TOTALS, totals, num_shards), (OVERALL, overall, 1)):
        results = states | f"Results {name}" >> beam.MapTuple(partial(_results, UNITS[unit]))
        results | f"Write {name}" >> WriteShards(make_directory(directory, name), shards)


def _check_no_nulls(names: Sequence[str], table: pa.Table) -> pa.Table:
    for name in names:
        if table.column(name).null_count:
            row = pc.index(table.column(name).is_null(), pa.scalar(True))
            raise ValueError(f"column {name!r}, row {row}: expected a value, found null")
    return table


def _list_losses(
    keys: list[str], logits: str, label: str, example: list[str], ignored: Any, table: pa.Table
) -> pa.Table:
    _check_no_nulls([logits, label], table)
    labels = table.column(label)
    if ignored is not None:
        labels = pc.if_else(pc.equal(labels, pa.scalar(ignored, labels.type)), None, labels)
    try:
        loss = cross_entropy(table.column(logits), labels)
    except ValueError as error:
        row = label_outside(table.column(logits), labels)
        if row is None or not example:
            raise
        raise ValueError(f"example {describe_key(table, example, row)}, {error}") from error
    return table.select(keys).append_column(LOSS, loss)


def _with_label(example: list[str], label: str, table: pa.Table, labels: Iterable[pa.Table]) -> pa.Table:
    held = pa.concat_tables(labels)
    try:
        rows = rows_of_keys(held, table, example, what="label")
    except (KeyError, ValueError) as error:
        raise DataError(f"--labels: {error.args[0]}") from error
    return table.append_column(label, held.column(label).take(pa.array(rows)))


def _targets(names: list[str], value: str, classes: str, label: str, ignored: Any, table: pa.Table) -> pa.Table:
    """Rows of examples: the logit, and whether it is that of the label; both null where the label is ignored."""
    logit, found, expected = (plain(table.column(name)) for name in (value, classes, label))
    if ignored is not None:
        kept = pc.not_equal(expected, pa.scalar(ignored, expected.type))
        logit = pc.if_else(kept, logit, None)
    return table.select(names).append_column(LOGIT, logit).append_column(TARGET, pc.equal(found, expected))


def _losses(keys: list[str], names: list[str], _: int, table: pa.Table) -> pa.Table:
    """States of examples to losses; of an example that is ignored there is no term."""
    states, null = states_from_arrow(table.column(STATE))
    rows = np.flatnonzero(states.counts)
    loss = np.zeros(len(states))
    try:
        loss[rows] = states.take(rows).result("cross_entropy")
    except StateError as error:
        row = int(rows[error.row])
        [(times, _)] = states.take(rows[[error.row]]).exact_sums(1)
        raise DataError(
            f"example {describe_key(table, names, row)}: expected its label among its classes ({states.counts[row]}), "
            f"once, found it {times} times"
        ) from error
    return table.select(keys).append_column(LOSS, pa.array(loss, mask=null | (states.counts == 0)))


def _results(unit: float, shard: int, table: pa.Table) -> tuple[int, pa.Table]:
    results = finalise(table, results=["log_likelihood", COUNT, MEAN])
    mean = results[MEAN].to_numpy()
    # exp by the kernel: that of a C library differs from machine to machine.
    with np.errstate(divide="ignore"):
        perplexity = 1.0 / gradient(-mean, LogSumExpAccumulator([0.0]))
    keys = [results.column(i) for i in range(results.num_columns - 3)]
    columns = [results[COUNT], pa.array(results["log_likelihood"].to_numpy() / unit), pa.array(mean / unit)]
    names = [*results.column_names[:-3], *RESULTS]
    return shard, pa.table([*keys, *columns, pa.array(perplexity)], names=names)


def _list_type(data_type: pa.DataType) -> str | None:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    lists = any(test(data_type) for test in tests) and is_widenable(data_type.value_type)
    return None if lists else "lists of integers, float16, float32 or float64"


def _index_type(data_type: pa.DataType) -> str | None:
    return None if pa.types.is_integer(data_type) else "integers, the labels"


def _class_type(data_type: pa.DataType) -> str | None:
    data_type = plain_type(data_type)
    known = pa.types.is_integer(data_type) or pa.types.is_string(data_type) or pa.types.is_large_string(data_type)
    return None if known else "integers or strings, the classes"


def _parse(argv: Sequence[str]) -> Namespace:
    words = ("input", "key", "output", "num_shards", "overwrite", "quiet", "traceback")
    parser = Parser(PROGRAM, DESCRIPTION, EXAMPLES, words)
    parser.add_argument("--logits", metavar="COLUMN", help="column of lists, the logits of an example each")
    parser.add_argument("--value", metavar="COLUMN", help="in place of --logits: column of logits, one for each class")
    parser.add_argument("--class", dest="classes", metavar="COLUMN", help="with --value: column of their classes")
    parser.add_argument(
        "--example",
        action="append",
        default=[],
        metavar="COLUMN",
        help="column that, with the key columns, tells examples apart; repeat it for more. With --logits it serves "
        "to name an example in an error",
    )
    parser.add_argument("--label", metavar="COLUMN", help="column of labels")
    parser.add_argument(
        "--labels",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="with --value: files that have the labels, with the columns of --example; as --input otherwise",
    )
    parser.add_argument("--ignore_label", metavar="LABEL", help="leave out examples with this label")
    parser.add_argument("--unit", choices=UNITS, default="nats", help="of sum and mean (default nats)")
    options = parser.parse(argv)
    if (options.logits is None) == (options.value is None):
        raise UsageError("--logits, --value: expected one of them, found both or none")
    if options.label is None:
        raise UsageError("--label: expected a value, found none")
    for word, found in (("class", options.classes), ("labels", options.labels)):
        if options.logits is not None and found:
            raise UsageError(f"--{word}: expected it with --value, found --logits")
    for word, found in (("class", options.classes), ("example", options.example)):
        if options.value is not None and not found:
            raise UsageError(f"--{word}: expected it with --value, found none")
    given = {"logits": options.logits, "value": options.value, "class": options.classes}
    check_columns({"key": options.key, "example": options.example}, given, [*RESULTS, LOGIT, TARGET, LOSS, STATE])
    if options.label in given.values() or options.label in options.example:
        raise UsageError(f"--label {options.label}: expected columns named once, found it twice")
    return options


def _scan(options: Namespace) -> tuple[Dataset, Dataset | None]:
    """The input and the labels, if they are files of their own, checked."""
    names = [*options.key, *options.example]
    if options.logits is not None:
        columns = {options.logits: _list_type, options.label: _index_type}
        return scan(options.input, names, [], columns), None
    if not options.labels:
        columns = {options.classes: _class_type, options.label: _class_type}
        return scan(options.input, names, [options.value], columns), None
    dataset = scan(options.input, names, [options.value], {options.classes: _class_type})
    labels = scan(options.labels, options.example, [], {options.label: _class_type}, option="labels")
    for name in options.example:
        expected, found = (plain_type(each.schema.field(name).type) for each in (dataset, labels))
        if expected != found:
            raise InputError(
                f"{labels.row_groups[0].path}: column {name!r}: expected {expected} as in "
                f"{dataset.row_groups[0].path}, found {found}"
            )
    return dataset, labels


def _ignored(options: Namespace, label: pa.DataType) -> Any:
    """What --ignore_label means in the type of the labels."""
    if options.ignore_label is None:
        return None
    try:
        return pa.scalar(options.ignore_label).cast(plain_type(label)).as_py()
    except pa.ArrowException as error:
        raise UsageError(
            f"--ignore_label {options.ignore_label}: expected a value of {label}, the type of column {options.label!r}"
        ) from error


def _run(argv: Sequence[str]) -> None:
    options = _parse(argv)
    dataset, labels = _scan(options)
    label = (labels or dataset).schema.field(options.label).type
    if options.logits is None:
        classes = dataset.schema.field(options.classes).type
        if pa.types.is_integer(plain_type(classes)) != pa.types.is_integer(plain_type(label)):
            raise InputError(
                f"{(labels or dataset).row_groups[0].path}: column {options.label!r}: expected labels of the type of "
                f"the classes, {classes}, found {label}"
            )
    ignored = _ignored(options, label)

    def graph(pipeline: beam.Pipeline, directory: str) -> None:
        common = {"keys": options.key, "example": options.example, "label": options.label, "ignored": ignored}
        if options.logits is not None:
            losses = losses_of_lists(pipeline, dataset, logits=options.logits, **common)
        else:
            losses = losses_of_rows(pipeline, dataset, labels, classes=options.classes, **common)
        write_totals(losses, directory, keys=options.key, num_shards=options.num_shards, unit=options.unit)

    seconds = run(options, graph, dataset.num_rows + (labels.num_rows if labels else 0))
    if not options.quiet:
        print(summary(dataset, options, seconds), flush=True)


def summary(dataset: Dataset, options: Namespace, seconds: float) -> str:
    """What was done, and the first totals."""
    totals, overall = (FileSystems.join(options.output, name) for name in (TOTALS, OVERALL))
    counts = read_columns(totals, [COUNT])[COUNT]
    lines = [
        f"{counted(dataset.num_rows, 'row')} of {counted(dataset.num_files, 'file')}: "
        f"{counted(pc.sum(counts).as_py() or 0, 'example')} of {counted(len(counts), 'key')}, {seconds:.1f} s",
        f"results in {options.output}, in {options.unit}",
        *preview(head(totals, [*options.key, *RESULTS]), len(counts)),
    ]
    if options.key:
        lines += ["", "overall", *preview(head(overall, RESULTS), 1)[1:]]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns 0, 2 for what was found before any work, 1 for a fault in mid-run."""
    return guarded(PROGRAM, _run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
