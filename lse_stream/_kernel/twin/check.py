"""Whether records are canonical, in NumPy: the twin of check.h."""

import numpy as np
import numpy.typing as npt

from .. import constants as c
from ..constants import FAR_BASE, LIMB_BITS, NO_BASE
from ..record import FAULTS, Records
from .state import is_near_in, limbs_of, own_terms
from .vector_loops import tiny
from .wide import get_limbs, is_negative, less_terms, shift_limb

Floats = npt.NDArray[np.float64]


@tiny
def check(states: Records, scale: Floats, is_signed: bytes) -> tuple[int, int] | None:
    """(row, index into FAULTS) of the first record that is not canonical, or None."""
    signed_sum = is_signed != b"\0"
    count, maximum = states["count"], states["max"]
    finite, near = np.isfinite(maximum), is_near_in(maximum, scale)
    bits = maximum.copy().view(np.uint64)
    bad_nan = np.isnan(maximum) & (bits != np.uint64(0x7FF8000000000000))
    base = np.full(states.size, NO_BASE)
    high, low, own_base = own_terms(maximum, near, scale)
    base[near] = own_base[near]
    limb_words = states["limbs"]
    zero = (limb_words == 0).all(axis=2)
    # |limb| <= count 2^50, count < 2^63: compare the limb's upper part, which is rounded down, with the count
    upper = shift_limb((limb_words[:, :, 0].copy(), limb_words[:, :, 1].copy()))
    top = upper[1].view(np.int64)
    part = upper[0].view(np.int64)
    fits = ((top == part >> 63) & (part <= count[:, None]) & (part >= -count[:, None])).all(axis=1)
    alone = zero[:, 1:].all(axis=1)
    first = limb_words[:, 0, 0].view(np.int64)
    is_tie = alone & (limb_words[:, 0, 1] == 0) & (first > 0) & (first <= count)
    far = finite & ~near
    bad_limbs = ~np.where(near, fits, np.where(far, is_tie, zero.all(axis=1)))
    if signed_sum:
        is_sign = alone & (limb_words[:, 0, 1].view(np.int64) == first >> 63) & (np.abs(first) == 1)
        bad_limbs = ~np.where(finite, fits, np.where(maximum == np.inf, is_sign, zero.all(axis=1)))
        expected = np.where(near, base, FAR_BASE)
        found = np.where(finite, states["base"], expected)
        off = (found - expected) % LIMB_BITS != 0
        off |= found < expected + c.LEAST_WEIGHT_BASE
        off |= found > np.where(near, FAR_BASE // 2 - 1, FAR_BASE + c.MOST_WEIGHT_BASE)
        bad_base = np.where(finite, off, states["base"] != NO_BASE)
    else:
        bad_base = states["base"] != base
        rows = np.flatnonzero(near & ~bad_base & ~bad_limbs)
        rest = less_terms(get_limbs(states[rows]), limbs_of(high[rows], low[rows]))
        more = np.logical_or.reduce([(low != 0) | (high != 0) for low, high in rest])
        bad_limbs[rows] |= is_negative(rest) | ((count[rows] == 1) & more)  # of one term the max is all there is
    faults = np.zeros((len(FAULTS), states.size), np.bool_)
    faults[c.FAULT_VERSION] = states["version"] != c.VERSION
    faults[c.FAULT_AGGREGATION] = states["aggregation"] != c.AGGREGATION
    faults[c.FAULT_SCALE] = states["scale"] != c.SCALE
    faults[c.FAULT_RESERVED] = states["reserved"] != 0
    faults[c.FAULT_COUNT] = count < 0
    faults[c.FAULT_MAX] = bad_nan | (bits == np.uint64(1 << 63)) | ((count == 0) & (maximum != -np.inf))
    faults[c.FAULT_BASE] = bad_base
    faults[c.FAULT_LIMBS] = bad_limbs
    rows = np.flatnonzero(faults.any(axis=0))
    return (int(rows[0]), int(faults[:, rows[0]].argmax())) if rows.size else None
