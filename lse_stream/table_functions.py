"""Functions of Arrow tables of keys and states: rows grouped to states, states merged, states finalized to results.

``group_states`` makes a table of states from rows, ``merge_states`` makes one from many, ``finalize`` makes results.
``lse_stream.state_table`` has these as methods of an object, without a table in Arrow's form in between.

A table is one of pyarrow, a DataFrame of pandas or Polars, a relation of DuckDB, or what else ``columns.as_table``
takes. Tables of pyarrow come out.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ._kernel import StateError
from .buffers import take
from .columns import as_table, column_of, columns_of
from .keyed_softmax import KeyedSoftmax
from .keys import sort_keys
from .reduction import ColumnAggregation, Reduction, check_names, check_results
from .scales import NATURAL, Scale
from .state_column import STATE, StateType, states_from_arrow, states_to_arrow
from .state_table import StatesColumn, StateTable
from .states.aggregations import LOGSUMEXP


def group_states(
    table: pa.Table,
    keys: Sequence[str],
    value: str | Sequence[str],
    *,
    aggregation: str = LOGSUMEXP.name,
    scale: Scale | str = NATURAL,
    skip_nulls: bool = True,
) -> pa.Table:
    """The states of the values of each key.

    Args:
      table: any number of rows and chunks.
      keys: names of the key columns: integers, floats, booleans, strings, binaries, dates, times, durations, decimals,
        nulls or dictionaries of these. Null is a key of its own, -0.0 is 0.0, NaN is one key. Without key columns all
        rows are one group, even if there are none.
      value: name of the column of numbers: integers, float16, float32, float64, or a dictionary of these; for
        "exact_sum D" integers, decimals and booleans. For
        "weighted_logsumexp" the names of values and weights, for "cross_entropy" of logits and targets, which may be
        booleans.
      aggregation: "logsumexp", "weighted_logsumexp", "log_likelihood", "effective_sample_size", "cross_entropy",
        "leave_one_out K" with K values to keep, or "exact_sum"; "exact_sum D" is of integers and decimals of any size
        with D digits after the point.
      scale: a ``Scale`` or its name, for the first two of these.
      skip_nulls: leave out rows with a null value; if False, the state of a key that has one is null. NaN is not null.

    Returns:
      The key columns, of the types they came in, and "state" of ``StateType``: one row per key, in no set order.

    Raises:
      KeyError: a column is not there.
      TypeError: a key or value column of another type.
      ValueError: an integer value beyond +-2^53, a weight that is not finite, or column names that collide; for
        "exact_sum D" a value of more digits than that, or of more than 38 in all.

    >>> states = group_states(pa.table({"model": ["a", "a", "b"], "x": [0.0, 0.0, 5.0]}), ["model"], "x")
    >>> finalize(states).to_pydict()
    {'model': ['a', 'b'], 'logsumexp': [0.6931471805599453, 5.0], 'count': [2, 1], 'max': [0.0, 5.0]}
    """
    of_column = ColumnAggregation.of(aggregation, scale, value)
    check_names(keys, others=[*of_column.values, STATE, *of_column.aggregation.columns])
    reduction = Reduction(tuple(keys), {STATE: of_column}, skip_nulls)
    return StateTable.group(as_table(table), reduction).to_arrow()


def merge_states(tables: pa.Table | Iterable[pa.Table], keys: Sequence[str], *, state: str = STATE) -> pa.Table:
    """The states of each key merged: exactly as if all rows behind them had been grouped at once.

    Args:
      tables: of key columns and states, as from ``group_states``; more columns are left out. To merge to coarser keys,
        name fewer of them.
      keys: names of the key columns; none for one state over all.
      state: name of the column of states. A null state makes its key's merged state null.

    Returns:
      The key columns and the states, one row per key, in no set order.

    Raises:
      KeyError, TypeError, ValueError: as for ``group_states``; also for tables whose key columns differ in type, or no
        tables at all.
      StateError: a column of another version, aggregation or scale, or a damaged record; column and row named.

    >>> part = group_states(pa.table({"day": [1, 2], "x": [0.0, 0.0]}), ["day"], "x")
    >>> finalize(merge_states([part, part], [])).to_pydict()
    {'logsumexp': [1.3862943611198906], 'count': [4], 'max': [0.0]}
    """
    is_one = hasattr(tables, "__arrow_c_stream__") or not isinstance(tables, Iterable)
    held = [as_table(table) for table in ([tables] if is_one else tables)]
    check_names(keys, others=[state])
    if not held:
        raise ValueError("expected at least one table of states, found none")
    parts = []
    for i, table in enumerate(held):
        try:
            parts.append(StateTable.from_arrow(table, keys, [state]))
        except StateError as error:
            raise StateError(error.row, f"table {i}, {error}" if len(held) > 1 else str(error)) from None
    return StateTable.merge(parts).to_arrow()


def take_rows(table: pa.Table, rows: npt.NDArray[np.int64], *, trusted: bool = False) -> pa.Table:
    """The rows of those numbers, in that order, like ``pa.Table.take``, but quick and without limit for states.

    Args:
      trusted: the states are known to be canonical, and not checked.
    """
    columns: list[Any] = []
    for name in table.column_names:
        column = table.column(name)
        if isinstance(column.type, StateType):
            states = StatesColumn(*states_from_arrow(column, name, trusted=trusted))
            columns.append(states_to_arrow(*states.take(rows)))
        else:
            columns.append(take(column, rows))
    return pa.Table.from_arrays(columns, names=table.column_names)


def sort_by_keys(table: pa.Table, keys: Sequence[str], *, trusted: bool = False) -> pa.Table:
    """The rows in the order of their keys, which ``lse_stream.keys`` defines: one table for one set of rows.

    Args:
      table: any number of rows and chunks.
      keys: names of the key columns.
      trusted: columns of states are known to be canonical, and not checked.

    Returns:
      The key columns, then the others, in the order of the keys. Dictionaries of keys are written anew, with their
      values in the order of the rows.

    Raises:
      KeyError: a column is not there.
      TypeError: a column of a type that cannot be a key, or a str in place of names.
      ValueError: a key column named twice.

    >>> sort_by_keys(pa.table({"x": [1.0, 2.0, 3.0], "k": ["b", None, "a"]}), ["k"]).to_pydict()
    {'k': ['a', 'b', None], 'x': [3.0, 1.0, 2.0]}
    """
    table = as_table(table)
    check_names(keys, others=())
    rows, key_table = sort_keys(table, keys)
    others = take_rows(table.drop_columns(list(keys)), rows, trusted=trusted)
    return pa.Table.from_arrays([*key_table.columns, *others.columns], names=[*keys, *others.column_names])


def finalize(
    table: pa.Table,
    *,
    results: Sequence[str] | None = None,
    min_count: int = 0,
    state: str = STATE,
    keep_state: bool = False,
) -> pa.Table:
    """The results of a table of states, in place of its column of states.

    Args:
      table: as from ``group_states`` or ``merge_states``.
      results: names of results; by default those that ``lse_stream.states.aggregations`` lists as columns. Log-sum-exp
        has logsumexp, count, max, logmeanexp, bonus and exp_bonus.
      min_count: with fewer terms the results are null, but for count, min and max. 0 gives what nothing has: a
        log-sum-exp of -inf, a sum of 0.
      state: name of the column of states.
      keep_state: keep that column too, as the last.

    Returns:
      The other columns as they are, and the results: float64, and ``count`` (the terms: -inf included, nulls not)
      int64; of "exact_sum D" sum, min and max are decimal128(38, D), min and max null of no values. All are null where
      the state is.

    Raises:
      KeyError: no column ``state``.
      ValueError: another column has the name of a result, no such result, or a negative ``min_count``.
      StateError: a column of another version, or a damaged record; column and row named.

    >>> states = group_states(pa.table({"x": [60, 60]}), [], "x", scale="decibel")
    >>> finalize(states, results=["logsumexp", "bonus"]).to_pydict()
    {'logsumexp': [63.01029995663981], 'bonus': [3.010299956639812]}
    """
    table = as_table(table)
    column = column_of(table, state)
    states = StatesColumn(*states_from_arrow(column, state))
    names = check_results(states.array.aggregation, results, min_count)
    for name in table.column_names:
        if name != state and name in names:
            raise ValueError(f"column {name!r}: expected a name other than the results {', '.join(names)}")
    found = StateTable(columns_of(table, []), {state: states}).results(state, names, min_count)
    position, others = table.column_names.index(state), table.column_names
    columns = [*table.columns[:position], *found.values(), *table.columns[position + 1 :]]
    names = [*others[:position], *found, *others[position + 1 :]]
    if keep_state:
        columns, names = [*columns, column], [*names, state]
    return pa.Table.from_arrays(columns, names=names)


def log_softmax_of_keys(
    table: pa.Table, states: pa.Table, keys: Sequence[str], value: str, *, state: str = STATE
) -> pa.Table:
    """The table with columns "log_softmax" and "softmax": of each value, against the state of its key.

    Args:
      table: rows, as for ``group_states``.
      states: key columns of the same types and log-sum-exp states on the natural scale, each key once. They may come
        from elsewhere, such as a merge over many tables.
      keys, value: names of columns.

    Returns:
      The rows in their order; null where the value or the state is.

    Raises:
      KeyError: a column is not there, or a row's key has no state.
      TypeError, ValueError, StateError: as ``group_states`` and ``merge_states``.

    >>> rows = pa.table({"k": [1, 1], "x": [0.0, 0.0]})
    >>> log_softmax_of_keys(rows, group_states(rows, ["k"], "x"), ["k"], "x")["softmax"].to_pylist()
    [0.5, 0.5]
    """
    held = StateTable.from_arrow(as_table(states), keys, [state])
    return KeyedSoftmax(held, keys, value, state=state)(as_table(table))
