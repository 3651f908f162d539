"""Aggregate functions of DataFusion, whose partial states are records of states, and so merge exactly.

DataFusion calls an accumulator for each group of each batch, which takes some microseconds for however few rows, in one
thread at a time. Of many groups whose values fit into memory ``lse_state_of_list(array_agg(x))`` is far quicker: it is
called once for all groups of a batch.
"""

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .. import accumulators
from ..buffers import numbers_of
from ..scales import NATURAL, Scale
from ..state_column import states_from_arrow
from ..state_table import StatesColumn
from ..states.aggregations import LOGSUMEXP, find_aggregation
from ..states.arrays import StateArray
from .states import as_float64, errors_of, group_lists, merge_column, option, record_of, records_of, values_of

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

    =================================== ======= =======================================================
    function                            gives
    =================================== ======= =======================================================
    ``logsumexp(x)``                    Float64 ``ln(sum(exp(x)))``
    ``logmeanexp(x)``                   Float64 ``ln(mean(exp(x)))``
    ``lse_state(x)``                    Binary  the state, with the bytes of ``lse_stream.group_states``
    ``lse_state_of_list(array_agg(x))`` Binary  the same
    ``lse_merge(state)``                Binary  the states merged, as if of one group
    ``lse_value(state, result)``        Float64 a result of a state, such as 'logsumexp'
    =================================== ======= =======================================================

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
    for scalar in (lse_state_of_list(), lse_value()):
        context.register_udf(scalar)


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


def lse_state_of_list(
    *, aggregation: str = LOGSUMEXP.name, scale: Scale | str = NATURAL, name: str = "lse_state_of_list"
) -> "ScalarUDF":
    """The function that makes a state of each list of numbers, as Binary: the bytes of ``lse_state`` of its items.

    Null items are skipped. Null in place of a list gives null: ``array_agg`` of no rows is null.

    Args:
      aggregation: as for ``lse_state``; one of a single input.
      scale, name: as for ``lse_state``.

    Raises:
      ValueError: no such aggregation or scale.

    >>> from datafusion import SessionContext, col, functions, lit
    >>> frame = SessionContext().from_pydict({"x": [0.0, 0.0, 5.0]})
    >>> lists = frame.aggregate([], [functions.array_agg(col("x")).alias("x")])
    >>> lists.select(lse_value()(lse_state_of_list()(col("x")), lit("count")).alias("count")).to_pydict()
    {'count': [3.0]}
    """
    from datafusion import udf

    _empty(aggregation, scale)

    def states(lists: pa.Array) -> pa.Array:
        with errors_of(name):
            return records_of(group_lists(lists, aggregation, scale)).combine_chunks()

    return udf(states, [pa.list_(pa.float64())], pa.binary(), "immutable", name)


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
            return as_float64(values_of(StatesColumn(*states_from_arrow(states)), option(result)))

    return udf(value, [_RECORDS, pa.string()], pa.float64(), "immutable", name)


def _of_values(name: str, aggregation: str, scale: Scale | str, result: str | None = None) -> "AggregateUDF":
    empty = _empty(aggregation, scale)
    return _aggregate(name, record_of(empty), [pa.float64()] * len(empty.aggregation.inputs), result)


def _empty(aggregation: str, scale: Scale | str) -> StateArray:
    """One empty state; raises ValueError for what does not exist."""
    found, on_scale = find_aggregation(aggregation), Scale(scale)
    found.check_scale(on_scale)
    return StateArray.empty(found, on_scale, 1)


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
                # Arrays of NumPy take a third of the time.
                self._held.update(*(values if any(v.null_count for v in values) else map(numbers_of, values)))

        def merge(self, states: list[pa.Array]) -> None:
            with errors_of(self._name):
                merged = merge_column(states[0])
                if merged is not None and self._held is None:
                    self._held = _load(record_of(merged))
                elif merged is not None:
                    self._held.merge(_load(record_of(merged)))

        def state(self) -> list[pa.Scalar]:
            return [self._record()]

        def evaluate(self) -> pa.Scalar:
            if self._result is None or self._held is None:
                return self._record()
            return pa.scalar(self._held.result(self._result), pa.float64())

        def _record(self) -> pa.Scalar:
            return pa.scalar(None if self._held is None else self._held.to_bytes(), pa.binary())

    return StateOfGroup


def _load(record: bytes) -> accumulators.Accumulator:
    """The accumulator of a record, of whichever aggregation that is."""
    (states, _) = states_from_arrow(pa.array([record], pa.binary()), trusted=True)
    return _ACCUMULATORS[states.aggregation.family].from_bytes(record)
