"""Results against mpmath: the bonus and log-softmax to 0.52 ULP at every gap.

Log-sum-exp is right to 0.52 ULP where the max is 0 or more, to 0.51 where its magnitude is 1 or more, else to 2^-59 and
the rounding.
"""

import json
import math
from collections import Counter
from fractions import Fraction
from functools import cache

import hard_cases
import numpy as np
import pyarrow as pa
import pytest
from conftest import finite_or_minus_inf
from hypothesis import given
from hypothesis import strategies as st
from mpmath import exp, log, mp, mpf
from test_scales import EVERY_SCALE, UNITS

from lse_stream import _kernel, list_functions, log_softmax, logaddexp, logsumexp
from lse_stream.accumulators import LogSumExpAccumulator

mp.prec = 400

LEAST = mpf(2) ** -1022
TINY = mpf(2) ** -1074


def bonus_of(values: np.ndarray) -> mpf:
    """LSE - max with a relative error of 2^-190 or so."""
    counts = Counter(float(v) for v in values)
    top = max(counts)
    ties = counts.pop(top)
    rest = sum(n * exp(mpf(v) - mpf(top)) for v, n in counts.items() if v - top > -2000)
    if ties == 1 and rest < mpf(2) ** -100:
        return rest - rest**2 / 2
    return log(ties + rest)


def reference(values: np.ndarray) -> mpf:
    """LSE, exactly the max and that bonus."""
    return mp.fadd(mpf(float(max(values))), bonus_of(values), exact=True)


def in_ulps(found: float, expected: mpf) -> float:
    """The error; of subnormal numbers, in units of 2^-1074 beyond one half."""
    error = abs(mp.fsub(mpf(found), expected, exact=True))
    if abs(expected) < LEAST:
        return float(max(error / TINY - mpf("0.5"), 0))
    return float(error / math.ulp(float(expected)))


def assert_accurate(values: np.ndarray | list[float]) -> None:
    values = np.asarray(values, np.float64)
    bonus, expected = bonus_of(values), reference(values)
    state = LogSumExpAccumulator(values)
    near = abs(max(values)) < 2.0**60
    assert not near or in_ulps(state.bonus(), bonus) <= 0.52, (state.bonus(), float(bonus))
    found = logsumexp(values)
    assert found == state.value()
    if abs(expected) >= 1 or max(values) >= 0:
        assert in_ulps(found, expected) <= (0.51 if abs(expected) >= 1 else 0.52), (found, float(expected))
    else:
        error = abs(mp.fsub(mpf(found), expected, exact=True))
        assert error <= mpf(2) ** -59 + mpf("0.5") * math.ulp(float(expected)), (found, float(expected))
    few = np.unique(np.concatenate([values[:3], values[-3:], [values.max()]]))
    logs = dict(zip(values.tolist(), log_softmax(values).tolist(), strict=True))
    for x in few[(few > -math.inf) & near].tolist():
        of_x = mp.fsub(mpf(x) - mpf(float(values.max())), bonus, exact=True)
        assert in_ulps(logs[x], of_x) <= 0.52, (x, logs[x], float(of_x))


RNG = np.random.default_rng(62)
SIZES = (1, 2, 3, 10, 100, 1000)


@pytest.mark.parametrize("spread", [1e-12, 1e-3, 0.1, 1.0, 10.0, 1e3, 1e6, 1e9])
@pytest.mark.parametrize("centre", [0.0, 1.0, -1.0, 30.0, -700.0, 1e5, -(2.0**23), 2.0**23, 1e12])
def test_random_values(spread: float, centre: float) -> None:
    for n in SIZES:
        assert_accurate(RNG.normal(centre, spread, n))
        assert_accurate(RNG.uniform(centre - spread, centre + spread, n))


def test_heavy_tails() -> None:
    for n in SIZES:
        for scale in (1e-3, 1.0, 1e3):
            assert_accurate(RNG.standard_cauchy(n) * scale)
        assert_accurate(-np.exp(RNG.normal(0, 4, n)))


@given(st.lists(finite_or_minus_inf, min_size=1, max_size=12).filter(lambda v: max(v) > -math.inf))
def test_any_values(values: list[float]) -> None:
    if max(abs(v) for v in values if v > -math.inf) < 2.0**60:
        assert_accurate(values)


@pytest.mark.parametrize("x", [0.0, 0.1, -0.1, 1.0, -2.5, 700.0, -1e5, 2.0**23, 1e15, 2.0**59])
@pytest.mark.parametrize("n", [2, 3, 10, 1000, 1_000_000])
def test_ties_are_the_real_number_rounded(x: float, n: int) -> None:
    """n equal values give the real number x + ln n, rounded: not x + math.log(n) in doubles."""
    expected = mpf(x) + log(n)
    assert abs(mpf(logsumexp(np.full(n, x))) - expected) <= mpf("0.501") * math.ulp(float(expected))


@pytest.mark.usefixtures("kernel")
def test_ties_alone_at_any_max() -> None:
    """Without a rest there is no grid whose distance from the term of the max could matter."""
    x = -np.arange(8000) * 0.7
    expected = [float(mpf(v) + log(2)) for v in x.tolist()]
    assert logsumexp(np.stack([x, x], axis=1), axis=1).tolist() == expected
    assert logsumexp(x[:, None], axis=1).tolist() == x.tolist()
    codes = np.tile(np.arange(x.size, dtype=np.int32), 2)
    assert _kernel.state_values(_kernel.group_values(codes, np.tile(x, 2), x.size)).tolist() == expected


@pytest.mark.parametrize("x", [1.0, -3.7, 1e-3, 1e5, 2.0**22, 2.0**23 + 1, -(2.0**40)])
def test_neighbours_of_one_ulp(x: float) -> None:
    near = [math.nextafter(x, math.inf), x, math.nextafter(x, -math.inf)]
    assert_accurate(near)
    assert_accurate(near * 100)


def test_subnormal_spreads() -> None:
    assert_accurate(np.arange(1, 50) * 5e-324)
    assert_accurate(np.arange(-50, 50) * 2.2e-308)


@pytest.mark.parametrize("big", [1e300, -1e300, 1.7e308])
def test_values_of_1e300(big: float) -> None:
    assert logsumexp([big, 0.0, -big]) == abs(big)
    assert logsumexp([big, big]) == big


@pytest.mark.parametrize("power", [23, 60])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_boundaries_of_the_reduction(power: int, sign: float) -> None:
    centre = sign * 2.0**power
    steps = [centre]
    for _ in range(3):
        steps += [math.nextafter(steps[-1], math.inf)]
    for _ in range(3):
        steps = [math.nextafter(steps[0], -math.inf), *steps]
    for x in steps:
        assert_accurate([x])
        assert_accurate([x, x - 1.0, x - 40.0])
        assert_accurate([x, *steps])


def test_breakpoints_of_the_table() -> None:
    for k in range(-400, 400, 7):
        x = (k + 0.5) * math.log(2) / 128
        assert_accurate([math.nextafter(x, -math.inf), x, math.nextafter(x, math.inf), 0.0])


def test_cancellation_near_zero() -> None:
    """Normalised log-probabilities: the exact answer is almost 0, and the bound is absolute."""
    for n in (2, 3, 10, 100, 1000):
        for scale in (0.1, 1.0, 10.0):
            z = RNG.normal(size=n) * scale
            assert_accurate(z - logsumexp(z))
        assert_accurate(np.full(n, -math.log(n)))
    for p in RNG.uniform(1e-9, 1, 200):
        assert_accurate([math.log(p), math.log1p(-p)])


def test_one_dominates_and_the_rest_is_tiny() -> None:
    for gap in (30.0, 36.0, 36.7368, 37.0, 50.0, 69.0, 70.0, 191.9, 192.0, 193.0, 1e4):
        for n in (1, 1000):
            assert_accurate([1.0] + [1.0 - gap] * n)
            assert_accurate([0.0] + [-gap] * n)


def test_what_a_window_of_limbs_drops_is_bounded() -> None:
    """Terms below every limb are lost: here 10^5 of them, which together must not reach a bit of the result."""
    for second in (0.0, -60.0):
        assert_accurate([5.0, second, *([second - 72.0] * 100_000)])
    assert_accurate([0.0, *([-72.0] * 100_000)])


GAPS = [*range(1, 745, 7), 36.7368, 69.0, 708.4, 744.4, 744.5, 745.2, 746.0, 1e4]


@pytest.mark.parametrize("gap", GAPS)
def test_the_bonus_at_every_gap(gap: float) -> None:
    for others in ([-gap], [-gap, -gap], [-gap, -gap - 1.5, -gap - 80.0, -math.inf]):
        for top in (0.0, 1.0, -3.0, 1e6, 1e17):
            values = [top, *(top + other for other in others)]
            assert_accurate(values)
        assert_accurate([0.0, 0.0, *others])


@cache
def bonuses_on(scale: str) -> list[tuple[list[float], mpf]]:
    """Values, and their bonus: the largest by nothing to 2,900 powers of two above the rest."""
    c, cases = UNITS[scale], []
    for gap in [*range(1, 745, 35), 36.7368, 69.0, 415.5, 590.0, 600.5, 708.4, 718.25, 744.5, 750.0, 960.0, 2000.0]:
        for others in ([-gap], [-gap, -gap, -gap - 1.5, -gap - 80.0]):
            for top in (0.0, -3.7):
                values = [float(mpf(x) / c) for x in (top, *(top + other for other in others))]
                largest, *below = sorted((mpf(x) * c for x in values), reverse=True)
                cases.append((values, mp.log1p(sum(exp(x - largest) for x in below)) / c))
    return cases


@EVERY_SCALE
@pytest.mark.usefixtures("kernel")
def test_the_bonus_at_every_gap_on_every_scale(scale: str) -> None:
    for values, expected in bonuses_on(scale):
        found = LogSumExpAccumulator(values, scale=scale)
        assert in_ulps(found.bonus(), expected) <= 0.52, (values, found.bonus(), float(expected))
        if values[0] == 0.0:
            assert found.value() == found.bonus()


def test_a_small_bonus_of_tens() -> None:
    state = LogSumExpAccumulator([-4.838367444294645, -311.92589036449255], scale="log10")
    assert state.bonus() == 3.5502700691233383e-308


@pytest.mark.usefixtures("kernel")
def test_small_results_are_bonuses_wherever_they_come_from() -> None:
    pairs = np.array([[0.0, -gap] for gap in GAPS])
    expected = np.array([LogSumExpAccumulator(pair).bonus() for pair in pairs])
    assert float(log_softmax([0.0, -40.0])[0]) == -4.248354255291589e-18
    assert logsumexp(pairs, axis=1).tobytes() == expected.tobytes()
    assert logaddexp(0.0, pairs[:, 1]).tobytes() == expected.tobytes()
    assert (0.0 - log_softmax(pairs, axis=1)[:, 0]).tobytes() == expected.tobytes()
    lists = pa.array(pairs.tolist())
    assert list_functions.logsumexp(lists).to_pylist() == expected.tolist()
    assert [0.0 - row[0] for row in list_functions.log_softmax(lists).to_pylist()] == expected.tolist()
    for pair, bonus in zip(pairs.tolist(), expected.tolist(), strict=True):
        one, other = LogSumExpAccumulator(pair[:1]), LogSumExpAccumulator(pair[1:])
        other.merge(one)
        assert other.value() == bonus


@pytest.mark.parametrize("name", ["bonus", "logsumexp"])
def test_hard_cases(name: str) -> None:
    """Next to a midpoint of two doubles the neighbour may come out, and no other."""
    for row in json.loads(hard_cases.SAMPLE.read_text(encoding="ascii"))[name]:
        values = [float.fromhex(x) for x in row]
        assert hard_cases.distance(hard_cases.exact(values, of_bonus=name == "bonus")) < hard_cases.NEAR
        assert hard_cases.error(values, of_bonus=name == "bonus") <= 0.501


PUBLISHED = [
    # SciPy 1.17 documentation, scipy.special.logsumexp, first example
    ("scipy", [float(i) for i in range(10)], "9.4586297444267107"),
    # R package matrixStats 1.5, ?logSumExp, first example, printed to seven digits
    ("matrixStats", [1000.01, 1000.02], "1000.708"),
    ("matrixStats below", [-1000.01, -1000.02], "-999.3218"),
    # levels 1 to 5, the textbook's damage of five storms: 1 + ln((e^5 - 1) / (e - 1))
    ("levels", [1.0, 2.0, 3.0, 4.0, 5.0], "5.45191439593759"),
]


@pytest.mark.parametrize(("values", "printed"), [case[1:] for case in PUBLISHED], ids=[case[0] for case in PUBLISHED])
def test_published_values(values: list[float], printed: str) -> None:
    digits = len(printed.replace("-", "").replace(".", ""))
    if digits > 15:
        assert logsumexp(values) == float(printed)
    else:
        assert f"{logsumexp(values):.{digits}g}" == printed
    assert_accurate(values)


def test_the_reference_itself() -> None:
    """ln(1 + 1) and ln(e + e^2) by other means than the reference's own formula."""
    ln2 = 2 * sum(Fraction(1, (2 * k + 1) * 3 ** (2 * k + 1)) for k in range(130))
    assert abs(reference(np.zeros(2)) - mpf(ln2.numerator) / ln2.denominator) < mpf(2) ** -390
    assert abs(reference(np.array([1.0, 2.0])) - (1 + log(1 + mp.e))) < mpf(2) ** -390
