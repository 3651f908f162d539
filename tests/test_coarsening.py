"""Key columns cut to bins: edges against exact arithmetic, every type, what has no bin."""

from decimal import Decimal
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lse_stream.coarsening import Coarsening

WIDTHS = [Decimal(text) for text in ("0.1", "0.25", "1", "3", "10", "1e-3", "2.5", "1e6", "0.7")]


def binned(values: pa.Array, width: Decimal) -> list[Any]:
    coarsening = Coarsening(bins={"x": width})
    table = pa.table({"y": np.arange(len(values)), "x": values})
    coarsening.schema_of(table.schema)
    found = coarsening(table)
    assert found.column_names == ["y", "x"]
    result: list[Any] = found.column("x").to_pylist()
    return result


def edge_below(x: float, width: Decimal, dtype: type) -> Any:
    """The largest of the rounded edges that is not above x."""
    exact = Fraction(width)
    number = floor(Fraction(x) / exact) + 2
    while dtype(float(number * exact)) > x:
        number -= 1
    return dtype(float(number * exact))


@given(st.lists(st.none() | st.floats(-1e6, 1e6), max_size=20), st.sampled_from(WIDTHS))
def test_floats(values: list[float | None], width: Decimal) -> None:
    expected = [None if x is None else float(edge_below(x, width, np.float64)) for x in values]
    assert binned(pa.array(values, pa.float64()), width) == expected


@given(st.lists(st.floats(-1e4, 1e4, width=32), max_size=20), st.sampled_from(WIDTHS))
def test_float32(values: list[float], width: Decimal) -> None:
    expected = [float(edge_below(x, width, np.float32)) for x in values]
    assert binned(pa.array(values, pa.float32()), width) == expected


@given(st.integers(-(10**6), 10**6), st.sampled_from(WIDTHS))
def test_an_edge_is_in_its_own_bin(number: int, width: Decimal) -> None:
    edge = float(number * Fraction(width))
    assert binned(pa.array([edge, np.nextafter(edge, np.inf)]), width) == [edge, edge]
    [below] = binned(pa.array([np.nextafter(edge, -np.inf)]), width)
    assert below == float((number - 1) * Fraction(width))


@pytest.mark.parametrize(
    "data_type", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
)
def test_integers(data_type: pa.DataType) -> None:
    info = np.iinfo(data_type.to_pandas_dtype())
    values = [0, 9, 10, 19, 100, int(info.max), None, *([-1, -10, -11] if info.min else [])]
    found = binned(pa.array(values, data_type), Decimal(10))
    assert found == [None if x is None else x // 10 * 10 for x in values]
    if info.min:
        with pytest.raises(ValueError, match=rf"column 'x', row 1: expected .* found {info.min}"):
            binned(pa.array([5, info.min], data_type), Decimal(10))


def test_what_is_no_number_of_a_bin() -> None:
    found = binned(pa.array([np.inf, -np.inf, -0.0, None]), Decimal("0.1"))
    assert found == [np.inf, -np.inf, 0.0, None]
    assert not np.signbit(found[2])
    [nan] = binned(pa.array([np.nan]), Decimal(1))
    assert np.isnan(nan)
    with pytest.raises(ValueError, match=r"column 'x', row 2: expected a number with a bin of 0\.1 .* found 1e"):
        binned(pa.chunked_array([[1.0, 2.0], [1e300]]), Decimal("0.1"))


def test_dictionaries() -> None:
    assert binned(pa.array([11, 25, None, 11]).dictionary_encode(), Decimal(10)) == [10, 20, None, 10]


@pytest.mark.parametrize(
    ("coarsening", "message"),
    [
        (Coarsening(bins={"s": Decimal(1)}), "bin s=1: expected integers, float32 or float64, found string"),
        (Coarsening(bins={"i": Decimal("0.5")}), "bin i=0.5: expected a whole number for a column of int64"),
        (Coarsening(truncate={"i": "day"}), "truncate i=day: expected timestamps, or dates for days and more"),
        (Coarsening(truncate={"d": "hour"}), "truncate d=hour: expected timestamps, or dates for days and more"),
    ],
)
def test_what_cannot_be_cut(coarsening: Coarsening, message: str) -> None:
    schema = pa.schema({"s": pa.string(), "i": pa.int64(), "d": pa.date32()})
    with pytest.raises(TypeError, match=message):
        coarsening.schema_of(schema)


def test_an_hour_that_comes_twice() -> None:
    """In Berlin, on 25 October 2020, from two to three o'clock."""
    zone = pa.timestamp("s", "Europe/Berlin")
    seconds = [1603576800 + 1800 * i for i in range(9)]
    table = pa.table({"t": pa.array(seconds, zone)})
    for unit, expected in (
        ("hour", [1603576800 + 3600 * (i // 2) for i in range(9)]),
        ("day", [1603576800 - 3600 * 0] * 9),
    ):
        found = Coarsening(truncate={"t": unit})(table).column("t")
        assert found.type == zone
        assert found.cast(pa.int64()).to_pylist() == expected


def test_days_that_begin_at_one_o_clock() -> None:
    """In Beirut, where clocks go forward at midnight."""
    zone = pa.timestamp("s", "Asia/Beirut")
    first = 1616882400  # 2021-03-28 01:00 there, the first moment of that day
    found = Coarsening(truncate={"t": "day"})(pa.table({"t": pa.array([first - 1, first, first + 80_000], zone)}))
    assert found.column("t").cast(pa.int64()).to_pylist() == [first - 86400, first, first]


def test_maps_know_one_zero() -> None:
    groups = pa.table({"x": [0.0, -1.0, np.nan], "group": ["zero", "one", "none"]})
    table = pa.table({"x": [-0.0, 0.0, -1.0, np.nan, None]})
    assert Coarsening(mapped={"x": groups})(table)["group"].to_pylist() == ["zero", "zero", "one", "none", None]


def test_numbers_beyond_all_bins_warn_of_nothing() -> None:
    with pytest.raises(ValueError, match=r"column 'x', row 0: expected a number with a bin"):
        Coarsening(bins={"x": Decimal("0.1")})(pa.table({"x": [1e308]}))
