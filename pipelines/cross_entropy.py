"""Cross-entropy of logits and labels: ``python -m pipelines.cross_entropy --help``."""

import math
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from lse_stream.buffers import repeated
from lse_stream.columns import is_list_type, value_type_of
from lse_stream.errors import InputError
from lse_stream.files import join
from lse_stream.losses import (
    LOGIT,
    LOSS,
    RESULTS,
    TARGET,
    check_no_nulls,
    labelling,
    losses_of,
    losses_of_lists,
    targets_of,
    totals_of,
)
from lse_stream.parquet.scan import Dataset, scan
from lse_stream.parquet.sink import COUNTERS, TERMS
from lse_stream.plan import Engine
from lse_stream.reduction import ColumnAggregation, Reduction
from lse_stream.scales import NATURAL
from lse_stream.state_column import STATE
from lse_stream.states.aggregations import CROSS_ENTROPY, LOG_LIKELIHOOD

from .command import UsageError
from .key_options import KeyOptions
from .options import COARSER, COMMON, Options, Parser, check_columns
from .output import OVERALL, TOTALS, make_table_directory
from .run import build_of, run, run_main
from .summary import files_of, head, none_chosen, pluralize, preview, read_totals

PROGRAM = "cross_entropy"

DESCRIPTION = """\
Sums ln(sum(exp(logits))) - logit of the label over examples, by key and in
all: the cross-entropy, its mean, and perplexity.

The logits of an example are a list in one column (--logits), the label their
index from 0; or rows of (example, class, logit) in any order and in any files
(--value, --class, --example), the label one of the classes: a column of the
same rows, or of other files (--labels), which every worker holds.

It writes DIR/totals, one row per key, and DIR/overall, one row in all: count
of examples, sum, mean, perplexity.
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

UNITS = {"nats": 1.0, "bits": math.log(2.0)}


def describe(
    engine: Engine,
    dataset: Dataset,
    directory: str,
    *,
    labels: Dataset | None = None,
    keys: Sequence[str] = (),
    example: Sequence[str] = (),
    logits: str | None = None,
    classes: str = "",
    label: str = "label",
    ignored: Any = None,
    num_shards: int = 1,
    unit: str = "nats",
) -> None:
    """What is computed: of the rows of ``dataset``, files in directories inside ``directory``, which exists.

    Args:
      dataset: a row is an example, with a list of logits and a label; or, without ``logits``, a class of an example.
      labels: the labels of examples, where they are not in the rows.
      example: names of the columns that, with the keys, distinguish examples. With lists, errors name them.
      logits, classes, label: names of columns.
      ignored: examples with this label are left out.
      unit: of sum and mean, "nats" or "bits".
    """
    common = {"keys": list(keys), "example": list(example), "label": label, "ignored": ignored}
    if logits is not None:
        losses = engine.read("Read", dataset, partial(losses_of_lists, logits=logits, **common))
    else:
        losses = _losses_of_rows(engine, dataset, labels, classes=classes, **common)
    sums = Reduction(tuple(keys), {STATE: ColumnAggregation(LOG_LIKELIHOOD, NATURAL, (LOSS,))})
    totals = engine.reduce("Sum", losses, sums, num_shards)
    overall = engine.merge("Merge", totals, [], 1)
    for name, states, names, shards in ((TOTALS, totals, keys, num_shards), (OVERALL, overall, [], 1)):
        results = engine.finish(f"Results {name}", states, partial(totals_of, UNITS[unit]))
        engine.write(f"Write {name}", results, names, make_table_directory(directory, name), shards, COUNTERS)


build = build_of(describe)


def _losses_of_rows(
    engine: Engine,
    dataset: Dataset,
    labels: Dataset | None,
    *,
    keys: list[str],
    example: list[str],
    classes: str,
    label: str,
    ignored: Any,
) -> Any:
    """Tables of the key columns and "loss", in nats, a row for each example, whose classes are rows."""
    names = [*keys, *example]
    [value] = dataset.values
    check = partial(check_no_nulls, [value, classes] if labels else [value, classes, label])
    tables = engine.read("Read", dataset, check)
    if labels:
        held = engine.read("ReadLabels", labels, partial(check_no_nulls, [label]))
        tables = engine.look_up("Label", tables, held, partial(labelling, example, label))
    tables = engine.map("Targets", tables, partial(targets_of, names, value, classes, label, ignored))
    reduction = Reduction(tuple(names), {STATE: ColumnAggregation(CROSS_ENTROPY, NATURAL, (LOGIT, TARGET))})
    states = engine.reduce("Examples", tables, reduction)
    return engine.finish("Losses", states, partial(losses_of, keys))


def _list_type(data_type: pa.DataType) -> str | None:
    return None if is_list_type(data_type) else "lists of integers, float16, float32 or float64"


def _index_type(data_type: pa.DataType) -> str | None:
    return None if pa.types.is_integer(data_type) else "integers, the labels"


def _class_type(data_type: pa.DataType) -> str | None:
    data_type = value_type_of(data_type)
    known = pa.types.is_integer(data_type) or pa.types.is_string(data_type) or pa.types.is_large_string(data_type)
    return None if known else "integers or strings, the classes"


def _parse(argv: Sequence[str]) -> Options:
    words = ("input", "where", "key", *COARSER, "output", "num_shards", *COMMON)
    parser = Parser(PROGRAM, DESCRIPTION, EXAMPLES, words)
    parser.add_argument("--logits", metavar="COLUMN", help="column of lists, the logits of an example each")
    parser.add_argument("--value", metavar="COLUMN", help="in place of --logits: column of logits, one for each class")
    parser.add_argument("--class", dest="classes", metavar="COLUMN", help="with --value: column of their classes")
    parser.add_argument(
        "--example",
        action="append",
        default=[],
        metavar="COLUMN",
        help="column that, with the key columns, distinguishes examples; repeat it for more. With --logits it serves "
        "to name an example in an error",
    )
    parser.add_argument("--label", metavar="COLUMN", help="column of labels")
    parser.add_argument(
        "--labels",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="with --value: files that contain the labels, with the columns of --example; as --input otherwise",
    )
    parser.add_argument("--ignore_label", metavar="LABEL", help="leave out examples with this label")
    parser.add_argument("--unit", choices=UNITS, default="nats", help="of sum and mean (default nats)")
    options = parser.parse(argv)
    if (options.logits is None) == (options.value is None):
        found = "none" if options.value is None else "both"
        raise UsageError(f"--logits, --value: expected one of them, found {found}")
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


def _scan(options: Options) -> tuple[Dataset, Dataset | None]:
    """The input and the labels, if they are files of their own, checked."""
    key_options = KeyOptions(options)
    names = [*key_options.sources, *options.example]
    values, columns = [options.value], {options.classes: _class_type, options.label: _class_type}
    if options.logits is not None:
        values, columns = [], {options.logits: _list_type, options.label: _index_type}
    elif options.labels:
        columns = {options.classes: _class_type}
    dataset = key_options.coarsen(scan(options.input, names, values, columns, where=options.where))
    if not options.labels:
        return dataset, None
    labels = scan(options.labels, options.example, [], {options.label: _class_type})
    for name in options.example:
        expected, found = (value_type_of(each.schema.field(name).type) for each in (dataset, labels))
        if expected != found:
            raise InputError(
                f"{labels.row_groups[0].path}: column {name!r}: expected {expected} as in "
                f"{dataset.row_groups[0].path}, found {found}"
            )
    return dataset, labels


def _ignored(options: Options, label: pa.DataType) -> Any:
    """What --ignore_label means in the type of the labels, as Arrow has it."""
    if options.ignore_label is None:
        return None
    try:
        return repeated(options.ignore_label, pa.string(), 1).cast(value_type_of(label))[0]
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
        if pa.types.is_integer(value_type_of(classes)) != pa.types.is_integer(value_type_of(label)):
            raise InputError(
                f"{(labels or dataset).row_groups[0].path}: column {options.label!r}: expected labels of the type of "
                f"the classes, {classes}, found {label}"
            )
    ignored = _ignored(options, label)

    plan = partial(
        describe,
        dataset=dataset,
        labels=labels,
        keys=options.key,
        example=options.example,
        logits=options.logits,
        classes=options.classes,
        label=options.label,
        ignored=ignored,
        num_shards=options.num_shards,
        unit=options.unit,
    )
    more = labels.num_rows if labels else 0
    seconds = run(options, plan, dataset.num_rows + more, input_rows=dataset.total_rows + more)
    if not options.quiet:
        print(summary(dataset, options, seconds), flush=True)


def summary(dataset: Dataset, options: Options, seconds: float) -> str:
    """What was done, and the first totals."""
    totals, overall = (join(options.output, name) for name in (TOTALS, OVERALL))
    found = read_totals(totals)
    lines = [
        f"{pluralize(dataset.total_rows, 'row')} of {files_of(dataset)}: "
        f"{pluralize(found.counts[TERMS], 'example')} of {pluralize(found.rows, 'key')}, {seconds:.1f} s",
        f"results in {options.output}, in {options.unit}",
        *none_chosen(dataset, found.counts[TERMS]),
        *preview(head(totals, [*options.key, *RESULTS]), found.rows),
    ]
    if options.key:
        lines += ["", "overall", *preview(head(overall, RESULTS), 1)[1:]]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns 0, 2 for what was found before any work, 1 for a fault during the run."""
    return run_main(PROGRAM, _run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
