"""Numbers of every type as float64: exactly, or an error that names what is wrong."""

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lse_stream.float64 import (
    LARGEST_INTEGER,
    check_numeric_type,
    is_numeric_type,
    to_float64_exact,
    to_float_exact,
    valid_numbers,
)

INTEGERS = [f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)]


def bounds(dtype: str) -> tuple[int, int]:
    """The least and the largest integer of a dtype that float64 is sure to hold."""
    info = np.iinfo(dtype)
    return max(int(info.min), -(2**53)), min(int(info.max), 2**53)


def test_the_largest_integer_is_the_last_of_an_unbroken_row() -> None:
    assert float(LARGEST_INTEGER) - 1 == LARGEST_INTEGER - 1
    assert float(LARGEST_INTEGER + 1) != LARGEST_INTEGER + 1


# --- one number -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x",
    [0, -1, 2**53, -(2**53), np.int8(-128), np.uint64(2**53), np.int64(-(2**53)), 0.1, np.float16(0.1), np.float32(0.1),
     np.float64(0.1), -0.0, np.float32(-0.0), 5e-324, np.float32(1e-45), math.inf, np.float16(-math.inf)],
    ids=repr,
)  # fmt: skip
def test_a_number_widens_exactly(x: Any) -> None:
    found = to_float_exact(x)
    assert type(found) is float
    assert Fraction(found) == Fraction(x.item() if isinstance(x, np.generic) else x) if math.isfinite(x) else found == x
    assert math.copysign(1, found) == math.copysign(1, x)


@pytest.mark.parametrize("number", [float, np.float16, np.float32, np.float64])
def test_nan_stays_nan(number: Callable[[float], Any]) -> None:
    found = to_float_exact(number(math.nan))
    assert type(found) is float
    assert math.isnan(found)


@pytest.mark.parametrize("x", [2**53 + 1, -(2**53) - 1, 2**53 + 2, 10**30, np.int64(-(2**63)), np.uint64(2**64 - 1)])
def test_an_integer_beyond_is_refused(x: Any) -> None:
    with pytest.raises(ValueError, match=rf"^expected integers within \+-2\^53, .*, found {x}$"):
        to_float_exact(x)


@pytest.mark.parametrize(
    ("x", "named"),
    [(None, "a null"), (True, "bool"), (np.bool_(False), "bool"), (1j, "complex"), (np.complex64(1), "complex64"),
     ("1", "str"), (b"1", "bytes"), (Decimal(1), "Decimal"), (Fraction(1), "Fraction"), ([1.0], "list"),
     (np.array([1.0]), "ndarray"), (np.longdouble(1), "longdouble"), (np.timedelta64(1), "timedelta64"),
     (pa.scalar("1"), "str")],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_what_is_no_real_number_is_refused(x: Any, named: str) -> None:
    with pytest.raises(TypeError, match=f"^expected a real number, found {named}$"):
        to_float_exact(x)


# --- arrays -----------------------------------------------------------------------------------------------------------


def widened(array: np.ndarray) -> list[float]:
    """Through ``to_float64_exact``, and checked to be what it promises."""
    found = to_float64_exact(array)
    assert found.dtype == np.float64
    assert found.dtype.isnative
    assert found.flags.c_contiguous
    numbers: list[float] = found.tolist()
    return numbers


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_widen_exactly(dtype: str, order: str) -> None:
    least, largest = bounds(dtype)
    integers = [least, least + 1, 0, 1, largest - 1, largest]
    array = np.array(integers, order + dtype)
    # Lists of int and float compare exactly in Python.
    assert widened(array) == integers
    assert widened(array[::-2]) == integers[::-2]
    assert widened(np.stack([array, array], axis=1)[:, 0]) == integers
    assert widened(array[:0]) == []


@given(st.data(), st.sampled_from(INTEGERS))
def test_any_integers_widen_exactly(data: st.DataObject, dtype: str) -> None:
    integers = data.draw(st.lists(st.integers(*bounds(dtype))))
    assert widened(np.array(integers, dtype)) == integers


def test_every_float16_widens_exactly() -> None:
    patterns = np.arange(2**16, dtype=np.uint16)
    sign, exponent, fraction = patterns >> 15, patterns >> 10 & 31, patterns & 1023
    # The definition of binary16; every operation below is exact.
    size = np.where(exponent, (1 + fraction / 1024) * 2.0 ** (exponent - 15.0), fraction / 1024 * 2.0**-14)
    size[exponent == 31] = math.inf
    size[(exponent == 31) & (fraction > 0)] = math.nan
    expected = np.where(sign, -size, size)
    for order in "<>":
        found = to_float64_exact(patterns.view(np.float16).astype(order + "f2"))
        numbers = ~np.isnan(expected)
        assert found[numbers].tobytes() == expected[numbers].tobytes()
        assert np.isnan(found[~numbers]).all()


@given(st.lists(st.floats(width=32, allow_nan=False)), st.sampled_from("<>"))
def test_float32_widens_exactly(values: list[float], order: str) -> None:
    array = np.array(values, order + "f4")
    assert np.array(widened(array)).tobytes() == np.array(values, np.float64).tobytes()


def test_native_float64_is_not_copied() -> None:
    array = np.arange(10.0)
    assert np.shares_memory(to_float64_exact(array), array)
    assert to_float64_exact(array[3:7]).ctypes.data == array[3:].ctypes.data
    assert widened(array[::2]) == [0, 2, 4, 6, 8]
    assert widened(array.astype(">f8")) == array.tolist()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("dtype", "beyond"),
    [
        ("i8", 2**53 + 1),
        ("i8", -(2**53) - 1),
        ("i8", -(2**63)),
        ("i8", 2**63 - 1),
        ("u8", 2**53 + 1),
        ("u8", 2**64 - 1),
    ],
)
def test_the_first_integer_beyond_is_named(dtype: str, beyond: int, order: str) -> None:
    array = np.array([1, 2**53, beyond, 2**62], order + dtype)
    with pytest.raises(ValueError, match=rf"^column 'x': expected integers within \+-2\^53, .*, found {beyond}$"):
        to_float64_exact(array, "column 'x'")
    assert widened(array[:2]) == [1, 2**53]


@pytest.mark.parametrize(
    ("array", "named"),
    [(np.array([True]), "bool"), (np.array([1j]), "complex128"), (np.array([1.0, None]), "object"),
     (np.array(["1"]), "<U1"), (np.array([b"1"]), r"\|S1"), (np.zeros(1, "M8[D]"), r"datetime64\[D\]"),
     (np.zeros(1, "m8[s]"), r"timedelta64\[s\]"), (np.zeros(0, np.bool_), "bool"),
     (np.zeros(1, [("a", "f8")]), r"\[\('a', '<f8'\)\]"), (np.zeros(1, np.longdouble), r"float\d+")],
    ids=lambda v: "" if isinstance(v, str) else str(v.dtype),
)  # fmt: skip
def test_other_dtypes_are_named(array: np.ndarray, named: str) -> None:
    with pytest.raises(TypeError, match=f"^x: expected integers, float16, float32 or float64, found {named}$"):
        to_float64_exact(array, "x")
    with pytest.raises(TypeError, match=r"^input: "):
        to_float64_exact(array)


# --- Arrow ------------------------------------------------------------------------------------------------------------

NUMBERS = [*(pa.from_numpy_dtype(dtype) for dtype in [*INTEGERS, "f2", "f4", "f8"])]
OTHERS = [pa.bool_(), pa.string(), pa.binary(), pa.decimal128(5, 2), pa.date32(), pa.duration("s"),
          pa.list_(pa.float64()), pa.struct([("a", pa.float64())]), pa.bool8()]  # fmt: skip


def flat(values: Any) -> list[float]:
    return [float(x) for array in valid_numbers(values) for x in to_float64_exact(array)]


@pytest.mark.parametrize("data_type", NUMBERS, ids=str)
def test_arrow_numbers_come_out_without_their_nulls(data_type: pa.DataType) -> None:
    numpy_type = data_type.to_pandas_dtype()
    rows = [3, None, 1, 1, None, 7, 2]
    column = pa.array([None if x is None else numpy_type(x) for x in rows], data_type)
    numbers = [3.0, 1.0, 1.0, 7.0, 2.0]
    with_null = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1, None, 2]), column[:3])
    ways: list[tuple[Any, list[float]]] = [
        (column, numbers),
        (column[2:6], numbers[1:4]),
        (pa.chunked_array([column[:1], column[:0], column[1:2], column[2:]]), numbers),
        (pa.chunked_array([], data_type), []),
        (pa.nulls(3, data_type), []),
        (column.dictionary_encode() if data_type != pa.float16() else column, numbers),
        (with_null, [3, 1]),
        (pa.chunked_array([with_null, with_null[1:2], with_null[:0]]), [3, 1, 3]),
        (pl.Series(column) if data_type != pa.float16() else column, numbers),
        (pl.Series(column).to_arrow() if data_type != pa.float16() else column, numbers),
    ]
    for values, expected in ways:
        assert flat(values) == expected
        assert all(array.dtype == numpy_type for array in valid_numbers(values))


def test_nan_is_no_null() -> None:
    [array] = valid_numbers(pa.array([math.nan, None, 1.0], from_pandas=False))
    assert np.isnan(array).tolist() == [True, False]


def test_columns_of_nulls_hold_no_numbers() -> None:
    for nulls in (
        pa.nulls(3),
        pa.chunked_array([pa.nulls(1), pa.nulls(2)]),
        pa.nulls(2, pa.dictionary(pa.int8(), pa.null())),
    ):
        assert flat(nulls) == []


def test_arrow_numbers_without_nulls_are_not_copied() -> None:
    numbers = np.arange(10.0)
    [array] = valid_numbers(pa.array(numbers)[2:5])
    assert array.ctypes.data == numbers[2:].ctypes.data
    assert array.tolist() == [2, 3, 4]


class OnlyArray:
    """Gives one array through the C data interface, and no stream."""

    def __init__(self, array: pa.Array) -> None:
        self._array = array

    def __arrow_c_array__(self, requested_schema: object = None) -> object:
        return self._array.__arrow_c_array__(requested_schema)


class OnlyStream:
    """Gives chunks through the C stream interface."""

    def __init__(self, chunks: pa.ChunkedArray) -> None:
        self._chunks = chunks

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._chunks.__arrow_c_stream__(requested_schema)


def test_any_object_with_the_c_data_interface() -> None:
    column = pa.array([1, None, 3])
    assert flat(OnlyArray(column)) == [1, 3]
    assert flat(OnlyStream(pa.chunked_array([column, column[:1]]))) == [1, 3, 1]
    with pytest.raises(TypeError, match="found Arrow type string"):
        flat(OnlyStream(pa.chunked_array([], pa.string())))


@pytest.mark.parametrize("data_type", [*NUMBERS, pa.null()], ids=str)
def test_types_that_widen(data_type: pa.DataType) -> None:
    for widenable in (data_type, pa.dictionary(pa.int8(), data_type)):
        assert is_numeric_type(widenable)
        check_numeric_type(widenable)


@pytest.mark.parametrize("data_type", OTHERS, ids=str)
def test_types_that_do_not_widen_are_named_also_without_rows(data_type: pa.DataType) -> None:
    for other in (data_type, pa.dictionary(pa.int8(), data_type)):
        assert not is_numeric_type(other)
        message = f"column 'x': expected integers, float16, float32 or float64, found Arrow type {other}"
        columns = [pa.nulls(2, other), pa.chunked_array([], other)]
        with pytest.raises(TypeError) as caught:
            check_numeric_type(other, "column 'x'")
        assert str(caught.value) == message
        for column in columns:
            with pytest.raises(TypeError) as caught:
                list(valid_numbers(column, "column 'x'"))
            assert str(caught.value) == message
