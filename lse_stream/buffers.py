"""NumPy and Arrow arrays over the same memory. The ways that pyarrow offers import pandas, where it is installed."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

LARGE_OF_VIEW = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}

Mask = npt.NDArray[np.bool_]

_INTEGERS = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
_OF_ARROW = {
    getattr(pa, name)(): np.dtype(getattr(np, name))
    for name in ("uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
}
_OF_NUMPY = {dtype: data_type for data_type, dtype in _OF_ARROW.items()} | {
    np.dtype(integer): getattr(pa, f"int{bits}")() for bits, integer in _INTEGERS.items()
}


@lru_cache(maxsize=256)
def numpy_type(data_type: pa.DataType) -> np.dtype[Any]:
    """How NumPy names the numbers in the memory of a primitive type; those of times are integers."""
    return _OF_ARROW.get(data_type) or np.dtype(_INTEGERS[data_type.bit_width])


def numbers_of(array: pa.Array) -> npt.NDArray[Any]:
    """The numbers (n,) of a primitive array, without a copy but for booleans, as int8; anything where it is null."""
    n, offset = len(array), array.offset
    data = array.buffers()[1]
    if pa.types.is_boolean(array.type):
        return _bits(data, offset, n).view(np.int8)
    dtype = numpy_type(array.type)
    if data is None or n == 0:
        return np.zeros(n, dtype)
    return np.frombuffer(data, dtype, n, offset * dtype.itemsize)


def _bits(data: pa.Buffer | None, offset: int, n: int) -> Mask:
    if data is None or n == 0:
        return np.zeros(n, np.bool_)
    first = offset // 8
    packed = np.frombuffer(data, np.uint8, (offset + n + 7) // 8 - first, first)
    return np.unpackbits(packed, bitorder="little")[offset - 8 * first :][:n].view(np.bool_)


def take(column: pa.Array | pa.ChunkedArray, rows: npt.NDArray[np.int64]) -> pa.Array | pa.ChunkedArray:
    """The rows of those numbers: numbers and times without ``pyarrow.compute``, whose import takes longer than most."""
    if isinstance(column, pa.ChunkedArray):
        if column.num_chunks == 1:
            return take(column.chunk(0), rows)
    elif is_primitive(column.type):
        null = nulls_of(column)
        return array_of(numbers_of(column)[rows], column.type, None if null is None else null[rows])
    large = LARGE_OF_VIEW.get(column.type)
    if large is not None:  # Arrow takes no rows of views
        return column.cast(large).take(array_of(rows)).cast(column.type)
    return column.take(array_of(rows))


def repeated(value: int | str | None, data_type: pa.DataType, n: int) -> pa.Array:
    """An array (n,) of one value: of int64, of string, or of a type that the string is read as."""
    if value is None:
        return pa.nulls(n, data_type)
    if data_type not in (pa.int64(), pa.string()):
        return pa.repeat(strings_of([str(value)]).cast(data_type)[0], n)
    if isinstance(value, int):
        return array_of(np.full(n, value))
    text = value.encode()
    offsets = np.arange(n + 1, dtype=np.int32) * np.int32(len(text))
    return pa.Array.from_buffers(data_type, n, [None, pa.py_buffer(offsets), pa.py_buffer(text * n)])


def scalar_of(value: str | bool | float | int | None, data_type: pa.DataType) -> pa.Scalar:
    """A scalar; of times and decimals an integer, as memory contains it. ``pa.scalar`` imports pandas."""
    if value is None:
        return pa.nulls(1, data_type)[0]
    if isinstance(value, str):
        return strings_of([value]).cast(data_type)[0]
    if pa.types.is_decimal(data_type):
        data = int(value).to_bytes(data_type.byte_width, "little", signed=True)
        return pa.Array.from_buffers(data_type, 1, [None, pa.py_buffer(data)])[0]
    if pa.types.is_boolean(data_type):
        return array_of(np.array([value], np.bool_))[0]
    return array_of(np.array([value], numpy_type(data_type)), data_type)[0]


def strings_of(texts: Sequence[str]) -> pa.Array:
    """An array (n,) of strings."""
    data = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, data)]).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(data), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(data))])


def is_primitive(data_type: pa.DataType) -> bool:
    """Whether values are numbers in memory, one after another, as of integers, floats and times."""
    types = pa.types
    return bool(types.is_integer(data_type) or types.is_floating(data_type) or types.is_temporal(data_type))


def nulls_of(array: pa.Array) -> Mask | None:
    """Where an array is null (n,); None where it nowhere is."""
    if not array.null_count:
        return None
    if pa.types.is_null(array.type):
        return np.ones(len(array), np.bool_)
    return ~_bits(array.buffers()[0], array.offset, len(array))


def nulls_of_column(column: pa.ChunkedArray) -> Mask | None:
    """Where a column is null (n,), over all chunks; None where it nowhere is."""
    if not column.null_count:
        return None
    parts = [(nulls_of(chunk), len(chunk)) for chunk in column.chunks]
    return np.concatenate([np.zeros(n, np.bool_) if null is None else null for null, n in parts])


def validity(null: Mask | None) -> pa.Buffer | None:
    """The bitmap that goes into an Arrow array which is null there."""
    return None if null is None else pa.py_buffer(np.packbits(~null, bitorder="little"))


def array_of(numbers: npt.NDArray[Any], data_type: pa.DataType | None = None, null: Mask | None = None) -> pa.Array:
    """An Arrow array over numbers (n,), null where ``null`` (n,) is; of ``data_type``, if it is another of that memory.

    Booleans are packed.
    """
    if numbers.dtype == np.bool_:
        data_type, data = pa.bool_(), np.packbits(numbers, bitorder="little")
    else:
        data = np.ascontiguousarray(numbers)
    found = data_type or _OF_NUMPY[numbers.dtype]
    return pa.Array.from_buffers(found, numbers.size, [validity(null), pa.py_buffer(data)])
