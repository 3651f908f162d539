"""Functions of Arrow arrays, in the manner of ``pyarrow.compute``: log-sum-exp and softmax of list columns, logaddexp.

A list is a row: ``list``, ``large_list`` and ``fixed_size_list`` columns of numbers, ragged or not, sliced or chunked.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import _kernel
from .scales import NATURAL
from .states import LOGSUMEXP, StateArray, log_weights
from .values import check_widenable, widen, widen_arrow

# A pa.Array or a pa.ChunkedArray, which comes back as the same.
Column = Any


def _chunks(column: Any, name: str) -> list[Any]:
    """The arrays of a column of lists."""
    if not isinstance(column, pa.Array | pa.ChunkedArray):
        raise TypeError(f"{name}: expected a pyarrow array of lists, found {type(column).__name__}")
    is_list = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(test(column.type) for test in is_list):
        raise TypeError(f"{name}: expected lists of numbers, found Arrow type {column.type}")
    check_widenable(column.type.value_type, f"{name}, items")
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def _like(column: Any, chunks: list[Any], data_type: pa.DataType) -> Any:
    return pa.chunked_array(chunks, data_type) if isinstance(column, pa.ChunkedArray) else chunks[0]


def _items(
    lists: Any, name: str
) -> tuple[Any, np.ndarray[Any, np.dtype[np.int32]], np.ndarray[Any, np.dtype[np.float64]]]:
    """The items of a list array, those of null lists left out; of the items that are not null, row and number."""
    items = lists.flatten()
    rows = pc.list_parent_indices(lists).to_numpy().astype(np.int32)
    if items.null_count:
        rows = rows[items.is_valid().to_numpy(zero_copy_only=False)]
    values = [widen(part, f"{name}, items") for part in widen_arrow(items, f"{name}, items")]
    return items, rows, np.concatenate([np.empty(0), *values])


def logsumexp(lists: Column, *, skip_nulls: bool = True, min_count: int = 0) -> Column:
    """``ln(sum(exp(x)))`` of every list: float64, null where the list is.

    Args:
      lists: a column of lists of numbers.
      skip_nulls: leave null items out; if False, a list with one gives null.
      min_count: fewer items than this give null. 0 gives -inf for an empty list.

    Raises:
      TypeError: not a column of lists of numbers; the type named.
      ValueError: an integer beyond +-2^53.
    """
    out = []
    for chunk in _chunks(lists, "lists"):
        items, rows, values = _items(chunk, "lists")
        states = StateArray.group(LOGSUMEXP, NATURAL, rows, [values], len(chunk))
        null = chunk.is_null().to_numpy(zero_copy_only=False) | (states.counts < min_count)
        if not skip_nulls and items.null_count:
            of_null = pc.list_parent_indices(chunk).filter(items.is_null()).to_numpy()
            null[of_null] = True
        out.append(pa.array(states.result("logsumexp"), mask=null))
    return _like(lists, out, pa.float64())


def _weights(lists: Column, log: bool) -> Column:
    value_type = pa.float64()
    fixed = pa.types.is_fixed_size_list(lists.type) if hasattr(lists, "type") else False
    out = []
    for chunk in _chunks(lists, "lists"):
        items, rows, values = _items(chunk, "lists")
        states = StateArray.group(LOGSUMEXP, NATURAL, rows, [values], len(chunk))
        found = log_weights(states, rows, values) if log else _kernel.weights_of(states.sums[0], rows, values)
        null = chunk.is_null().to_numpy(zero_copy_only=False)
        valid = items.is_valid().to_numpy(zero_copy_only=False)
        if fixed:
            size = chunk.type.list_size
            valid, kept = np.zeros(len(chunk) * size, np.bool_), valid
            valid[np.repeat(~null, size)] = kept
        weights = np.zeros(valid.size)
        weights[valid] = found
        data = pa.array(weights, value_type, mask=~valid)
        mask = pa.array(null)
        if fixed:
            out.append(pa.FixedSizeListArray.from_arrays(data, size, mask=mask))
            continue
        is_large = pa.types.is_large_list(chunk.type)
        ends = np.cumsum(pc.fill_null(pc.list_value_length(chunk), 0).to_numpy())
        offsets = pa.array(np.concatenate([[0], ends]), pa.int64() if is_large else pa.int32())
        array_type = pa.LargeListArray if is_large else pa.ListArray
        out.append(array_type.from_arrays(offsets, data, mask=mask))
    data_type = pa.list_(value_type, lists.type.list_size) if fixed else None
    if not fixed:
        data_type = pa.large_list(value_type) if pa.types.is_large_list(lists.type) else pa.list_(value_type)
    return _like(lists, out, data_type)


def softmax(lists: Column) -> Column:
    """``exp(x) / sum(exp(x))`` in every list: lists of float64, null where list or item is.

    Values and errors are those of ``lse_stream.softmax`` and of ``logsumexp`` here.
    """
    return _weights(lists, log=False)


def log_softmax(lists: Column) -> Column:
    """``x - logsumexp(x)`` in every list: as ``softmax``."""
    return _weights(lists, log=True)


def label_outside(lists: Column, labels: Column) -> int | None:
    """The first row whose label, an index from 0, is not one of its list; None if there is none. Nulls are not."""
    sizes = pc.list_value_length(lists)
    outside = pc.or_(pc.less(labels, 0), pc.greater_equal(labels, sizes))
    row: int = pc.index(outside, pa.scalar(True)).as_py()
    return row if row >= 0 else None


def cross_entropy(lists: Column, labels: Column) -> Column:
    """``ln(sum(exp(x))) - x[label]`` of every list, in nats: float64, null where the list or the label is.

    Args:
      lists: a column of lists of numbers, the logits of an example each.
      labels: a column of integers, which count from 0.

    Raises:
      TypeError: not such columns; the type named.
      ValueError: columns of different lengths, a label that is no index of its list, a null among the items of a list,
        or an integer beyond +-2^53.
    """
    chunks = _chunks(lists, "lists")
    if not isinstance(labels, pa.Array | pa.ChunkedArray) or not pa.types.is_integer(labels.type):
        found = getattr(labels, "type", type(labels).__name__)
        raise TypeError(f"labels: expected a pyarrow array of integers, found {found}")
    if len(lists) != len(labels):
        raise ValueError(f"labels: expected {len(lists)} as in lists, found {len(labels)}")
    if (row := label_outside(lists, labels)) is not None:
        size = pc.list_value_length(lists)[row].as_py()
        raise ValueError(f"row {row}: expected a label from 0 to {size - 1}, found {labels[row]}")
    out, start = [], 0
    for chunk in chunks:
        label = labels.slice(start, len(chunk))
        items, rows, values = _items(chunk, "lists")
        if items.null_count:
            row = start + pc.list_parent_indices(chunk).filter(items.is_null())[0].as_py()
            raise ValueError(f"lists, row {row}: expected numbers, found a null among them")
        there = np.flatnonzero(np.asarray(chunk.is_valid()) & np.asarray(label.is_valid())).astype(np.int32)
        begins = np.searchsorted(rows, there)
        chosen = values[begins + np.asarray(pc.drop_null(label.filter(chunk.is_valid()))).astype(np.int64)]
        states = StateArray.group(LOGSUMEXP, NATURAL, rows, [values], len(chunk))
        losses, null = np.zeros(len(chunk)), np.ones(len(chunk), np.bool_)
        losses[there], null[there] = 0.0 - log_weights(states, there, chosen), False
        out.append(pa.array(losses, mask=null))
        start += len(chunk)
    return _like(lists, out, pa.float64())


def logaddexp(x: Column, y: Column) -> Column:
    """``ln(exp(x) + exp(y))`` of two columns of numbers (n,): float64, null where either is.

    Raises:
      TypeError: a column that is not of numbers, named.
      ValueError: columns of different lengths, or an integer beyond +-2^53.
    """
    for name, column in (("x", x), ("y", y)):
        if not isinstance(column, pa.Array | pa.ChunkedArray):
            raise TypeError(f"{name}: expected a pyarrow array, found {type(column).__name__}")
    if len(x) != len(y):
        raise ValueError(f"y: expected {len(x)} values as in x, found {len(y)}")
    null = np.zeros(len(x), np.bool_)
    pairs = np.zeros((len(x), 2))
    for i, (name, column) in enumerate((("x", x), ("y", y))):
        check_widenable(column.type, name)
        valid = np.asarray(column.is_valid())
        parts = [widen(part, name) for part in widen_arrow(column, name)]
        pairs[valid, i] = np.concatenate([np.empty(0), *parts])
        null |= ~valid
    result = pa.array(_kernel.row_values(pairs), mask=null)
    return pa.chunked_array([result]) if isinstance(x, pa.ChunkedArray) else result
