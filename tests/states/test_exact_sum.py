"""Exact totals: of floats as math.fsum has them, of integers and decimals as Python's integers and fractions do."""

import math
import threading
from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import any_float
from hypothesis import given, settings
from hypothesis import strategies as st
from test_states import integers

from lse_stream import ExactSumAccumulator, StateError, finalize, group_states, merge_states
from lse_stream.key_accumulators import RowAccumulator, StateAccumulator
from lse_stream.reduction import ColumnAggregation, Reduction
from lse_stream.scales import NATURAL
from lse_stream.state_table import StateTable
from lse_stream.states.aggregations import exact_sum, find_aggregation

EVERY_DIGITS = st.sampled_from([0, 1, 2, 10, 38])


def decimals(units: Sequence[int], digits: int) -> pa.Array:
    return pa.array([Decimal(f"{x}e-{digits}") for x in units], pa.decimal128(38, digits))


def rounded(value: Fraction) -> float:
    return value.numerator / value.denominator


@given(st.lists(integers, max_size=30), EVERY_DIGITS)
def test_results_of_integers_are_those_of_fractions(units: list[int], digits: int) -> None:
    found = ExactSumAccumulator(decimals(units, digits), digits=digits).value()
    values = [Fraction(x, 10**digits) for x in units]
    n, total = len(units), sum(values, Fraction())
    assert (found.count, Fraction(found.sum)) == (n, total)
    if not units:
        assert (found.min, found.max) == (math.inf, -math.inf)
        assert math.isnan(found.mean)
        return
    assert (Fraction(found.min), Fraction(found.max)) == (min(values), max(values))
    assert found.mean == rounded(total / n)
    if n > 1:
        squares = sum(((x - total / n) ** 2 for x in values), Fraction())
        assert found.variance == rounded(squares / (n - 1))


@given(st.lists(any_float, max_size=30))
def test_results_of_floats(values: list[float]) -> None:
    found = ExactSumAccumulator(values).value()
    finite = [x for x in values if math.isfinite(x)]
    if len(finite) < len(values):
        found = ExactSumAccumulator(finite).value()
    if abs(total := sum(map(Fraction, finite), Fraction())) < Fraction(2) ** 1023:
        assert found.sum == rounded(total)
        assert found.mean == rounded(total * Fraction(1, len(finite))) if finite else math.isnan(found.mean)
    assert (found.min, found.max) == (min(finite, default=math.inf), max(finite, default=-math.inf))
    assert all(math.copysign(1, x) == 1 for x in (found.sum, found.min, found.max) if x == 0)


def test_what_is_not_finite() -> None:
    def of(*values: float) -> tuple[float, ...]:
        found = ExactSumAccumulator(values).value()
        return float(found.sum), float(found.min), float(found.max)

    assert of(math.inf, 1.0) == (math.inf, 1.0, math.inf)
    assert of(-math.inf, -math.inf) == (-math.inf, -math.inf, -math.inf)
    assert str(of(math.inf, -math.inf)) == "(nan, -inf, inf)"
    assert str(of(1.0, -math.nan)) == "(nan, nan, nan)"
    assert of(1e308, 1e308, -1e308) == (1e308, -1e308, 1e308)
    assert of(1e308, 1e308) == (math.inf, 1e308, 1e308)


COLUMNS = [
    pa.array([2**63 - 1, -(2**63), None, -1, 2**53 + 1], pa.int64()),
    pa.array([2**64 - 1, 0, None, 2**63, 2**53 + 1], pa.uint64()),
    pa.array([-128, 127, None, 0], pa.int8()),
    pa.array([True, False, None, True]),
    pa.array([2**40, None, 2**40 + 1], pa.int64()).dictionary_encode(),
    pa.array([None, None], pa.null()),
    pa.array([Decimal("-1.5"), None, Decimal("99.9")], pa.decimal128(3, 1)),
    pa.array([Decimal(7), Decimal(-(10**37))], pa.decimal256(38, 0)),
    pa.array([Decimal("12.34")], pa.decimal64(4, 2)),
    pa.array([Decimal(100), Decimal(-300)], pa.decimal128(3, -2)),
]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: str(column.type))
def test_columns_of_every_type(column: pa.Array) -> None:
    for part in (column, column.slice(1), pa.chunked_array([column.slice(0, 1), column.slice(1)])):
        values = [Decimal(int(x) if isinstance(x, bool) else x) for x in part.to_pylist() if x is not None]
        digits = 0 if not pa.types.is_decimal(column.type) else max(column.type.scale, 0)
        found = finalize(group_states(pa.table({"x": part}), [], "x", aggregation=f"exact_sum {digits}"))
        assert found["sum"].type == found["min"].type == found["max"].type == pa.decimal128(38, digits)
        [row] = found.select(["sum", "count", "min", "max"]).to_pylist()
        with localcontext(prec=80):
            total = sum(values, Decimal(0))
        assert row == {
            "sum": total,
            "count": len(values),
            "min": min(values, default=None),
            "max": max(values, default=None),
        }


@settings(max_examples=60)
@given(st.data())
def test_growing_groups_have_the_bytes_of_those_at_once(data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.tuples(st.integers(0, 5), integers), min_size=1, max_size=40))
    keys, units = (list(column) for column in zip(*rows, strict=True))
    table = pa.table({"k": keys, "x": decimals(units, 2)})
    reduction = Reduction(("k",), {"state": ColumnAggregation(exact_sum(2), NATURAL, ("x",))})
    whole = StateTable.group(table, reduction).sort().to_arrow()
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3))), len(rows)]
    growing, merging = RowAccumulator(reduction), StateAccumulator(["k"])
    for start, end in pairwise(cuts):
        part = table.slice(start, end - start)
        growing.add(part)
        merging.add(StateTable.group(part, reduction))
    for accumulator in (growing, merging):
        found = accumulator.table()
        assert found is not None
        assert found.sort().to_arrow().equals(whole)
    assert merge_states(whole, []).equals(group_states(table, [], "x", aggregation="exact_sum 2"))


def test_many_rows_of_few_and_of_many_groups() -> None:
    """Sums of integers that fit int64, against NumPy, over several tables."""
    rng = np.random.default_rng(5)
    for groups in (3, 40_000):
        codes, values = rng.integers(0, groups, 200_000), rng.integers(-(2**45), 2**45, 200_000)
        values[::1000] *= 2**14  # some of more than 53 bits
        growing = RowAccumulator(Reduction(("k",), {"state": ColumnAggregation(exact_sum(0), NATURAL, ("x",))}))
        for start in range(0, 200_000, 30_000):
            some = slice(start, start + 30_000)
            growing.add(pa.table({"k": codes[some], "x": values[some]}))
        table = growing.table()
        assert table is not None
        found = table.sort().finalize()
        sums = np.zeros(groups, np.int64)
        least, largest = np.full(groups, 2**62), np.full(groups, -(2**62))
        np.add.at(sums, codes, values)
        np.minimum.at(least, codes, values)
        np.maximum.at(largest, codes, values)
        present = np.unique(codes)
        for name, expected in (("sum", sums), ("min", least), ("max", largest), ("count", np.bincount(codes))):
            assert found[name].cast(pa.int64()).to_pylist() == expected[present].tolist(), name


def test_threads_lose_no_integer() -> None:
    total = ExactSumAccumulator(digits=0)

    def add() -> None:
        for i in range(5000):
            total.add(i)

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert total == ExactSumAccumulator(np.tile(np.arange(5000), 3), digits=0)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0.5, "expected an integer or a Decimal, found float 0.5"),
        (True, "expected an integer or a Decimal, found bool True"),
        (None, "expected an integer or a Decimal, found NoneType None"),
        (Decimal("NaN"), "found NaN"),
        (Decimal("0.001"), "expected a number of at most 2 digits after the point and 38 in all, found 0.001"),
        (Decimal("sNaN"), "found sNaN"),
        (10**36, f"expected a number of at most 2 digits after the point and 38 in all, found {10**36}"),
        (Decimal("1e999999999999"), "found 1E\\+999999999999"),
        (Decimal("1e-999999999999"), "found 1E-999999999999"),
    ],
)
def test_numbers_that_are_refused(value: Any, error: str) -> None:
    total = ExactSumAccumulator([1], digits=2)
    for put in (total.add, lambda x: total.update([x])):
        with pytest.raises((TypeError, ValueError), match=error):
            put(value)
    assert total.value().sum == 1


def test_a_number_of_thousands_of_digits_is_told_by_its_size() -> None:
    with pytest.raises(ValueError, match="and 38 in all, found one of 16610 bits"):
        ExactSumAccumulator(digits=0).add(10**5000)


def test_columns_that_are_refused() -> None:
    for column, error in (
        (pa.array([0.5]), "column 'x': expected integers or decimals, found Arrow type double"),
        (pa.array([Decimal("0.001")]), r"column 'x': expected values that decimal128\(38, 2\) holds, found"),
        (pa.array([Decimal(10**40)], pa.decimal256(50, 0)), r"column 'x': expected values that decimal128\(38, 2\)"),
        (pa.array([2**63], pa.uint64()), None),
    ):
        table = pa.table({"x": column})
        if error is None:
            assert group_states(table, [], "x", aggregation="exact_sum 2").num_rows == 1
            continue
        with pytest.raises((TypeError, ValueError), match=error):
            group_states(table, [], "x", aggregation="exact_sum 2")
    with pytest.raises(ValueError, match=r"integers within \+-2\^53"):
        group_states(pa.table({"x": [2**60]}), [], "x", aggregation="exact_sum")


def test_a_sum_of_39_digits_is_refused_but_kept() -> None:
    most = 10**38 - 1
    for sign in (1, -1):
        total = ExactSumAccumulator([sign * most], digits=0)
        assert total.result("sum") == sign * most
        total.add(sign)
        with pytest.raises(StateError, match="expected a sum of at most 38 digits, found one of 128 bits"):
            total.result("sum")
        total.add(-sign)
        assert total.value().sum == sign * most


def test_what_does_not_merge() -> None:
    of_floats, of_integers, of_cents = (ExactSumAccumulator(digits=digits) for digits in (None, 0, 2))
    with pytest.raises(StateError, match="states of two aggregations do not merge: exact_sum and exact_sum 0"):
        of_floats.merge(of_integers)
    with pytest.raises(StateError, match="exact_sum 2 and exact_sum 0"):
        of_cents.merge(of_integers)
    with pytest.raises(ValueError, match="exact_sum: expected 0 to 38 digits after the point, found 39"):
        ExactSumAccumulator(digits=39)
    for name in ("exact_sum 02", "exact_sum -1", "exact_sum x", "exact_sums 2"):
        with pytest.raises(ValueError, match="aggregation: expected"):
            find_aggregation(name)


def test_counts_beyond_int64_are_refused() -> None:
    for digits in (None, 0):
        total = ExactSumAccumulator([1], digits=digits)
        for _ in range(62):
            total.merge(total.copy())
        states = pa.table({"k": [1] * 5, "state": pa.array([total.to_bytes()] * 5)})
        for n in (2, 4, 5):
            with pytest.raises(OverflowError, match="would exceed"):
                merge_states(states.slice(0, n), ["k"])
        assert merge_states(states.slice(0, 1), []).num_rows == 1


def test_what_an_accumulator_gives_is_of_one_moment() -> None:
    total = ExactSumAccumulator(digits=0)

    def add() -> None:
        for _ in range(3000):
            total.add(1)

    thread = threading.Thread(target=add)
    thread.start()
    while thread.is_alive():
        found = total.value()
        assert found.sum == found.count
        assert found.count == 0 or found.min == found.max == found.mean == 1
    thread.join()
    assert float(total) == 3000.0


@pytest.mark.parametrize(
    ("values", "digits", "total"),
    [
        (np.arange(3).astype(">i8"), 0, 3),
        (np.array([2**70, Decimal("0.5")], object), 1, Decimal(2**70) + Decimal("0.5")),
        (pa.array([5], pa.int64()), 20, 5),
        (pa.array([2**64 - 1], pa.uint64()), 18, 2**64 - 1),
        ([np.int64(7)], np.int64(2), 7),
    ],
)
def test_values_of_many_kinds(values: Any, digits: int, total: Any) -> None:
    assert ExactSumAccumulator(values, digits=digits).value().sum == total
    assert exact_sum(digits).name == f"exact_sum {digits}"


def test_text_is_no_sequence_of_numbers() -> None:
    for values in ("12", b"ab"):
        with pytest.raises(TypeError, match="value: expected integers or decimals, found"):
            ExactSumAccumulator(values, digits=0)


def test_the_least_of_values_that_share_their_first_terms() -> None:
    rng = np.random.default_rng(3)
    terms = [10**37, 10**37 + 2**53, 10**37 + 2**54, 5, -(10**37), 2**60, -(2**60)]
    for _ in range(300):
        units = [int(terms[i]) + int(rng.integers(-2, 3)) for i in rng.integers(0, len(terms), 12)]
        keys = rng.integers(0, 3, 12)
        table = pa.table({"k": keys, "x": decimals(units, 0)})
        found = finalize(group_states(table, ["k"], "x", aggregation="exact_sum 0"))
        for row in found.to_pylist():
            of_key = [x for x, key in zip(units, keys, strict=True) if key == row["k"]]
            assert (row["min"], row["max"]) == (min(of_key), max(of_key))
