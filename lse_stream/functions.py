"""Log-sum-exp, log-mean-exp and softmax along axes of arrays, as in ``scipy.special``: same arguments and shapes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.array_utils import normalize_axis_tuple

from . import _kernel
from .accumulators import Accumulator, LogSumExpAccumulator
from .float64 import Array, Floats, Mask, array_and_nulls, to_float64_exact
from .scales import NATURAL
from .states.aggregations import LOGSUMEXP, WEIGHTED_LOGSUMEXP
from .states.arrays import StateArray
from .states.results import LogTotals, result_of

Axis = int | Sequence[int] | None

# Values of a matrix that are reduced at a time: with codes and states of rows they take some 100 MB at most.
_BLOCK = 1 << 20
# Values whose softmax is written at a time: with codes and results they stay in a second-level cache of 512 kB.
_CACHED = 1 << 14
# The code of the only state.
_FIRST = np.zeros(1, np.int32)
# Weighted values of one row that are summed at a time: with codes and converted values a megabyte or so.
_LONG = 1 << 16


def _without(null: Mask | None, array: Array, name: str) -> Array:
    """An array with -inf, whose term is 0, in place of what is null."""
    if null is None:
        return array
    data = array if array.dtype.kind == "f" else to_float64_exact(array, name)
    return np.where(null, data.dtype.type(-np.inf), data)


def _masked(null: Mask | None, result: Array) -> Any:
    """What has an element for every element of the input: null, which is masked, where that is."""
    return result[()] if null is None else np.ma.array(result, mask=null)


def _broadcast(pairs: Sequence[tuple[Array, Mask | None]], name: str) -> tuple[list[Array], Mask | None]:
    """Arrays of one shape, and where one of them is null; ``name`` is what an error calls the second."""
    (first, _), (second, _) = pairs
    try:
        arrays = list(np.broadcast_arrays(first, second))
    except ValueError as error:
        raise ValueError(
            f"{name}: expected a shape that broadcasts with {first.shape}, found {second.shape}"
        ) from error
    masks = [np.broadcast_to(null, arrays[0].shape) for _, null in pairs if null is not None]
    return arrays, np.logical_or.reduce(masks) if masks else None


def _plain(a: object) -> Floats | None:
    """A contiguous array of float64, or one of a list of floats; None for all else, which takes a longer way."""
    array = np.array(a) if type(a) is list and set(map(type, a)) == {float} else a
    if type(array) is np.ndarray and array.dtype == np.float64 and array.flags.c_contiguous:
        return array
    return None


_SIGNED = ("log_abs_sum", "sign")


def axes_of(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The axes as numbers of 0 or more; raises numpy.exceptions.AxisError for one that is not there."""
    if axis is None:
        return tuple(range(ndim))
    try:
        axes: tuple[int, ...] = normalize_axis_tuple(axis, ndim, "axis")
    except TypeError as error:
        raise TypeError(f"axis: expected an integer or several, found {axis!r}") from error
    return axes


def to_rows(array: Array, axes: tuple[int, ...]) -> Array:
    """(rows, columns), the axes in question along the columns, in their order."""
    kept = [i for i in range(array.ndim) if i not in axes]
    columns = math.prod(array.shape[i] for i in axes)
    rows = math.prod(array.shape[i] for i in kept)
    return array.transpose([*kept, *axes]).reshape(rows, columns)


def _codes(rows: int, columns: int) -> npt.NDArray[np.int32]:
    return np.repeat(np.arange(rows, dtype=np.int32), columns)


def _blocks(rows: Array) -> Iterator[tuple[slice, Array]]:
    """Rows of a matrix, so many at a time that what is made of them stays small."""
    step = max(1, _BLOCK // max(rows.shape[1], 1))
    for i in range(0, rows.shape[0], step):
        yield slice(i, i + step), rows[i : i + step]


def _cached(rows: Array) -> Iterator[tuple[tuple[slice, slice], npt.NDArray[np.int32], Floats]]:
    """Parts of a matrix that stay in the cache: where they are, the numbers of their rows (n, 1), and their values."""
    step = max(1, _CACHED // max(rows.shape[1], 1))
    for i in range(0, rows.shape[0], step):
        numbers = np.arange(i, min(i + step, rows.shape[0]), dtype=np.int32)[:, None]
        for j in range(0, rows.shape[1], _CACHED):
            at = slice(i, i + step), slice(j, j + _CACHED)
            yield at, numbers, to_float64_exact(rows[at], "x")


def _states(
    rows: Array, weights: Array | None = None, null: Mask | None = None, *, with_totals: bool = False
) -> StateArray:
    """One state per row of what is not null; without the exact sum of the weights unless ``with_totals``."""
    if weights is None and rows.shape[0] == 1:
        row = rows[0] if null is None else rows[0][~null[0]]
        return LogSumExpAccumulator(row if row.dtype.kind == "f" else to_float64_exact(row, "a")).states()
    aggregation = LOGSUMEXP if weights is None else WEIGHTED_LOGSUMEXP
    aggregation = aggregation if with_totals else replace(aggregation, exact=())
    columns = [rows.ravel()] if weights is None else [rows.ravel(), weights.ravel()]
    codes = _codes(*rows.shape) if rows.shape[0] > 1 else np.zeros(_LONG, np.int32)
    if null is not None:
        present = ~null.ravel()
        columns = [column[present] for column in columns]
        codes = codes[present] if rows.shape[0] > 1 else codes
    step = codes.size if rows.shape[0] > 1 else _LONG  # the codes of one long row need not be as long
    parts = []
    for i in range(0, max(columns[0].size, 1), max(step, 1)):
        inputs = [
            to_float64_exact(column[i : i + step], name) for column, name in zip(columns, ("a", "b"), strict=False)
        ]
        aggregation.check_inputs(inputs, ("a", "b")[: len(inputs)])
        parts.append(StateArray.group(aggregation, NATURAL, codes[: inputs[0].size], inputs, rows.shape[0]))
    return parts[0] if len(parts) == 1 else StateArray.concat(parts).merge(np.zeros(len(parts), np.int32), 1)


def states_along(a: object, axes: tuple[int, ...]) -> StateArray:
    """One log-sum-exp state for each place outside the axes, in C order, of what is neither null nor masked.

    Raises:
      TypeError, ValueError: as ``logsumexp``.
    """
    array, null = array_and_nulls(a, "a")
    rows, nulls = to_rows(array, axes), None if null is None else to_rows(null, axes)
    parts = [_states(part, null=None if nulls is None else nulls[block]) for block, part in _blocks(rows)]
    return StateArray.concat(parts or [StateArray.empty(LOGSUMEXP, NATURAL, 0)])


def _reduce(a: object, axis: Axis, b: object, keepdims: bool, results: Sequence[str]) -> tuple[Any, ...]:
    """Results of every row, in the shape and dtype that they shall have."""
    array, null = array_and_nulls(a, "a")
    weights = None
    dtype = array.dtype.newbyteorder("=") if array.dtype.kind == "f" else np.dtype(np.float64)
    if b is not None:
        weights, null_weights = array_and_nulls(b, "b", booleans=True)
        dtype = np.result_type(dtype, b if isinstance(b, int | float) else weights)
        (array, weights), null = _broadcast([(array, null), (weights, null_weights)], "b")
    elif "logmeanexp" not in results:
        array, null = _without(null, array, "a"), None
    array, null = np.atleast_1d(array), None if null is None else np.atleast_1d(null)
    axes = axes_of(axis, array.ndim)
    rows = to_rows(array, axes)
    nulls = None if null is None else to_rows(null, axes)
    # Weights that are all 1 give the bits of none.
    columns = None if weights is None or (weights == 1).all() else to_rows(weights, axes)
    wanted = ("logsumexp",) if columns is None and results == _SIGNED else results
    out = [np.empty(rows.shape[0]) for _ in wanted]
    for block, part in _blocks(rows):
        if wanted == ("logsumexp",) and columns is None and nulls is None and rows.shape[0] > 1:
            out[0][block] = _kernel.row_values(to_float64_exact(part, "a"))
            continue
        weighing, absent = (None if matrix is None else matrix[block] for matrix in (columns, nulls))
        states = _states(part, weighing, absent, with_totals="logmeanexp" in wanted)
        for values, name in zip(out, wanted, strict=True):
            values[block] = result_of(states, name)
        if weights is not None and "logmeanexp" in wanted:
            out[0][block][states.counts == 0] = np.nan  # their weights sum to 0
    if wanted != results:
        out.append(np.where(np.isnan(out[0]), np.nan, out[0] != -np.inf))
    shape = [1 if i in axes else size for i, size in enumerate(array.shape) if keepdims or i not in axes]
    with np.errstate(over="ignore", under="ignore"):
        return tuple(values.astype(dtype).reshape(shape)[()] for values in out)


def logsumexp(a: object, axis: Axis = None, b: object = None, keepdims: bool = False, return_sign: bool = False) -> Any:
    """``ln(sum(b * exp(a)))`` along axes, the same bits for the same values in any order.

    In place of ``scipy.special.logsumexp`` for real input: same arguments, shapes and dtypes.

    Args:
      a: numbers of any shape: an array, nested sequences, or a column or table of pyarrow, Polars or pandas. What is
        null or masked is left out. Integers give float64, floats their own dtype.
      axis: an axis or several to sum over; None for all.
      b: finite weights of either sign, or booleans, of a shape that broadcasts with ``a``. A weight of 0 or null adds
        nothing, whatever ``a`` is there. Weights that are all 1 give the bits of none; with others, what is more than
        69 below the max may leave nothing.
      keepdims: keep the axes summed over, with size 1.
      return_sign: return (log of the magnitude, sign): 1, -1, or 0 for a sum of 0. Otherwise a negative sum gives NaN.

    Returns:
      An array without the axes summed over, or a scalar where none is left; of the dtype of ``a`` and ``b`` together.

    Raises:
      TypeError: a dtype that float64 does not hold exactly, named.
      ValueError: an integer beyond +-2^53; ragged rows; a weight that is not finite, or weights of another shape.
      numpy.exceptions.AxisError: an axis out of range.

    >>> logsumexp([1, 2, 3, 4, 5])
    np.float64(5.451914395937593)
    >>> logsumexp([[0.0, 0.0], [1000.0, 1000.0]], axis=1)
    array([6.93147181e-01, 1.00069315e+03])
    """
    if axis is None and b is None and not keepdims and not return_sign:
        values = _plain(a)  # the same bits by a shorter way: of few values it is most of the time
        if values is not None:
            state = _kernel.State()
            state._update(values.reshape(-1))
            return np.float64(state.value())
    if return_sign:
        return _reduce(a, axis, b, keepdims, _SIGNED)
    return _reduce(a, axis, b, keepdims, ("logsumexp",))[0]


def logmeanexp(a: object, axis: Axis = None, b: object = None, keepdims: bool = False) -> Any:
    """``ln(sum(b * exp(a)) / sum(b))`` along axes, b = 1 without weights: exactly x for equal values x.

    Without values it is -inf; NaN where the mean is negative, or weights are given that sum to 0.

    Args:
      a, axis, b, keepdims: as of ``logsumexp``.

    Returns:
      Shape and dtype as of ``logsumexp``.

    Raises:
      TypeError, ValueError, numpy.exceptions.AxisError: as ``logsumexp``.

    >>> logmeanexp([-1000.5, -1000.5, -1000.5])
    np.float64(-1000.5)
    """
    if axis is None and b is None and not keepdims:
        values = _plain(a)  # as in logsumexp
        if values is not None:
            return np.float64(LogSumExpAccumulator(values.reshape(-1)).logmeanexp())
    return _reduce(a, axis, b, keepdims, ("logmeanexp",))[0]


def logaddexp(x: object, y: object) -> Any:
    """``ln(exp(x) + exp(y))``, element by element.

    Args:
      x, y: numbers as for ``logsumexp``, of shapes that broadcast.

    Returns:
      The broadcast shape, in the dtype of both together; float64 of integers. Masked where either is null or masked.

    Raises:
      TypeError, ValueError: as ``logsumexp``; and for shapes that do not broadcast.

    >>> logaddexp([0.0, 1000.0], 0.0)
    array([6.93147181e-01, 1.00000000e+03])
    """
    pairs, null = _broadcast([array_and_nulls(x, "x"), array_and_nulls(y, "y")], "y")
    together = np.result_type(*(array.dtype for array in pairs))
    dtype = together if together.kind == "f" else np.dtype(np.float64)
    rows = [to_float64_exact(array, name).ravel() for array, name in zip(pairs, ("x", "y"), strict=True)]
    result = _kernel.row_values(np.stack(rows, axis=-1))
    with np.errstate(over="ignore", under="ignore"):
        return _masked(null, result.astype(dtype).reshape(pairs[0].shape))


def _softmax(x: object, axis: Axis, log: bool) -> Any:
    array, null = array_and_nulls(x, "x")
    dtype = np.exp(np.empty(0, array.dtype)).dtype  # an integer's as NumPy's: of int16 it is float32
    array = _without(null, array, "x")
    axes = axes_of(axis, array.ndim)
    rows = to_rows(array, axes)
    out = np.empty(rows.shape, dtype)
    with np.errstate(over="ignore", under="ignore"):
        for block, part in _blocks(rows):
            if not log and (part.shape[0] > 1 or dtype == part.dtype == np.float64):
                matrix = to_float64_exact(part, "x")
                if dtype == np.float64:
                    _kernel.row_softmax(matrix, out[block])
                else:
                    out[block] = _kernel.row_softmax(matrix)
                continue
            states, target = _states(part), out[block]
            if log:
                totals = LogTotals(states)
                for at, numbers, values in _cached(part):
                    target[at] = totals.log_softmax(numbers, values)
            else:
                reciprocals = _kernel.reciprocals_of(states.sums[0])
                for at, _, values in _cached(part):
                    target[at] = _kernel.softmax_by(reciprocals, np.zeros(values.size, np.int32), values[0])
    kept = [i for i in range(array.ndim) if i not in axes]
    order = [*kept, *axes]
    result = out.reshape([array.shape[i] for i in order]).transpose(sorted(order, key=order.__getitem__))
    return _masked(null, np.asarray(result, order="C"))


def softmax(x: object, axis: Axis = None) -> Any:
    """``exp(x) / sum(exp(x))`` along axes, each to within an ULP; the same bits in any order of a row.

    In place of ``scipy.special.softmax`` for real input: same arguments, shapes and dtypes. A row sums to 1 within
    n 2^-53. A row with NaN or +inf, and one of -inf alone, is NaN. What is null or masked counts as -inf, and is masked
    in the result.

    Args:
      x: numbers of any shape, as for ``logsumexp``.
      axis: an axis or several to sum over; None for all.

    Returns:
      The shape of x, in its dtype; of integers in that of ``numpy.exp``.

    Raises:
      TypeError, ValueError, numpy.exceptions.AxisError: as ``logsumexp``.

    >>> softmax([[0.0, 0.0], [-1000.0, 0.0]], axis=1)
    array([[0.5, 0.5],
           [0. , 1. ]])
    """
    if axis is None or axis == -1:
        values = _plain(x)  # as in logsumexp
        if values is not None and (axis is None or values.ndim == 1):
            return _kernel.row_softmax(values.reshape(1, -1)).reshape(values.shape)[()]
    return _softmax(x, axis, log=False)


def log_softmax(x: object, axis: Axis = None) -> Any:
    """``x - logsumexp(x)`` along axes, rounded once.

    In place of ``scipy.special.log_softmax`` for real input. A row with NaN, and one of -inf alone, is NaN; beside +inf
    a finite value gives -inf, and the +inf itself NaN.

    Args:
      x, axis: as of ``softmax``.

    Returns:
      Shape and dtype as of ``softmax``.

    Raises:
      TypeError, ValueError, numpy.exceptions.AxisError: as ``logsumexp``.

    >>> log_softmax([0.0, 0.0])
    array([-0.69314718, -0.69314718])
    """
    if axis is None or axis == -1:
        values = _plain(x)  # as in logsumexp
        if values is not None and (axis is None or values.ndim == 1) and values.size <= _CACHED:
            totals = LogTotals(LogSumExpAccumulator(values.reshape(-1)).states())
            return totals.log_softmax(_FIRST, values).reshape(values.shape)[()]
    return _softmax(x, axis, log=True)


def softmax_from_state(x: object, state: Accumulator) -> Any:
    """The derivative of a state's log-sum-exp by each x that is in it: its softmax weight ``exp(x) / sum``.

    Args:
      x: numbers of any shape, in the unit of the state's scale. The state may come from elsewhere: a merge of shards,
        or stored bytes.
      state: with weights, the derivative is this times the weight of x.

    Returns:
      float64 of the shape of x; NaN where the state's sum is 0, infinite or NaN. Masked where x is null or masked.

    Raises:
      TypeError, ValueError: as ``logsumexp``; and for what is no accumulator.

    >>> softmax_from_state([0.0, 0.0], LogSumExpAccumulator([0.0, 0.0, 0.0, 0.0]))
    array([0.25, 0.25])
    """
    array, null = array_and_nulls(x, "x")
    values = to_float64_exact(array, "x").ravel()
    if not isinstance(state, Accumulator):
        raise TypeError(f"state: expected an accumulator, found {type(state).__name__}")
    states = state.states()
    if states.scale.descends:
        values = -values
    softmax_values = _kernel.softmax_of(states.sums[0], np.zeros(values.size, np.int32), values, states.scale.factor)
    return _masked(null, softmax_values.reshape(array.shape))
