"""Leave-one-out cross-validation by Pareto-smoothed importance sampling (PSIS-LOO), from states that merge exactly.

The states are of ``aggregations.leave_one_out``: of each observation its log-likelihoods under posterior draws. After
Vehtari, Gelman and Gabry, "Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC",
Statistics and Computing 27 (2017), with the smoothing of Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed
importance sampling", Journal of Machine Learning Research 25 (2024).
"""

from numbers import Integral
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _kernel
from .._kernel.constants import LEAST_TAIL, MOST_SMALLEST
from .._kernel.double_double import two_sum
from .arrays import StateArray, require, sum_once

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


# Above this shape no number of draws is enough.
LARGEST_GOOD_K = 0.7
# Observations that are smoothed at a time: their tails stay in the cache.
_TOGETHER = 1024


class LeaveOneOut(NamedTuple):
    """Of each observation (n,).

    Attributes:
      elpd: the log predictive density of the observation, left out: elpd_loo. -inf where a log-likelihood is -inf.
      p: ``lppd - elpd``, the effective number of parameters: p_loo.
      pareto_k: the shape of the fitted tail; +inf where it was not fitted, which counts as very bad: a tail of fewer
        than 5 or without spread, or a log-likelihood that is not finite.
      lppd: the log pointwise predictive density.
      mcse: the Monte Carlo standard error of elpd, which tells what other draws might give: as R's loo has it, from the
        variance of the weighted mean, taken as log-normal. To some 1e-8 / sqrt(draws); in doubt where pareto_k is.
    """

    elpd: Floats
    p: Floats
    pareto_k: Floats
    lppd: Floats
    mcse: Floats


def tail_length(draws: Ints, r_eff: float = 1.0, *, round_up: bool = False) -> Ints:
    """How many of the largest ratios (n,) are smoothed, of so many draws (n,).

    Args:
      r_eff: the effective over the actual number of draws.
      round_up: as R's loo does; otherwise down, as arviz-stats and the paper.

    Raises:
      ValueError: an ``r_eff`` that is not positive.

    >>> tail_length(np.array([100, 1000, 4000])).tolist()
    [20, 94, 189]
    """
    if not 0.0 < r_eff < np.inf:
        raise ValueError(f"r_eff: expected a positive number, found {r_eff}")
    long: Floats = 3.0 * np.sqrt(draws / r_eff)
    if round_up:
        return np.asarray(np.ceil(np.minimum(0.2 * draws, long)), np.int64)
    return np.asarray(np.where(draws * r_eff > 225.0, np.floor(long), draws // 5), np.int64)


def values_to_keep(draws: int, r_eff: float = 1.0) -> int:
    """The parameter of ``aggregations.leave_one_out`` for so many draws in all, whichever way the tail is rounded.

    It is enough for an ``r_eff`` of 1 too, by which results are found unless another is given.

    Raises:
      TypeError: draws that are no integer.
      ValueError: draws that are no number of 1 to some 4.7e8, fewer with a small ``r_eff``; an ``r_eff`` that is not
        positive.

    >>> values_to_keep(4000)
    191
    """
    if not isinstance(draws, Integral) or isinstance(draws, bool):
        raise TypeError(f"draws: expected an integer, found {draws!r}")
    if not 1 <= draws < 1 << 53:
        raise ValueError(f"draws: expected 1 or more, and no more than there can be, found {draws}")
    kept = max(int(tail_length(np.array([draws]), r, round_up=True)[0]) + 1 for r in (r_eff, 1.0))
    if kept > MOST_SMALLEST:
        raise ValueError(f"draws: expected so many that their tail has less than {MOST_SMALLEST} values, found {draws}")
    return kept


def good_k(draws: Ints | Floats) -> Floats:
    """The shape (n,) up to which so many draws (n,) are enough.

    >>> good_k(np.array([100, 1000, 4000])).round(3).tolist()
    [0.5, 0.667, 0.7]
    """
    # The decadic logarithm by that of the kernel, which is the same on every machine.
    logarithm = _kernel.log(np.maximum(draws, 2).astype(np.float64)) / _kernel.log(np.array([10.0]))
    return np.where(draws > 1, np.minimum(1.0 - 1.0 / logarithm, LARGEST_GOOD_K), LARGEST_GOOD_K)


def cross_validate(states: StateArray, r_eff: float = 1.0, *, round_up: bool = False) -> LeaveOneOut:
    """What leaving out each observation (n,) gives; NaN where there is no draw, or one that is NaN or +inf.

    Args:
      states: of an aggregation ``leave_one_out``.
      r_eff, round_up: as of ``tail_length``.

    Raises:
      StateError: a state keeps fewer values than the tail of its draws needs.
    """
    draws, kept = states.counts, states.aggregation.parameter or 0
    tails = tail_length(draws, r_eff, round_up=round_up)
    require(
        (tails < LEAST_TAIL) | (tails < kept),
        lambda i: f"expected {tails[i] + 1} smallest values or more, for {draws[i]} draws, found {kept}",
    )
    starts = range(0, max(len(states), 1), _TOGETHER)
    parts = [_of_block(states.slice(i, _TOGETHER), tails[i : i + _TOGETHER], r_eff) for i in starts]
    return LeaveOneOut(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _of_block(states: StateArray, tails: Ints, r_eff: float) -> LeaveOneOut:
    n, maximum, (words, at) = len(states), states.sums[0]["max"], states.exact[2]
    mean = states.quotients(0, per_term=True)
    lppd = sum_once(maximum, mean.log_high, mean.log_low)
    pareto_k, elpd, variance = np.full(n, np.inf), np.empty(n), np.empty(n)
    # The first of a list, which has values where there is a tail.
    least = words.view(np.float64)[np.minimum(at + 1, words.size - 1)]
    rows = np.flatnonzero(np.isfinite(maximum) & (least > -np.inf) & (tails >= LEAST_TAIL))
    if rows.size:
        pareto_k[rows], elpd[rows], variance[rows] = _smooth(states.take(rows), tails[rows])
    rows = np.flatnonzero(np.isinf(pareto_k))
    if rows.size:
        elpd[rows], variance[rows] = _by_raw_weights(states.take(rows))
    is_bad = np.isnan(maximum) | (maximum == np.inf) | (states.counts == 0)
    elpd, lppd = np.where(is_bad, np.nan, elpd), np.where(is_bad, np.nan, lppd)
    with np.errstate(invalid="ignore", over="ignore"):
        p = np.where(elpd == -np.inf, np.inf, lppd - elpd)
        mcse = np.where(np.isfinite(elpd), np.sqrt(_log1p(variance / r_eff)), np.nan)
    return LeaveOneOut(elpd, p, pareto_k, lppd, mcse)


def _by_raw_weights(states: StateArray) -> tuple[Floats, Floats]:
    """elpd and its variance (n,) by the ratios as they are."""
    draws, first = states.counts, np.zeros(len(states), np.int64)
    ratios = _sum_of_ratios(states, 1, first)
    inverse = _kernel.quotients_of(ratios, draws)
    elpd = 0.0 - sum_once(ratios["max"], inverse[:, 1], inverse[:, 2])
    with np.errstate(invalid="ignore", divide="ignore"):
        weight, squares = (_relative(sums) for sums in (ratios, _sum_of_ratios(states, 2, first)))
        return elpd, np.maximum(squares / (weight * weight) - 1.0 / draws, 0.0)


def _sum_of_ratios(states: StateArray, power: int, first: Ints) -> _kernel.Sums:
    """The sums (n,) of e^(power r), which is 1 or 2, over all ratios but the ``first`` (n,) largest ones."""
    n, (words, at) = len(states), states.exact[2]
    counts = (words[at] >> np.uint64(16) & np.uint64(0xFFFF)).astype(np.int64) - first
    row = np.repeat(np.arange(n, dtype=np.int32), counts)
    place = np.arange(row.size) - (np.cumsum(counts) - counts)[row] + at[row] + 1 + first[row]
    with np.errstate(over="ignore"):
        kept = _kernel.group_values(row, 0.0 - power * words.view(np.float64)[place], n)
    twice = np.tile(np.arange(n, dtype=np.int32), 2)
    return _kernel.merge_groups(twice, _kernel.concat_sums([states.sums[power], kept]), n)


def _relative(sums: _kernel.Sums) -> Floats:
    """Sums (n,) over the term of their max."""
    quotients = _kernel.quotients_of(sums, np.ones(sums.size, np.int64))
    return np.asarray(quotients[:, 3] + quotients[:, 4])


def _smooth(states: StateArray, tails: Ints) -> tuple[Floats, Floats, Floats]:
    """Shapes (n,), and elpd and its variance (n,) with the tails smoothed; not defined where the shape is infinite."""
    n, (words, at) = len(states), states.exact[2]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(tails + 1)])
    row = np.repeat(np.arange(n, dtype=np.int32), tails + 1)
    # The values ascend, so that of the ratios, which are their negatives, the cutoff is the last that is needed.
    within = np.arange(row.size) - offsets[row]
    ratios = 0.0 - words.view(np.float64)[at[row] + 1 + tails[row] - within]
    # Weights are relative to that of the largest ratio.
    largest, others = ratios[offsets[1:] - 1], states.counts - tails
    sums, squares = (_sum_of_ratios(states, power, tails) for power in (1, 2))
    with np.errstate(invalid="ignore", over="ignore"):
        apart, error = two_sum(sums["max"], -largest)
        # The largest weight of the rest; the max of the squares is its square.
        top = _kernel.exp(apart) * (1.0 + np.where(np.isfinite(apart), error, 0.0))
        pareto_k, elpd, weight, of_tail = _kernel.smooth_tails(ratios, offsets, others, top * _relative(sums)).T
        # In units of a power of two near the sum of all weights, so that no square of a weight underflows.
        weight, power = np.frexp(weight)
        top, product = (np.ldexp(x, -power) for x in (top, _kernel.exp(0.0 - largest - elpd)))
        # Of every other draw the weight times e^ll is the same product.
        of_rest = others * product * product - 2.0 * product * (top * _relative(sums)) + top * top * _relative(squares)
        return pareto_k, elpd, of_tail + np.maximum(of_rest, 0.0) / (weight * weight)


def _log1p(x: Floats) -> Floats:
    """ln(1 + x) of x (n,) of 0 or more: what 1 + x is rounded by is taken back (HP-15C Advanced Functions Handbook)."""
    total = 1.0 + x
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total == 1.0, x, np.where(total == np.inf, np.inf, x * (_kernel.log(total) / (total - 1.0))))
