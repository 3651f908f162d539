"""Losses of examples: the cross-entropy of logits, lists or rows of classes, and labels, which may be looked up."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ._kernel import StateError, exact_values
from .accumulators import LogSumExpAccumulator
from .buffers import array_of, nulls_of_column, numbers_of
from .columns import columns_of, decode_dictionary
from .errors import DataError
from .functions import softmax_from_state
from .keys import describe_key
from .list_functions import cross_entropy, label_outside
from .look_up import LookUp
from .state_column import STATE
from .state_table import StateTable
from .states.results import result_of

# Columns of tables on the way.
LOGIT, TARGET, LOSS = "logit", "target", "loss"
# Columns of totals over examples.
COUNT, MEAN = "count", "mean"
RESULTS = (COUNT, "sum", MEAN, "perplexity")


def check_no_nulls(names: Sequence[str], table: pa.Table) -> pa.Table:
    """The table as it is; raises ValueError for a null in one of those columns; row named."""
    for name in names:
        null = nulls_of_column(table.column(name))
        if null is not None:
            row = int(null.argmax())
            raise ValueError(f"column {name!r}, row {row}: expected a value, found null")
    return table


def losses_of_lists(
    table: pa.Table, *, keys: list[str], logits: str, label: str, example: list[str], ignored: Any
) -> pa.Table:
    """The key columns and LOSS, in nats, of rows with a list of logits and a label; null where the label is ignored.

    Args:
      keys, example: names of columns; those of ``example`` name an example in an error.
      logits, label: names of columns.
      ignored: an Arrow scalar, or None.

    Raises:
      ValueError: a null, or a label that is no index of its list.
    """
    check_no_nulls([logits, label], table)
    labels = table.column(label)
    if ignored is not None:
        labels = pc.if_else(pc.equal(labels, ignored.cast(labels.type)), pa.nulls(1, labels.type)[0], labels)
    try:
        loss = cross_entropy(table.column(logits), labels)
    except ValueError as error:
        row = label_outside(table.column(logits), labels)
        if row is None:
            raise
        place = f"example {describe_key(table, example, row)}, " if example else ""
        raise ValueError(f"{place}{error} (--ignore_label leaves examples with a label out)") from error
    return table.select(keys).append_column(LOSS, loss)


def labelling(example: list[str], label: str, held: pa.Table) -> Callable[[pa.Table], pa.Table]:
    """What adds the labels of examples, which ``held`` has once each, to their rows.

    Raises:
      DataError: an example with two labels; and, by what is returned, one without.
    """
    try:
        look_up = LookUp(columns_of(held, example), held.num_rows, what="label")
    except ValueError as error:
        raise DataError(f"labels: {error}") from error
    return partial(_with_label, look_up, held.column(label).combine_chunks(), label)


def _with_label(look_up: LookUp, labels: pa.Array, label: str, table: pa.Table) -> pa.Table:
    try:
        rows = look_up.rows(table)
    except KeyError as error:
        raise DataError(f"labels: {error.args[0]}") from error
    return table.append_column(label, labels.take(array_of(rows)))


def targets_of(names: list[str], value: str, classes: str, label: str, ignored: Any, table: pa.Table) -> pa.Table:
    """Rows of classes to LOGIT, and TARGET, whether it is that of the label; both null where the label is ignored."""
    logit, found, expected = (decode_dictionary(table.column(name)) for name in (value, classes, label))
    if ignored is not None:
        kept = pc.not_equal(expected, ignored.cast(expected.type))
        logit = pc.if_else(kept, logit, pa.nulls(1, logit.type)[0])
    return table.select(names).append_column(LOGIT, logit).append_column(TARGET, pc.equal(found, expected))


def losses_of(keys: list[str], states: StateTable) -> pa.Table:
    """States of examples to the key columns and LOSS; of an example that is ignored there is no term.

    Raises:
      DataError: an example whose label is not one of its classes, once; named.
    """
    array, null = states.states[STATE]
    rows = np.flatnonzero(array.counts)
    loss = np.zeros(len(array))
    try:
        loss[rows] = result_of(array.take(rows), "cross_entropy")
    except StateError as error:
        row = int(rows[error.row])
        [times] = exact_values(array.take(rows[[error.row]]).exact[1])
        raise DataError(
            f"example {describe_key(states.keys, states.keys.column_names, row)}: expected its label among its "
            f"classes ({array.counts[row]}), once, found it {times:.0f} times (--ignore_label leaves examples with a "
            "label out)"
        ) from error
    none = array.counts == 0
    columns = [*(states.keys.column(name) for name in keys), array_of(loss, null=none if null is None else none | null)]
    return pa.Table.from_arrays(columns, names=[*keys, LOSS])


def totals_of(unit: float, states: StateTable) -> pa.Table:
    """The states of losses to totals, with sum and mean in that unit, of so many nats."""
    found = states.results(STATE, ["log_likelihood", COUNT, MEAN], 0)
    total, mean = numbers_of(found["log_likelihood"]), numbers_of(found[MEAN])
    # exp by the kernel: that of a C library differs from machine to machine.
    with np.errstate(divide="ignore"):
        perplexity = 1.0 / softmax_from_state(-mean, LogSumExpAccumulator([0.0]))
    columns = [found[COUNT], array_of(total / unit), array_of(mean / unit), array_of(np.asarray(perplexity))]
    return pa.Table.from_arrays([*states.keys.columns, *columns], names=[*states.keys.column_names, *RESULTS])
