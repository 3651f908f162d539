"""Aggregate functions of DataFusion, whose partial states are records of states: partial and final aggregation merge
exactly.

DataFusion calls an accumulator for each group of each batch. That takes some microseconds, whatever the number of rows.
"""

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .. import accumulators
from ..scales import NATURAL, Scale
from ..state_column import states_from_arrow
from ..state_table import StatesColumn
from ..states.aggregations import LOGSUMEXP, find_aggregation
from ..states.arrays import StateArray
from ..states.codec import encode_states
from .states import errors_of, option, values_of

if TYPE_CHECKING:
    from datafusion import AggregateUDF, ScalarUDF

# Binary and LargeBinary become this, but not the other way round, and Parquet files are read as it.
_RECORDS = pa.binary_view()

_ACCUMULATORS = {
    cls.AGGREGATION.family: cls
    for cls in (
        accumulators.LogSumExpAccumulator,
        accumulators.WeightedLogSumExpAccumulator,
        accumulators.LogLikelihoodAccumulator,
        accumulators.EffectiveSampleSizeAccumulator,
        accumulators.CrossEntropyAccumulator,
        accumulators.LeaveOneOutAccumulator,
        accumulators.ExactSumAccumulator,
    )
}


def register(context: Any) -> None:
    """Creates the functions of this module in a context, for SQL, with their defaults. Once more changes nothing.

    ============================ ======= =======================================================
    function                     gives
    ============================ ======= =======================================================
    ``logsumexp(x)``             Float64 ``ln(sum(exp(x)))``
    ``logmeanexp(x)``            Float64 ``ln(mean(exp(x)))``
    ``lse_state(x)``             Binary  the state, with the bytes of ``lse_stream.group_states``
    ``lse_merge(state)``         Binary  the states merged, as if of one group
    ``lse_value(state, result)`` Float64 a result of a state, such as 'logsumexp'
    ============================ ======= =======================================================

    To have another aggregation or scale in SQL, register e.g. ``lse_state(scale="decibel", name="db_state")`` by
    ``context.register_udaf``.

    Args:
      context: a ``datafusion.SessionContext``.

    >>> from datafusion import SessionContext
    >>> context = SessionContext()
    >>> register(context)
    >>> found = context.sql("select logsumexp(x) as total from (values (0.0), (0.0)) as t(x)")
    >>> found.to_pydict()
    {'total': [0.6931471805599453]}
    """
    for function in (logsumexp(), logmeanexp(), lse_state(), lse_merge()):
        context.register_udaf(function)
    context.register_udf(lse_value())


def logsumexp(*, scale: Scale | str = NATURAL, name: str = "logsumexp") -> "AggregateUDF":
    """The aggregate function ``ln(sum(exp(x)))``, as Float64; -inf of no values.

    DataFusion makes Float64 of its argument, which rounds integers beyond 2^53. Nulls are skipped, NaN is a value.

    Args:
      scale: a ``Scale`` or its name.
      name: what SQL calls it.

    Raises:
      ValueError: no such scale.

    >>> from datafusion import SessionContext, col
    >>> frame = SessionContext().from_pydict({"k": [1, 1], "x": [60, 60]})
    >>> frame.aggregate([col("k")], [logsumexp(scale="decibel")(col("x")).alias("level")]).to_pydict()
    {'k': [1], 'level': [63.01029995663981]}
    """
    return _of_values(name, LOGSUMEXP.name, scale, "logsumexp")


def logmeanexp(*, scale: Scale | str = NATURAL, name: str = "logmeanexp") -> "AggregateUDF":
    """The aggregate function ``ln(mean(exp(x)))``, as Float64; -inf of no values.

    Args:
      scale, name: as for ``logsumexp``.

    Raises:
      ValueError: no such scale.

    >>> from datafusion import SessionContext, col
    >>> frame = SessionContext().from_pydict({"x": [3.0, 3.0]})
    >>> frame.aggregate([], [logmeanexp()(col("x")).alias("mean")]).to_pydict()
    {'mean': [3.0]}
    """
    return _of_values(name, LOGSUMEXP.name, scale, "logmeanexp")


def lse_state(
    *, aggregation: str = LOGSUMEXP.name, scale: Scale | str = NATURAL, name: str = "lse_state"
) -> "AggregateUDF":
    """The aggregate function that makes a state of values, as Binary: the bytes that ``lse_stream.group_states`` makes.

    Args:
      aggregation: as for ``lse_stream.group_states``; one of two inputs gives a function of two arguments. Not
        "exact_sum D", as DataFusion makes Float64 of arguments.
      scale: a ``Scale`` or its name.
      name: what SQL calls it.

    Raises:
      ValueError: no such aggregation or scale.

    >>> from datafusion import SessionContext, col
    >>> frame = SessionContext().from_pydict({"k": [1, 1, 2], "x": [0.0, 0.0, 5.0]})
    >>> states = frame.aggregate([col("k")], [lse_state()(col("x")).alias("state")])
    >>> states.aggregate([], [lse_merge()(col("state")).alias("state")]).to_pydict() == frame.aggregate(
    ...     [], [lse_state()(col("x")).alias("state")]
    ... ).to_pydict()
    True
    """
    return _of_values(name, aggregation, scale)


def lse_merge(*, name: str = "lse_merge") -> "AggregateUDF":
    """The aggregate function that merges states, as Binary: exactly as if all values behind them were in one group.

    Nulls are skipped; a group without states gives null.

    Args:
      name: what SQL calls it.

    >>> from datafusion import SessionContext, col
    >>> frame = SessionContext().from_pydict({"x": [0.0, 5.0]})
    >>> state = frame.aggregate([], [lse_state()(col("x")).alias("state")])
    >>> state.aggregate([], [lse_merge()(col("state")).alias("state")]).to_pydict() == state.to_pydict()
    True
    """
    return _aggregate(name, None, [_RECORDS])


def lse_value(*, name: str = "lse_value") -> "ScalarUDF":
    """The function of a state and the name of a result that gives the result, as Float64; null of null.

    Args:
      name: what SQL calls it.

    >>> from datafusion import SessionContext, col, lit
    >>> frame = SessionContext().from_pydict({"x": [1.0, 7.0]})
    >>> state = frame.aggregate([], [lse_state()(col("x")).alias("state")])
    >>> state.select(lse_value()(col("state"), lit("max")).alias("max")).to_pydict()
    {'max': [7.0]}
    """
    from datafusion import udf

    def value(states: pa.Array, result: pa.Array) -> pa.Array:
        with errors_of(name):
            if not len(states):
                return pa.array([], pa.float64())
            return values_of(StatesColumn(*states_from_arrow(states)), option(result)).cast(pa.float64())

    return udf(value, [_RECORDS, pa.string()], pa.float64(), "immutable", name)


def _of_values(name: str, aggregation: str, scale: Scale | str, result: str | None = None) -> "AggregateUDF":
    found, on_scale = find_aggregation(aggregation), Scale(scale)
    found.check_scale(on_scale)
    empty = _record(StateArray.empty(found, on_scale, 1))
    return _aggregate(name, empty, [pa.float64()] * len(found.inputs), result)


def _aggregate(
    name: str, empty: bytes | None, input_types: list[pa.DataType], result: str | None = None
) -> "AggregateUDF":
    from datafusion import udaf

    make = partial(_accumulator_class(), name, empty, result)
    return_type = pa.binary() if result is None else pa.float64()
    function: AggregateUDF = udaf(make, input_types, return_type, [pa.binary()], "immutable", name)
    return function


@lru_cache(maxsize=1)
def _accumulator_class() -> Any:
    from datafusion import Accumulator

    class StateOfGroup(Accumulator):
        """A state of a group, of rows or of records.

        Args:
          name: of the function.
          empty: the record of the state to begin with; None for a function of records, which begins with the first.
          result: to evaluate; None for the record.
        """

        def __init__(self, name: str, empty: bytes | None, result: str | None) -> None:
            self._name, self._result = name, result
            self._takes_records = empty is None
            self._held: Any = None if empty is None else _load(empty)

        def update(self, *values: pa.Array) -> None:
            if self._held is None or self._takes_records:
                self.merge(list(values))
                return
            with errors_of(self._name):
                self._held.update(*values)

        def merge(self, states: list[pa.Array]) -> None:
            with errors_of(self._name):
                array, null = states_from_arrow(states[0])
                if null is not None:
                    array = array.take(np.flatnonzero(~null))
                if len(array):
                    merged = _load(_record(array.merge(np.zeros(len(array), np.int32), 1)))
                    if self._held is None:
                        self._held = merged
                    else:
                        self._held.merge(merged)

        def state(self) -> list[pa.Scalar]:
            return [self._record()]

        def evaluate(self) -> pa.Scalar:
            if self._result is None or self._held is None:
                return self._record()
            return pa.scalar(self._held.result(self._result), pa.float64())

        def _record(self) -> pa.Scalar:
            return pa.scalar(None if self._held is None else self._held.to_bytes(), pa.binary())

    return StateOfGroup


def _record(states: StateArray) -> bytes:
    """The record of an array of one state."""
    return encode_states(states)[0].tobytes()


def _load(record: bytes) -> accumulators.Accumulator:
    """The accumulator of a record, of whichever aggregation that is."""
    (states, _) = states_from_arrow(pa.array([record], pa.binary()), trusted=True)
    return _ACCUMULATORS[states.aggregation.family].from_bytes(record)
