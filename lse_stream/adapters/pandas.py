"""Functions of a series of pandas, as ``DataFrame.groupby(keys)[value].agg`` takes them: one call for each group.

For a whole frame ``lse_stream.group_states(frame, keys, value).to_pandas()`` makes the same states, much faster. Where
the values have a nullable or Arrow dtype, pandas gives results that dtype too, and makes null of NaN.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..columns import of_pandas
from ..scales import NATURAL, Scale
from ..state_column import states_from_arrow
from ..state_table import StatesColumn
from ..states.aggregations import LOGSUMEXP
from ..states.arrays import StateArray
from ..states.results import result_of
from .states import Column, errors_of, group_rows, merge_column, record_of, values_of

if TYPE_CHECKING:
    import pandas as pd


def logsumexp(series: "pd.Series", *, scale: Scale | str = NATURAL) -> float:
    """``ln(sum(exp(x)))`` of a series; -inf of none.

    Args:
      series: (n,) numbers. Null of pandas' nullable and Arrow dtypes is skipped, NaN is a value.
      scale: a ``Scale`` or its name.

    Raises:
      TypeError, ValueError: as ``lse_stream.group_states``.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"k": ["a", "a", "b"], "x": [0.0, 0.0, 5.0]})
    >>> frame.groupby("k")["x"].agg(logsumexp).to_dict()
    {'a': 0.6931471805599453, 'b': 5.0}
    """
    return _result_of_values(series, "logsumexp", scale)


def logmeanexp(series: "pd.Series", *, scale: Scale | str = NATURAL) -> float:
    """``ln(mean(exp(x)))`` of a series; -inf of none.

    Args:
      series, scale: as for ``logsumexp``.

    Raises:
      TypeError, ValueError: as ``logsumexp``.

    >>> import pandas as pd
    >>> logmeanexp(pd.Series([3, 3, 3]))
    3.0
    """
    return _result_of_values(series, "logmeanexp", scale)


def lse_state(series: "pd.Series", *, aggregation: str = LOGSUMEXP.name, scale: Scale | str = NATURAL) -> bytes:
    """The state of a series: the bytes that ``lse_stream.group_states`` makes.

    Args:
      series: (n,) numbers. Null of pandas' nullable and Arrow dtypes is skipped, NaN is a value.
      aggregation: as for ``lse_stream.group_states``; one of a single input.
      scale: a ``Scale`` or its name.

    Raises:
      TypeError, ValueError: as ``lse_stream.group_states``.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"k": [1, 1, 2], "x": [60, 60, 50]})
    >>> states = frame.groupby("k")["x"].agg(lse_state, scale="decibel")
    >>> lse_value(states).round(3).to_dict()
    {1: 63.01, 2: 50.0}
    """
    with errors_of("lse_state"):
        return record_of(_group(series, aggregation, scale))


def lse_merge(states: "pd.Series") -> bytes | None:
    """States merged to one: exactly as if all values behind them were in one series.

    Args:
      states: (n,) bytes. Null is skipped.

    Returns:
      The state; None of no states, which alone tell of what aggregation it would be.

    Raises:
      TypeError, StateError: no states, or damaged ones.

    >>> import pandas as pd
    >>> parts = pd.Series([lse_state(pd.Series([1.0, 2.0])), lse_state(pd.Series([3.0]))])
    >>> lse_merge(parts) == lse_state(pd.Series([3.0, 2.0, 1.0]))
    True
    """
    with errors_of("lse_merge"):
        merged = merge_column(_column(states))
        return None if merged is None else record_of(merged)


def lse_value(state: Any, result: str = "logsumexp") -> Any:
    """A result of a state, or of each state of a series.

    Args:
      state: bytes, or a series (n,) of bytes.
      result: the name of a result of their aggregation.

    Returns:
      A number, None of null; or a series (n,) of numbers with the index and the name of the other, NaN for null.

    Raises:
      TypeError, ValueError, StateError: no states, damaged ones, or no such result.

    >>> import pandas as pd
    >>> lse_value(lse_state(pd.Series([1.0, 7.0])), "max")
    7.0
    """
    import pandas as pd

    with errors_of("lse_value"):
        is_series = isinstance(state, pd.Series)
        found = values_of(StatesColumn(*states_from_arrow(_column(state if is_series else [state]))), result)
        if not is_series:
            return found[0].as_py()
        return found.to_pandas().set_axis(state.index).rename(state.name)


def _result_of_values(series: "pd.Series", result: str, scale: Scale | str) -> float:
    with errors_of(result):
        value: float = result_of(_group(series, LOGSUMEXP.name, scale), result)[0].item()
        return value


def _group(series: "pd.Series", aggregation: str, scale: Scale | str) -> StateArray:
    import pandas as pd

    if not isinstance(series, pd.Series):
        raise TypeError(f"expected a series of pandas, found {type(series).__name__}")
    column = of_pandas(series)
    return group_rows([column], np.zeros(len(column), np.int32), 1, aggregation, scale)


def _column(states: Any) -> Column:
    column = pa.array(states, from_pandas=True)
    return column.cast(pa.binary()) if pa.types.is_null(column.type) else column
