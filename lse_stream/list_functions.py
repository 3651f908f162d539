"""Functions of Arrow arrays, in the manner of ``pyarrow.compute``: log-sum-exp and softmax of list columns, logaddexp.

A list is a row: ``list``, ``large_list`` and ``fixed_size_list`` columns of numbers, ragged or not, sliced or chunked.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from . import _kernel
from .buffers import array_of, nulls_of, numbers_of
from .float64 import check_numeric_type, column_to_float64_exact
from .scales import NATURAL
from .states.aggregations import LOGSUMEXP
from .states.arrays import StateArray
from .states.results import LogTotals, result_of

# A pa.Array or a pa.ChunkedArray, which comes back as the same.
Column = Any


def _chunks(column: Any, name: str) -> list[Any]:
    """The arrays of a column of lists."""
    if not isinstance(column, pa.Array | pa.ChunkedArray):
        raise TypeError(f"{name}: expected a pyarrow array of lists, found {type(column).__name__}")
    is_list = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(test(column.type) for test in is_list):
        raise TypeError(f"{name}: expected lists of numbers, found Arrow type {column.type}")
    check_numeric_type(column.type.value_type, f"{name}, items")
    return _parts(column)


def _parts(column: Any) -> list[Any]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def _valid(array: Any) -> npt.NDArray[np.bool_]:
    null = nulls_of(array)
    return np.ones(len(array), np.bool_) if null is None else ~null


def _like(column: Any, chunks: list[Any], data_type: pa.DataType) -> Any:
    return pa.chunked_array(chunks, data_type) if isinstance(column, pa.ChunkedArray) else chunks[0]


def _items(
    lists: Any, name: str
) -> tuple[Any, np.ndarray[Any, np.dtype[np.int32]], np.ndarray[Any, np.dtype[np.float64]]]:
    """The items of a list array, those of null lists left out; of the items that are not null, row and number."""
    items = lists.flatten()
    rows = numbers_of(pc.list_parent_indices(lists)).astype(np.int32)
    if items.null_count:
        rows = rows[_valid(items)]
    return items, rows, column_to_float64_exact(items, f"{name}, items")


def logsumexp(lists: Column, *, skip_nulls: bool = True, min_count: int = 0) -> Column:
    """``ln(sum(exp(x)))`` of every list: float64, null where the list is.

    Args:
      lists: a column of lists of numbers.
      skip_nulls: leave null items out; if False, a list with one gives null.
      min_count: fewer items than this give null. 0 gives -inf for an empty list.

    Raises:
      TypeError: not a column of lists of numbers; the type named.
      ValueError: an integer beyond +-2^53.

    >>> logsumexp(pa.array([[0.0, 0.0], [], None])).to_pylist()
    [0.6931471805599453, -inf, None]
    """
    out = []
    for chunk in _chunks(lists, "lists"):
        items, rows, values = _items(chunk, "lists")
        states = StateArray.group(LOGSUMEXP, NATURAL, rows, [values], len(chunk))
        null = ~_valid(chunk) | (states.counts < min_count)
        if not skip_nulls and items.null_count:
            null[numbers_of(pc.list_parent_indices(chunk))[~_valid(items)]] = True
        out.append(array_of(result_of(states, "logsumexp"), null=null))
    return _like(lists, out, pa.float64())


def _softmax(lists: Column, log: bool) -> Column:
    fixed = pa.types.is_fixed_size_list(lists.type) if hasattr(lists, "type") else False
    out = []
    for chunk in _chunks(lists, "lists"):
        items, rows, values = _items(chunk, "lists")
        states = StateArray.group(LOGSUMEXP, NATURAL, rows, [values], len(chunk))
        found = LogTotals(states).log_softmax(rows, values) if log else _kernel.softmax_of(states.sums[0], rows, values)
        null, valid = ~_valid(chunk), _valid(items)
        if fixed:
            size = chunk.type.list_size
            valid, kept = np.zeros(len(chunk) * size, np.bool_), valid
            valid[np.repeat(~null, size)] = kept
        softmax_values = np.zeros(valid.size)
        softmax_values[valid] = found
        data = array_of(softmax_values, null=None if valid.all() else ~valid)
        mask = array_of(null)
        if fixed:
            out.append(pa.FixedSizeListArray.from_arrays(data, size, mask=mask))
            continue
        is_large = pa.types.is_large_list(chunk.type)
        ends = np.cumsum(np.where(null, 0, numbers_of(pc.list_value_length(chunk))))
        offsets = array_of(np.concatenate([[0], ends]).astype(np.int64 if is_large else np.int32))
        array_type = pa.LargeListArray if is_large else pa.ListArray
        out.append(array_type.from_arrays(offsets, data, mask=mask))
    return _like(lists, out, softmax_type(lists.type))


def softmax_type(data_type: pa.DataType) -> pa.DataType:
    """That of the softmax of lists: lists of the same kind, of float64."""
    if pa.types.is_fixed_size_list(data_type):
        return pa.list_(pa.float64(), data_type.list_size)
    return pa.large_list(pa.float64()) if pa.types.is_large_list(data_type) else pa.list_(pa.float64())


def softmax(lists: Column) -> Column:
    """``exp(x) / sum(exp(x))`` in every list: lists of float64, null where list or item is.

    Args:
      lists: a column of lists of numbers.

    Raises:
      TypeError, ValueError: as ``logsumexp`` of this module.

    >>> softmax(pa.array([[0.0, 0.0], [7.0]])).to_pylist()
    [[0.5, 0.5], [1.0]]
    """
    return _softmax(lists, log=False)


def log_softmax(lists: Column) -> Column:
    """``x - logsumexp(x)`` in every list: lists of float64, null where list or item is.

    Args:
      lists: a column of lists of numbers.

    Raises:
      TypeError, ValueError: as ``logsumexp`` of this module.

    >>> log_softmax(pa.array([[7.0], [0.0, None]])).to_pylist()
    [[0.0], [0.0, None]]
    """
    return _softmax(lists, log=True)


def label_outside(lists: Column, labels: Column) -> int | None:
    """The first row whose label, an index from 0, is not one of its list; None if there is none. Nulls are not."""
    start = 0
    for size, label in _aligned(pc.list_value_length(lists), labels):
        sizes, numbers = numbers_of(size), numbers_of(label)
        outside = numbers >= (sizes.astype(np.uint64) if numbers.dtype.kind == "u" else sizes)
        outside |= numbers < 0
        for null in (nulls_of(size), nulls_of(label)):
            if null is not None:
                outside &= ~null
        if outside.any():
            return start + int(outside.argmax())
        start += len(size)
    return None


def _aligned(*columns: Column) -> Iterator[tuple[pa.Array, ...]]:
    """Columns of equal length, in arrays of equal length."""
    schema = pa.schema([(str(i), column.type) for i, column in enumerate(columns)])
    for batch in pa.Table.from_arrays(list(columns), schema=schema).to_batches():
        yield tuple(batch.columns)


def cross_entropy(lists: Column, labels: Column) -> Column:
    """``ln(sum(exp(x))) - x[label]`` of every list, in nats: float64, null where the list or the label is.

    Args:
      lists: a column of lists of numbers, the logits of an example each.
      labels: a column of integers, which count from 0.

    Raises:
      TypeError: not such columns; the type named.
      ValueError: columns of different lengths, a label that is no index of its list, a null among the items of a list,
        or an integer beyond +-2^53.

    >>> cross_entropy(pa.array([[0.0, 0.0], [2.0, 2.0]]), pa.array([0, None])).to_pylist()
    [0.6931471805599453, None]
    """
    chunks = _chunks(lists, "lists")
    if not isinstance(labels, pa.Array | pa.ChunkedArray) or not pa.types.is_integer(labels.type):
        found = getattr(labels, "type", type(labels).__name__)
        raise TypeError(f"labels: expected a pyarrow array of integers, found {found}")
    if len(lists) != len(labels):
        raise ValueError(f"labels: expected {len(lists)} as in lists, found {len(labels)}")
    if (row := label_outside(lists, labels)) is not None:
        size = len(lists[row])
        raise ValueError(f"row {row}: expected a label from 0 to {size - 1}, found {labels[row]}")
    out, start = [], 0
    for chunk in chunks:
        label = labels.slice(start, len(chunk))
        items, rows, values = _items(chunk, "lists")
        if items.null_count:
            row = start + int(numbers_of(pc.list_parent_indices(chunk))[~_valid(items)][0])
            raise ValueError(f"lists, row {row}: expected numbers, found a null among them")
        numbers = np.concatenate(
            [np.zeros(0, np.int64), *(numbers_of(part).astype(np.int64) for part in _parts(label))]
        )
        present = np.concatenate([np.zeros(0, np.bool_), *(_valid(part) for part in _parts(label))])
        there = np.flatnonzero(_valid(chunk) & present).astype(np.int32)
        begins = np.searchsorted(rows, there)
        chosen = values[begins + numbers[there]]
        states = StateArray.group(LOGSUMEXP, NATURAL, rows, [values], len(chunk))
        losses, null = np.zeros(len(chunk)), np.ones(len(chunk), np.bool_)
        losses[there], null[there] = 0.0 - LogTotals(states).log_softmax(there, chosen), False
        out.append(array_of(losses, null=null))
        start += len(chunk)
    return _like(lists, out, pa.float64())


def logaddexp(x: Column, y: Column) -> Column:
    """``ln(exp(x) + exp(y))`` of two columns of numbers (n,): float64, null where either is.

    Raises:
      TypeError: a column that is not of numbers, named.
      ValueError: columns of different lengths, or an integer beyond +-2^53.

    >>> logaddexp(pa.array([0.0, None]), pa.array([0.0, 1.0])).to_pylist()
    [0.6931471805599453, None]
    """
    for name, column in (("x", x), ("y", y)):
        if not isinstance(column, pa.Array | pa.ChunkedArray):
            raise TypeError(f"{name}: expected a pyarrow array, found {type(column).__name__}")
    if len(x) != len(y):
        raise ValueError(f"y: expected {len(x)} values as in x, found {len(y)}")
    null = np.zeros(len(x), np.bool_)
    pairs = np.zeros((len(x), 2))
    for i, (name, column) in enumerate((("x", x), ("y", y))):
        check_numeric_type(column.type, name)
        valid = np.concatenate([np.zeros(0, np.bool_), *(_valid(part) for part in _parts(column))])
        pairs[valid, i] = column_to_float64_exact(column, name)
        null |= ~valid
    result = array_of(_kernel.row_values(pairs), null=null)
    return pa.chunked_array([result]) if isinstance(x, pa.ChunkedArray) else result
