"""Weighted sums, means, bonus, effective sample size and cross-entropy against mpmath, and their special values."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import random_values
from hypothesis import assume, given
from hypothesis import strategies as st
from mpmath import exp, log, mp, mpf

from lse_stream import (
    CrossEntropyAccumulator,
    EffectiveSampleSizeAccumulator,
    LogLikelihoodAccumulator,
    LogSumExpAccumulator,
    WeightedLogSumExpAccumulator,
    finalize,
    group_states,
    logmeanexp,
    logsumexp,
)

mp.prec = 400
INF, NAN = math.inf, math.nan
RNG = np.random.default_rng(4)


def same(found: float, expected: float) -> bool:
    """Equal bits, all NaN alike."""
    return np.float64(found).tobytes() == np.float64(expected).tobytes()


def total(x: Any, w: Any) -> tuple[mpf, mpf, mpf]:
    """Of w e^(x - max): the sum and the sum of magnitudes, to 400 bits; and the max."""
    top = mpf(max(float(v) for v, weight in zip(x, w, strict=True) if weight))
    terms = [mpf(float(b)) * exp(mpf(float(a)) - top) for a, b in zip(x, w, strict=True) if b]
    return sum(terms), sum(abs(t) for t in terms), top


def assert_log(found: float, expected: mpf, slack: mpf | int = 0) -> None:
    """0.51 ULP from 1 up; below that 2^-59 and the rounding."""
    rounded = float(expected)
    bound = mpf("0.51") * math.ulp(rounded) if abs(rounded) >= 1 else mpf(2) ** -59 + mpf("0.5") * math.ulp(rounded)
    assert abs(mpf(found) - expected) <= bound + slack, (found, rounded)


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [1e-9, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("weights", [0.0, 1.0, 100.0, 600.0])
def test_positive_weights(spread: float, weights: float) -> None:
    for n in (1, 2, 5, 60):
        for centre in (0.0, -3.0, 1e5, 2.0**23, 2.0**40):
            x, w = RNG.normal(centre, spread, n), np.exp(RNG.normal(0, weights, n).clip(-740, 700))
            found = WeightedLogSumExpAccumulator(x, w)
            s, _, top = total(x, w)
            assert_log(found.value(), top + log(s))
            assert found.sign() == 1.0
            assert_log(found.logmeanexp(), top + log(s / sum(mpf(v) for v in w.tolist())))
            assert found.weight() == math.fsum(w)


@given(
    st.lists(
        st.tuples(st.floats(-50, 50), st.floats(-1e6, 1e6).filter(lambda w: w == 0 or abs(w) > 1e-6)),
        min_size=1,
        max_size=12,
    )
)
def test_signs_under_cancellation(rows: list[tuple[float, float]]) -> None:
    """The error of the sum is at most 2^-59 of the sum of magnitudes."""
    x, w = zip(*rows, strict=True)
    assume(any(w))
    s, magnitudes, top = total(x, w)
    bound = magnitudes * (mpf(2) ** -59 + len(rows) * mpf(2) ** -99)
    found = WeightedLogSumExpAccumulator(x, w)
    if abs(s) > 4 * bound:
        assert found.sign() == (1 if s > 0 else -1)
        assert_log(found.log_abs_sum(), top + log(abs(s)), -log(1 - bound / abs(s)))
    else:
        assert found.log_abs_sum() == -INF or mpf(found.log_abs_sum()) - top <= log(8 * bound)


@given(st.lists(st.tuples(st.floats(-700, 700), st.floats(allow_nan=False, allow_infinity=False)), max_size=10))
def test_terms_that_cancel_in_pairs_leave_nothing(rows: list[tuple[float, float]]) -> None:
    both = rows + [(x, -w) for x, w in rows]
    np.random.default_rng(0).shuffle(both)
    found = WeightedLogSumExpAccumulator(*np.array(both).reshape(-1, 2).T)
    assert (found.value(), found.sign(), found.count) == (-INF, 0.0, len(both))


def test_a_weight_outweighs_the_largest_x() -> None:
    """scipy shifts by the largest x, and loses this sum."""
    x, w = [1000.0, 0.0], [5e-324, 1e300]
    s, _, top = total(x, w)
    assert_log(WeightedLogSumExpAccumulator(x, w).value(), top + log(s))
    assert_log(logsumexp([0.0, -1500.0], b=[0.0, 1e300]), mpf(-1500) + log(mpf(1e300)))
    x, w = [0.0, 700.0], [1e308, 1e-308]
    s, _, top = total(x, w)
    assert_log(WeightedLogSumExpAccumulator(x, w).value(), top + log(s))


def test_weights_of_one_change_nothing() -> None:
    for seed in range(30):
        x = random_values(np.random.default_rng(seed), 40)
        weighted, plain = WeightedLogSumExpAccumulator(x, np.ones(40)), LogSumExpAccumulator(x)
        assert weighted.max == plain.max
        if abs(plain.value()) > 1e-6:
            assert weighted.value() == pytest.approx(plain.value(), rel=2.3e-16)


WEIGHTED = [
    ("nothing", [], [], -INF, 0.0),
    ("one", [0.1], [1.0], 0.1, 1.0),
    ("all weights zero", [1.0, 2.0], [0.0, -0.0], -INF, 0.0),
    ("zero weight on NaN", [NAN, 1.0], [0.0, 1.0], 1.0, 1.0),
    ("zero weight on +inf", [INF, 1.0], [0.0, 1.0], 1.0, 1.0),
    ("zero weight on the largest", [1e300, 1.0], [0.0, 1.0], 1.0, 1.0),
    ("-inf with any weight", [-INF, 1.0], [1e300, 1.0], 1.0, 1.0),
    ("NaN", [NAN, 1.0], [1.0, 1.0], NAN, NAN),
    ("+inf", [INF, 1.0], [0.5, -1.0], INF, 1.0),
    ("+inf, negative", [INF, 1.0], [-0.5, 1.0], INF, -1.0),
    ("+inf of both signs", [INF, INF], [1.0, -1.0], NAN, NAN),
    ("+inf twice", [INF, INF], [-1.0, -2.0], INF, -1.0),
    ("far apart", [2.0**60, 1.0], [1.0, -1e300], 2.0**60, 1.0),
    ("far ties that cancel", [1e300, 1e300, 0.0], [3.0, -3.0, 1.0], -INF, 0.0),
    ("far ties", [1e300, 1e300], [-3.0, 1.0], 1e300, -1.0),
    ("far below", [-1e300, -1e300], [2.0, 2.0], -1e300, 1.0),
    ("far below and near", [-1e300, 0.5], [-1e300, 1.0], 0.5, 1.0),
    ("a negative sum", [2.0], [-1.0], 2.0, -1.0),
]


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("x", "w", "log_abs_sum", "sign"), [c[1:] for c in WEIGHTED], ids=[c[0] for c in WEIGHTED])
def test_special_values_of_weighted_sums(x: list[float], w: list[float], log_abs_sum: float, sign: float) -> None:
    for order in (slice(None), slice(None, None, -1)):
        found = WeightedLogSumExpAccumulator(x[order], w[order])
        assert same(found.log_abs_sum(), log_abs_sum)
        assert same(found.sign(), sign)
        assert same(found.value(), NAN if sign < 0 else log_abs_sum)  # a negative sum has no logarithm
        assert found.count == len(x)


@pytest.mark.parametrize("scale", ["natural", "decibel", "magnitude"])
def test_a_negative_sum_has_a_magnitude_and_no_logarithm_in_tables_too(scale: str) -> None:
    x, w = [1.0, 1.0, 1.25], [1.0, -3.0, 1.0]
    accumulator = WeightedLogSumExpAccumulator(x, w, scale=scale)
    states = group_states(pa.table({"x": x, "w": w}), [], ["x", "w"], aggregation="weighted_logsumexp", scale=scale)
    names = ["logsumexp", "log_abs_sum", "sign"]
    [row] = finalize(states, results=names).to_pylist()
    assert [same(row[name], accumulator.result(name)) for name in names] == [True] * 3
    assert math.isnan(accumulator.value())
    assert row["sign"] == -1.0
    opposite = WeightedLogSumExpAccumulator(x, [-v for v in w], scale=scale)
    assert opposite.value() == opposite.log_abs_sum() == row["log_abs_sum"]
    if scale == "natural":
        log, sign = logsumexp(x, b=w, return_sign=True)
        assert (log, sign) == (row["log_abs_sum"], -1.0)
        assert math.isnan(logsumexp(x, b=w))


@pytest.mark.parametrize(
    ("x", "w", "mean"),
    [
        ([], [], NAN),
        ([1.0, 2.0], [1.0, -1.0], NAN),
        ([1.0, 2.0], [-1.0, -1.0], logmeanexp([1.0, 2.0])),
        ([1.0, 1.0], [2.0, -1.0], 1.0),
        ([1.0, 2.0], [3.0, -1.0], math.log((3 * math.e - math.e**2) / 2)),
        ([1.0, 2.0], [2.0, -1.0], NAN),
        ([-INF, -INF], [1.0, 2.0], -INF),
        ([3.0] * 7, [0.1, 1e-300, 1e300, 7.0, 5e-324, 3.0, 0.0], 3.0),
        ([1e300], [5.0], 1e300),
    ],
)
def test_weighted_means(x: list[float], w: list[float], mean: float) -> None:
    assert WeightedLogSumExpAccumulator(x, w).logmeanexp() == pytest.approx(mean, rel=3e-16, nan_ok=True)


@pytest.mark.usefixtures("kernel")
def test_a_nan_of_any_bits_is_the_one_nan_without_a_warning() -> None:
    for word in (0x7FF0000000000001, 0xFFF8000000000000, 0x7FFFFFFFFFFFFFFF):
        strange = np.array([word, 0x3FF0000000000000], np.uint64).view(np.float64)
        plain = np.array([NAN, 1.0])
        assert LogSumExpAccumulator(strange).to_bytes() == LogSumExpAccumulator(plain).to_bytes()
        assert LogLikelihoodAccumulator(strange).to_bytes() == LogLikelihoodAccumulator(plain).to_bytes()
        ones = np.ones(2)
        found = WeightedLogSumExpAccumulator(strange, ones)
        assert found.to_bytes() == WeightedLogSumExpAccumulator(plain, ones).to_bytes()
        assert same(logsumexp(np.stack([strange, strange]), axis=1)[0], NAN)


# --- means and bonus --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [0.0, 0.1, -0.3, 1e-20, -1e5, 745.2, 2.0**23, 1e15, 1e300, -1e300, 5e-324])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 1000])
def test_the_mean_of_equal_values_is_that_value(x: float, n: int) -> None:
    state = LogSumExpAccumulator([x] * n)
    assert same(state.logmeanexp(), x)
    assert state.exp_bonus() == n
    assert same(logmeanexp(np.full((2, n), x), axis=1)[0], x)


@pytest.mark.parametrize("spread", [1e-12, 1e-3, 1.0, 50.0, 1e4])
def test_means_and_bonus_against_mpmath(spread: float) -> None:
    for n in (2, 3, 40, 300):
        for centre in (0.0, 1.0, -700.0, 2.0**30):
            x = RNG.normal(centre, spread, n)
            s, _, top = total(x, np.ones(n))
            state = LogSumExpAccumulator(x)
            assert_log(state.logmeanexp(), top + log(s / n))
            expected = log(s)
            assert abs(mpf(state.bonus()) - expected) <= expected * mpf(2) ** -52 + mpf(2) ** -99
            assert abs(mpf(state.exp_bonus()) - s) <= s * mpf(2) ** -52


def test_a_tiny_bonus_has_its_full_accuracy() -> None:
    for gap in (10.0, 36.0, 60.0):
        found, expected = LogSumExpAccumulator([100.0, 100.0 - gap]).bonus(), log(1 + exp(mpf(-gap)))
        assert abs(mpf(found) - expected) <= expected * mpf(2) ** -52
        assert found > 0.0


@pytest.mark.parametrize("values", [[], [-INF], [INF], [NAN]])
def test_without_a_finite_max_there_is_no_bonus(values: list[float]) -> None:
    state = LogSumExpAccumulator(values)
    assert math.isnan(state.bonus())
    assert math.isnan(state.exp_bonus())
    assert same(state.logmeanexp(), state.value())


# --- effective sample size --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("centre", [0.0, -1e5, 700.0, 2.0**58])
def test_effective_sample_size(spread: float, centre: float) -> None:
    for n in (1, 2, 10, 300):
        x = RNG.normal(centre, spread, n)
        top = mpf(max(x))
        first, second = (sum(exp(k * (mpf(v) - top)) for v in x.tolist()) for k in (1, 2))
        state = EffectiveSampleSizeAccumulator(x)
        expected = first**2 / second
        assert abs(mpf(state.value()) - expected) <= expected * mpf(2) ** -52
        assert abs(mpf(state.largest_weight()) - 1 / first) <= mpf(2) ** -52 / first


@pytest.mark.parametrize(
    ("x", "size"),
    [
        ([], 0.0),
        ([-INF, -INF], 0.0),
        ([INF, 1.0], NAN),
        ([NAN], NAN),
        ([3.5] * 7, 7.0),
        ([1e300] * 3 + [1.0], 3.0),
        ([1.7e308] * 3, 3.0),
        ([-1.7e308] * 3, 3.0),
        ([2.0**59, 2.0**59, 1.0], 2.0),
        ([2.0**1022, -(2.0**1023)], 1.0),
    ],
)
@pytest.mark.usefixtures("kernel")
def test_special_effective_sample_sizes(x: list[float], size: float) -> None:
    assert same(EffectiveSampleSizeAccumulator(x).value(), size)


# --- cross-entropy ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [1e-6, 1.0, 30.0, 1e3])
def test_cross_entropy_of_a_label(spread: float) -> None:
    for n in (2, 10, 300):
        for centre in (0.0, -1e4, 1e9):
            x = RNG.normal(centre, spread, n)
            label = int(RNG.integers(n))
            s, _, top = total(x, np.ones(n))
            found = CrossEntropyAccumulator(x, (np.arange(n) == label).astype(float))
            assert_log(found.value(), top + log(s) - mpf(x[label]))


def test_cross_entropy_of_probabilities() -> None:
    x, t = RNG.normal(size=8) * 5, RNG.dirichlet(np.ones(8))
    s, _, top = total(x, np.ones(8))
    weight = sum(mpf(v) for v in t.tolist())
    expected = weight * (top + log(s)) - sum(mpf(a) * mpf(b) for a, b in zip(x.tolist(), t.tolist(), strict=True))
    assert_log(CrossEntropyAccumulator(x, t).value(), expected)


@pytest.mark.parametrize(
    ("x", "t", "value"),
    [
        ([5.0], [1.0], 0.0),
        ([5.0, -INF], [1.0, 0.0], 0.0),
        ([5.0, -INF], [0.0, 1.0], INF),
        ([1.0, NAN], [1.0, 0.0], NAN),
        ([1.0, INF], [1.0, 0.0], INF),
        ([1e300, 0.0], [1.0, 0.0], 0.0),
        ([1e300, 0.0], [0.0, 1.0], 1e300),
        ([1.7e308, 0.0], [0.0, 1.0], 1.7e308),
        ([1.7e308, -1.7e308], [0.0, 1.0], INF),
    ],
)
def test_special_cross_entropies(x: list[float], t: list[float], value: float) -> None:
    assert same(CrossEntropyAccumulator(x, t).value(), value)


# --- exact sums -------------------------------------------------------------------------------------------------------

finite = st.floats(allow_nan=False, allow_infinity=False)


def rounded(value: Fraction) -> float:
    try:
        return float(value) + 0.0
    except OverflowError:
        return INF if value > 0 else -INF


@pytest.mark.usefixtures("kernel")
@given(st.lists(st.one_of(finite, st.floats(-100, 100), st.sampled_from([5e-324, -5e-324, 1.7e308, -1.7e308]))))
def test_sums_and_moments_are_those_of_the_real_numbers(values: list[float]) -> None:
    state, exact = LogLikelihoodAccumulator(values), [Fraction(v) for v in values]
    n, s, q = len(values), sum(exact, Fraction(0)), sum((v * v for v in exact), Fraction(0))
    assert state.value().log_likelihood == rounded(s)
    assert state.result("sum_of_squares") == rounded(q)
    assert state.count == n
    assert same(state.value().mean, rounded(s / n) if n else NAN)
    for ddof in (0, 1, 3):
        assert same(state.variance(ddof), rounded((q - s * s / n) / (n - ddof)) if n > ddof else NAN)


def test_sums_of_many_values_of_one_sign_carry_far() -> None:
    for x in (np.full(9000, -1.7e308), -np.abs(RNG.normal(size=9000)) * 1e3, np.full(9000, 5e-324)):
        state = LogLikelihoodAccumulator(x)
        expected = sum(map(Fraction, x.tolist()), Fraction(0))
        assert state.value().log_likelihood == rounded(expected)
        assert LogLikelihoodAccumulator.from_bytes(state.to_bytes()) == state
        state.merge(LogLikelihoodAccumulator(-x))
        assert state.value().log_likelihood == 0.0
        assert state.result("sum_of_squares") == rounded(2 * sum((Fraction(v) ** 2 for v in x.tolist()), Fraction(0)))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([INF, 1.0], INF),
        ([-INF, 1.0], -INF),
        ([INF, -INF], NAN),
        ([NAN, 1.0], NAN),
        ([1e308, 1e308, -1e308], 1e308),
        ([1e308, 1e308], INF),
        ([-0.0], 0.0),
        ([1e16, 1.0, -1e16], 1.0),
    ],
)
def test_special_sums(values: list[float], expected: float) -> None:
    state = LogLikelihoodAccumulator(values)
    assert same(state.value().log_likelihood, expected)
    if not all(map(math.isfinite, values)):
        assert math.isnan(state.variance())
