"""Numbers of Python, NumPy and Arrow to float64, exactly or not at all."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Every integer up to here is a float64.
LARGEST_INTEGER = 2**53


def to_float_exact(x: object) -> float:
    """A Python, NumPy or pyarrow number, or an array of 0 dimensions, as a float.

    Raises:
      TypeError: neither an integer nor a float of at most 64 bits.
      ValueError: an integer beyond +-2^53.
    """
    if isinstance(x, float):
        return float(x)
    if isinstance(x, np.ndarray) and x.ndim == 0:
        return to_float_exact(x[()])
    if hasattr(x, "as_py"):  # a scalar of pyarrow
        return to_float_exact(x.as_py())
    # To Python a bool is an integer, to NumPy a duration.
    if isinstance(x, int | np.integer) and not isinstance(x, bool | np.timedelta64):
        if abs(int(x)) > LARGEST_INTEGER:
            raise ValueError(f"expected integers within +-2^53, which float64 holds exactly, found {x}")
        return float(x)
    if isinstance(x, np.float32 | np.float16):
        return float(x)
    raise TypeError(f"expected a real number, found {'a null' if x is None else type(x).__name__}")


def to_float64_exact(array: npt.NDArray[Any], name: str = "input") -> Floats:
    """The values (n,) as contiguous native float64 (n,), without a copy where they are that already.

    Args:
      array: float16, float32, float64 or an integer dtype, any stride and byte order.
      name: what an error calls the array.

    Raises:
      TypeError: another dtype, named.
      ValueError: an integer beyond +-2^53, the first named.
    """
    kind = array.dtype.kind
    if kind in "iu":
        if array.dtype.itemsize == 8:
            beyond = (array > LARGEST_INTEGER) | (array < -LARGEST_INTEGER) if kind == "i" else array > LARGEST_INTEGER
            if beyond.any():
                # Without its row: callers hand over a part of their rows.
                first = array[beyond.argmax()]
                raise ValueError(f"{name}: expected integers within +-2^53, which float64 holds exactly, found {first}")
    elif kind != "f" or array.dtype.itemsize > 8:
        raise TypeError(f"{name}: expected integers, float16, float32 or float64, found {array.dtype}")
    return np.ascontiguousarray(array, np.float64)


def is_arrow(values: object) -> bool:
    """Whether it is a column with the Arrow C data interface, or of pandas' nullable arrays, which pyarrow takes.

    Not what holds a NumPy array: pandas would hand over its NaN as nulls. Nor what has rows and columns.
    """
    if isinstance(getattr(values, "dtype", None), np.dtype) or len(getattr(values, "shape", ())) > 1:
        return False
    if hasattr(values, "__arrow_c_stream__") or hasattr(values, "__arrow_c_array__"):
        return True
    return hasattr(getattr(values, "array", values), "__arrow_array__")  # a series of pandas has its array there


def is_numeric_type(data_type: Any) -> bool:
    """Whether an Arrow type is of numbers that ``valid_numbers`` takes, or of nulls."""
    import pyarrow as pa  # only when Arrow data comes: accumulators load without it

    if pa.types.is_dictionary(data_type):
        data_type = data_type.value_type
    return bool(pa.types.is_integer(data_type) or pa.types.is_floating(data_type) or pa.types.is_null(data_type))


def check_numeric_type(data_type: Any, name: str = "input") -> None:
    """Raises TypeError for an Arrow type that ``valid_numbers`` does not take."""
    if not is_numeric_type(data_type):
        raise TypeError(f"{name}: expected integers, float16, float32 or float64, found Arrow type {data_type}")


def as_chunked(values: Any) -> Any:
    """A pyarrow column, or what has the Arrow C data interface, as a chunked array."""
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        return values
    if isinstance(values, pa.Array):
        return pa.chunked_array([values])
    return pa.chunked_array(values if hasattr(values, "__arrow_c_stream__") else [pa.array(values)])


def valid_numbers(values: Any, name: str = "input") -> Iterator[npt.NDArray[Any]]:
    """The values that are not null, of a pyarrow column or an object with the Arrow C data interface, as NumPy arrays.

    They come out in their own type, for ``to_float64_exact``, without a copy where no null is among them; dictionaries
    by their values.

    Raises:
      TypeError: neither numbers nor nulls, the type named.
    """
    import pyarrow as pa  # only when Arrow data comes, here and below: accumulators load without it

    from .buffers import numbers_of

    values = as_chunked(values)
    check_numeric_type(values.type, name)
    for chunk in values.chunks:
        if pa.types.is_dictionary(chunk.type):
            chunk = chunk.dictionary_decode()
        if pa.types.is_null(chunk.type):
            continue
        yield numbers_of(chunk.drop_null() if chunk.null_count else chunk)


def column_to_float64_exact(values: Any, name: str = "input") -> Floats:
    """The values that are not null (n,), of a pyarrow column or an object with the Arrow C data interface, as float64.

    Without a copy where they are one array of that already. Raises as ``valid_numbers`` and ``to_float64_exact``.
    """
    parts = [to_float64_exact(part, name) for part in valid_numbers(values, name)]
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0), *parts])


def _with_mask(values: Any, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
    """A 1-D array of the values and where they are null or masked."""
    mask: npt.NDArray[np.bool_] | None = None
    if isinstance(values, np.ma.MaskedArray):
        array, mask = np.asarray(values.data), np.ma.getmaskarray(values)
    elif is_arrow(values):
        import pyarrow as pa

        from .buffers import nulls_of_column

        column = as_chunked(values)
        check_numeric_type(column.type, name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        mask = nulls_of_column(column)
        array = column_to_float64_exact(column, name)
        if mask is not None:
            filled = np.zeros(mask.size)
            filled[~mask] = array
            array = filled
    else:
        is_sequence = isinstance(values, Sequence) and not isinstance(values, str | bytes)
        if not (is_sequence or hasattr(values, "__array__") or isinstance(values, memoryview)):
            raise TypeError(f"{name}: expected an array or a sequence of real numbers, found {type(values).__name__}")
        array = np.array([to_float_exact(x) for x in values]) if is_sequence else np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected an array of 1 dimension, found shape {array.shape}")
    return array, mask


def columns_to_float64_exact(columns: Sequence[object], names: Sequence[str]) -> list[Floats]:
    """Columns of equal length (n,) as float64; rows with a null or masked value are left out.

    Raises:
      TypeError: a column of another type, named.
      ValueError: columns of different lengths or of more than one dimension, or an integer beyond +-2^53; named.
    """
    pairs = [_with_mask(column, name) for column, name in zip(columns, names, strict=True)]
    sizes = [array.size for array, _ in pairs]
    if len(set(sizes)) > 1:
        found = ", ".join(f"{name} {size}" for name, size in zip(names, sizes, strict=True))
        raise ValueError(f"expected columns of one length, found {found}")
    masks = [mask for _, mask in pairs if mask is not None and mask.any()]
    keep = ~np.logical_or.reduce(masks) if masks else slice(None)
    return [to_float64_exact(array[keep], name) for (array, _), name in zip(pairs, names, strict=True)]
