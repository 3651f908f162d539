"""Whether sums are canonical, in NumPy: the twin of check.h."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .. import constants as c
from ..constants import FAR_BASE, LIMB_BITS, NO_BASE
from ..sums import FAULTS, WEIGHTED_SUM, Sums
from .state import base_of_exponent, bases_of, is_near, limbs_on, own_terms
from .vector_loops import tiny
from .wide import get_limbs, is_negative, less_terms, shift_limb

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

MINUS_ZERO = np.uint64(1 << 63)


def limbs_fit(sums: Sums, n: Ints) -> Mask:
    """Where each limb is one of n terms: abs(limb) <= n 2^50, n < 2^63; the upper part, rounded down, is compared."""
    words = sums["limbs"]
    low, high = shift_limb((words[:, :, 0].copy(), words[:, :, 1].copy()))
    top, part = high.view(np.int64), low.view(np.int64)
    return np.asarray(((top == part >> 63) & (part <= n[:, None]) & (part >= -n[:, None])).all(axis=1))


def is_empty(sums: Sums) -> Mask:
    return np.asarray((sums["limbs"] == 0).all(axis=(1, 2)))


def bits_of(x: Floats) -> npt.NDArray[np.uint64]:
    return x.copy().view(np.uint64)


def max_fits(sums: Sums) -> Mask:
    maximum = sums["max"]
    bits = bits_of(maximum)
    one_nan = ~np.isnan(maximum) | (bits == np.uint64(0x7FF8000000000000))
    return np.asarray(one_nan & (bits != MINUS_ZERO) & ((sums["count"] != 0) | (maximum == -np.inf)))


@tiny
def check(sums: Sums, scale: Floats) -> tuple[int, int] | None:
    """(row, key of FAULTS) of the first that is not canonical, or None."""
    faults = np.zeros((len(FAULTS), sums.size), np.bool_)
    faults[c.FAULT_COUNT] = sums["count"] < 0
    faults[c.FAULT_MAX] = ~max_fits(sums)
    find_faults = find_weighted_faults if sums.dtype == WEIGHTED_SUM else find_faults_of_states
    with np.errstate(invalid="ignore"):  # a NaN may be of the kind that signals
        for fault, rows in find_faults(sums, scale):
            faults[fault] = rows
    bad = np.flatnonzero(faults.any(axis=0))
    return (int(bad[0]), int(faults[:, bad[0]].argmax())) if bad.size else None


def find_faults_of_states(states: Sums, scale: Floats) -> Sequence[tuple[int, Mask]]:
    count, maximum, ties, second = (states[name].copy() for name in ("count", "max", "ties", "second"))
    has_ties = (count != 0) & ~np.isnan(maximum)
    bad_ties = (ties < np.where(maximum == -np.inf, count, has_ties)) | (ties > np.where(has_ties, count, 0))
    others = count - ties
    none = bits_of(second) == bits_of(np.array([-np.inf]))
    fits = is_near(maximum, scale) & is_near(second, scale) & (second < maximum) & (others != 0)
    bad_second = ~none & ~(fits & (bits_of(second) != MINUS_ZERO))
    bad_limbs = np.where(none, ~is_empty(states), ~limbs_fit(states, others))
    rows = np.flatnonzero(~none & ~bad_second & ~bad_limbs)
    high, low, exponent = own_terms(second[rows], scale)
    rest = less_terms(get_limbs(states[rows]), limbs_on(high, low, exponent, base_of_exponent(exponent)))
    more = np.logical_or.reduce([(low != 0) | (high != 0) for low, high in rest])
    bad_limbs[rows] = is_negative(rest) | ((others[rows] == 1) & more)  # of one term the second is all there is
    return [(c.FAULT_TIES, bad_ties), (c.FAULT_SECOND, bad_second), (c.FAULT_LIMBS, bad_limbs)]


def find_weighted_faults(sums: Sums, scale: Floats) -> Sequence[tuple[int, Mask]]:
    count, maximum, base = (sums[name].copy() for name in ("count", "max", "base"))
    finite, near = np.isfinite(maximum), is_near(maximum, scale)
    least = np.where(near, bases_of(np.where(near, maximum, 0.0), scale), FAR_BASE)
    found = np.where(finite, base, least)
    off = (found - least) % LIMB_BITS != 0
    off |= found < least + c.LEAST_WEIGHT_BASE
    off |= found > np.where(near, FAR_BASE // 2 - 1, FAR_BASE + c.MOST_WEIGHT_BASE)
    bad_base = np.where(finite, off, base != NO_BASE)
    first = sums["limbs"][:, 0, 0].view(np.int64)
    alone = (sums["limbs"][:, 1:] == 0).all(axis=(1, 2))
    is_sign = alone & (sums["limbs"][:, 0, 1].view(np.int64) == first >> 63) & (np.abs(first) == 1)
    fits = np.where(finite, limbs_fit(sums, count), np.where(maximum == np.inf, is_sign, is_empty(sums)))
    return [(c.FAULT_BASE, bad_base), (c.FAULT_LIMBS, ~fits)]
