"""What the adapters share: columns and lists of Arrow to states, states to records and to results."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .._kernel import StateError
from ..buffers import nulls_of, numbers_of
from ..reduction import Codes, ColumnAggregation, check_results
from ..scales import Scale
from ..state_column import states_from_arrow, states_to_arrow
from ..state_table import StatesColumn, result_to_arrow
from ..states.aggregations import find_aggregation
from ..states.arrays import StateArray
from ..states.codec import encode_states

# A pa.Array or a pa.ChunkedArray.
Column = Any


@contextmanager
def errors_of(function: str) -> Iterator[None]:
    """Errors within the block name the function: an engine says which query failed, and not where in it."""
    try:
        yield
    except StateError as error:
        raise StateError(error.row, f"{function}: {error}") from None
    except (TypeError, ValueError) as error:
        raise (TypeError if isinstance(error, TypeError) else ValueError)(f"{function}: {error}") from None


def group_rows(
    columns: Sequence[Column], codes: Codes, groups: int, aggregation: str, scale: Scale | str
) -> StateArray:
    """The states (groups,) of the rows with each code; rows with a null are left out.

    Args:
      columns: (n,) each, in the order of the aggregation's inputs.
      codes: (n,) the group of each row.

    Raises:
      TypeError, ValueError: as ``lse_stream.group_states``, which calls a column by its role.
    """
    roles = find_aggregation(aggregation).inputs
    if len(columns) != len(roles):
        raise ValueError(f"expected {' and '.join(roles)} for {aggregation}, found {len(columns)} columns")
    of_column = ColumnAggregation.of(aggregation, scale, roles)
    used, inputs, _ = of_column.inputs(pa.Table.from_arrays(list(columns), names=list(roles)), codes)
    return StateArray.group(of_column.aggregation, of_column.scale, used, inputs, groups)


def group_lists(lists: Column, aggregation: str, scale: Scale | str) -> StatesColumn:
    """The states (n,) of lists (n,) of numbers, or of structs of an aggregation's inputs; null where a list is.

    Raises:
      TypeError, ValueError: no lists, and as ``group_rows``.
    """
    parts = []
    for chunk in _chunks(lists):
        items, codes = _items(chunk)
        columns = items.flatten() if pa.types.is_struct(items.type) else [items]
        parts.append(StatesColumn(group_rows(columns, codes, len(chunk), aggregation, scale), nulls_of(chunk)))
    return StatesColumn.concat(parts)


def merge_lists(lists: Column) -> StatesColumn:
    """The merged states (n,) of lists (n,) of states; null where a list is, or has no states, which alone tell of what.

    Raises:
      TypeError: no lists of states.
      StateError: as ``states_from_arrow``.
    """
    parts = []
    for chunk in _chunks(lists):
        items, codes = _items(chunk)
        if pa.types.is_null(items.type):
            items = items.cast(pa.binary())
        states, kept = _states(items)
        if kept is not None:
            codes = codes[kept]
        none = np.bincount(codes, minlength=len(chunk)) == 0
        parts.append(StatesColumn(states.merge(codes, len(chunk)), none if none.any() else None))
    return StatesColumn.concat(parts)


def merge_column(column: Column) -> StateArray | None:
    """The one merged state of a column (n,) of states; None of none. Raises as ``merge_lists``."""
    states, _ = _states(column)
    return states.merge(np.zeros(len(states), np.int32), 1) if len(states) else None


def records_of(states: StatesColumn) -> pa.ChunkedArray:
    """The states as a column of plain binary, which every engine knows."""
    return states_to_arrow(*states).cast(pa.binary())


def record_of(states: StateArray) -> bytes:
    """The record of an array of one state."""
    return encode_states(states)[0].tobytes()


def values_of(states: StatesColumn, result: str) -> pa.Array:
    """A result (n,) of states (n,), null where the state is.

    Raises:
      ValueError: no such result of their aggregation.
      StateError: a state has no such result.
    """
    (name,) = check_results(states.array.aggregation, [result])
    return result_to_arrow(states.array, name, states.null)


def as_float64(values: pa.Array) -> pa.Array:
    """Results as float64: decimals by their text, which is rounded once."""
    return (values.cast(pa.string()) if pa.types.is_decimal(values.type) else values).cast(pa.float64())


def option(column: Column) -> str:
    """The one string of a column: an argument that is the same in all rows."""
    found = column.unique().to_pylist()
    if len(found) != 1 or not isinstance(found[0], str):
        raise ValueError(f"expected one text for all rows as an option, found {found[:3]}")
    return found[0]


def _states(column: Column) -> tuple[StateArray, npt.NDArray[np.int64] | None]:
    """The states of a column that are not null, and their rows; None for all rows."""
    states, null = states_from_arrow(column)
    if null is None:
        return states, None
    kept = np.flatnonzero(~null)
    return states.take(kept), kept


def _chunks(lists: Column) -> Sequence[pa.Array]:
    types = pa.types
    tests = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)
    if not any(test(lists.type) for test in tests):
        raise TypeError(f"expected lists, such as list(x), found {lists.type}")
    if isinstance(lists, pa.ChunkedArray):
        return lists.chunks or [pa.array([], lists.type)]
    return [lists]


def _items(lists: pa.Array) -> tuple[pa.Array, Codes]:
    """The items of lists, those of null lists left out, and the row of each."""
    sizes = numbers_of(pc.list_value_length(lists))
    null = nulls_of(lists)
    if null is not None:
        sizes = np.where(null, 0, sizes)
    return lists.flatten(), np.repeat(np.arange(len(lists), dtype=np.int32), sizes)
