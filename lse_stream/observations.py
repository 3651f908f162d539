"""Observations that are many rows each, components or posterior draws: their weights, their values, and WAIC."""

import math

import numpy as np
import pyarrow as pa

from .buffers import array_of, numbers_of
from .errors import DataError
from .float64 import to_float64_exact, valid_numbers
from .keys import describe_key
from .state_column import STATE
from .state_table import StateTable
from .states.results import variances

# Columns of a table of observations, beside their keys; with WAIC these too (Vehtari, Gelman, Gabry, Statistics and
# Computing 27, 2017).
VALUE, COUNT = "value", "count"
LPPD, P_WAIC, ELPD_WAIC = "lppd", "p_waic", "elpd_waic"
# Beyond this p_waic of an observation that paper calls WAIC unreliable.
DOUBTFUL = 0.4

# Columns of totals over observations; with WAIC these too.
RESULTS = ("log_likelihood", COUNT, "max")
WAIC = (LPPD, P_WAIC, ELPD_WAIC, "se")


def check_weights(weight: str, inner: str, table: pa.Table) -> pa.Table:
    """The table as it is; raises ValueError for a weight in that column which ``inner`` does not take."""
    least = 0.0 if inner == "logmeanexp" else -math.inf
    for array in valid_numbers(table.column(weight)):
        weights = to_float64_exact(array, f"column {weight!r}")
        wrong = ~(np.isfinite(weights) & (weights >= least))
        if wrong.any():
            expected = "finite weights" + (" of 0 or more, to take a mean by" if least == 0.0 else "")
            raise ValueError(f"column {weight!r}: expected {expected}, found {weights[wrong.argmax()]}")
    return table


def values_of(inner: str, ddof: int | None, states: StateTable) -> pa.Table:
    """States of observations to their values; with a ``ddof`` also what WAIC has of each.

    Raises:
      DataError: an observation of too few draws for a variance, named.
    """
    results = states.finalize([inner, COUNT])
    results = results.rename_columns([*states.keys.column_names, VALUE, COUNT])
    if ddof is None:
        return results
    array, null = states.states[STATE]
    few = array.counts <= ddof
    if null is not None:
        few &= ~null
    if few.any():
        row = int(few.argmax())
        raise DataError(
            f"observation {describe_key(states.keys, states.keys.column_names, row)}: expected {ddof + 1} draws or "
            f"more, for a variance, found {array.counts[row]}"
        )
    p_waic = variances(array, ddof)
    elpd = numbers_of(results[VALUE].chunk(0)) - p_waic
    columns = [*results.columns, results[VALUE], array_of(p_waic, null=null), array_of(elpd, null=null)]
    return pa.Table.from_arrays(columns, names=[*results.column_names, LPPD, P_WAIC, ELPD_WAIC])


def count_unsure(observations: pa.Table) -> int:
    """How many there are whose p_waic puts WAIC in doubt."""
    return sum(int((numbers_of(chunk.drop_null()) > DOUBTFUL).sum()) for chunk in observations[P_WAIC].chunks)


def waic_of(ddof: int, states: StateTable) -> pa.Table:
    """The states of what WAIC has of the observations, a column of them for each, to totals."""
    results = states.finalize(RESULTS, state=LPPD)
    columns, names = results.columns, [*results.column_names, *WAIC]
    columns += [states.results(name, RESULTS[:1], 0)[RESULTS[0]] for name in (LPPD, P_WAIC, ELPD_WAIC)]
    array, null = states.states[ELPD_WAIC]
    with np.errstate(invalid="ignore"):
        columns.append(array_of(np.sqrt(array.counts * variances(array, ddof)), null=null))
    return pa.Table.from_arrays(columns, names=names)
