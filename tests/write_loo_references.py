"""Writes the files that ``loo_references.py`` describes, in an environment that has arviz-stats.

From the root of the repository, with Python 3.12 or later, in an environment of its own::

    pip install "arviz-stats[xarray]==1.3.3" h5netcdf h5py mpmath pyarrow
    PYTHONPATH=. python tests/write_loo_references.py

The last bits depend on the exponential of the machine. ``--differences`` shows how far the references and the model in
``loo_model.py`` lie apart instead.
"""

import json
import math
import sys
import warnings
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import arviz_base
import arviz_stats
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
from arviz_stats.base import array_stats
from loo_model import leave_one_out
from loo_references import FOLDER, Observations, log_likelihoods, read
from mpmath import exp, fdot, fsum, log, lu_solve, matrix, mp, mpf, nstr

from pipelines.samples.make_diabetes import log_likelihoods as of_regression

Floats = npt.NDArray[np.float64]


# --- log-likelihoods --------------------------------------------------------------------------------------------------


def posterior(features: Floats, target: Floats, seed: int, draws: int) -> Observations:
    """Of a linear regression, rounded to float32 as most files of draws are: that halves the size of this one."""
    found = of_regression(features, target, np.random.default_rng(seed), draws)
    return list(found.T.astype(np.float32).astype(np.float64))


def normal_quantiles(draws: int) -> Floats:
    return np.array([NormalDist().inv_cdf((s - 0.5) / draws) for s in range(1, draws + 1)])


def exponential_quantiles(draws: int) -> Floats:
    return np.array([-math.log(1 - (s - 0.5) / draws) for s in range(1, draws + 1)])


def worked_examples() -> dict[str, Observations]:
    """Examples by formulas, small enough to follow by hand."""
    arithmetic = {draws: np.array([-1 - 0.1 * s for s in range(1, draws + 1)]) for draws in (20, 25, 30)}
    c0, c, c2 = (-0.5 * math.log(2 * math.pi) - 0.5 * (y - 0.4 * normal_quantiles(100)) ** 2 for y in (0, 1, 2))
    ruled_out = c.copy()
    ruled_out[0] = -math.inf
    return {
        "A": [arithmetic[20]],
        "A'": [arithmetic[25]],
        "B": [arithmetic[30]],
        "C0, C, C2": [c0, c, c2],
        "D": [-2 - 0.9 * exponential_quantiles(1000)],
        "E": [-np.round(2 * exponential_quantiles(100)) / 2],
        "E'": [-np.round(4 * exponential_quantiles(100)) / 4],
        "F": [np.full(100, -1.5)],
        "G": [ruled_out],
    }


def eight_schools(name: str) -> Observations:
    """The example posterior that arviz-base has on board."""
    values = arviz_base.load_arviz_data(name)["log_likelihood"]["obs"].to_numpy()
    return list(values.reshape(-1, values.shape[-1]).T)


def outlying() -> dict[str, Observations]:
    """Regressions of 60 numbers on two features, one and both, where a few observations fit no model."""
    rng = np.random.default_rng(60)
    features = rng.normal(size=(60, 2))
    features[7] = 6.0, -5.0
    target = features @ [1.0, 1.0] + rng.normal(size=60)
    target[[7, 20, 41]] += 14.0, 9.0, -7.0
    models = {"first": [0], "second": [1], "both": [0, 1]}
    return {
        f"outliers, {name}": posterior(features[:, columns], target, seed, 500)
        for seed, (name, columns) in enumerate(models.items())
    }


def of_heavy_tails(draws: int) -> Observations:
    """A normal regression of 20 numbers whose errors have Student's distribution with 2 degrees of freedom."""
    rng = np.random.default_rng(draws)
    features = rng.normal(size=(20, 3))
    return posterior(features, features.sum(1) + rng.standard_t(2, size=20), draws, draws)


def tied(step: float) -> Observations:
    """Log-likelihoods in multiples of a step, so that most of the largest ratios have equals."""
    rng = np.random.default_rng(round(1 / step))
    spreads = rng.uniform(0.5, 4.0, size=12)
    return [
        -step * np.round(rng.exponential(spread, size=draws) / step)
        for spread, draws in zip(spreads, [100, 400, 1000] * 4, strict=True)
    ]


def dependent_draws() -> Observations:
    """Ten observations under draws of a mean that depend on each other."""
    rng = np.random.default_rng(7)
    mean = np.zeros(1000)
    for s in range(1, 1000):
        mean[s] = 0.7 * mean[s - 1] + rng.normal(scale=0.3)
    return [-0.5 * (y - mean) ** 2 for y in np.linspace(-4, 4, 10)]


def random_observation(seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    draws = int(np.exp(rng.uniform(math.log(30), math.log(1001))))
    kinds: list[Callable[[], Floats]] = [
        lambda: rng.normal(-2, 1, draws),
        lambda: -np.abs(rng.standard_cauchy(draws)),
        lambda: rng.standard_cauchy(draws),
        lambda: -np.round(2 * rng.exponential(2, draws)) / 2,
        lambda: rng.normal(0, 100, draws),
        lambda: rng.normal(0, 1e6, draws),
        lambda: -1 - 1e-3 * rng.random(draws),
        lambda: -rng.exponential(0.2, draws),
        lambda: 500 + rng.normal(size=draws) ** 2,
        lambda: -rng.choice([1.0, 2.0, 4.0], draws) * rng.random(draws),
    ]
    return kinds[seed % len(kinds)]()


def random_r_eff(seed: int) -> float:
    return (1.0, 1.0, 0.2, 0.5, 1.7)[seed // 10 % 5]


def step_at(depth: float, draws: int = 100) -> Floats:
    """The tail's first quarter at a depth below its largest, its rest rising to that."""
    upper = np.linspace(-depth, 0, draws // 5)
    upper[: draws // 20] = -depth
    upper[0] -= 1.0
    return -np.concatenate([np.full(draws - draws // 5, -depth - 30.0), upper])


def special() -> dict[str, Observations]:
    """What arviz-stats refuses, has NaN for, or errs in."""
    d = -2 - 0.9 * exponential_quantiles(100)

    def holding(*values: float) -> Floats:
        result = d.copy()
        result[10 : 10 + len(values)] = values
        return result

    # Exceedances 1/3 in the quarter and 1 at most: the ninth theta of the grid, 1 - 1 / (3/3), is 0 in doubles.
    third = np.concatenate([np.full(80, 900.0), np.full(4, 850.0), np.full(15, -math.log(1 / 3)), [0.0]])
    return {
        "two draws": [np.array([-1.0, -3.0])],
        "4 draws": [d[::25]],
        "24 draws": [d[:96:4]],
        "29 draws": [d[:87:3]],
        "100 draws of r_eff 100": [d],
        "a constant tail": [np.where(np.arange(100) < 30, -5.0, d / 2)],
        "1000 equal": [np.full(1000, 0.1)],
        "-inf twice": [holding(-math.inf, -math.inf)],
        "20 draws, one -inf": [np.array([-math.inf, *d[:19]])],
        "30 equal but for one -inf": [np.array([-math.inf, *[-1.0] * 29])],
        "-inf in the quarter": [holding(*[-math.inf] * 17)],
        "nan": [holding(math.nan)],
        "inf": [holding(math.inf)],
        "inf and -inf": [holding(math.inf, -math.inf)],
        "nan and -inf": [holding(math.nan, -math.inf)],
        "the quartile 720 below": [step_at(720.0)],
        "the quartile 800 below": [step_at(800.0)],
        "a grid point at 0": [third],
    }


def wide() -> Observations:
    """Ratios that lie 700 and more apart, and 16 of 20 that tie far above the rest."""
    rng = np.random.default_rng(800)
    return [
        np.concatenate([800.0 + np.arange(84), np.zeros(16)]),
        rng.normal(0, 300, 200),
        step_at(690.0),
        rng.normal(0, 1e12, 300),
        -np.exp(rng.uniform(0, 20, 150)),
    ]


def write_log_likelihoods() -> None:
    sets = {
        **worked_examples(),
        **{name: eight_schools(name) for name in ("centered_eight", "non_centered_eight")},
        **outlying(),
        **{f"{draws} draws": of_heavy_tails(draws) for draws in (30, 100, 4000)},
        "halves": tied(0.5),
        "quarters": tied(0.25),
        "dependent draws": dependent_draws(),
        "wide": wide(),
        # The untouched weights are a 1e-16th of the sum, so that they are not that less the tail in doubles.
        "little outside the tail": [np.array([*(-s / 100 for s in range(1, 100)), -40.0])],
        **{f"random {seed}": [random_observation(seed)] for seed in range(100)},
        **special(),
    }
    rows = [(name, values) for name, observations in sets.items() for values in observations]
    table = pa.table({"set": [name for name, _ in rows], "log_likelihood": [values for _, values in rows]})
    pq.write_table(
        table,
        FOLDER / "log_likelihoods.parquet",
        compression="zstd",
        compression_level=19,
        use_dictionary=["set"],
        column_encoding={"log_likelihood.list.element": "BYTE_STREAM_SPLIT"},
    )


# --- leave-one-out ----------------------------------------------------------------------------------------------------


def r_effs(name: str) -> list[float]:
    if name.startswith("random"):
        return [random_r_eff(int(name.split()[1]))]
    return {
        "D": [1.0, 0.5, 0.2],
        "C0, C, C2": [1.0, 3.0],
        "dependent draws": [1.0, 0.2, 0.225, 0.5, 1.7],
        "100 draws of r_eff 100": [100.0],
    }.get(name, [1.0])


def by_arviz(observations: Observations, r_eff: float) -> dict[str, Any]:
    found = [array_stats.loo(values[None], r_eff=r_eff) for values in observations]
    elpd, k, p_loo = (np.array([float(result[j]) for result in found]) for j in range(3))
    return {"elpd_loo": elpd.tolist(), "p_loo": p_loo.tolist(), "pareto_k": k.tolist()}


def totals_by_arviz(observations: Observations, r_eff: float) -> dict[str, Any]:
    draws = np.array(observations).T[None]
    data = arviz_base.from_dict({"posterior": {"x": np.zeros(draws.shape[:2])}, "log_likelihood": {"y": draws}})
    found = arviz_stats.loo(data, pointwise=True, reff=r_eff)
    return {
        "elpd": float(found.elpd),
        "se": float(found.se),
        "p_loo": float(found.p),
        "good_k": float(found.good_k),
        "warning": bool(found.warning),
    }


def by_formulas(observations: Observations, r_eff: float) -> dict[str, Any]:
    elpd, p_loo, k = zip(*(leave_one_out(values.tolist(), r_eff) for values in observations), strict=True)
    return {"elpd_loo": elpd, "p_loo": p_loo, "pareto_k": k}


def said_by_arviz(observations: Observations, r_eff: float) -> Any:
    try:
        return by_arviz(observations, r_eff)
    except (ValueError, IndexError) as error:
        return f"{type(error).__name__}: {error}"


def leave_one_out_entries() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Those of arviz-stats and those by formulas."""
    theirs, ours = [], []
    by_hand = {*special(), "A", "A'", "E'", "F", "G"}
    for name, observations in log_likelihoods().items():
        for r_eff in r_effs(name):
            entry = {"set": name, "r_eff": r_eff}
            if name in by_hand:
                said = {"arviz_stats": said_by_arviz(observations, r_eff)}
                ours.append(entry | by_formulas(observations, r_eff) | said)
                continue
            entry |= by_arviz(observations, r_eff)
            if len(observations) > 1 and len({len(values) for values in observations}) == 1:
                entry["totals"] = totals_by_arviz(observations, r_eff)
            theirs.append(entry)
    return theirs, ours


# --- comparisons ------------------------------------------------------------------------------------------------------


def compared() -> dict[str, dict[str, Floats]]:
    """Models by their elpd per observation."""
    i = np.arange(1, 121)
    x = {"a": -1 - 0.8 * np.sin(i) ** 2, "b": -1.05 - 0.8 * np.cos(i) ** 2, "c": -1.4 - 0.3 * np.sin(2 * i)}
    rng = np.random.default_rng(5)
    common = rng.normal(-3, 1, 500)
    ruled_out = x["b"].copy()
    ruled_out[3] = -np.inf

    def of(**sets: str) -> dict[str, Floats]:
        found = log_likelihoods()
        return {model: np.array(by_arviz(found[name], 1.0)["elpd_loo"]) for model, name in sets.items()}

    return {
        "X": x,
        "outliers": of(**{name: f"outliers, {name}" for name in ("first", "second", "both")}),
        "diabetes": of(bmi="diabetes bmi", all="diabetes all"),
        "eight schools": of(centered="centered_eight", non_centered="non_centered_eight"),
        "X and one of no weight": {**x, "worse": x["a"] - 0.1},
        "X, 1000 lower": {name: elpd - 1000 for name, elpd in x.items()},
        "X, one ruled out once": {**x, "b": ruled_out},
        "five": {f"m{j}": common + rng.normal(-0.02 * j, 0.5, 500) for j in range(5)},
    }


def data_of(elpd: Floats) -> Any:
    return arviz_stats.utils.ELPDDataLOO(
        elpd=elpd.sum(),
        se=np.sqrt(len(elpd) * elpd.var(ddof=1)),
        p=0.0,
        n_samples=1000,
        n_data_points=len(elpd),
        scale="log",
        warning=False,
        good_k=0.7,
        elpd_i=xr.DataArray(elpd, dims="observation"),
        pareto_k=xr.DataArray(np.zeros(len(elpd)), dims="observation"),
    )


def stacking_objective(elpd: Floats, weights: list[Any]) -> Any:
    """sum_i ln sum_m w_m e^elpd_im, of weights made to sum to 1."""
    rows = ([exp(mpf(float(x))) for x in row] for row in elpd)
    return fsum(log(fdot(row, weights)) for row in rows) - len(elpd) * log(fsum(weights))


def optimal_weights(elpd: Floats) -> list[Any]:
    """By expectation-maximization in doubles to find which weights are positive, then Newton's method in mpmath.

    At the optimum the means over observations of e^elpd_im / sum_l w_l e^elpd_il are 1 for models that have weight, and
    1 at most for others, which is checked.
    """
    densities = np.exp(elpd - elpd.max(1, keepdims=True))
    start = np.full(elpd.shape[1], 1 / elpd.shape[1])
    for _ in range(100_000):
        start *= (densities / (densities @ start)[:, None]).mean(0)
    used = np.flatnonzero(start > 1e-8)
    exact = [[exp(mpf(float(x)) - mpf(float(max(row)))) for x in row] for row in elpd]
    weights = [mpf(float(start[m])) if m in used else mpf(0) for m in range(len(start))]

    def ratios() -> list[list[Any]]:
        return [[p / fdot(row, weights) for p in row] for row in exact]

    for _ in range(10):
        found = ratios()
        size = len(used)
        system, right = matrix(size + 1, size + 1), matrix(size + 1, 1)
        for j, m in enumerate(used):
            system[j, size] = system[size, j] = 1
            right[j] = -fsum(row[m] for row in found)
            for i, other in enumerate(used):
                system[j, i] = -fsum(row[m] * row[other] for row in found)
        right[size] = 1 - fsum(weights)
        step = lu_solve(system, right)
        for j, m in enumerate(used):
            weights[m] += step[j]
    means = [fsum(column) / len(elpd) - 1 for column in zip(*ratios(), strict=True)]
    assert min(weights) >= 0
    assert all(abs(means[m]) < mpf(10) ** -45 if m in used else means[m] <= 0 for m in range(len(means)))
    return weights


def comparison_entry(name: str, models: dict[str, Floats]) -> dict[str, Any]:
    data = {model: data_of(elpd) for model, elpd in models.items()}
    tables = {
        method: arviz_stats.compare(data, method=method, round_to="none")
        for method in ("stacking", "pseudo-BMA", "BB-pseudo-BMA")
    }
    ranked = list(tables["stacking"].index)
    elpd = np.column_stack([models[model] for model in ranked])
    optimum = optimal_weights(elpd)
    stacking = tables["stacking"]["weight"].tolist()
    return {
        "name": name,
        "models": ranked,
        "elpd_loo": elpd.T.tolist(),
        **{column: tables["stacking"][column].tolist() for column in ("elpd", "se", "elpd_diff", "dse", "p_worse")},
        "diag_diff": tables["stacking"]["diag_diff"].tolist(),
        "weights": {method: table["weight"].tolist() for method, table in tables.items()},
        "bootstrap_se": tables["BB-pseudo-BMA"]["se"].tolist(),
        "stacking_objective": nstr(stacking_objective(elpd, [mpf(w) for w in stacking]), 40),
        "optimal_weights": [nstr(w, 40) for w in optimum],
        "optimal_objective": nstr(stacking_objective(elpd, optimum), 40),
    }


# --- files ------------------------------------------------------------------------------------------------------------


def write(name: str, entries: list[dict[str, Any]]) -> None:
    lines = "[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n"
    (FOLDER / f"{name}.json").write_text(lines, encoding="ascii")


def show_differences() -> None:
    """The largest between arviz-stats and the model, beside what they differ in by intention."""
    sets = log_likelihoods()
    for entry in read("arviz_stats"):
        exact = by_formulas(sets[entry["set"]], entry["r_eff"])
        elpd, p_loo, k = (np.array(exact[column]) for column in ("elpd_loo", "p_loo", "pareto_k"))
        found = {column: np.array(entry[column]) for column in exact}
        unit = np.maximum(1.0, np.abs(elpd))
        fitted = np.isfinite(k)
        if not np.array_equal(fitted, np.isfinite(found["pareto_k"])):
            print(entry["set"], "differs in what is fitted")
        print(
            f"{entry['set']}, r_eff {entry['r_eff']}: {len(k)} observations, {fitted.sum()} fitted, k"
            f" {k.min():.2f} to {k.max():.2f}; differences"
            f" {np.max(abs(found['elpd_loo'] - elpd) / unit):.1e} in elpd,"
            f" {np.max(abs(found['p_loo'] - p_loo) / unit):.1e} in p_loo,"
            f" {np.max(abs(found['pareto_k'] - k)[fitted], initial=0):.1e} in k",
            flush=True,
        )


def main() -> None:
    warnings.simplefilter("ignore")
    mp.dps = 60
    if sys.argv[1:] == ["--differences"]:
        show_differences()
        return
    FOLDER.mkdir(exist_ok=True)
    write_log_likelihoods()
    theirs, ours = leave_one_out_entries()
    write("arviz_stats", theirs)
    write("formulas", ours)
    write("comparisons", [comparison_entry(name, models) for name, models in compared().items()])


if __name__ == "__main__":
    main()
