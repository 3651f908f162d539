"""Log-sum-exp along axes of arrays of dask and of xarray: chunk by chunk, with the bits of one array in memory.

What chunks hand on are states, in structured arrays of NumPy, and a tree merges them exactly. So neither the chunks
nor the shape of the tree can be seen in a result.
"""

from collections.abc import Hashable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import functions
from ..float64 import to_float64_exact
from ..functions import Axis, states_along, to_rows
from ..scales import NATURAL
from ..states.aggregations import LOGSUMEXP
from ..states.arrays import StateArray
from ..states.results import result_of

Axes = tuple[int, ...]
Array = npt.NDArray[Any]
Dims = Hashable | Iterable[Hashable] | None
SplitEvery = int | Mapping[int, int] | None


def _chunk(part: Any, axis: Axes, keepdims: bool, computing_meta: bool = False) -> Any:
    """The states of a chunk, with size 1 along the axes, as ``keepdims`` always is true here."""
    del keepdims
    if computing_meta:  # dask casts what it gets to a dtype of numbers, and states are none
        return part
    return states_along(part, axis).sums[0].reshape(_reduced(np.shape(part), axis))


def _merged(states: Array, axis: Axes) -> StateArray:
    rows = to_rows(states, axis)
    codes = np.repeat(np.arange(rows.shape[0], dtype=np.int32), rows.shape[1])
    return StateArray(LOGSUMEXP, NATURAL, (rows.ravel(),), ()).merge(codes, rows.shape[0])


def _combine(states: Array, axis: Axes, keepdims: bool) -> Array:
    """The merged states of several chunks; as of ``_chunk``."""
    del keepdims
    return _merged(states, axis).sums[0].reshape(_reduced(states.shape, axis))


def _aggregate(states: Array, axis: Axes, keepdims: bool, dtype: np.dtype[Any], result: str) -> Any:
    """The results of the states of all chunks."""
    values = result_of(_merged(states, axis), result)
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(dtype).reshape(_reduced(states.shape, axis, keepdims=keepdims))[()]


def _reduced(shape: tuple[int, ...], axis: Axes, *, keepdims: bool = True) -> list[int]:
    return [1 if i in axis else size for i, size in enumerate(shape) if keepdims or i not in axis]


def _reduce(array: Any, axis: Axis = None, *, keepdims: bool, dim: Dims, split_every: SplitEvery, result: str) -> Any:
    if hasattr(array, "dims"):  # of xarray, which calls this with the array of dask or NumPy that it contains
        of_data = partial(_reduce, keepdims=False, dim=None, split_every=split_every, result=result)
        return array.reduce(of_data, dim, axis=axis, keepdims=keepdims)
    if dim is not None:
        raise TypeError(f"dim: expected an array of xarray, which has dimensions, found {type(array).__name__}")
    if not hasattr(array, "__dask_graph__"):
        return getattr(functions, result)(array, axis, keepdims=keepdims)
    import dask.array as da

    if not isinstance(array, da.Array):
        raise TypeError(f"array: expected an array of dask, found {type(array).__name__}")
    to_float64_exact(np.empty(0, array.dtype), "array")  # raises for a dtype that no chunk could have
    array = da.atleast_1d(array)
    axes = functions.axes_of(axis, array.ndim)
    dtype = array.dtype.newbyteorder("=") if array.dtype.kind == "f" else np.dtype(np.float64)
    if all(array.numblocks[i] == 1 for i in axes):  # chunks have all of a sum, and states would only take memory
        whole = partial(getattr(functions, result), axis=axes, keepdims=True)
        chunks = [(1,) if i in axes else sizes for i, sizes in enumerate(array.chunks)]
        found = array.map_blocks(whole, token=result, chunks=chunks, meta=np.empty([0] * array.ndim, dtype))
        return found if keepdims else found[tuple(0 if i in axes else slice(None) for i in range(array.ndim))]
    return da.reduction(
        array,
        chunk=_chunk,
        combine=_combine,
        aggregate=partial(_aggregate, result=result),
        axis=axes,
        keepdims=keepdims,
        dtype=dtype,
        split_every=split_every,
        name=result,
        meta=np.empty([0] * len(_reduced(array.shape, axes, keepdims=keepdims)), dtype),
    )


def logsumexp(
    array: Any, axis: Axis = None, keepdims: bool = False, *, dim: Dims = None, split_every: SplitEvery = None
) -> Any:
    """``ln(sum(exp(x)))`` along axes, lazily: the bits of ``lse_stream.logsumexp`` whatever the chunks are.

    No array is computed as a whole. A chunk that has a part of a sum is reduced to states of 80 bytes, one for each
    place outside the axes.

    Args:
      array: of dask, of integers, float16, float32 or float64, also with chunks of unknown size. A DataArray, Dataset
        or Variable of xarray, with data of dask or NumPy; or any other array, as ``lse_stream.logsumexp`` takes. What
        is masked is left out; NaN is not: it gives NaN.
      axis: an axis or several to sum over; None for all.
      keepdims: keep the axes summed over, with size 1.
      dim: in place of ``axis``, the names of dimensions of xarray.
      split_every: of how many chunks dask merges the states at a time.

    Returns:
      An array of dask without the axes summed over; float64 of integers, otherwise of the dtype of ``array``. Of xarray
      the same class with coordinates and attributes as its own reductions keep them; other arrays are not lazy.

    Raises:
      TypeError: a dtype that float64 does not hold exactly, named; or ``dim`` for what is not of xarray.
      ValueError: an integer beyond +-2^53, when it is computed.
      numpy.exceptions.AxisError: an axis out of range.

    >>> import dask.array as da
    >>> rows = da.from_array([[0.0, 0.0], [1000.0, 1000.0]], chunks=1)
    >>> logsumexp(rows, axis=1).compute()
    array([6.93147181e-01, 1.00069315e+03])
    >>> import xarray as xr
    >>> logsumexp(xr.DataArray(rows, dims=["model", "draw"]), dim="draw").values
    array([6.93147181e-01, 1.00069315e+03])
    """
    return _reduce(array, axis, keepdims=keepdims, dim=dim, split_every=split_every, result="logsumexp")


def logmeanexp(
    array: Any, axis: Axis = None, keepdims: bool = False, *, dim: Dims = None, split_every: SplitEvery = None
) -> Any:
    """``ln(mean(exp(x)))`` along axes, lazily: the bits of ``lse_stream.logmeanexp`` whatever the chunks are.

    Args:
      array, axis, keepdims, dim, split_every: as of ``logsumexp``.

    Returns:
      As ``logsumexp``; -inf of no values.

    Raises:
      TypeError, ValueError, numpy.exceptions.AxisError: as ``logsumexp``.

    >>> import dask.array as da
    >>> logmeanexp(da.full(6, -1000.5, chunks=2)).compute()
    np.float64(-1000.5)
    """
    return _reduce(array, axis, keepdims=keepdims, dim=dim, split_every=split_every, result="logmeanexp")
