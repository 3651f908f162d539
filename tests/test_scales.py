"""Scales against mpmath, and their names and errors."""

import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import exp, log, mp, mpf

from lse_stream import LogSumExpAccumulator, Scale, WeightedLogSumExpAccumulator, logsumexp, softmax_from_state

mp.prec = 400
INF, NAN = math.inf, math.nan

# What one unit of each scale is in natural logarithms.
UNITS: dict[str, mpf] = {
    "log2": log(mpf(2)),
    "log10": log(mpf(10)),
    "decibel": log(mpf(10)) / 10,
    "magnitude": -log(mpf(10)) * 2 / 5,
    "base 4": log(mpf(4)),
    "base 1.5": log(mpf(1.5)),
    "base 1e+100": log(mpf(1e100)),
    "base 1.0000000000000002": log(mpf(1.0000000000000002)),
    "temperature 0.1": 1 / mpf(0.1),
    "temperature 300": 1 / mpf(300),
    "temperature 1e+100": 1 / mpf(1e100),
    "temperature 1e-100": 1 / mpf(1e-100),
}
EVERY_SCALE = pytest.mark.parametrize("scale", UNITS)


def reference(values: list[float], scale: str) -> mpf:
    c = UNITS[scale]
    top = max(mpf(v) * c for v in values)
    return (top + log(sum(exp(mpf(v) * c - top) for v in values))) / c


def assert_accurate(values: list[float], scale: str) -> None:
    """1 ULP of the larger of the magnitude and one unit."""
    found, expected = LogSumExpAccumulator(values, scale=scale).value(), reference(values, scale)
    assert abs(mpf(found) - expected) <= math.ulp(max(abs(float(expected)), 1.0)), (found, float(expected))


@EVERY_SCALE
@pytest.mark.parametrize("spread", [1e-9, 0.1, 3.0, 100.0, 1e6])
def test_values_up_to_a_million(scale: str, spread: float) -> None:
    rng = np.random.default_rng(2)
    for n in (1, 2, 3, 10, 200):
        assert_accurate(rng.uniform(-spread, spread, n).tolist(), scale)
        assert_accurate((1e6 - rng.uniform(0, spread, n)).tolist(), scale)
        assert_accurate((rng.integers(-50, 50, n) * 1.0).tolist(), scale)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), st.sampled_from(list(UNITS)))
def test_any_values_up_to_a_million(values: list[float], scale: str) -> None:
    assert_accurate(values, scale)


@EVERY_SCALE
def test_one_value_returns_itself_and_ties_add_the_log_of_their_number(scale: str) -> None:
    for x in (0.0, 0.1, -3.0, 12345.678, -1e6, 1e17, 5e-324, 1e300, -1e300):
        assert LogSumExpAccumulator([x], scale=scale).value() == x
        state = LogSumExpAccumulator([x] * 8, scale=scale)
        assert state.logmeanexp() == x
        assert state.max == x
        if abs(mpf(x) * UNITS[scale]) < 2**60:
            assert_accurate([x] * 8, scale)


@EVERY_SCALE
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("values", [[], [-INF], [INF], [NAN, 1.0], [1.0, -INF], [1.0, INF], [INF, -INF]])
def test_special_values(scale: str, values: list[float]) -> None:
    """As on the natural scale; where amounts grow downwards, upside down."""
    turn = -1.0 if scale == "magnitude" else 1.0
    expected = turn * logsumexp([turn * v for v in values])
    state = LogSumExpAccumulator(values, scale=scale)
    assert np.float64(state.value()).tobytes() == np.float64(expected).tobytes()
    assert state.count == len(values)


def test_what_the_scales_are_for() -> None:
    def combined(values: list[float], scale: str) -> float:
        return float(LogSumExpAccumulator(values, scale=scale).value())

    assert combined([60.0, 60.0], "decibel") == 63.01029995663981  # twice the power: 3 dB more
    assert combined([5.0, 5.0], "magnitude") == pytest.approx(5 - 2.5 * math.log10(2), abs=1e-15)
    assert combined([3.0, 3.0], "log2") == 4.0
    assert combined([2.0] * 10, "log10") == 3.0
    assert combined([2.0] * 4, "base 4") == 3.0
    assert combined([1.0, 5.0], "temperature 1e-3") == 5.0
    assert LogSumExpAccumulator([4.0, 9.0], scale="magnitude").max == 4.0  # the brightest


def test_weights_on_a_scale() -> None:
    found = WeightedLogSumExpAccumulator([1.0, 2.0, 3.0], [2.0, -1.0, 4.0], scale="log2")
    assert found.value() == pytest.approx(math.log2(2 * 2 - 4 + 4 * 8), rel=1e-15)
    assert found.logmeanexp() == pytest.approx(math.log2(32 / 5), rel=1e-15)


@EVERY_SCALE
def test_gradient_is_the_derivative(scale: str) -> None:
    c = float(UNITS[scale])
    x = np.random.default_rng(1).normal(size=5) / min(abs(c), 1e6) * 2
    state = LogSumExpAccumulator(x, scale=scale)
    expected = [exp(mpf(v) * UNITS[scale]) for v in x.tolist()]
    np.testing.assert_allclose(
        softmax_from_state(x, state), [float(e / sum(expected)) for e in expected], rtol=4e-16, atol=1e-300
    )


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["natural", "base 2.0", "temperature 0.5", "decibel", "magnitude", "base 1e+100"])
def test_a_name_gives_its_scale(name: str) -> None:
    scale = Scale(name)
    assert scale.name == name
    assert Scale(scale) is scale
    assert eval(repr(scale), {"Scale": Scale}) == scale == pickle.loads(pickle.dumps(scale))
    assert hash(scale) == hash(Scale(name))


def test_equal_scales_are_equal_however_they_were_made() -> None:
    assert Scale("log2") == Scale.base(2) == Scale("base 2")
    assert Scale("log10") == Scale.base(10.0)
    assert Scale.temperature(1) == Scale("natural")
    assert Scale.base(4) != Scale.temperature(4)
    assert LogSumExpAccumulator([1.0]).to_bytes() == LogSumExpAccumulator([1.0], scale="natural").to_bytes()


@pytest.mark.parametrize("b", [1.0, 0.0, -2.0, 0.5, INF, NAN, 1e101])
def test_a_base_that_is_none_is_refused(b: float) -> None:
    with pytest.raises(ValueError, match=r"^base: expected a number above 1, of at most 1e"):
        Scale.base(b)
    with pytest.raises(ValueError, match="base: expected a number above 1"):
        Scale(f"base {b!r}")


@pytest.mark.parametrize("t", [0.0, -1.0, INF, NAN, 1e-101, 1e101])
def test_a_temperature_that_is_none_is_refused(t: float) -> None:
    with pytest.raises(ValueError, match=r"^temperature: expected a number above 0"):
        Scale.temperature(t)


@pytest.mark.parametrize("name", ["", "e", "base", "base two", "temperature ", "decibels", "based 2", "baseline"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="scale"):
        Scale(name)
    with pytest.raises(TypeError, match=r"expected a real number, found str"):
        Scale.base("2")  # type: ignore[arg-type]
    make: list[Callable[[Any], object]] = [Scale, lambda scale: LogSumExpAccumulator(scale=scale)]
    for call in make:
        with pytest.raises(TypeError, match=r"^scale: expected a name or a Scale, found int$"):
            call(2)


def test_the_natural_scale_is_one_object_however_many_others_there_are() -> None:
    natural = Scale("natural")
    for t in range(2, 400):
        assert Scale.temperature(t).name == f"temperature {t}.0"
    assert Scale("natural") is natural is Scale.temperature(1)
    assert LogSumExpAccumulator([1.0, 2.0], scale="natural").to_bytes() == LogSumExpAccumulator([1.0, 2.0]).to_bytes()
    assert pickle.loads(pickle.dumps(natural)) is natural


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("dB", "decibel"),
        ("Decibel", "decibel"),
        (" natural ", "natural"),
        ("LOG2", "base 2"),
        ("base4", "base 4"),
        ("Base  1e1", "log10"),
        ("temperature.5", "temperature 0.5"),
    ],
)
def test_a_name_may_be_written_in_other_ways(name: str, scale: str) -> None:
    assert Scale(name) == Scale(scale)
    assert Scale(name).name == Scale(scale).name


def test_a_name_that_is_nearly_one_is_told() -> None:
    with pytest.raises(ValueError, match=r"found 'decibels' \(nearest: decibel\)$"):
        Scale("decibels")


@pytest.mark.parametrize("name", ["base", "base x", "temperature", "temperature 1 2"])
def test_a_scale_without_its_number_is_told(name: str) -> None:
    with pytest.raises(ValueError, match=f"^scale: expected {name.split()[0]} and a number, found '{name}'$"):
        Scale(name)
