"""Bases, maxima and their terms, in NumPy: the twin of state.h."""

import numpy as np
import numpy.typing as npt

from ..constants import FAR_BASE, LIMB_BITS, NO_BASE, TOO_FAR
from ..double_double import two_prod
from ..record import Records
from .vector_loops import LIMB_PATTERN, Workspace, limbs, scale_by, terms, tiny
from .wide import Wide, wide

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


def exponent_of(steps: Words, turns: Words) -> Ints:
    """The exponent of a term."""
    return (steps.view(np.int64) >> 7) + (turns.view(np.int64) << 22)


def base_of_exponent(exponent: Ints) -> Ints:
    """The base of a sum whose largest term has this exponent: exponent - base is in [-1, 48]."""
    return (exponent + 1) // LIMB_BITS * LIMB_BITS


def base_of(maximum: Floats) -> Ints:
    """The base that belongs to each maximum, abs(maximum) < 2^60."""
    _, _, steps, turns = terms(maximum, Workspace(maximum.size))
    return base_of_exponent(exponent_of(steps, turns))


def is_near(maximum: Floats) -> npt.NDArray[np.bool_]:
    """Where the maximum has a base: finite and below 2^60. NaN is False."""
    return np.abs(maximum) < TOO_FAR


def is_near_base(base: Ints) -> npt.NDArray[np.bool_]:
    return np.asarray((base != NO_BASE) & (base < FAR_BASE // 2))


def is_near_in(x: Floats, scale: Floats) -> npt.NDArray[np.bool_]:
    """Where abs(c x) < 2^60. NaN is False."""
    with np.errstate(over="ignore", invalid="ignore"):  # a NaN may be of the kind that signals
        return np.asarray(np.abs(x * scale[0]) < TOO_FAR)


@tiny
def set_max(states: Records, maximum: Floats) -> None:
    """Writes max, in its one form, and base."""
    maximum = np.where(np.isnan(maximum), np.nan, maximum) + 0.0  # first the NaN: it may be of the kind that signals
    states["max"] = maximum
    near = is_near(maximum)
    states["base"] = NO_BASE
    states["base"][near] = base_of(maximum[near])


def scaled(x: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """c x as a double-double."""
    high, low = two_prod(x, np.full_like(x, scale[0]))
    return high, low + x * scale[1]


def own_terms(maximum: Floats, near: npt.NDArray[np.bool_], scale: Floats) -> tuple[Floats, Floats, Ints]:
    """The terms of the maxima on the grids of their own bases, and these; where ``near`` is False, of 0."""
    x, below = scaled(np.where(near, maximum, 0.0), scale)
    high, low, steps, turns = terms(x, Workspace(x.size), below=below)
    base = base_of_exponent(exponent_of(steps, turns))
    scale_by(high, low, steps, turns, base)
    return high.copy(), low.copy(), base


def limbs_of(high: Floats, low: Floats) -> list[Wide]:
    cuts = limbs(high.copy(), low.copy(), Workspace(high.size))
    return [wide(cut - bits) for cut, bits in zip(cuts, LIMB_PATTERN, strict=True)]
