"""Tails smoothed by a generalized Pareto distribution, in NumPy: the twin of pareto_tail.h, which has the sources.

Arrays of values (m, n) have a column per observation. Sums over the values of a tail and over the points of a grid are
by ``_total``, in their order.
"""

import math

import numpy as np
import numpy.typing as npt

from .. import constants as c
from ..constants import LEAST_TAIL, LIFT
from ..double_double import divide, quick_two_sum, two_prod, two_sum
from .crc import check_places
from .elementary import exp, log, log_of_pair, terms_of
from .values import row_values
from .vector_loops import power_of
from .weighted import row_softmax

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LARGEST_WEIGHT = 2.0**LIFT
TOGETHER = 2**18  # values of tails smoothed together: bounds the memory of the temporaries


def _total(x: Floats) -> Floats:
    """The sums of columns, from the first row to the last; ``np.sum`` has an order of its own."""
    return np.asarray(np.cumsum(x, axis=0)[-1])


def _log(x: Floats) -> Floats:
    out = np.empty_like(x)
    log(x, out)
    return out


def _weigh_ratios(r: Floats) -> tuple[Floats, Floats]:
    """The weights times 2^LIFT as double-doubles."""
    v, below = two_sum(r, -r[-1])
    counts = (v >= c.LEAST_LOG_WEIGHT) & (v <= 0.0)
    high, low, exponent = terms_of(np.where(counts, v, c.LEAST_LOG_WEIGHT))
    low = low + high * np.where(counts, below, 0.0)
    power = power_of(exponent + LIFT)
    return high * power, low * power


def _exp_less_one(z: Floats) -> Floats:
    near = np.abs(z) < 709.0
    high, low, exponent = terms_of(np.where(near, z, 0.0))
    power = power_of(exponent)
    return np.where(near, (high * power - 1.0) + low * power, np.where(z > 0.0, np.inf, -1.0))


def _take_apart(v: Floats) -> tuple[Floats, Floats, Ints]:
    """Numbers in [1, 2), the inverse of the power of 2 that they were divided by, and its exponent."""
    exponent = v.view(np.int64) >> 52
    number = ((v.view(np.int64) & (1 << 52) - 1) | 1023 << 52).view(np.float64)
    return number, ((2046 - exponent) << 52).view(np.float64), exponent - 1023


def _kappas(slope: Floats, x: Floats) -> Floats:
    """The mean of ln(1 + slope x) over the values, for each slope (points, n)."""
    size = len(x)
    high, low, power = np.ones_like(slope), np.zeros_like(slope), np.zeros(slope.shape, np.int64)
    for i in range(size):
        factor, error = two_sum(np.ones_like(slope), slope * x[i])
        factor, inverse, exponent = _take_apart(factor)
        power += exponent
        low = low * factor + high * (error * inverse)
        high, error = two_prod(high, factor)
        low = low + error
        if (i + 1) % c.FACTORS_TOGETHER == 0 or i + 1 == size:
            high, low = quick_two_sum(high, low)
            high, inverse, exponent = _take_apart(high)
            power += exponent
            low = low * inverse
    return log_of_pair(high, low, power)[0] / size


def _fit(x: Floats) -> tuple[Floats, Floats]:
    """kappa and sigma of distributions of exceedances (m, n); 0 for sigma, or NaN for kappa, where there is none."""
    size, n = x.shape
    quartile, points = x[(size + 2) // 4 - 1], c.GRID_POINTS + math.isqrt(size)
    mean = _total(x) / size
    roots = np.sqrt(points / (np.arange(points)[:, None] + 0.5)) - 1.0
    slopes = roots / (3.0 * quartile) - 1.0 / x[-1]
    kappas = _kappas(slopes, x)
    inverse = np.where(slopes != 0.0, slopes / kappas, 1.0 / mean)
    profile = np.ascontiguousarray((size * (_log(inverse * quartile) - kappas)).T)
    share = np.empty((n, points))
    row_softmax(profile, share)
    kept = np.where(share >= c.LEAST_SHARE, share, 0.0).T
    slope = _total(kept * slopes) / _total(kept)
    kappa = _kappas(slope[None], x)[0]
    return kappa, np.where(quartile > x[0], np.where(slope != 0.0, kappa / slope, mean), 0.0)


def _smooth(r: Floats, others: Ints, rests: Floats) -> Floats:
    """Of cutoffs and the tails above (m + 1, n): (4, n)."""
    size = len(r) - 1
    high, low = _weigh_ratios(r)
    x = np.maximum.accumulate(np.maximum((high[1:] - high[0]) + (low[1:] - low[0]), 0.0))
    kappa, sigma = _fit(x)
    k = (size * kappa + 0.5 * c.PRIOR_VALUES) / (size + c.PRIOR_VALUES)
    odd = np.arange(2.0 * size - 1.0, 0.0, -2.0)[:, None]
    zero = np.zeros_like(odd)
    depth = -log_of_pair(*divide(odd, zero, np.full_like(odd, 2.0 * size), zero), 0)[0]
    weight = (high[0] + low[0]) + sigma * np.where(k != 0.0, _exp_less_one(k * depth) / k, depth)
    weight = np.where(weight < LARGEST_WEIGHT, weight, LARGEST_WEIGHT)
    summands = np.concatenate([weight, others[None] * LARGEST_WEIGHT])
    log_high, log_low = log_of_pair(summands, np.zeros_like(summands), -LIFT)
    log_high, error = two_sum(log_high, -np.concatenate([r[1:], r[-1:]]))
    logs = log_high + (error + log_low)
    raised = np.empty(others.size)
    row_values(np.ascontiguousarray(logs.T), raised)
    total = rests + _total(weight) * 2.0**-LIFT
    mean = raised - _log(total)
    of_mean = np.empty_like(weight)
    exp(np.ascontiguousarray(logs[:-1] - mean), of_mean)
    squares = _total(((of_mean - weight * 2.0**-LIFT) / total) ** 2)
    fits = np.isfinite(kappa) & (sigma > 0.0)
    return np.where(fits, np.stack([k, mean, total, squares]), [[np.inf], [np.nan], [np.nan], [np.nan]])


@np.errstate(all="ignore")
def smooth_tails(tails: Floats, rests: Floats, offsets: Ints, others: Ints, out: Floats) -> None:
    """Writes k of each tail, the logarithm of the weighted mean of e^-r, the sum of weights, and that of squares."""
    if others.size + 1 != offsets.size or rests.size != others.size:
        raise ValueError("arrays of different lengths")
    check_places(offsets, tails.size)
    out[:] = [np.inf, np.nan, np.nan, np.nan]
    sizes = np.diff(offsets) - 1
    for size in np.unique(sizes[sizes >= LEAST_TAIL]).tolist():
        rows = np.flatnonzero(sizes == size)
        step = max(1, TOGETHER // size)
        for i in range(0, rows.size, step):
            some = rows[i : i + step]
            out[some] = _smooth(tails[offsets[some] + np.arange(size + 1)[:, None]], others[some], rests[some]).T
