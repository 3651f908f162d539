"""Models compared by what each says of every observation, its elpd: differences, their errors, and weights.

Sums are exact, and exponentials and logarithms those of the kernel: results are the same bits on every machine, for any
order of models, and, where nothing is drawn at random, of observations.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from . import _kernel
from ._kernel import Codes, Floats
from .buffers import array_of, repeated
from .float64 import to_float64_exact
from .scales import NATURAL
from .states.aggregations import LOG_LIKELIHOOD
from .states.arrays import StateArray
from .states.leave_one_out import LARGEST_GOOD_K, good_k
from .states.results import result_of, variances

# Draws of the Bayesian bootstrap, and how many of its numbers are made at a time: with states they take some 30 MB.
BOOTSTRAP_DRAWS = 1000
_BLOCK = 1 << 18

# Stacking ends when no model's density is more than the first of these above the mixture's, on average. That takes some
# ten steps; should rounding ever be in the way, what is promised will do after the first of those.
_TOLERANCE, _PROMISED = 1e-12, 1e-9
_FEW_STEPS, _STEPS = 50, 1000
# What the quotient of two mixtures may err by.
_ROUNDING = 2.0**-51
# Bits of a second derivative that steps go by: beside the exact first one it shapes the way alone, not where it ends.
_CURVATURE_BITS = 40

# Below these the normal approximation of p_worse is not to be trusted (Sivula, Magnusson, Matamoros and Vehtari,
# arXiv 2008.10296).
FEW_OBSERVATIONS, SMALL_DIFFERENCE = 100, 4.0
# Beyond this the normal distribution function rounds to 1.
_CERTAIN = 9.0

Describe = Callable[[int], str]


def stacking_weights(elpd: object) -> Floats:
    """The weights by which a mixture of the models predicts best: they maximise ``sum_i ln sum_m w_m e^elpd_im``.

    Where a model is a mixture of others the optimum is not unique, and one of them comes out, the same in any order of
    models and observations; models that say the same have the same weight. A weight can be 0. No mean over observations
    of ``e^elpd_im / sum_l w_l e^elpd_il`` is above 1 + 1e-9, so that the sum is within 1e-9 n of its maximum.

    Args:
      elpd: expected log predictive densities (observations, models): an array of numbers below +inf. A model that rules
        an observation out has -inf.

    Returns:
      The weights (models,), which sum to 1.

    Raises:
      TypeError: a dtype that float64 does not hold exactly.
      ValueError: another shape, NaN or +inf, or an observation that all models rule out; named.

    >>> stacking_weights([[-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0]])
    array([0.5, 0.5])
    >>> stacking_weights([[-1.0, -1.5], [-2.0, -3.0]])
    array([1., 0.])
    """
    return _stacking_weights(_matrix(elpd))


def pseudo_bma_weights(elpd: object) -> Floats:
    """The softmax of the models' total elpd: as Akaike weights are made of AIC.

    Args:
      elpd: as of ``stacking_weights``.

    Returns:
      The weights (models,).

    Raises:
      TypeError, ValueError: as ``stacking_weights``; and where every model rules some observation out.

    >>> pseudo_bma_weights([[-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0]])
    array([0.5, 0.5])
    """
    return _pseudo_bma_weights(_matrix(elpd))


def pseudo_bma_plus_weights(elpd: object, seed: int = 0) -> Floats:
    """Pseudo-BMA weights averaged over 1000 draws of the Bayesian bootstrap, which tells how sure the totals are.

    A draw b gives observation i the share ``x_bi / sum_j x_bj``, x = -ln u: together they have a flat Dirichlet
    distribution. The totals are n times the elpd averaged by these shares; the weights are the mean of their softmax.
    u is ``(v + 1/2) / 2^52``, v the upper 52 bits of word ``i % 4`` of the block that Philox 4x64-10 (Salmon, Moraes,
    Dror and Shaw, SC 2011) gives for the key (seed, 0) and the counter (1 + i // 4, b, 0, 0), lowest word first.

    Args:
      elpd: as of ``stacking_weights``. Observations have the numbers of their rows, from 0.
      seed: 0 to 2^64 - 1.

    Returns:
      The weights (models,).

    Raises:
      TypeError, ValueError: as ``pseudo_bma_weights``; and for another seed.

    >>> pseudo_bma_plus_weights([[-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0]]).round(3)
    array([0.499, 0.501])
    """
    return _pseudo_bma_plus_weights(_matrix(elpd), seed)


def compare_models(
    elpd: Mapping[str, object],
    *,
    p: Mapping[str, object] | None = None,
    pareto_k: Mapping[str, object] | None = None,
    draws: Mapping[str, object] | None = None,
    weights: str = "stacking",
    seed: int = 0,
    ddof: int = 1,
    describe: Describe = "observation {}".format,
) -> pa.Table:
    """Models by their expected log predictive density (elpd), best first, and how sure each is the worse one.

    The columns, null where there is nothing to say:

    * ``model``, and ``count``, the observations
    * ``elpd``, the total, and ``se``, ``sqrt(n V)`` of the variance V between observations, of divisor n - 1
    * ``p``, the total of ``p``, the effective number of parameters
    * ``elpd_diff``, the total of the differences to the best, and ``se_diff``, ``sqrt(n V)`` of these
    * ``p_worse``, the probability that the model is worse than the best, ``Phi(-elpd_diff / se_diff)``: Phi by its
      series, to 1e-14; null for the best, and for models that differ in nothing
    * ``weight``
    * ``bad_k``, how many k are not below ``min(1 - 1 / log10(draws), 0.7)``: of these the elpd is not reliable
    * ``diagnostic``, "N < 100" or ``|elpd_diff| < 4`` where ``se_diff`` and ``p_worse`` are not

    Args:
      elpd: of each model, by its name, that of the observations (n,), in the same order.
      p, pareto_k: of each model, of the observations, likewise.
      draws: how many posterior draws k comes from, likewise; taken for many where it is left out.
      weights: "stacking", "pseudo-bma" or "pseudo-bma+": see the functions of these names.
      seed: as of ``pseudo_bma_plus_weights``.
      ddof: of ``se_diff``: 1 for the divisor n - 1, as R's loo has it, or 0 for n, as ArviZ has it. ``se`` has n - 1
        in all three.
      describe: what errors call an observation, given its number.

    Returns:
      A row per model. Models of equal elpd are in the order of their names.

    Raises:
      TypeError: a dtype that float64 does not hold exactly.
      ValueError: fewer than two models, no observations, different numbers of them, NaN or +inf, an observation that
        all models rule out, or an argument that is none of the above; named.

    >>> found = compare_models({"a": [-1.0, -2.0, -1.5], "b": [-1.5, -2.5, -1.5]})
    >>> found.select(["model", "elpd", "elpd_diff", "weight", "diagnostic"]).to_pylist()[1]
    {'model': 'b', 'elpd': -5.5, 'elpd_diff': -1.0, 'weight': 0.0, 'diagnostic': 'N < 100'}
    """
    if len(elpd) < 2:
        raise ValueError(f"expected two models or more to compare, found {', '.join(elpd) or 'none'}")
    if weights not in WEIGHTS:
        raise ValueError(f"weights: expected one of {', '.join(WEIGHTS)}, found {weights!r}")
    if ddof not in (0, 1):
        raise ValueError(f"ddof: expected 0 or 1, found {ddof!r}")
    names = sorted(elpd)
    columns = [_column(elpd[name], f"elpd of model {name!r}") for name in names]
    n = columns[0].size
    for name, column in zip(names, columns, strict=True):
        if column.size != n:
            raise ValueError(
                f"model {name!r}: expected {n} observations, as model {names[0]!r} has, found {column.size}"
            )
    matrix = np.column_stack(columns)
    _check(matrix, describe, [f"model {name!r}" for name in names])
    totals = _totals(matrix)
    elpd_of, variance = result_of(totals, "log_likelihood"), variances(totals)
    order = sorted(range(len(names)), key=lambda m: -elpd_of[m])
    with np.errstate(invalid="ignore"):
        differences = _totals(matrix - matrix[:, order[:1]])
    elpd_diff, se_diff = result_of(differences, "log_likelihood"), np.sqrt(n * variances(differences, ddof))
    found: dict[str, list[Any]] = {
        "elpd": elpd_of.tolist(),
        "se": np.sqrt(n * variance).tolist(),
        "p": [None] * len(names) if p is None else _sums_of(p, names, n, "p"),
        "elpd_diff": elpd_diff.tolist(),
        "se_diff": se_diff.tolist(),
        "p_worse": [_p_worse(*pair) for pair in zip(elpd_diff.tolist(), se_diff.tolist(), strict=True)],
        "weight": WEIGHTS[weights](matrix, seed).tolist(),
    }
    bad_k = [None if pareto_k is None else _bad_k(pareto_k, draws, name, n) for name in names]
    rows = {
        "model": _array([names[m] for m in order], pa.string()),
        "count": _array([n] * len(names), pa.int64()),
        **{name: _nullable([values[m] for m in order]) for name, values in found.items()},
        "bad_k": _array([bad_k[m] for m in order], pa.int64()),
        "diagnostic": _array([_diagnostic(n, elpd_diff[m]) for m in order], pa.string()),
    }
    return pa.Table.from_arrays(list(rows.values()), names=list(rows))


# --- what is given ----------------------------------------------------------------------------------------------------


def _column(values: object, name: str) -> Floats:
    column: npt.NDArray[Any] = np.asarray(values)
    if column.ndim != 1:
        raise ValueError(f"{name}: expected an array of 1 dimension, found shape {column.shape}")
    return to_float64_exact(column, name)


def _matrix(elpd: object) -> Floats:
    array: Any = np.asarray(elpd)
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"elpd: expected an array (observations, models), found shape {array.shape}")
    matrix = to_float64_exact(array.ravel(), "elpd").reshape(array.shape)
    _check(matrix, "observation {}".format, [f"model {m}" for m in range(matrix.shape[1])])
    return matrix


def _check(matrix: Floats, describe: Describe, models: Sequence[str]) -> None:
    if not matrix.shape[0]:
        raise ValueError("elpd: expected one observation or more, found none")
    bad = np.isnan(matrix) | (matrix == np.inf)
    if bad.any():
        row, model = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"{describe(row)}, {models[model]}: expected an elpd below +inf, found {matrix[row, model]}")
    impossible = (matrix == -np.inf).all(1)
    if impossible.any():
        raise ValueError(
            f"{describe(int(impossible.argmax()))}: expected an elpd above -inf in one of the models, found none"
        )


def _sums_of(given: Mapping[str, object], names: Sequence[str], n: int, what: str) -> list[float]:
    columns = [_of_model(given, name, n, what) for name in names]
    sums: list[float] = result_of(_totals(np.column_stack(columns)), "log_likelihood").tolist()
    return sums


def _of_model(given: Mapping[str, object], name: str, n: int, what: str) -> Floats:
    if name not in given:
        raise ValueError(f"{what}: expected that of model {name!r}, found {', '.join(given) or 'none'}")
    column = _column(given[name], f"{what} of model {name!r}")
    if column.size != n:
        raise ValueError(f"{what} of model {name!r}: expected {n} observations, found {column.size}")
    return column


# --- weights ----------------------------------------------------------------------------------------------------------


def _stacking_weights(matrix: Floats) -> Floats:
    """Sequential quadratic programming (Kim, Carbonetto, Stephens and Anitescu, J. Comput. Graph. Stat. 29, 2020).

    A step goes towards the maximum of the quadratic that has the first and second derivatives of the objective, over
    all weights of 0 or more: uphill. It is halved until the objective does not fall, but for rounding.
    """
    # Densities up to a factor of each observation, which makes no difference.
    densities = _kernel.row_softmax(matrix)
    n, models = densities.shape
    columns = np.tile(np.arange(models, dtype=np.int32), n)
    weights = np.full(models, 1.0 / models)
    mixture = _mixture(densities, weights)
    for taken in range(_STEPS):
        ratios = densities / mixture[:, None]
        means = _exact(columns, ratios.ravel(), None, models) / n
        excess = means.max() - 1.0
        if excess <= (_TOLERANCE if taken < _FEW_STEPS else _PROMISED):
            return weights
        target = found = _maximum_of_quadratic(_second_moments(ratios), means, weights)
        mixed, part = _mixture(densities, found), 1.0
        while mixed.min() <= 0.0 or _total(_kernel.log(mixed / mixture)) < -n * _ROUNDING:
            part /= 2.0
            found = weights + part * (target - weights)
            mixed = _mixture(densities, found)
        weights, mixture = found, mixed
    raise ArithmeticError(f"stacking: expected to end within {_STEPS} steps, found an excess of {excess}")


def _mixture(densities: Floats, weights: Floats) -> Floats:
    n, models = densities.shape
    rows = np.repeat(np.arange(n, dtype=np.int32), models)
    return _exact(rows, densities.ravel(), np.tile(weights, n), n)


def _second_moments(ratios: Floats) -> Floats:
    """The means over observations (models, models) of products of ratios."""
    n, models = ratios.shape
    columns = np.tile(np.arange(models, dtype=np.int32), n)
    products = [_exact(columns, ratios.ravel(), np.repeat(ratios[:, m], models), models) / n for m in range(models)]
    return np.stack(products)


def _maximum_of_quadratic(moments: Floats, means: Floats, weights: Floats) -> Floats:
    """The weights y >= 0 that maximise ``(means - 1)(y - w) - (y - w) moments (y - w) / 2``, made to sum to 1.

    By an active set, in integers and fractions: without rounding the maximum is the same in any order of the models. A
    little is added to the diagonal, so that it is the only one.
    """
    unit = 2.0**_CURVATURE_BITS / moments.max()
    models = range(weights.size)
    curvature = [[int(x) for x in row] for row in np.rint(moments * unit).tolist()]
    for m in models:
        curvature[m][m] += weights.size
    found = [Fraction(w) for w in weights.tolist()]
    slopes = [Fraction(slope) for slope in ((means - 1.0) * unit).tolist()]
    right = [slopes[m] + sum(curvature[m][k] * found[k] for k in models) for m in models]
    free = [m for m in models if found[m] > 0]
    while True:
        solution = _solve([[curvature[m][k] for k in free] for m in free], [right[m] for m in free])
        target = dict(zip(free, solution, strict=True))
        if min(solution) > 0:
            found = [target.get(m, Fraction(0)) for m in models]
            slopes = [right[m] - sum(curvature[m][k] * found[k] for k in free) for m in models]
            steepest = max(models, key=lambda m: slopes[m])
            if slopes[steepest] <= 0:
                break
            free = sorted([*free, steepest])
            continue
        # As far as the first weights that become 0; these are held there.
        step = min(found[m] / (found[m] - y) for m, y in target.items() if y <= 0)
        for m, y in target.items():
            found[m] += step * (y - found[m])
        free = [m for m in free if found[m] > 0]
    total = sum(found)
    return np.array([float(y / total) for y in found])


def _solve(matrix: list[list[int]], right: Sequence[Fraction]) -> list[Fraction]:
    """The solution of a positive definite system, by elimination without fractions (Bareiss, Math. Comp. 22, 1968)."""
    scale = math.lcm(*(x.denominator for x in right))
    rows = [[*row, int(x * scale)] for row, x in zip(matrix, right, strict=True)]
    size, divisor = len(rows), 1
    for i in range(size):
        for j in range(i + 1, size):
            rows[j] = [0] * (i + 1) + [
                (rows[i][i] * rows[j][k] - rows[j][i] * rows[i][k]) // divisor for k in range(i + 1, size + 1)
            ]
        divisor = rows[i][i]
    solution = [Fraction(0)] * size
    for i in reversed(range(size)):
        known = sum(rows[i][k] * solution[k] for k in range(i + 1, size))
        solution[i] = Fraction(rows[i][size] - known, rows[i][i])
    return [x / scale for x in solution]


def _pseudo_bma_weights(matrix: Floats) -> Floats:
    totals = _possible(result_of(_totals(matrix), "log_likelihood"))
    return _kernel.row_softmax(totals.reshape(1, -1)).ravel()


def _possible(totals: npt.NDArray[Any]) -> Floats:
    """The totals as they are; raises ValueError where all are -inf."""
    if totals.max() == -np.inf:
        raise ValueError("expected a model whose elpd is above -inf, found that each rules some observation out")
    return totals


def _pseudo_bma_plus_weights(matrix: Floats, seed: int) -> Floats:
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed: expected 0 to 2^64 - 1, found {seed}")
    n, models = matrix.shape
    _possible(result_of(_totals(matrix), "log_likelihood"))
    parts = []
    step = max(1, _BLOCK // n)
    for first in range(0, BOOTSTRAP_DRAWS, step):
        draws = range(first, min(first + step, BOOTSTRAP_DRAWS))
        shares = -_kernel.log(np.concatenate([_uniform(seed, draw, n) for draw in draws]))
        rows = np.repeat(np.arange(len(draws), dtype=np.int32), n)
        totals = _exact(rows, shares, None, len(draws))
        sums = [_exact(rows, shares, np.tile(matrix[:, m], len(draws)), len(draws)) for m in range(models)]
        parts.append(_kernel.row_softmax(n * (np.stack(sums, axis=1) / totals[:, None])))
    columns = np.tile(np.arange(models, dtype=np.int32), BOOTSTRAP_DRAWS)
    return _exact(columns, np.concatenate(parts).ravel(), None, models) / BOOTSTRAP_DRAWS


def _uniform(seed: int, draw: int, n: int) -> Floats:
    words = np.random.Philox(key=seed, counter=draw << 64).random_raw(n)
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


# Of a checked matrix and a seed, by the names of the methods.
WEIGHTS: Mapping[str, Callable[[Floats, int], Floats]] = {
    "stacking": lambda matrix, _: _stacking_weights(matrix),
    "pseudo-bma": lambda matrix, _: _pseudo_bma_weights(matrix),
    "pseudo-bma+": _pseudo_bma_plus_weights,
}


# --- figures ----------------------------------------------------------------------------------------------------------


def _p_worse(elpd_diff: float, se_diff: float) -> float:
    """NaN for models that do not differ, and without an error."""
    if elpd_diff == 0.0 or math.isnan(se_diff):
        return math.nan
    if se_diff == 0.0 or -elpd_diff / se_diff >= _CERTAIN:
        return 1.0
    # 1/2 + phi(x) (x + x^3 / 3 + x^5 / (3 * 5) + ...) (Marsaglia, J. Stat. Softw. 11, 2004): of x > 0 nothing cancels.
    x = -elpd_diff / se_diff
    term = total = x
    divisor = 1.0
    while term > total * 2.0**-60:
        divisor += 2.0
        term *= x * x / divisor
        total += term
    [density] = _kernel.exp(np.array([-0.5 * x * x])) / math.sqrt(2.0 * math.pi)
    return min(0.5 + float(density) * total, 1.0)


def _bad_k(pareto_k: Mapping[str, object], draws: Mapping[str, object] | None, name: str, n: int) -> int:
    """How many k are not good; NaN counts as not good."""
    k = _of_model(pareto_k, name, n, "pareto_k")
    good = LARGEST_GOOD_K if draws is None else good_k(_of_model(draws, name, n, "draws"))
    return int((~(k <= good)).sum())


def _diagnostic(n: int, elpd_diff: float) -> str | None:
    if elpd_diff == 0.0:
        return None
    if n < FEW_OBSERVATIONS:
        return f"N < {FEW_OBSERVATIONS}"
    return f"|elpd_diff| < {SMALL_DIFFERENCE:g}" if abs(elpd_diff) < SMALL_DIFFERENCE else None


def _array(values: Sequence[int | str | None], data_type: pa.DataType) -> pa.Array:
    return pa.concat_arrays([repeated(value, data_type, 1) for value in values])


def _nullable(values: Sequence[float | None]) -> pa.Array:
    numbers = np.array([math.nan if x is None else x for x in values])
    return array_of(numbers, null=np.isnan(numbers) if np.isnan(numbers).any() else None)


# --- arithmetic -------------------------------------------------------------------------------------------------------


def _totals(matrix: Floats) -> StateArray:
    """The states (models,) of the columns of a matrix."""
    n, models = matrix.shape
    columns = np.tile(np.arange(models, dtype=np.int32), n)
    return StateArray.group(LOG_LIKELIHOOD, NATURAL, columns, [matrix.ravel()], models)


def _exact(codes: Codes, a: Floats, b: Floats | None, groups: int) -> Floats:
    """The sum of a b of each code, rounded once."""
    words, begins = _kernel.sum_products(codes, a, b, groups)
    return _kernel.exact_values((words, begins[:-1]))


def _total(x: Floats) -> float:
    return float(_exact(np.zeros(x.size, np.int32), x, None, 1)[0])
