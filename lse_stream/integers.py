"""Integers and decimals of any size, as sums of three floats, exactly.

A value x of a column with d digits after the point is the integer ``x 10^d``, of at most 38 digits. It is split into
three digits to the base 2^53, all of its sign: ``high 2^106 + middle 2^53 + low``. These three terms are floats, which
the kernel adds up and multiplies exactly, and two values compare as their terms do, one after another.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import one_line
from .float64 import as_chunked, is_sequence
from .states.aggregations import MOST_DIGITS

Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]

_DIGIT = np.uint64(2**53 - 1)


def digits_of_type(data_type: Any) -> int | None:
    """How many digits after the point the values of a type have; None of one that is neither integer nor decimal."""
    import pyarrow as pa  # only when Arrow data comes, here and below: accumulators load without it

    if pa.types.is_integer(data_type) or pa.types.is_boolean(data_type):
        return 0
    return max(int(data_type.scale), 0) if pa.types.is_decimal(data_type) else None


def to_units(value: object, digits: int) -> int:
    """An integer or a ``decimal.Decimal`` in units of ``10^-digits``.

    Raises:
      TypeError: neither.
      ValueError: one that has more digits after the point, or more than 38 in all.
    """
    if isinstance(value, np.integer):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise TypeError(f"expected an integer or a Decimal, found {type(value).__name__} {value!r}")
    number = Decimal(value)
    units, rest = 0, 1
    # Others may have more digits than there is memory for.
    if number.is_finite() and -digits <= number.adjusted() < MOST_DIGITS - digits:
        numerator, denominator = number.as_integer_ratio()
        units, rest = divmod(numerator * 10**digits, denominator)
    if rest and not (number.is_finite() and number == 0):
        wanted = f"{digits} digits after the point and {MOST_DIGITS} in all"
        bits = value.bit_length() if isinstance(value, int) else 0
        found = value if bits <= 256 else f"one of {bits} bits"
        raise ValueError(f"expected a number of at most {wanted}, found {found}")
    return units


def split_units(units: Sequence[int]) -> list[Floats]:
    """Integers of at most 38 digits as three columns of floats (n,)."""
    import pyarrow as pa

    return _split_chunk(pa.array(units, pa.decimal128(MOST_DIGITS, 0)))


def split_values(values: Any, digits: int, name: str) -> list[Floats]:
    """As ``split_column`` of an array, a column or a sequence of numbers, which may be Python's."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if is_sequence(values) or (isinstance(values, np.ndarray) and values.dtype == np.object_ and values.ndim == 1):
        try:
            return split_units([to_units(value, digits) for value in values])
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
    if isinstance(values, str | bytes | memoryview):
        raise TypeError(f"{name}: expected integers or decimals, found {type(values).__name__}")
    return split_column(as_chunked(values), digits, name)


def split_column(column: Any, digits: int, name: str) -> list[Floats]:
    """The values of a column that are not null, in units of ``10^-digits``, as three columns of floats (n,).

    Raises:
      TypeError: neither integers nor decimals.
      ValueError: a value that has more digits after the point, or more than 38 in all.
    """
    import pyarrow as pa

    from .columns import decode_dictionary

    column = decode_dictionary(column).drop_null()
    held = column.type
    if pa.types.is_null(held):
        return [np.zeros(0)] * 3
    if pa.types.is_boolean(held):
        column = column.cast(pa.int8())
        held = column.type
    if digits_of_type(held) is None:
        raise TypeError(f"{name}: expected integers or decimals, found Arrow type {held}")
    if digits or not pa.types.is_integer(held):
        wanted = pa.decimal128(MOST_DIGITS, digits)
        if pa.types.is_integer(held):  # which Arrow casts to decimals that hold all of their type alone
            column = column.cast(pa.decimal128(20, 0))
        try:
            column = column.cast(wanted)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{name}: expected values that {wanted} holds, found {one_line(error)}") from error
    parts = [_split_chunk(chunk) for chunk in column.chunks] or [[np.zeros(0)] * 3]
    return parts[0] if len(parts) == 1 else [np.concatenate(each) for each in zip(*parts, strict=True)]


def _split_chunk(chunk: Any) -> list[Floats]:
    import pyarrow as pa

    from .buffers import numbers_of

    if pa.types.is_decimal(chunk.type):
        data = chunk.buffers()[1]
        words = np.frombuffer(data, np.uint64, 2 * len(chunk), 16 * chunk.offset).reshape(-1, 2)
        return _split(words[:, 0], words[:, 1].view(np.int64))
    numbers: npt.NDArray[Any] = numbers_of(chunk)
    if not numbers.size or max(-int(numbers.min()), int(numbers.max())) <= int(_DIGIT):
        zeros = np.zeros(numbers.size)
        return [zeros, zeros, numbers.astype(np.float64)]
    signs = np.zeros(numbers.size, np.int64) if numbers.dtype.kind == "u" else numbers >> 63
    return _split(numbers.view(np.uint64), signs)


def _split(low: Words, high: npt.NDArray[np.int64]) -> list[Floats]:
    """Of integers ``high 2^64 + low`` (n,)."""
    negative = high < 0
    low = np.where(negative, ~low + np.uint64(1), low)
    top = np.where(negative, ~high.view(np.uint64) + (low == 0), high.view(np.uint64))
    digits = [
        top >> np.uint64(42),
        (low >> np.uint64(53)) | (top << np.uint64(11)) & _DIGIT,
        low & _DIGIT,
    ]
    sign = np.where(negative, -1.0, 1.0)
    units = (2.0**106, 2.0**53, 1.0)
    return [digit.astype(np.float64) * (sign * unit) for digit, unit in zip(digits, units, strict=True)]
