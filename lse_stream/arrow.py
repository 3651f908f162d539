"""Arrow tables of keys and states, grouped, merged and finalised. Needs no Beam.

``group_states`` makes a table of states from rows, ``merge_states`` makes one from many, ``finalise`` makes results:
``lse_stream.state_table``, for tables of a user's own.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ._kernel import StateError, reciprocals_of, softmax_by
from .buffers import array_of, nulls_of_column, take
from .keys import KeyIndex, column_of, describe_key, key_schema, sort_keys
from .scales import NATURAL, Scale
from .state_column import STATE, states_from_arrow, states_to_arrow
from .state_column import StateType as StateType
from .state_table import (
    Aggregate,
    Reduction,
    States,
    StateTable,
    check_names,
    check_results,
    columns_of,
    numbers_of_role,
    plain_type,
)
from .states import LOGSUMEXP, Logs, StateArray, check_same
from .values import widen, widen_arrow


def group_states(
    table: pa.Table,
    keys: Sequence[str],
    value: str | Sequence[str],
    *,
    kind: str = LOGSUMEXP.name,
    scale: Scale | str = NATURAL,
    skip_nulls: bool = True,
) -> pa.Table:
    """The states of the values of each key.

    Args:
      table: any number of rows and chunks.
      keys: names of the key columns: integers, floats, booleans, strings, binaries, dates, times, durations, decimals,
        nulls or dictionaries of these. Null is a key of its own, -0.0 is 0.0, NaN is one key. With no key columns all
        rows, also none, are one group.
      value: name of the column of numbers: integers, float16, float32, float64, or a dictionary of these. For
        "weighted_logsumexp" the names of values and weights, for "cross_entropy" of logits and targets, which may be
        booleans.
      kind: "logsumexp", "weighted_logsumexp", "log_likelihood", "effective_sample_size" or "cross_entropy".
      scale: a ``Scale`` or its name, for the first two kinds.
      skip_nulls: leave out rows with a null value; if False, the state of a key that has one is null. NaN is not null.

    Returns:
      The key columns, of the types they came in, and "state" of ``StateType``: one row per key, in no set order.

    Raises:
      KeyError: a column is not there.
      TypeError: a key or value column of another type.
      ValueError: an integer value beyond +-2^53, a weight that is not finite, or column names that collide.
    """
    aggregate = Aggregate.of(kind, scale, value)
    check_names(keys, others=[*aggregate.values, STATE, *aggregate.kind.columns])
    reduction = Reduction(tuple(keys), {STATE: aggregate}, skip_nulls)
    return StateTable.group(table, reduction).to_arrow()


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
      StateError: a column of another version, kind or scale, or a damaged record; column and row named.
    """
    tables = [tables] if isinstance(tables, pa.Table) else list(tables)
    check_names(keys, others=[state])
    if not tables:
        raise ValueError("expected at least one table of states, found none")
    parts = []
    for i, table in enumerate(tables):
        try:
            parts.append(StateTable.from_arrow(table, keys, [state]))
        except StateError as error:
            raise StateError(error.row, f"table {i}, {error}" if len(tables) > 1 else str(error)) from None
    return StateTable.merge(parts).to_arrow()


def take_rows(table: pa.Table, rows: npt.NDArray[np.int64], *, trusted: bool = False) -> pa.Table:
    """The rows of those numbers, in that order, like ``pa.Table.take``, but quick and without limit for states.

    Args:
      trusted: the states are known to be in their one form, and not checked.
    """
    columns: list[Any] = []
    for name in table.column_names:
        column = table.column(name)
        if isinstance(column.type, StateType):
            states = States(*states_from_arrow(column, name, trusted=trusted))
            columns.append(states_to_arrow(*states.take(rows)))
        else:
            columns.append(take(column, rows))
    return pa.Table.from_arrays(columns, names=table.column_names)


def sort_by_keys(table: pa.Table, keys: Sequence[str], *, trusted: bool = False) -> pa.Table:
    """The rows in the order of their keys, which ``lse_stream.keys`` defines: one table for one set of rows.

    Dictionaries are written anew, with their values in the order of the rows. The key columns come first.

    Raises:
      KeyError: a column is not there.
      TypeError: a column of a type that cannot be a key, or a str in place of names.
      ValueError: a key column named twice.
    """
    check_names(keys, others=())
    rows, key_table = sort_keys(table, keys)
    others = take_rows(table.drop_columns(list(keys)), rows, trusted=trusted)
    return pa.Table.from_arrays([*key_table.columns, *others.columns], names=[*keys, *others.column_names])


def finalise(
    table: pa.Table,
    *,
    results: Sequence[str] | None = None,
    min_count: int = 0,
    state: str = STATE,
    keep_state: bool = False,
) -> pa.Table:
    """The results of a table of states: they stand in place of the state column.

    Args:
      table: as from ``group_states`` or ``merge_states``.
      results: names of results; by default those that ``lse_stream.states`` lists as the kind's columns. Log-sum-exp
        has logsumexp, count, max, logmeanexp, bonus and effective_number.
      min_count: with fewer terms the results are null, but for count and max. 0 gives -inf for nothing.
      state: name of the column of states.
      keep_state: keep that column too, as the last.

    Returns:
      The other columns as they are, and the results: float64, and ``count`` (the terms: -inf included, nulls not)
      int64. All are null where the state is.

    Raises:
      KeyError: no column ``state``.
      ValueError: another column has the name of a result, no such result, or a negative ``min_count``.
      StateError: a column of another version, or a damaged record; column and row named.
    """
    column = column_of(table, state)
    states = States(*states_from_arrow(column, state))
    names = check_results(states.array.kind, results, min_count)
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


class LookUp:
    """Rows of a table by their keys, of which each is there once; prepared once for any number of tables.

    Any number of threads may look rows up.

    Args:
      held: the key columns, one row per key; none for one row.
      num_rows: how many rows there are.
      what: what errors call a row.

    Raises:
      TypeError: a column of a type that cannot be a key.
      ValueError: a key is there twice, or, without keys, not one row.
    """

    def __init__(self, held: pa.Table, num_rows: int, *, what: str = "state") -> None:
        self._keys, self._what = held.column_names, what
        self._schema = key_schema(held, self._keys)
        self._index = KeyIndex(self._schema)
        if not self._keys:
            if num_rows != 1:
                raise ValueError(f"expected one {what} where there are no keys, found {num_rows}")
            return
        codes = self._index.encode(held)
        if len(self._index) < num_rows:
            row = int((np.bincount(codes)[codes] > 1).argmax())
            raise ValueError(f"expected one {what} for every key, found more for {describe_key(held, self._keys, row)}")
        # Codes need not go in the order of the rows. The last stands for the code -1.
        self._rows = np.full(num_rows + 1, -1, np.int32)
        self._rows[codes] = np.arange(num_rows, dtype=np.int32)

    def find(self, table: pa.Table) -> npt.NDArray[np.int32]:
        """The row (n,) of the key of each row of a table; -1 where it is not there.

        Raises:
          KeyError: a column is not there.
          TypeError: key columns of different types.
        """
        for name, held in zip(self._keys, self._schema.types, strict=True):
            found = column_of(table, name).type
            if plain_type(found) != plain_type(held):
                raise TypeError(f"key column {name!r}: expected {held} as in the {self._what}s, found {found}")
        codes = self._index.find(table)
        return self._rows[codes] if self._keys else codes

    def rows(self, table: pa.Table) -> npt.NDArray[np.int32]:
        """The same; raises KeyError for a key that is not there, which it names."""
        rows = self.find(table)
        if rows.size and rows.min() < 0:
            missing = describe_key(table, self._keys, int(rows.argmin()))
            raise KeyError(f"expected one {self._what} for every key, found none for {missing}")
        return rows


def rows_of_keys(
    states: pa.Table, table: pa.Table, keys: Sequence[str], *, what: str = "state"
) -> npt.NDArray[np.int32]:
    """In which row of ``states``, which has each key once, the key of each row of a table is found.

    Args:
      what: what errors call a row of ``states``.

    Raises:
      KeyError: a column is not there, or a row's key has no state.
      TypeError: key columns of different types.
      ValueError: ``states`` has a key twice.
    """
    return LookUp(columns_of(states, keys), states.num_rows, what=what).rows(table)


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
    """
    held = StateTable.from_arrow(states, keys, [state])
    return Shares(held, keys, value, state=state).of(table)


class Shares:
    """Softmax of rows by the states of their keys, which are prepared once for any number of tables.

    Any number of threads may use it.

    Args:
      states: log-sum-exp states on the natural scale, each key once.
      keys, value: names of columns of rows.
      state: name of the column of states.

    Raises:
      TypeError, ValueError, StateError: as ``log_softmax_of_keys``.
    """

    def __init__(self, states: StateTable, keys: Sequence[str], value: str, *, state: str = STATE) -> None:
        check_names(keys, others=())
        aggregate = Aggregate.of(LOGSUMEXP.name, NATURAL, value)
        check_same(StateArray.empty(aggregate.kind, aggregate.scale, 0), states.states[state].array)
        array, self._null = states.states[state]
        self._value, self._logs, self._reciprocals = value, Logs(array), reciprocals_of(array.sums[0])
        self._look_up = LookUp(columns_of(states.keys, keys), states.num_rows)

    def of(self, table: pa.Table) -> pa.Table:
        """The table with columns "log_softmax" and "softmax". Raises as ``log_softmax_of_keys``."""
        for name in ("log_softmax", "softmax"):
            if name in table.column_names:
                raise ValueError(f"column {name!r}: expected a name other than those of the results")
        value = self._value
        column = numbers_of_role(column_of(table, value), f"column {value!r}", "value")
        codes = self._look_up.rows(table)
        absent = None if self._null is None else self._null[codes]
        of_value = nulls_of_column(column)
        found = [widen(part, f"column {value!r}") for part in widen_arrow(column, f"column {value!r}")]
        values = found[0] if len(found) == 1 else np.concatenate([np.zeros(0), *found])
        if of_value is not None:
            valid, values = values, np.zeros(table.num_rows)
            values[~of_value] = valid
        nulls = [null for null in (absent, of_value) if null is not None]
        null = np.logical_or.reduce(nulls) if nulls else None
        logs, weights = self._logs.weights(codes, values), softmax_by(self._reciprocals, codes, values)
        columns = [*table.columns, array_of(logs, null=null), array_of(weights, null=null)]
        return pa.Table.from_arrays(columns, names=[*table.column_names, "log_softmax", "softmax"])
