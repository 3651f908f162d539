"""Terms, bases and limbs of values, in NumPy: the twin of state.h."""

import numpy as np
import numpy.typing as npt

from ..constants import LIMB_BITS, NO_BASE, TOO_FAR
from ..double_double import two_prod
from ..sums import Sums
from .vector_loops import LIMB_PATTERN, Workspace, limbs, power_of, terms
from .wide import Wide, add_wide, get_limbs, multiply_wide, wide

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]


def exponent_of(steps: Words, turns: Words) -> Ints:
    """The exponent of a term."""
    return (steps.view(np.int64) >> 7) + (turns.view(np.int64) << 22)


def base_of_exponent(exponent: Ints) -> Ints:
    """The base of a sum whose largest term has this exponent: exponent - base is in [-1, 48]."""
    return (exponent + 1) // LIMB_BITS * LIMB_BITS


def is_near(x: Floats, scale: Floats) -> Mask:
    """Where abs(c x) < 2^60. NaN is False."""
    with np.errstate(over="ignore", invalid="ignore"):  # a NaN may be of the kind that signals
        return np.asarray(np.abs(x * scale[0]) < TOO_FAR)


def one_form(x: Floats) -> Floats:
    """Values with one NaN and without -0.0."""
    return np.asarray(np.where(np.isnan(x), np.nan, x) + 0.0)  # first the NaN: it may be of the kind that signals


def scaled(x: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """c x as a double-double."""
    high, low = two_prod(x, np.full_like(x, scale[0]))
    return high, low + x * scale[1]


def own_terms(x: Floats, scale: Floats) -> tuple[Floats, Floats, Ints]:
    """Terms e^(c x), abs(c x) < 2^60, as pairs and their exponents."""
    y, below = scaled(x, scale)
    high, low, steps, turns = terms(y, Workspace(y.size), below=below)
    return high.copy(), low.copy(), exponent_of(steps, turns)


def bases_of(seconds: Floats, scale: Floats) -> Ints:
    """The base of the grid of each second; NO_BASE of -inf."""
    base = np.full(seconds.size, NO_BASE)
    rows = np.flatnonzero(seconds != -np.inf)
    base[rows] = base_of_exponent(own_terms(seconds[rows], scale)[2])
    return base


def limbs_on(high: Floats, low: Floats, exponent: Ints, base: Ints) -> list[Wide]:
    """The limbs of (high + low) 2^exponent on the grids of bases; 0 far below them."""
    power = power_of(exponent - base)
    cuts = limbs(high * power, low * power, Workspace(high.size))
    return [wide(cut - bits) for cut, bits in zip(cuts, LIMB_PATTERN, strict=True)]


def move_limbs(columns: list[Wide], down: Ints) -> list[Wide]:
    """Limbs on grids of larger bases, so many positions up: the lowest fall off."""
    moved = []
    for j in range(3):
        low, high = np.zeros(down.size, np.uint64), np.zeros(down.size, np.uint64)
        for d in range(j + 1):
            rows = down == d
            low[rows], high[rows] = columns[j - d][0][rows], columns[j - d][1][rows]
        moved.append((low, high))
    return moved


def positions(base: Ints, onto: Ints) -> Ints:
    """How many positions limbs move from the grid of a base to that of another, at most 3; all of NO_BASE do."""
    known = np.where(base == NO_BASE, onto, base)
    return np.asarray(np.where(base == NO_BASE, 3, np.minimum((onto - known) // LIMB_BITS, 3)))


def totals_of(states: Sums, scale: Floats) -> tuple[Ints, list[Wide], list[Wide]]:
    """Of states with a finite max: the base of its grid, the limbs of its term there, and those of the whole sum.

    Where the max is not near, its term is 1 on base 0.
    """
    near = is_near(states["max"], scale)
    high, low, exponent = own_terms(np.where(near, states["max"], 0.0), scale)
    base = np.where(near, base_of_exponent(exponent), 0)
    own = limbs_on(np.where(near, high, 1.0), np.where(near, low, 0.0), np.where(near, exponent, 0), base)
    rest = move_limbs(get_limbs(states), positions(bases_of(states["second"], scale), base))
    ties = np.ascontiguousarray(states["ties"])
    return base, own, [add_wide(multiply_wide(limb, ties), part) for limb, part in zip(own, rest, strict=True)]
