"""Values of states, in NumPy: the twin of values.h."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .. import constants as c
from ..constants import FAR_BASE, LIMB_BITS, NO_BASE
from ..double_double import divide, quick_two_sum, two_prod, two_sum
from ..record import Records, empty_states
from .grouped import CHUNK, group_values
from .state import is_near, is_near_base, limbs_of, own_terms
from .vector_loops import Workspace, log1p_pair, scale_by, terms, tiny
from .wide import (
    Wide,
    add_wide,
    get_limbs,
    less_terms,
    low_bits,
    magnitude,
    multiply_wide,
    shift_limb,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

QUANTA = tuple(2.0 ** (-LIMB_BITS * i) for i in range(3))


def pair_of(columns: Sequence[Wide]) -> tuple[Floats, Floats]:
    """limb[0] + limb[1] 2^-50 + limb[2] 2^-100 >= 0, as a double-double."""
    first, second, third = columns
    digits = [low_bits(third) * QUANTA[2]]
    second = add_wide(second, shift_limb(third))
    digits.append(low_bits(second) * QUANTA[1])
    first = add_wide(first, shift_limb(second))
    digits.append(low_bits(first))
    upper = shift_limb(first)
    digits.append(low_bits(upper) * 2.0**LIMB_BITS)
    digits.append(shift_limb(upper)[0].view(np.int64).astype(np.float64) * 2.0 ** (2 * LIMB_BITS))
    s, e = digits[0], np.zeros_like(digits[0])
    for digit in digits[1:]:
        s, error = two_sum(digit, s)
        s, e = quick_two_sum(s, error + e)
    return s, e


def excess(states: Records) -> tuple[Floats, Floats, list[Wide]]:
    """Of states with a finite max: the term of the max as a pair, and the limbs less that term's."""
    maximum = states["max"].copy()
    near = is_near(maximum)
    # Where there is no base, the term is e^0, which is 1.
    high, low, steps, turns = terms(np.where(near, maximum, 0.0), Workspace(maximum.size))
    scale_by(high, low, steps, turns, np.where(near, states["base"], 0))
    return high, low, less_terms(get_limbs(states), limbs_of(high, low))


@tiny
def values_of(states: Records, out: Floats) -> None:
    """Writes max + log1p((sum - term of max) / term of max), rounded once."""
    out[:] = states["max"]
    rows = np.flatnonzero(np.isfinite(out))
    if not rows.size:
        return
    states = states[rows]
    maximum = out[rows]
    th, tl, rest = excess(states)
    s, e = pair_of(rest)
    single = s == 0.0
    term, term_low = quick_two_sum(th, tl)
    gh, gl = log1p_pair(*divide(s, e, term, term_low))
    r, error = two_sum(maximum, gh)
    out[rows] = np.where(single, maximum, r + (error + gl))


def row_values(x: Floats, out: Floats) -> None:
    """Writes the log-sum-exp of each row of x (n, columns)."""
    rows, columns = x.shape
    step = max(1, CHUNK // max(columns, 1))
    for i in range(0, rows, step):
        part = x[i : i + step]
        states = empty_states(part.shape[0])
        codes = np.repeat(np.arange(part.shape[0], dtype=np.int32), columns)
        group_values(states, codes, np.ascontiguousarray(part).ravel())
        values_of(states, out[i : i + step])


@tiny
def quotients_of(states: Records, counts: Ints, scale: Floats, out: Floats) -> None:
    """Writes (sign, ln q high, low, q high, low), q = abs(sum) / (count term of the max), for each state."""
    out[:] = [1.0, 0.0, 0.0, 1.0, 0.0]
    maximum = states["max"]
    upper = states["limbs"][:, 0, 1].view(np.int64)
    out[:, 0] = np.where(np.isnan(maximum), np.nan, np.where(maximum == -np.inf, 0.0, np.where(upper < 0, -1.0, 1.0)))
    rows = np.flatnonzero(np.isfinite(maximum))
    if not rows.size:
        return
    states, n, maximum = states[rows], counts[rows], maximum[rows]
    near = is_near_base(states["base"])
    th, tl, base = own_terms(maximum, near, scale)
    base = np.where(near, base, np.where(states["base"] == NO_BASE, NO_BASE, FAR_BASE))
    th[~near], tl[~near] = 1.0, 0.0
    own = limbs_of(th, tl)
    sums, negative = magnitude(get_limbs(states))
    sh, sl = pair_of(sums)
    none = sh == 0.0
    sh[none] = 1.0
    th, tl = quick_two_sum(th, tl)
    n_high = n.astype(np.float64)
    n_low = (n.view(np.uint64) - n_high.astype(np.uint64)).view(np.int64).astype(np.float64)
    ph, pl = two_prod(th, n_high)
    th, tl = quick_two_sum(ph, pl + (th * n_low + tl * n_high))
    qh, ql = divide(sh, sl, th, tl)
    same = (states["base"] == base) & (qh >= 0.5)
    rest, below = magnitude(less_terms(sums, [multiply_wide(limb, n) for limb in own]))
    yh, yl = divide(*pair_of(rest), th, tl)
    sign = np.where(below, -1.0, 1.0)
    fraction, exponent = np.frexp(qh)
    yh = np.where(same, sign * yh, fraction * 2.0 - 1.0)
    yl = np.where(same, sign * yl, np.ldexp(ql, 1 - exponent))
    apart = np.where(same, 0, states["base"] - base)
    power = np.where(same, 0, exponent - 1 + apart).astype(np.float64)
    apart = np.clip(apart, -c.MOST_SHIFT, c.MOST_SHIFT).astype(np.int32)
    with np.errstate(over="ignore"):
        qh, ql = np.ldexp(qh, apart), np.ldexp(ql, apart)
    yh[none] = yl[none] = 0.0
    high, low = log1p_pair(*quick_two_sum(yh, yl))
    high, error = two_sum(power * c.LN2_HIGH, high)
    high, low = quick_two_sum(high, low + (error + power * c.LN2_LOW))
    results = np.stack([np.where(negative, -1.0, 1.0), high, low, qh, ql], axis=1)
    results[none] = [0.0, -np.inf, 0.0, 0.0, 0.0]
    out[rows] = results
