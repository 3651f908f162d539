"""Models compared and weighed: against arviz-stats and optima in mpmath, and by the laws that must hold."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from loo_references import read

from lse_stream import (
    _kernel,
    compare_models,
    model_comparison,
    pseudo_bma_plus_weights,
    pseudo_bma_weights,
    stacking_weights,
)

Floats = npt.NDArray[np.float64]

ENTRIES = {entry["name"]: entry for entry in read("comparisons")}


def matrix_of(entry: dict[str, Any]) -> Floats:
    return np.array(entry["elpd_loo"]).T


def objective(elpd: Floats, weights: Floats) -> Any:
    """sum_i ln sum_m w_m e^elpd_im, of weights made to sum to 1."""
    exact = [mpmath.mpf(float(w)) for w in weights]
    rows = ([mpmath.exp(mpmath.mpf(float(x))) for x in row] for row in elpd)
    return mpmath.fsum(mpmath.log(mpmath.fdot(row, exact)) for row in rows) - len(elpd) * mpmath.log(mpmath.fsum(exact))


def excess(elpd: Floats, weights: Floats) -> Floats:
    """How much more weight each model deserves."""
    densities = np.exp(elpd - elpd.max(1, keepdims=True))
    result: Floats = (densities / (densities @ weights)[:, None]).mean(0) - 1.0
    return result


# --- against the references -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENTRIES)
def test_stacking_finds_the_optimum(name: str) -> None:
    entry = ENTRIES[name]
    elpd = matrix_of(entry)
    weights = stacking_weights(elpd)
    np.testing.assert_allclose(weights, [float(w) for w in entry["optimal_weights"]], rtol=0, atol=1e-12)
    assert [w == 0 for w in weights] == [float(w) == 0 for w in entry["optimal_weights"]]
    with mpmath.workdps(50):
        assert objective(elpd, weights) >= mpmath.mpf(entry["stacking_objective"])


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("ddof", [0, 1])
def test_figures_are_those_of_arviz_stats(name: str, ddof: int) -> None:
    """With its divisor, or R's; but for models that rule an observation out, whose difference it makes finite."""
    entry = ENTRIES[name]
    n = len(entry["elpd_loo"][0])
    models = dict(zip(entry["models"], entry["elpd_loo"], strict=True))
    found = compare_models(models, weights="pseudo-bma", ddof=ddof).to_pylist()
    assert [row["model"] for row in found] == entry["models"]
    for i, row in enumerate(found):
        assert row["count"] == n
        assert row["elpd"] == pytest.approx(entry["elpd"][i], rel=1e-13)
        assert row["weight"] == pytest.approx(entry["weights"]["pseudo-BMA"][i], rel=1e-10, abs=1e-300)
        if row["elpd"] == -np.inf:
            assert (row["elpd_diff"], row["se"], row["se_diff"], row["p_worse"]) == (-np.inf, None, None, None)
            continue
        assert row["se"] == pytest.approx(entry["se"][i], rel=1e-12)
        assert row["elpd_diff"] == pytest.approx(entry["elpd_diff"][i], rel=1e-10, abs=1e-12)
        assert row["se_diff"] == pytest.approx(entry["dse"][i] * np.sqrt(n / (n - ddof)), rel=1e-10, abs=1e-12)
        assert row["diagnostic"] == (entry["diag_diff"][i] or None)
        if ddof == 0 and i > 0:  # it adds 1e-12 to the error
            assert row["p_worse"] == pytest.approx(entry["p_worse"][i], rel=0, abs=1e-10)
    assert found[0]["p_worse"] is None


@pytest.mark.parametrize("name", ["X", "outliers", "five"])
def test_pseudo_bma_plus_is_that_of_arviz_stats_by_its_draws(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ENTRIES[name]
    elpd = matrix_of(entry)
    shares = np.random.RandomState(124).dirichlet(np.ones(len(elpd)), 1000)
    by_own = pseudo_bma_plus_weights(elpd)
    monkeypatch.setattr(model_comparison, "_uniform", lambda _, draw, __: np.exp(-shares[draw]))
    by_theirs = pseudo_bma_plus_weights(elpd)
    np.testing.assert_allclose(by_theirs, entry["weights"]["BB-pseudo-BMA"], rtol=1e-9)
    np.testing.assert_allclose(by_own, by_theirs, rtol=0, atol=0.06)  # two samples of 1000


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox 4x64-10, from its paper."""
    mask = 2**64 - 1
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * counter[0], 2**64)
        high1, low1 = divmod(0xCA5A826395121157 * counter[2], 2**64)
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
    return counter


def test_the_bootstrap_draws_as_its_documentation_says() -> None:
    # A known answer of Random123, the implementation of the paper's authors.
    assert [f"{word:016x}" for word in philox([0] * 4, [0] * 2)] == [
        "16554d9eca36314c", "db20fe9d672d0fdc", "d7e772cee186176b", "7e68b68aec7ba23b",
    ]  # fmt: skip
    elpd = np.array([[-1.0, -2.0], [-2.5, -1.0], [-1.0, -1.0], [0.0, 0.25], [3.0, 2.5]])
    seed, weights = 2**64 - 3, np.zeros(2)
    for draw in range(1000):
        words = [word for block in (1, 2) for word in philox([block, draw, 0, 0], [seed, 0])][:5]
        u = (np.array([word >> 12 for word in words]) + 0.5) / 2.0**52
        assert (model_comparison._uniform(seed, draw, 5) == u).all()
        x = -np.log(u)
        totals = 5 * (x / x.sum()) @ elpd
        weights += np.exp(totals) / np.exp(totals).sum() / 1000
    np.testing.assert_allclose(pseudo_bma_plus_weights(elpd, seed), weights, rtol=1e-13)
    assert not np.array_equal(pseudo_bma_plus_weights(elpd, 1), pseudo_bma_plus_weights(elpd, 2))


def test_p_worse_is_the_normal_distribution_function() -> None:
    for x in [5e-324, 1e-300, 1e-9, 0.1, 0.5, 1.0, 2.0, 3.3, 5.0, 6.7, 8.0, 8.9, 8.999999, 9.0, 1e300]:
        found = model_comparison._p_worse(-x, 1.0)
        assert abs(mpmath.ncdf(x) - found) <= 1e-14
        assert found <= 1.0
    assert model_comparison._p_worse(-0.1, 0.0) == 1.0


# --- laws -------------------------------------------------------------------------------------------------------------

elements = st.one_of(st.floats(-30, 5), st.integers(-3, 1).map(float), st.sampled_from([-1000.0, -np.inf, -1e-12]))
tables = st.tuples(st.integers(1, 12), st.integers(2, 4)).flatmap(
    lambda shape: st.lists(
        st.lists(elements, min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
    )
)
possible = tables.map(np.array).filter(lambda elpd: (elpd.max(1) > -np.inf).all())


@given(possible, st.randoms(use_true_random=False))
@example(np.array([[0.0, -1.0], [-1.0, 0.0], [0.0, 0.0]]), None)
@settings(max_examples=30)
def test_the_order_of_models_and_observations_changes_nothing(elpd: Floats, random: Any) -> None:
    rows, models = list(range(elpd.shape[0])), list(range(elpd.shape[1]))
    if random is not None:
        random.shuffle(rows)
        random.shuffle(models)
    moved = elpd[rows][:, models]
    assert stacking_weights(moved).tobytes() == stacking_weights(elpd)[models].tobytes()
    if elpd.sum(0).max() > -np.inf:
        assert pseudo_bma_weights(moved).tobytes() == pseudo_bma_weights(elpd)[models].tobytes()
        # Its draws go with the numbers of the observations.
        assert pseudo_bma_plus_weights(elpd[:, models]).tobytes() == pseudo_bma_plus_weights(elpd)[models].tobytes()
    names = "cadb"
    table = compare_models({names[m]: elpd[:, m] for m in range(len(models))})
    assert compare_models({names[m]: elpd[rows, m] for m in models}).equals(table)


@given(possible)
@settings(max_examples=60)
def test_no_model_deserves_more_weight(elpd: Floats) -> None:
    weights = stacking_weights(elpd)
    assert weights.min() >= 0.0
    assert weights.sum() == pytest.approx(1.0, rel=1e-15)
    more = excess(elpd, weights)
    assert more.max() <= 1e-9
    assert (abs(more[weights > 1e-6]) <= 2e-6).all()


@given(possible, st.lists(st.floats(-1000, 1000), min_size=12, max_size=12))
@settings(max_examples=60)
def test_a_constant_per_observation_changes_no_stacking(elpd: Floats, constants: list[float]) -> None:
    """Where the sums are exact; and where they are rounded, nothing but what the rounded ones say."""
    elpd = np.round(np.maximum(elpd, -(2.0**20)) * 1024) / 1024
    moved = elpd + np.round(np.array(constants[: len(elpd)]) * 1024)[:, None] / 1024
    np.testing.assert_allclose(stacking_weights(moved), stacking_weights(elpd), rtol=0, atol=1e-12)


def test_models_that_say_the_same_weigh_the_same() -> None:
    elpd = matrix_of(ENTRIES["X"])
    alone = stacking_weights(elpd)
    weights = stacking_weights(elpd[:, [0, 1, 0, 2, 0]])
    assert weights[0] == weights[2] == weights[4]
    np.testing.assert_allclose(weights, alone[[0, 1, 0, 2, 0]] / [3, 1, 3, 1, 3], rtol=1e-9)
    assert stacking_weights(np.zeros((3, 4))).tolist() == [0.25] * 4


@pytest.mark.parametrize("seed", range(8))
def test_stacking_takes_few_steps(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where expectation-maximization would take thousands: models that are nearly the same, or hardly of use."""
    rng = np.random.default_rng(seed)
    common = rng.normal(-1.0, 1.0, 400)
    elpd = common[:, None] + rng.normal(size=(400, 4)) * 10.0 ** rng.uniform(-7, 1, size=4) - 10.0**-seed / 50
    monkeypatch.setattr(model_comparison, "_STEPS", 20)
    weights = stacking_weights(elpd)
    assert excess(elpd, weights).max() <= 1e-11


@pytest.mark.parametrize("seed", [4, 22, 24, 39, 47])
def test_no_step_lowers_the_objective(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of densities so far apart that whole steps would go astray for hundreds of steps, or for ever."""
    elpd = np.random.default_rng(seed).standard_cauchy((20, 6)) * 80.0
    densities, objectives = _kernel.row_softmax(elpd), []
    plain = model_comparison._maximum_of_quadratic

    def step(moments: Floats, means: Floats, weights: Floats) -> Floats:
        objectives.append(np.log(densities @ weights).sum())
        return plain(moments, means, weights)

    monkeypatch.setattr(model_comparison, "_maximum_of_quadratic", step)
    assert excess(elpd, stacking_weights(elpd)).max() <= 1e-11
    assert len(objectives) <= 20
    assert all(after >= before - 1e-13 for before, after in itertools.pairwise(objectives))


def test_no_function_of_a_c_library_has_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor of NumPy: their last bits differ from machine to machine."""

    def fail(*_: Any) -> Any:
        raise AssertionError("not the kernel's")

    for module, name in itertools.product([np, math], ["exp", "log", "log1p", "expm1", "log10", "erf", "erfc"]):
        monkeypatch.setattr(module, name, fail, raising=False)
    monkeypatch.setattr(np, "matmul", fail)
    elpd = dict(zip("abc", matrix_of(ENTRIES["X"])[:5].T, strict=True))
    k = {name: np.full(5, 0.6) for name in elpd}
    for weights in model_comparison.WEIGHTS:
        compare_models(elpd, pareto_k=k, draws={name: np.full(5, 100) for name in elpd}, weights=weights)


def test_every_kernel_gives_the_same_bits() -> None:
    """Of X, with an observation that one model rules out, and of far densities."""
    elpd = matrix_of(ENTRIES["X, one ruled out once"])[:40]
    far = np.random.default_rng(0).normal(size=(30, 3)) * 300.0

    def results() -> list[Any]:
        tables = [
            compare_models(
                dict(zip("abc", m.T, strict=True)),
                pareto_k=dict.fromkeys("abc", m[:, 0]),
                draws=dict.fromkeys("abc", np.arange(len(m))),
                weights=weights,
            )
            for m, weights in itertools.product([elpd, far], ["stacking", "pseudo-bma"])
        ]
        return [*tables, pseudo_bma_plus_weights(elpd[:5]).tobytes()]

    before, found = _kernel.kernel_name(), []
    try:
        for name in _kernel.available():
            _kernel.select(name)
            found.append(results())
    finally:
        _kernel.select(before)
    assert len(found) > 1
    assert all(each == found[0] for each in found)


# --- the table --------------------------------------------------------------------------------------------------------


def test_parameters_and_k_are_those_of_the_models() -> None:
    elpd = {"a": [-2.0, -1.0, -3.0], "b": [-1.0, -1.0, -1.0]}
    p = {"a": [0.1, 0.2, 0.3], "b": [1.0, 0.0, np.nan]}
    k = {"a": [0.6, 0.7, np.inf], "b": [np.nan, -0.5, 0.51]}

    def counts(draws: dict[str, Any] | None) -> list[int]:
        bad: list[int] = compare_models(elpd, pareto_k=k, draws=draws)["bad_k"].to_pylist()
        return bad

    table = compare_models(elpd, p=p).to_pydict()
    assert table["model"] == ["b", "a"]
    assert table["p"] == [None, pytest.approx(0.6)]
    assert table["bad_k"] == [None, None]
    assert counts(None) == [1, 1]
    assert counts({"a": [100] * 3, "b": [100] * 3}) == [2, 3]  # 0.5 of 100 draws
    assert counts({"a": [100, 10_000, 10_000], "b": [1, 100, 10_000]}) == [1, 2]


@pytest.mark.parametrize("n", [1, 2, 99, 100])
def test_diagnostics(n: int) -> None:
    elpd = {"same": np.zeros(n), "near": np.full(n, -1 / n), "far": np.full(n, -8 / n), "best": np.zeros(n)}
    rows = {row["model"]: row for row in compare_models(elpd).to_pylist()}
    few = "N < 100" if n < 100 else None
    assert [rows[name]["diagnostic"] for name in elpd] == [None, few or "|elpd_diff| < 4", few, None]
    assert list(rows) == ["best", "same", "near", "far"]
    assert rows["same"]["p_worse"] is None
    assert rows["far"]["p_worse"] == (1.0 if n > 1 else None)
    assert (rows["best"]["se"] is None) == (n == 1)


TWO = [[-1.0, -2.0], [-2.0, -1.0]]

BAD: dict[str, tuple[Callable[[], object], list[str]]] = {
    "one dimension": (lambda: stacking_weights([1.0, 2.0]), ["(observations, models)", "(2,)"]),
    "no models": (lambda: pseudo_bma_weights(np.zeros((3, 0))), ["(observations, models)", "(3, 0)"]),
    "no observations": (lambda: stacking_weights(np.zeros((0, 2))), ["one observation or more", "none"]),
    "nan": (lambda: stacking_weights([[0.0, 0.0], [0.0, np.nan]]), ["observation 1, model 1", "below +inf", "nan"]),
    "inf": (lambda: pseudo_bma_weights([[np.inf, 0.0]]), ["observation 0, model 0", "found inf"]),
    "ruled out by all": (lambda: stacking_weights([[0.0, 0.0], [-np.inf] * 2]), ["observation 1: ", "above -inf"]),
    "each rules one out": (
        lambda: pseudo_bma_plus_weights([[0.0, -np.inf], [-np.inf, 0.0]]),
        ["elpd is above -inf", "each rules some observation out"],
    ),
    "a seed": (lambda: pseudo_bma_plus_weights(TWO, -1), ["seed", "0 to 2^64 - 1", "-1"]),
    "one model": (lambda: compare_models({"a": [1.0]}), ["two models or more", "found a"]),
    "weights": (lambda: compare_models({"a": [1.0], "b": [1.0]}, weights="bma"), ["pseudo-bma+", "'bma'"]),
    "ddof": (lambda: compare_models({"a": [1.0], "b": [1.0]}, ddof=2), ["ddof", "0 or 1", "2"]),
    "other observations": (lambda: compare_models({"a": [1.0], "b": [1.0, 2.0]}), ["model 'b'", "1 obs", "found 2"]),
    "a matrix as a column": (lambda: compare_models({"a": TWO, "b": TWO}), ["model 'a'", "1 dimension", "(2, 2)"]),
    "another number of k": (
        lambda: compare_models({"a": [1.0], "b": [1.0]}, pareto_k={"a": [0.1], "b": [0.1, 0.2]}),
        ["pareto_k of model 'b'", "1 observations", "found 2"],
    ),
    "p of one model": (lambda: compare_models({"a": [1.0], "b": [1.0]}, p={"a": [0.1]}), ["p: ", "'b'", "found a"]),
    "named": (
        lambda: compare_models({"a": [1.0, np.nan], "b": [1.0, 0.0]}, describe="patient {}".format),
        ["patient 1, model 'a'", "found nan"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_compared(case: str) -> None:
    call, fragments = BAD[case]
    with pytest.raises(ValueError, match="expected") as caught:
        call()
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)


def test_other_types_are_named() -> None:
    with pytest.raises(TypeError, match="elpd of model 'b': expected integers"):
        compare_models({"a": [1.0], "b": ["x"]})
