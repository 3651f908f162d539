"""Grouping, merging and finalizing of states on Apache Spark 4: the bytes of ``lse_stream.group_states`` on all rows.

Each partition is reduced to one state per key; Spark shuffles these alone, by their keys, and they are merged where
they arrive. All of it runs on Arrow batches, in Python workers that need this package.

A column of states is binary. Which states they are is in the column's metadata, under "lse_stream.state", which Spark
keeps through its operations and in Parquet files. Without it they count as log-sum-exp states on the natural scale.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .. import table_functions
from ..key_accumulators import RowAccumulator, RowReducer, StateAccumulator, StateReducer
from ..reduction import ColumnAggregation, Reduction, check_names
from ..scales import NATURAL, Scale
from ..state_column import STATE, StateType, aggregation_of
from ..state_table import StateTable
from ..states.aggregations import LOGSUMEXP, find_aggregation
from ..states.arrays import StateArray
from ..states.codec import encode_states

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Batches = Iterable[pa.RecordBatch]

_METADATA = "lse_stream.state"

# Rows of a batch that goes to Spark: of states some megabytes.
_BATCH = 1 << 15


def state_metadata(aggregation: str = LOGSUMEXP.name, scale: Scale | str = NATURAL) -> dict[str, str]:
    """The metadata that tell what a binary column of states contains, for ``DataFrame.withMetadata("state", ...)``.

    Columns of ``group_states`` and ``merge_states`` have it. Those from elsewhere need it, such as from files that
    other programs wrote, unless they are log-sum-exp states on the natural scale.

    Args:
      aggregation, scale: as of ``lse_stream.group_states``.

    Raises:
      ValueError: no such aggregation or scale.

    >>> state_metadata(scale="decibel")
    {'lse_stream.state': '{"version": 2, "aggregation": "logsumexp", "scale": "decibel"}'}
    """
    of_states, on_scale = find_aggregation(aggregation), Scale(scale)
    of_states.check_scale(on_scale)
    return _metadata(StateType(aggregation=of_states.name, scale=on_scale.name))


def group_states(
    frame: "DataFrame",
    keys: Sequence[str],
    value: str | Sequence[str],
    *,
    aggregation: str = LOGSUMEXP.name,
    scale: Scale | str = NATURAL,
) -> "DataFrame":
    """The states of the values of each key, with the bytes of ``lse_stream.group_states`` on all rows.

    Rows are reduced where they are, and the shuffle has one state for each key and partition.

    Args:
      frame: of PySpark, with any number of partitions. Spark's functions of Arrow take no names with dots.
      keys: names of the key columns, as of ``lse_stream.group_states``: no arrays, maps or structs. Null is a key of
        its own. Without key columns all rows are one group, even if there are none.
      value: name of the column of numbers, or the names that the aggregation takes. Rows with a null value are left
        out; NaN is not null.
      aggregation, scale: as of ``lse_stream.group_states``.

    Returns:
      The key columns, of the types they came in, and "state", binary: one row per key, in no set order.

    Raises:
      KeyError: a column is not there.
      TypeError: no DataFrame, or a key or value column of another type.
      ValueError: no such aggregation or scale, or column names that collide.
      All of them before a job runs. What is wrong with a value, such as an integer beyond +-2^53, ends the job.
    """
    of_column = ColumnAggregation.of(aggregation, scale, value)
    check_names(keys, others=[*of_column.values, STATE, *of_column.aggregation.columns])
    reduction = Reduction(tuple(keys), {STATE: of_column})
    rows = _selected(frame, reduction.columns)
    RowReducer(reduction).check(_no_rows(rows))
    of_states = StateType(aggregation=of_column.aggregation.name, scale=of_column.scale.name)
    states = rows.mapInArrow(partial(_group, reduction), _schema_of_states(rows, keys, of_states))
    return _merge_by_keys(states, keys, of_states)


def merge_states(frame: "DataFrame", keys: Sequence[str]) -> "DataFrame":
    """The states of each key merged: exactly as if all rows behind them had been grouped at once.

    Args:
      frame: key columns and states, as from ``group_states``; more columns are left out. To merge to coarser keys, name
        fewer of them.
      keys: names of the key columns; none for one state over all. A null state makes its key's merged state null.

    Returns:
      The key columns and the states, one row per key, in no set order.

    Raises:
      KeyError, TypeError, ValueError: as ``group_states``.
      StateError: states of a version that this release does not know.
      All of them before a job runs. States of another aggregation or scale, or damaged ones, end the job.
    """
    check_names(keys, others=[STATE])
    states = _selected(frame, [*keys, STATE])
    of_states = _state_type(states)
    StateReducer(keys, trusted=False).check(_no_rows(states))
    merge = partial(_merge, tuple(keys), of_states)
    return _merge_by_keys(states.mapInArrow(merge, _schema_of_states(states, keys, of_states)), keys, of_states)


def finalize(frame: "DataFrame", results: Sequence[str] | None = None, *, min_count: int = 0) -> "DataFrame":
    """The results of a frame of states, in place of its column "state".

    Args:
      frame: as from ``group_states`` or ``merge_states``; its other columns stay as they are.
      results, min_count: as of ``lse_stream.finalize``.

    Returns:
      The other columns and the results: double, and ``count`` bigint.

    Raises:
      KeyError: no column "state".
      TypeError: no DataFrame, or a column "state" that is not binary.
      ValueError: another column has the name of a result, no such result, or a negative ``min_count``.
      StateError: states of a version that this release does not know.
      All of them before a job runs. States of another aggregation or scale, or damaged ones, end the job.
    """
    from pyspark.sql.types import StructType

    of_states = _state_type(_selected(frame, [STATE]))
    kinds = [of_states if name == STATE else pa.null() for name in frame.columns]
    like = pa.schema(list(zip(frame.columns, kinds, strict=True))).empty_table()
    found = table_functions.finalize(like, results=results, min_count=min_count)
    new = [name for name in found.column_names if name not in frame.columns]
    fields = [*frame.schema, *frame.sparkSession.createDataFrame(found.select(new)).schema]
    by_name = {field.name: field for field in fields}
    schema = StructType([by_name[name] for name in found.column_names])
    return frame.mapInArrow(partial(_finalize, of_states, results, min_count), schema)


# --- what workers run -------------------------------------------------------------------------------------------------


def _group(reduction: Reduction, batches: Batches) -> Iterator[pa.RecordBatch]:
    """The states of a partition of rows."""
    accumulator = RowAccumulator(reduction)
    for batch in batches:
        accumulator.add(pa.Table.from_batches([batch]))
    yield from _to_batches(accumulator.table())


def _merge(keys: tuple[str, ...], of_states: StateType, batches: Batches) -> Iterator[pa.RecordBatch]:
    """The merged states of a partition of states."""
    accumulator = StateAccumulator(keys)
    for batch in batches:
        accumulator.add(StateTable.from_arrow(_with_type(pa.Table.from_batches([batch]), of_states), keys))
    yield from _to_batches(accumulator.table())


def _finalize(
    of_states: StateType, results: Sequence[str] | None, min_count: int, batches: Batches
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        table = _with_type(pa.Table.from_batches([batch]), of_states)
        yield from table_functions.finalize(table, results=results, min_count=min_count).to_batches()


def _with_type(table: pa.Table, of_states: StateType) -> pa.Table:
    """A table of Spark's with the type of its states, which refuses others even where all of a batch are null."""
    column = table.column(STATE).cast(of_states.storage_type).cast(of_states)
    return table.set_column(table.column_names.index(STATE), STATE, column)


def _to_batches(states: StateTable | None) -> Iterator[pa.RecordBatch]:
    """Batches as Spark takes them: states as plain binary. None, of a partition without batches, gives none."""
    if states is not None:
        table = states.to_arrow()
        plain = table.column(STATE).cast(pa.binary())
        yield from table.set_column(table.num_columns - 1, STATE, plain).to_batches(max_chunksize=_BATCH)


# --- what the driver plans --------------------------------------------------------------------------------------------


def _merge_by_keys(states: "DataFrame", keys: Sequence[str], of_states: StateType) -> "DataFrame":
    """The states of all partitions merged, once those of a key have come together in one."""
    if keys:
        together = states.repartition(*keys)
    else:
        # An empty state has Spark run the last step even where there are no partitions.
        empty = StateArray.empty(find_aggregation(of_states.aggregation), Scale(of_states.scale), 1)
        seed = [(encode_states(empty)[0].tobytes(),)]
        together = states.union(states.sparkSession.createDataFrame(seed, states.schema)).repartition(1)
    return together.mapInArrow(partial(_merge, tuple(keys), of_states), states.schema)


def _selected(frame: "DataFrame", names: Sequence[str]) -> "DataFrame":
    """Some columns, each of which is there once."""
    if not hasattr(frame, "mapInArrow"):
        raise TypeError(f"frame: expected a DataFrame of PySpark, found {type(frame).__name__}")
    for name in names:
        if frame.columns.count(name) != 1:
            raise KeyError(f"column {name!r}: expected once among the columns {frame.columns}")
    return frame.select(*names)


def _no_rows(frame: "DataFrame") -> pa.Table:
    """A table of the types that workers will see, to find out whether they fit. Spark plans it to be of nothing."""
    return frame.limit(0).toArrow()


def _metadata(of_states: StateType) -> dict[str, str]:
    return {_METADATA: of_states.__arrow_ext_serialize__().decode()}


def _state_type(states: "DataFrame") -> StateType:
    """Which states a frame has, by the metadata of its column."""
    field = states.schema[STATE]
    if field.dataType.typeName() != "binary":
        raise TypeError(f"column {STATE!r}: expected states, as binary, found {field.dataType.simpleString()}")
    found = field.metadata.get(_METADATA)
    of_states = StateType() if found is None else StateType.__arrow_ext_deserialize__(pa.binary(), found.encode())
    aggregation_of(of_states, STATE)  # raises for those that cannot be read
    return of_states


def _schema_of_states(frame: "DataFrame", keys: Sequence[str], of_states: StateType) -> Any:
    from pyspark.sql.types import BinaryType, StructField, StructType

    state = StructField(STATE, BinaryType(), nullable=True, metadata=_metadata(of_states))
    return StructType([*(frame.schema[name] for name in keys), state])
