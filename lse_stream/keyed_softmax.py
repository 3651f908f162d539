"""Softmax of the rows of tables, each against the state of its key."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ._kernel import reciprocals_of, softmax_by
from .buffers import array_of, nulls_of_column
from .columns import column_of, columns_of, numeric_column
from .float64 import column_to_float64_exact
from .look_up import LookUp
from .reduction import check_names
from .scales import NATURAL
from .state_column import STATE
from .state_table import StateTable
from .states.aggregations import LOGSUMEXP
from .states.arrays import StateArray, check_same
from .states.results import LogTotals


class KeyedSoftmax:
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
        array, self._null = states.states[state]
        check_same(StateArray.empty(LOGSUMEXP, NATURAL, 0), array)
        self._value, self._totals, self._reciprocals = value, LogTotals(array), reciprocals_of(array.sums[0])
        self._look_up = LookUp(columns_of(states.keys, keys), states.num_rows)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with columns "log_softmax" and "softmax". Raises as ``log_softmax_of_keys``."""
        check_no_results(table)
        place = f"column {self._value!r}"
        column = numeric_column(column_of(table, self._value), place)
        codes = self._look_up.rows(table)
        of_state = None if self._null is None else self._null[codes]
        of_value = nulls_of_column(column)
        values = column_to_float64_exact(column, place)
        if of_value is not None:
            valid, values = values, np.zeros(table.num_rows)
            values[~of_value] = valid
        nulls = [null for null in (of_state, of_value) if null is not None]
        null = np.logical_or.reduce(nulls) if nulls else None
        logs, softmax_values = self._totals.log_softmax(codes, values), softmax_by(self._reciprocals, codes, values)
        columns = [*table.columns, array_of(logs, null=null), array_of(softmax_values, null=null)]
        return pa.Table.from_arrays(columns, names=[*table.column_names, "log_softmax", "softmax"])


def check_no_results(table: pa.Table) -> None:
    """Raises ValueError for a table with a column that is called as a result is."""
    for name in ("log_softmax", "softmax"):
        if name in table.column_names:
            raise ValueError(f"column {name!r}: expected a name other than those of the results")
