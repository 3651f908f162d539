"""Smoothed tails against the slow model in 60 digits, and on every kernel to the bit; logarithms and exponentials."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from loo_model import DIGITS, smoothed, tail_length
from loo_references import log_likelihoods, read
from mpmath import exp, fsum, inf, ldexp, log, mp, mpf

from lse_stream import _kernel

Floats = npt.NDArray[np.float64]

SETS = log_likelihoods()
NOT_FITTED = [np.inf, np.nan, np.nan, np.nan]
# The weight of what is not of a tail.
REST = 0.25
THRESHOLD = math.log((math.sqrt(68) - 1) / 3) - 1024 * math.log(2)  # of the quartile, with 34 points


def smooth(tails: list[Floats], others: int = 100) -> Floats:
    offsets = np.cumsum([0, *(tail.size for tail in tails)])
    n = len(tails)
    return _kernel.smooth_tails(np.concatenate([*tails, np.empty(0)]), offsets, np.full(n, others), np.full(n, REST))


def with_every_kernel(call: Callable[[], Any]) -> list[Any]:
    before, found = _kernel.kernel_name(), []
    for name in _kernel.available():
        _kernel.select(name)
        found.append(call())
    _kernel.select(before)
    return found


def expected(tail: Floats, others: int = 100) -> tuple[float, float, float, float]:
    """What the model says of a cutoff and the tail above."""
    with mp.workdps(DIGITS):
        differences = [mpf(r) - mpf(tail[-1]) for r in tail.tolist()]
        weights = [exp(v) for v in differences]
        after, k = smoothed(weights, len(tail) - 1)
        if k == inf:
            return math.inf, math.nan, math.nan, math.nan
        # e^-r, relative to that of the largest.
        raised = [1 / w for w in weights[1:]]
        total = REST + fsum(after[1:])
        mean = (others + fsum(a * y for a, y in zip(after[1:], raised, strict=True))) / total
        squares = fsum((a * (y / mean - 1) / total) ** 2 for a, y in zip(after[1:], raised, strict=True))
        return float(k), float(log(mean) - mpf(tail[-1])), float(total), float(squares)


def check(tail: Floats, others: int = 100) -> None:
    """k to 1e-10, the logarithm and the sum to 1e-12, the sum of squares to 1e-9."""
    found, model = smooth([tail], others)[0], expected(tail, others)
    assert (found[0] == np.inf) == (model[0] == np.inf)
    if found[0] == np.inf:
        assert np.array_equal(found, NOT_FITTED, equal_nan=True)
        return
    assert found[0] == pytest.approx(model[0], rel=1e-12, abs=1e-10)
    assert found[1] == pytest.approx(model[1], rel=1e-12, abs=1e-12)
    assert found[2] == pytest.approx(model[2], rel=1e-12)
    assert found[3] == pytest.approx(model[3], rel=1e-9, abs=1e-15)


def random_tail(rng: np.random.Generator, size: int) -> Floats:
    """A cutoff and that many values of one of many shapes."""
    x = rng.standard_exponential(size + 1)
    match rng.integers(8):
        case 0:
            x = rng.standard_cauchy(size + 1)
        case 1:
            x = np.round(x * 4) / 4
        case 2:
            x = x * 10 ** rng.uniform(-18, -3) + rng.normal()
        case 3:
            x = x * rng.uniform(100, 3000)
        case 4:
            x = np.where(rng.random(size + 1) < 0.5, x, rng.uniform(-2000, -600))
        case 5:
            x = rng.normal(size=size + 1) * 10 ** rng.uniform(-3, 3) + 1000
        case 6:
            x = np.full(size + 1, x[0])
        case _:
            x = np.log(1 + x * rng.uniform(0.1, 5))
    return np.sort(x)


def tails_of(observations: list[Floats], r_eff: float) -> tuple[list[Floats], list[Floats]]:
    """Of each observation the cutoff with the tail, and all values that are not of the tail."""
    ordered = [np.sort(-x) for x in observations]
    sizes = [tail_length(r.size, r_eff) for r in ordered]
    cut = [(r[r.size - m - 1 :], r[: r.size - m]) for r, m in zip(ordered, sizes, strict=True)]
    return [tail for tail, _ in cut], [rest for _, rest in cut]


@pytest.mark.usefixtures("kernel")
def test_leave_one_out_is_that_of_arviz_stats() -> None:
    """k to 1e-8, to 1e-10 where the tail spreads by 1e-4, and elpd to 1e-12 of the larger of 1 and it."""
    fitted = 0
    for entry in read("arviz_stats"):
        tails, rests = tails_of(SETS[entry["set"]], entry["r_eff"])
        offsets = np.cumsum([0, *(tail.size for tail in tails)])
        others = np.array([rest.size for rest in rests])
        weights = [math.fsum(np.exp(rest - tail[-1]).tolist()) for rest, tail in zip(rests, tails, strict=True)]
        found = _kernel.smooth_tails(np.concatenate(tails), offsets, others, np.array(weights))
        rows = zip(found.tolist(), tails, entry["elpd_loo"], entry["pareto_k"], strict=True)
        for (k, mean, *_), tail, elpd, pareto_k in rows:
            assert (k == np.inf) == np.isnan(pareto_k)
            if k == np.inf:
                continue
            fitted += 1
            tolerance = 1e-10 if math.expm1(tail[0] - tail[-1]) <= -1e-4 else 1e-8
            assert k == pytest.approx(pareto_k, rel=0, abs=tolerance)
            assert mean == pytest.approx(elpd, rel=1e-12, abs=1e-12)
    assert fitted > 900


@pytest.mark.parametrize("seed", range(24))
def test_random_tails_are_those_of_the_model(seed: int) -> None:
    rng = np.random.default_rng(seed)
    check(random_tail(rng, int(rng.integers(0, 60))), int(rng.integers(1, 4000)))


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(1000, 2000))
def test_random_tails_are_those_of_the_model_at_length(seed: int) -> None:
    rng = np.random.default_rng(seed)
    check(random_tail(rng, int(rng.integers(0, 300))), int(rng.integers(1, 4000)))


def test_every_kernel_has_the_same_bits() -> None:
    rng = np.random.default_rng(1)
    sizes = [0, 1, 4, 5, 6, 7, 8, 23, 24, 300, 511, 512, 513, 1200]
    tails = [random_tail(rng, size) for size in [*sizes, *rng.integers(0, 300, 60)] for _ in range(2)]
    found = with_every_kernel(lambda: smooth(tails).tobytes())
    assert set(found) == {found[0]}


def test_references_have_the_same_bits_on_every_kernel() -> None:
    tails = [tail for entry in read("arviz_stats") for tail in tails_of(SETS[entry["set"]], entry["r_eff"])[0][:20]]
    found = with_every_kernel(lambda: smooth(tails).tobytes())
    assert set(found) == {found[0]}


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    "tail",
    [
        np.zeros(1),
        np.arange(5.0),
        np.arange(6.0),  # of 5 values the quartile is the smallest
        np.full(21, 3.0),
        np.arange(30.0) // 8,  # ties from the cutoff to the quartile
        np.concatenate([[-9.0], np.full(8, 1.0), np.arange(2.0, 14.0)]),  # and from the smallest
        np.concatenate([np.linspace(-2000, -1000, 8), np.linspace(-1.0, 0.0, 13)]),  # a quartile that is 0
        np.concatenate([[-2000.0], np.linspace(-750, THRESHOLD - 1e-9, 5), np.linspace(-1.0, 0.0, 15)]),
        np.concatenate([[-2000.0, *np.linspace(-900, -720, 3)], np.linspace(-700.0, 0.0, 5)])[:6],
    ],
)
def test_what_cannot_be_fitted(tail: Floats) -> None:
    assert np.array_equal(smooth([tail])[0], NOT_FITTED, equal_nan=True)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    "tail",
    [
        np.concatenate([[-2000.0], np.linspace(-750, THRESHOLD + 1e-9, 5), np.linspace(-1.0, 0.0, 15)]),
        np.concatenate([[-1e308], np.linspace(-1e4, -600.0, 5), np.linspace(-1.0, 0.0, 15)]),
        np.concatenate([np.full(4, 1.5), np.linspace(1.5, 4.0, 17)]),  # ties at the cutoff
        np.concatenate([[-800.0, -799.0, -798.0, -797.0, -796.0], np.full(16, 0.0)]),
        np.arange(21.0) * 1e-12,
        np.arange(21.0) * 1e-30,
        np.arange(7.0),
        -0.5 * np.arange(60.0)[::-1] ** 2,
        np.arange(30.0) * 60.0,  # k of 100 and more
    ],
)
def test_what_can_barely_be_fitted(tail: Floats) -> None:
    check(tail)


@pytest.mark.usefixtures("kernel")
def test_a_point_of_the_grid_may_be_0() -> None:
    """Where the largest is thrice the quartile: with 34 points the 9th is 1 / (3 q) - 1 / x_M."""
    for i in range(16):
        tail = np.concatenate([[-1e4], np.linspace(-1.5, -1.2, 3), [-math.log(3.0)], np.linspace(-1, -0.1, 11), [0.0]])
        tail[-1] = i * 2e-17
        check(tail)


def test_a_product_of_thousands_of_factors_does_not_overflow() -> None:
    tail = np.sort(np.random.default_rng(2).standard_exponential(3001))
    check(tail)
    found = with_every_kernel(lambda: smooth([tail]).tobytes())
    assert set(found) == {found[0]}


@pytest.mark.usefixtures("kernel")
def test_a_constant_that_is_added_exactly_moves_the_logarithm_alone() -> None:
    rng = np.random.default_rng(5)
    tails = [np.sort(np.round(rng.standard_cauchy(size) * 1024) / 1024) for size in range(1, 80, 7)]
    found = smooth(tails)
    for constant in (1.0, -700.125, 2.0**30):
        moved = smooth([tail + constant for tail in tails])
        assert moved[:, ::2].tobytes() == found[:, ::2].tobytes()
        fitted = np.isfinite(found[:, 0])
        assert moved[fitted, 1] == pytest.approx(found[fitted, 1] - constant, rel=1e-15, abs=1e-12)
        assert moved[fitted, 3] == pytest.approx(found[fitted, 3], rel=1e-6)  # of a mean near the constant


@pytest.mark.usefixtures("kernel")
def test_ratios_far_from_0_lose_no_digits_where_they_cancel() -> None:
    """One draw lies far above the others, so that what is to be found is near 0 however large the ratio is."""
    for size in (1e5, 1e8, 1e12):
        check(np.concatenate([np.arange(20.0) / 8, [size]]), 1)


@pytest.mark.usefixtures("kernel")
def test_the_other_draws_count_in_the_ratios_alone() -> None:
    tail = np.arange(30.0) / 8
    few, many = smooth([tail], 1)[0], smooth([tail], 2**40)[0]
    assert few[::2].tolist() == many[::2].tolist()
    others = (2.0**40 - 1.0) * math.exp(-tail[-1]) / few[2]
    assert many[1] == pytest.approx(math.log(others + math.exp(few[1])), rel=1e-15)


@pytest.mark.usefixtures("kernel")
def test_no_observations_have_no_tails() -> None:
    none = np.empty(0, np.int64)
    assert _kernel.smooth_tails(np.empty(0), np.zeros(1, np.int64), none, np.empty(0)).shape == (0, 4)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    ("offsets", "observations"),
    [([0, 9, 21], 2), ([-1, 9, 20], 2), ([0, 9, 9], 2), ([0, 30, 20], 2), ([0, 9, 20], 1), ([0, 9, 20], 3), ([5], 1)],
)
def test_offsets_that_do_not_fit_are_refused(offsets: list[int], observations: int) -> None:
    with pytest.raises(ValueError, match="different lengths"):
        _kernel.smooth_tails(np.arange(20.0), np.array(offsets), np.full(observations, 80), np.ones(observations))


def worst_error(found: Floats, exact: list[Any]) -> float:
    """In ULP of the exact numbers."""
    with mp.workdps(DIGITS):
        ulps = [ldexp(mpf(1), math.frexp(float(e))[1] - 53) for e in exact]
        return max(float(abs(mpf(f) - e) / ulp) for f, e, ulp in zip(found.tolist(), exact, ulps, strict=True))


def test_logarithms_and_exponentials_are_rounded_almost_once() -> None:
    rng = np.random.default_rng(3)
    x = np.concatenate([
        10 ** rng.uniform(-323, 308, 500), 1 + rng.normal(size=500) * 10 ** rng.uniform(-16, -1, 500),
        rng.uniform(0.7, 1.6, 500), np.nextafter([1.0, 1.0, 0.75, 1.5], [0, 2, 0, 2]), [5e-324, 2.0**-1022, 2.0**1023],
    ])  # fmt: skip
    y = np.concatenate([rng.uniform(-708, 709.7, 500), rng.normal(size=500) * 10 ** rng.uniform(-20, 0, 500)])
    with mp.workdps(DIGITS):
        logs, exps = [log(mpf(v)) for v in x.tolist()], [exp(mpf(v)) for v in y.tolist()]
    assert worst_error(_kernel.log(x), logs) < 0.5001
    assert worst_error(_kernel.exp(y), exps) < 0.504
    for call in (lambda: _kernel.log(x).tobytes(), lambda: _kernel.exp(np.concatenate([y, -y, x])).tobytes()):
        found = with_every_kernel(call)
        assert set(found) == {found[0]}


@pytest.mark.usefixtures("kernel")
def test_logarithms_and_exponentials_at_the_ends() -> None:
    x = np.array([0.0, -0.0, -1.0, -5e-324, np.inf, -np.inf, np.nan, 1.0])
    assert _kernel.log(x).tobytes() == np.array([-np.inf] * 2 + [np.nan] * 2 + [np.inf, *[np.nan] * 2, 0.0]).tobytes()
    y = np.array([0.0, -0.0, 709.78, 709.79, 1e300, np.inf, -745.13, -745.14, -1e300, -np.inf, np.nan])
    found = _kernel.exp(y)
    assert found[[0, 1]].tolist() == [1.0, 1.0]
    assert np.isfinite(found[2])
    assert found[3:6].tolist() == [np.inf] * 3
    assert found[6:10].tolist() == [5e-324, 0.0, 0.0, 0.0]
    assert np.isnan(found[10])
    assert _kernel.log(np.ones((3, 4))).shape == _kernel.exp(np.ones((3, 4))).shape == (3, 4)
    assert _kernel.log(np.empty(0)).shape == (0,)
