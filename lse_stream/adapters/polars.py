"""Expressions of Polars: states, merged states and results, per group or over all rows.

Each is evaluated once for all groups of a batch, not group by group.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa

from .._kernel import StateError
from ..scales import NATURAL, Scale
from ..state_column import states_from_arrow
from ..state_table import StatesColumn
from ..states.aggregations import LOGSUMEXP
from .states import Column, as_float64, errors_of, group_lists, merge_lists, records_of, values_of

if TYPE_CHECKING:
    import polars as pl


def logsumexp(expr: "pl.Expr | str", *, scale: Scale | str = NATURAL) -> "pl.Expr":
    """``ln(sum(exp(x)))`` of the values of each group, as one Float64; -inf of none.

    Args:
      expr: numbers, or the name of their column. Nulls are skipped, NaN is a value.
      scale: a ``Scale`` or its name.

    Raises:
      TypeError, ValueError: where the expression is evaluated: as ``lse_stream.group_states``.

    >>> import polars as pl
    >>> frame = pl.DataFrame({"k": ["a", "a", "b"], "x": [0.0, 0.0, None]})
    >>> frame.group_by("k").agg(logsumexp("x")).sort("k").to_dict(as_series=False)
    {'k': ['a', 'b'], 'x': [0.6931471805599453, -inf]}
    """
    return _result_of_values(expr, "logsumexp", scale)


def logmeanexp(expr: "pl.Expr | str", *, scale: Scale | str = NATURAL) -> "pl.Expr":
    """``ln(mean(exp(x)))`` of the values of each group, as one Float64; -inf of none.

    Args:
      expr, scale: as for ``logsumexp``.

    Raises:
      TypeError, ValueError: as ``logsumexp``.

    >>> import polars as pl
    >>> pl.DataFrame({"x": [3, 3, 3]}).select(logmeanexp("x")).item()
    3.0
    """
    return _result_of_values(expr, "logmeanexp", scale)


def lse_state(expr: "pl.Expr | str", *, aggregation: str = LOGSUMEXP.name, scale: Scale | str = NATURAL) -> "pl.Expr":
    """The state of the values of each group, as one Binary: the bytes that ``lse_stream.group_states`` makes.

    Args:
      expr: numbers, or the name of their column; for an aggregation of two inputs ``pl.struct`` of both, in their
        order. Rows with a null are skipped, NaN is a value.
      aggregation, scale: as for ``lse_stream.group_states``.

    Raises:
      TypeError, ValueError: where the expression is evaluated: as ``lse_stream.group_states``.

    >>> import polars as pl
    >>> frame = pl.DataFrame({"k": [1, 1, 2], "x": [0.0, 0.0, 5.0]})
    >>> states = frame.group_by("k").agg(lse_state(pl.col("x")).alias("state"))
    >>> states.select(lse_value(lse_merge("state"), result="count")).item()
    3
    """
    return _of_groups(expr, "lse_state", lambda lists: records_of(group_lists(lists, aggregation, scale)), pa.binary())


def lse_merge(expr: "pl.Expr | str") -> "pl.Expr":
    """The states of each group merged, as one Binary: exactly as if all values behind them were in one group.

    Args:
      expr: states, or the name of their column. Nulls are skipped; a group without states gives null.

    Raises:
      TypeError, ValueError: where the expression is evaluated: no states, or damaged ones.

    >>> import polars as pl
    >>> frame = pl.DataFrame({"k": [1, 2], "x": [0.0, 0.0]})
    >>> states = frame.group_by("k").agg(lse_state("x"))
    >>> states.select(lse_merge("x")).item() == frame.select(lse_state("x")).item()
    True
    """
    return _of_groups(expr, "lse_merge", lambda lists: records_of(merge_lists(lists)), pa.binary())


def lse_value(expr: "pl.Expr | str", *, result: str = "logsumexp") -> "pl.Expr":
    """A result of each state: Int64 for "count", else Float64. Null where the state is.

    Args:
      expr: states, or the name of their column.
      result: the name of a result of their aggregation.

    Raises:
      TypeError, ValueError: where the expression is evaluated: no states, damaged ones, or no such result.

    >>> import polars as pl
    >>> pl.DataFrame({"x": [1.0, 7.0]}).select(lse_value(lse_state("x"), result="max")).item()
    7.0
    """
    data_type = pa.int64() if result == "count" else pa.float64()
    return _elementwise(
        _expr(expr),
        "lse_value",
        lambda states: _typed(values_of(StatesColumn(*states_from_arrow(states)), result)),
        data_type,
    )


def _typed(values: pa.Array) -> pa.Array:
    return values if pa.types.is_int64(values.type) else as_float64(values)


def _result_of_values(expr: "pl.Expr | str", result: str, scale: Scale | str) -> "pl.Expr":
    return _of_groups(
        expr, result, lambda lists: values_of(group_lists(lists, LOGSUMEXP.name, scale), result), pa.float64()
    )


def _expr(expr: "pl.Expr | str") -> "pl.Expr":
    import polars as pl

    return pl.col(expr) if isinstance(expr, str) else expr


def _of_groups(
    expr: "pl.Expr | str", name: str, function: Callable[[Column], Column], data_type: pa.DataType
) -> "pl.Expr":
    # Each group as one list: what is called for every list of a column is called once for all groups.
    return _elementwise(_expr(expr).implode(), name, function, data_type)


def _elementwise(expr: "pl.Expr", name: str, function: Callable[[Column], Column], data_type: pa.DataType) -> "pl.Expr":
    import polars as pl

    dtypes = {pa.binary(): pl.Binary, pa.int64(): pl.Int64, pa.float64(): pl.Float64}

    def call(series: pl.Series) -> pl.Series:
        try:
            with errors_of(name):
                return pl.Series(series.name, function(series.to_arrow()))
        except StateError as error:
            raise ValueError(str(error)) from None  # Polars makes the error anew, with its text as the only argument

    return expr.map_batches(call, return_dtype=dtypes[data_type], is_elementwise=True)
