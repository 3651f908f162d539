"""Numbers of Python, NumPy and Arrow to float64, exactly or not at all."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

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
    if x is np.ma.masked:
        raise TypeError("expected a real number, found a masked value")
    if isinstance(x, np.ndarray) and x.ndim == 0:
        return to_float_exact(x[()])
    if hasattr(x, "as_py"):  # a scalar of pyarrow
        return to_float_exact(x.as_py())
    # To Python a bool is an integer, to NumPy a duration.
    if isinstance(x, int | np.integer) and not isinstance(x, bool | np.timedelta64):
        if abs(int(x)) > LARGEST_INTEGER:
            bits = int(x).bit_length()
            found = x if bits <= 128 else f"one of {bits} bits"
            raise ValueError(f"expected integers within +-2^53, which float64 holds exactly, found {found}")
        return float(x)
    if isinstance(x, np.float32 | np.float16):
        return float(x)
    raise TypeError(f"expected a real number, found {'a null' if x is None else type(x).__name__}")


def to_float64_exact(array: npt.NDArray[Any], name: str = "input") -> Floats:
    """The values as contiguous native float64 of their shape, without a copy where they are that already.

    Args:
      array: of any shape; float16, float32, float64 or an integer dtype, any stride and byte order.
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
                first = array[beyond][0]
                raise ValueError(f"{name}: expected integers within +-2^53, which float64 holds exactly, found {first}")
    elif kind != "f" or array.dtype.itemsize > 8:
        raise TypeError(f"{name}: expected integers, float16, float32 or float64, found {array.dtype}")
    return np.asarray(array, np.float64, order="C")


def is_sequence(values: object) -> TypeGuard[Sequence[Any]]:
    """Whether it is a sequence of Python: no text, and no view of memory, which is an array."""
    return isinstance(values, Sequence) and not isinstance(values, str | bytes | memoryview)


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


def _numeric_chunks(values: Any, name: str) -> Iterator[Any]:
    """The arrays of a column of numbers or nulls, dictionaries by their values."""
    import pyarrow as pa  # only when Arrow data comes, here and below: accumulators load without it

    values = as_chunked(values)
    check_numeric_type(values.type, name)
    for chunk in values.chunks or [pa.nulls(0, values.type)]:
        yield chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk


def valid_numbers(values: Any, name: str = "input") -> Iterator[Array]:
    """The values that are not null, of a pyarrow column or an object with the Arrow C data interface, as NumPy arrays.

    They come out in their own type, for ``to_float64_exact``, without a copy where no null is among them; dictionaries
    by their values.

    Raises:
      TypeError: neither numbers nor nulls, the type named.
    """
    import pyarrow as pa

    from .buffers import nulls_of, numbers_of

    for chunk in _numeric_chunks(values, name):
        if not pa.types.is_null(chunk.type):
            numbers, null = numbers_of(chunk), nulls_of(chunk)  # faster than Arrow's own, and without its import
            yield numbers if null is None else numbers[~null]


def check_integers(values: Any, name: str) -> None:
    """Raises ValueError for an integer, of a column of 64 bits, that float64 does not hold."""
    for numbers in valid_numbers(values, name):
        if numbers.size and max(-int(numbers.min()), int(numbers.max())) > LARGEST_INTEGER:
            to_float64_exact(numbers, name)  # raises


def column_to_float64_exact(values: Any, name: str = "input") -> Floats:
    """The values that are not null (n,), of a pyarrow column or an object with the Arrow C data interface, as float64.

    Without a copy where they are one array of that already. Raises as ``valid_numbers`` and ``to_float64_exact``.
    """
    parts = [to_float64_exact(part, name) for part in valid_numbers(values, name)]
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0), *parts])


def array_and_nulls(values: object, name: str = "input", *, booleans: bool = False) -> tuple[Array, Mask | None]:
    """Numbers of any shape, in their own dtype, and where they are null or masked; None where they nowhere are.

    In place of a null there is 0. Of a masked array there is always a mask.

    Args:
      values: a number; an array, which may be masked; a column or a table of pyarrow, Polars or pandas, or with the
        Arrow C data interface; or a sequence of these, nested or not.
      name: what an error calls them.
      booleans: take booleans too, as int8.

    Raises:
      TypeError: another type, named; a null or masked value as a single number.
      ValueError: ragged rows, or an integer beyond +-2^53 in a sequence, or among floats.
    """
    array, null = _array_and_nulls(values, name, booleans)
    if booleans and array.dtype == np.bool_:
        array = array.view(np.int8)
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise TypeError(f"{name}: expected integers, float16, float32 or float64, found {array.dtype}")
    return array, null


def _array_and_nulls(values: Any, name: str, booleans: bool) -> tuple[Array, Mask | None]:
    if isinstance(values, np.ma.MaskedArray):
        return np.asarray(values.filled(0)), np.ma.getmaskarray(values)
    if isinstance(values, np.matrix):  # whose sums and rows stay matrices
        raise TypeError(f"{name}: expected an array, found a numpy.matrix: numpy.asarray makes one of it")
    if isinstance(values, np.ndarray):
        return values, None
    if is_sequence(values):
        return _of_sequence(values, name, booleans)
    if is_arrow(values):
        return _of_column(as_chunked(values), name, booleans)
    columns = _columns_of(values)
    if columns is not None:
        parts = [array_and_nulls(column, f"{name}, column {i}", booleans=booleans) for i, column in enumerate(columns)]
        return _stack(parts, 1, name) if parts else (np.zeros(values.shape), None)
    if isinstance(values, int | float | np.generic) or hasattr(values, "as_py"):
        return _of_numbers([values], name, booleans).reshape(()), None
    if hasattr(values, "__array__") or isinstance(values, memoryview):
        return np.asarray(values), None
    raise TypeError(f"{name}: expected an array or a sequence of real numbers, found {type(values).__name__}")


def _columns_of(table: Any) -> Sequence[Any] | None:
    """The columns of a table of pyarrow, Polars or pandas; None for anything else."""
    if len(getattr(table, "shape", ())) != 2:
        return None
    if hasattr(table, "items"):  # of pandas, which would hand over its NaN as nulls
        return [column for _, column in table.items()]
    if hasattr(table, "__arrow_c_stream__") or hasattr(table, "__arrow_c_array__"):
        import pyarrow as pa

        columns: Sequence[Any] = pa.table(table).columns
        return columns
    return None


def _of_column(column: Any, name: str, booleans: bool) -> tuple[Array, Mask | None]:
    import pyarrow as pa

    from .buffers import nulls_of_column, numbers_of

    is_mask = booleans and pa.types.is_boolean(column.type)
    chunks = [column.combine_chunks()] if is_mask else list(_numeric_chunks(column, name))
    chunks = [pa.nulls(len(chunk), pa.float64()) if pa.types.is_null(chunk.type) else chunk for chunk in chunks]
    parts = [numbers_of(chunk) for chunk in chunks]
    array = parts[0] if len(parts) == 1 else np.concatenate(parts)
    null = nulls_of_column(pa.chunked_array(chunks))
    return array if null is None else np.where(null, array.dtype.type(0), array), null


def _of_sequence(values: Sequence[Any], name: str, booleans: bool) -> tuple[Array, Mask | None]:
    shape: tuple[int, ...] = (len(values),)
    items: list[Any] = list(values)
    # One of each type is asked: rows are many.
    while (
        items
        and is_sequence(items[0])
        and all(map(is_sequence, dict(zip(map(type, items), items, strict=True)).values()))
    ):
        sizes = set(map(len, items))
        if len(sizes) > 1:
            raise ValueError(f"{name}: expected an array, found ragged rows: of {min(sizes)} to {max(sizes)} items")
        shape, items = (*shape, *sizes), list(chain.from_iterable(items))
    are_numbers = set(map(type, items)) <= {float, int}  # which is quick to see
    if not are_numbers and any(len(getattr(x, "shape", ())) or is_sequence(x) or is_arrow(x) for x in items):
        parts = [array_and_nulls(x, name, booleans=booleans) for x in items]
        array, null = _stack(parts, 0, name)
        shape = (*shape, *array.shape[1:])
        return array.reshape(shape), None if null is None else null.reshape(shape)
    return _of_numbers(items, name, booleans).reshape(shape), None


def _of_numbers(items: list[Any], name: str, booleans: bool) -> Array:
    """Numbers of Python or NumPy (n,): of NumPy's alone, in their dtype."""
    types = set(map(type, items))
    if types == {float}:
        return np.array(items)
    if booleans and types and types <= {bool, np.bool_}:
        return np.array(items, np.bool_)
    try:
        array = np.array([to_float_exact(x) for x in items], np.float64)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    return array.astype(np.result_type(*types)) if types and all(issubclass(t, np.generic) for t in types) else array


def _stack(parts: Sequence[tuple[Array, Mask | None]], axis: int, name: str) -> tuple[Array, Mask | None]:
    """Arrays of one shape beside each other, in a dtype that holds the numbers of all."""
    shapes = {array.shape for array, _ in parts}
    if len(shapes) > 1:
        raise ValueError(f"{name}: expected an array, found ragged rows: of shapes {', '.join(map(str, shapes))}")
    dtype = np.result_type(*(array.dtype for array, _ in parts))
    checked = (
        to_float64_exact(array, name).astype(dtype) if dtype.kind == "f" and array.dtype.kind != "f" else array
        for array, _ in parts
    )
    array = np.stack([*checked], axis)
    if all(null is None for _, null in parts):
        return array, None
    return array, np.stack([np.zeros(a.shape, np.bool_) if null is None else null for a, null in parts], axis)


def columns_to_float64_exact(columns: Sequence[object], names: Sequence[str]) -> list[Floats]:
    """Columns of equal length (n,) as float64; rows with a null or masked value are left out.

    Columns but the first may be of booleans.

    Raises:
      TypeError: a column of another type, named.
      ValueError: columns of different lengths or of more than one dimension, or an integer beyond +-2^53; named.
    """
    pairs = [
        array_and_nulls(column, name, booleans=i > 0)
        for i, (column, name) in enumerate(zip(columns, names, strict=True))
    ]
    for (array, _), name in zip(pairs, names, strict=True):
        if array.ndim != 1:
            raise ValueError(f"{name}: expected an array of 1 dimension, found shape {array.shape}")
    sizes = [array.size for array, _ in pairs]
    if len(set(sizes)) > 1:
        found = ", ".join(f"{name} {size}" for name, size in zip(names, sizes, strict=True))
        raise ValueError(f"expected columns of one length, found {found}")
    masks = [mask for _, mask in pairs if mask is not None and mask.any()]
    keep = ~np.logical_or.reduce(masks) if masks else slice(None)
    return [to_float64_exact(array[keep], name) for (array, _), name in zip(pairs, names, strict=True)]
