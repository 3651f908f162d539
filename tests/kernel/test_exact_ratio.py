"""Sums, means and variances of exact sums are those of the rational numbers, rounded once, on every kernel."""

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lse_stream import _kernel
from lse_stream._kernel.constants import MINUS_INFINITY, MOST_WORDS, NOT_A_NUMBER, PLUS_INFINITY, UNIT
from lse_stream._kernel.stored_sum import encode_sum

pytestmark = pytest.mark.usefixtures("kernel")

INF, NAN = math.inf, math.nan
ONE = 1 << -UNIT
LARGEST = 64 * MOST_WORDS - 1  # bits of a stored sum without its sign
# Of units, also where a sum is divided by a count.
SUBNORMAL, OVERFLOWING = (-UNIT - 1140, -UNIT - 950), (-UNIT + 960, -UNIT + 1090)
SPECIALS = {PLUS_INFINITY: INF, MINUS_INFINITY: -INF, NOT_A_NUMBER: NAN}


def rounded(x: Fraction) -> float:
    """To nearest, ties to even, by steps of the float's own grid; infinite beyond the largest float."""
    if not x:
        return 0.0
    power = abs(x.numerator).bit_length() - x.denominator.bit_length()
    power -= abs(x) < Fraction(2) ** power
    step = max(power - 52, -1074)
    try:
        size = math.ldexp(round(abs(x) / Fraction(2) ** step), step)
    except OverflowError:
        size = INF
    return size if x > 0 else -size


def stored(sums: list[int], specials: dict[int, int] | None = None) -> _kernel.ExactSums:
    """Sums in units of 2^UNIT; those of some rows are special. They are stored last first, with other words between."""
    parts = [encode_sum(units, (specials or {}).get(i, 0)) for i, units in enumerate(sums)][::-1]
    words = np.concatenate([np.zeros(0, np.uint64), *(word for part in parts for word in (part, ~part[:1]))])
    starts = np.cumsum([0, *(part.size + 1 for part in parts)])[:-1]
    return words, starts[::-1]


def assert_same(found: np.ndarray, expected: list[Any]) -> None:
    assert found.tobytes() == np.array(expected, np.float64).reshape(found.shape).tobytes()


# Of 54 bits: between two floats.
odd = st.integers(1 << 52, (1 << 53) - 1).map(lambda half: 2 * half + 1)
midpoints = st.builds(operator.lshift, odd, st.integers(0, 260))


@st.composite
def magnitudes(draw: st.DrawFn) -> int:
    """Of any stored sum: ordinary ones, midpoints of floats and what is next to them, also far behind."""
    bits = draw(st.one_of(st.integers(0, LARGEST - 54), st.integers(*SUBNORMAL), st.integers(*OVERFLOWING)))
    match draw(st.sampled_from(["one", "any", "midpoint", "ones"])):
        case "one":
            return 1 << bits
        case "any":
            return draw(st.integers(0, 1 << bits))
        case "ones":
            return (1 << bits) - 1
    aside = 1 << max(bits - draw(st.integers(1, 300)), 0)
    return (draw(odd) << bits) + draw(st.sampled_from([0, aside, -aside]))


integers = st.one_of(magnitudes(), magnitudes().map(operator.neg))
counts = st.one_of(st.integers(1, 1000), st.integers(1, 2**62), st.integers(0, 62).map(lambda bits: 2**bits))


@given(st.lists(st.tuples(integers, counts)))
def test_sums_and_means_are_rounded_once(rows: list[tuple[int, int]]) -> None:
    sums, divisors = stored([units for units, _ in rows]), np.array([n for _, n in rows], np.int64)
    assert_same(_kernel.exact_values(sums), [rounded(Fraction(units, ONE)) for units, _ in rows])
    assert_same(_kernel.exact_values(sums, divisors), [rounded(Fraction(units, n * ONE)) for units, n in rows])


@given(midpoints, counts, st.sampled_from([-1, 0, 1]), st.integers(0, 60))
def test_means_at_midpoints_and_next_to_them(mean: int, count: int, aside: int, words: int) -> None:
    units = mean * count + aside << 64 * words
    found = _kernel.exact_values(stored([units, -units]), np.array([count, count]))
    assert_same(found, [rounded(Fraction(sign * units, count * ONE)) for sign in (1, -1)])


@given(st.lists(integers))
def test_pairs_are_a_rounded_sum_and_its_rounded_rest(sums: list[int]) -> None:
    expected = []
    for units in sums:
        high = rounded(Fraction(units, ONE))
        expected.append((high, rounded(Fraction(units, ONE) - Fraction(high)) if math.isfinite(high) else 0.0))
    assert_same(_kernel.exact_pairs(stored(sums)), expected)


near_the_top = st.builds(
    lambda sign, aside: sign * ((1 << LARGEST) - aside), st.sampled_from([-1, 1]), st.integers(1, 1 << LARGEST)
)


@given(
    st.lists(st.one_of(st.just(-1 << LARGEST), st.just((1 << LARGEST) - 1), near_the_top), min_size=1),
    st.integers(1, 40),
)
def test_sums_near_the_top_are_merged_exactly(sums: list[int], times: int) -> None:
    words, at = stored(sums * times)
    merged, begins = _kernel.merge_sums(np.zeros(at.size, np.int32), words, at, 1)
    total = times * sum(sums)
    assert merged.tobytes() == encode_sum(total, 0).tobytes()
    if not -1 << LARGEST <= total < 1 << LARGEST:
        with pytest.raises(ValueError, match="a stored sum that cannot be read"):
            _kernel.exact_values((merged, begins[:-1]))
    else:
        assert_same(_kernel.exact_values((merged, begins[:-1])), [rounded(Fraction(total, ONE))])


def variance(s: int, q: int, n: int, m: int) -> float:
    return rounded((Fraction(q, ONE) - Fraction(s, ONE) ** 2 / n) / m)


@given(st.lists(st.tuples(integers, integers, counts), max_size=8), st.sampled_from([0, 1]))
def test_variances_of_any_stored_sums(rows: list[tuple[int, int, int]], ddof: int) -> None:
    s, q, n = ([row[i] for row in rows] for i in range(3))
    found = _kernel.exact_variances(stored(s), stored(q), np.array(n, np.int64), np.array(n, np.int64) - ddof)
    assert_same(found, [variance(*row, row[2] - ddof) if row[2] > ddof else NAN for row in rows])


@given(
    st.integers(-(2**500), 2**500), st.sampled_from([0, 64, 256]), midpoints, counts, counts,
    st.sampled_from([-1, 0, 1]), st.sampled_from([-1, 0, 1]), st.integers(0, 22),
)  # fmt: skip
def test_variances_at_midpoints_and_next_to_them(
    mean: int, zeros: int, spread: int, n: int, m: int, rest: int, aside: int, words: int
) -> None:
    """Where most of the sum of squares cancels."""
    mean <<= zeros
    # A unit of s^2 is one of q where s is in units of 2^(UNIT / 2).
    s = mean * n + rest
    q = mean * mean * n + 2 * mean * rest + spread * m + aside
    s, q = s << -UNIT // 2 + 64 * words, q << 128 * words
    found = _kernel.exact_variances(stored([s]), stored([q]), np.array([n]), np.array([m]))
    assert_same(found, [variance(s, q, n, m)])


# Around the least float, the least normal one, and the largest.
QUARTERS = [
    *((quarters << -UNIT - 1076) + aside for quarters in range(22) for aside in (-1, 0, 1)),
    *(((1 << 54) + halves << -UNIT - 1076) + aside for halves in range(-6, 7) for aside in (-1, 0, 1)),
    *(((1 << 55) + quarters << -UNIT + 969) + aside for quarters in range(-6, 7) for aside in (-1, 0, 1)),
]


@pytest.mark.parametrize("divisor", [1, 3, 2**62 - 1, 2**62])
def test_results_at_the_ends_of_the_floats(divisor: int) -> None:
    units = [sign * quarters * divisor for quarters in QUARTERS for sign in (1, -1)]
    rows, none = np.full(len(units), divisor), stored([0] * len(units))
    expected = [rounded(Fraction(one, divisor * ONE)) for one in units]
    assert_same(_kernel.exact_values(stored(units), rows), expected)
    assert_same(_kernel.exact_variances(none, stored(units), rows, rows), expected)


FINITE = st.one_of(
    st.floats(-100.0, 100.0),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([5e-324, -5e-324, 1.7976931348623157e308, -1.7976931348623157e308, 1.0, -1.0, 2.0**53, 2.0**-537]),
)


@given(st.lists(st.lists(FINITE, max_size=12), max_size=6), st.sampled_from([0, 1]))
def test_variances_of_values(groups: list[list[float]], ddof: int) -> None:
    codes = np.repeat(np.arange(len(groups), dtype=np.int32), [len(values) for values in groups])
    x = np.array([value for values in groups for value in values])
    sums, squares = (_kernel.sum_products(codes, x, b, len(groups)) for b in (None, x))
    n = np.array([len(values) for values in groups], np.int64)
    found = _kernel.exact_variances((sums[0], sums[1][:-1]), (squares[0], squares[1][:-1]), n, n - ddof)
    expected = []
    for values in groups:
        exact, m = [Fraction(value) for value in values], len(values) - ddof
        mean = sum(exact, Fraction(0)) / max(len(values), 1)
        expected.append(rounded(sum(((v - mean) ** 2 for v in exact), Fraction(0)) / m) if values and m > 0 else NAN)
    assert_same(found, expected)


@pytest.mark.parametrize(("special", "value"), SPECIALS.items())
def test_special_sums(special: int, value: float) -> None:
    sums = stored([ONE, 0, 0], {1: special})
    ones = np.ones(3, np.int64)
    assert_same(_kernel.exact_values(sums), [1.0, value, 0.0])
    assert_same(_kernel.exact_values(sums, 2 * ones), [0.5, value, 0.0])
    assert_same(_kernel.exact_pairs(sums), [(1.0, 0.0), (value, 0.0), (0.0, 0.0)])
    plain = stored([ONE, ONE, 0])
    assert_same(_kernel.exact_variances(plain, sums, 2 * ones, ones), [0.5, NAN, 0.0])
    assert_same(_kernel.exact_variances(sums, plain, 2 * ones, ones), [0.5, NAN, 0.0])


def test_without_a_positive_count_or_divisor_there_is_none() -> None:
    sums, none = stored([ONE] * 4, {3: PLUS_INFINITY}), np.array([0, -1, -(2**63), 0])
    ones = np.ones(4, np.int64)
    assert_same(_kernel.exact_values(sums, none), [NAN] * 4)
    assert_same(_kernel.exact_variances(sums, sums, none, ones), [NAN] * 4)
    assert_same(_kernel.exact_variances(sums, sums, ones, none), [NAN] * 4)


def test_no_sums_have_no_results() -> None:
    sums, none = stored([]), np.empty(0, np.int64)
    assert _kernel.exact_values(sums).shape == _kernel.exact_variances(sums, sums, none, none).shape == (0,)
    assert _kernel.exact_pairs(sums).shape == (0, 2)


@pytest.mark.parametrize(
    ("head", "place"),
    [
        (2 << 16, 0),  # more words than there are
        (70 << 16, 0),
        (0xFFFF << 16, 0),
        (1 << 16 | 70, 0),  # places beyond the highest
        (0xFFFF, 0),
        (1 << 16 | 0xFFFF, 0),
        (4 << 32, 0),  # no such special value
        (0, -1),
        (0, 2),
        (0, -(2**63)),
        (0, 2**63 - 1),
    ],
)
def test_a_sum_that_reaches_beyond_its_words_is_not_read(head: int, place: int) -> None:
    bad, good = (np.array([head, 1], np.uint64), np.array([place])), stored([ONE])
    one = np.ones(1, np.int64)
    calls: list[Callable[[], object]] = [
        lambda: _kernel.exact_values(bad),
        lambda: _kernel.exact_pairs(bad),
        lambda: _kernel.exact_variances(bad, good, one, one),
        lambda: _kernel.exact_variances(good, bad, one, one),
        lambda: _kernel.merge_sums(np.zeros(1, np.int32), *bad, 1),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="a stored sum that cannot be read"):
            call()


def test_columns_of_other_lengths_are_refused() -> None:
    sums, two, three = stored([ONE, ONE]), np.ones(2, np.int64), np.ones(3, np.int64)
    calls: list[Callable[[], object]] = [
        lambda: _kernel.exact_values(sums, three),
        lambda: _kernel.exact_variances(sums, stored([ONE]), two, two),
        lambda: _kernel.exact_variances(sums, sums, three, two),
        lambda: _kernel.exact_variances(sums, sums, two, three),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"different lengths|argument"):
            call()
