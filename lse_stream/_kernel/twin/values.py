"""Values of sums, in NumPy: the twin of values.h."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .. import constants as c
from ..constants import LIMB_BITS, NO_BASE
from ..double_double import divide, quick_two_sum, two_prod, two_sum
from ..sums import Sums, empty_sums
from .elementary import scaled_log
from .grouped import CHUNK, NATURAL, group_values
from .state import bases_of, is_near, own_terms, totals_of
from .vector_loops import log1p_pair, power_of, tiny
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


def pair_of_integers(n: Ints) -> tuple[Floats, Floats]:
    """Integers of 0 or more as pairs."""
    high = n.astype(np.float64)
    return high, (n.view(np.uint64) - high.astype(np.uint64)).view(np.int64).astype(np.float64)


def others_of(states: Sums, scale: Floats) -> tuple[Floats, Floats]:
    """Of states with a finite max: what the sum is beyond one term of the max, in units of that, as a double-double.

    That is (ties - 1) + rest / T, in which even a tiny rest is fully accurate.
    """
    near = is_near(states["max"], scale)
    high, low, exponent = own_terms(np.where(near, states["max"], 0.0), scale)
    s, e = pair_of(get_limbs(states))
    qh, ql = divide(s, e, *quick_two_sum(high, low))
    base = bases_of(states["second"], scale)
    shift = np.where(base == NO_BASE, 0, np.maximum(np.where(base == NO_BASE, 0, base) - exponent, c.LEAST_SHIFT))
    half = shift >> 1
    one, other = power_of(half), power_of(shift - half)
    qh, ql = qh * one * other, ql * one * other
    ql = np.where(qh >= 2.0**-900, ql, 0.0)  # below, qh alone is rounded once, and ql would be of few bits
    ties, ties_low = pair_of_integers(states["ties"] - 1)
    qh, error = two_sum(ties, qh)
    return quick_two_sum(qh, error + (ql + ties_low))


@tiny
def values_of(states: Sums, out: Floats) -> None:
    """Writes max + log1p((ties - 1) + rest / term of max), rounded once."""
    out[:] = states["max"]
    rows = np.flatnonzero(np.isfinite(out))
    if not rows.size:
        return
    maximum = out[rows]
    gh, gl = log1p_pair(*others_of(states[rows], NATURAL))
    r, error = two_sum(maximum, gh)
    out[rows] = r + (error + gl)


def row_values(x: Floats, out: Floats) -> None:
    """Writes the log-sum-exp of each row of x (n, columns)."""
    rows, columns = x.shape
    step = max(1, CHUNK // max(columns, 1))
    for i in range(0, rows, step):
        part = x[i : i + step]
        states = empty_sums(part.shape[0])
        codes = np.repeat(np.arange(part.shape[0], dtype=np.int32), columns)
        group_values(states, codes, np.ascontiguousarray(part).ravel())
        values_of(states, out[i : i + step])


@tiny
def quotients_of(states: Sums, counts: Ints, scale: Floats, out: Floats) -> None:
    """Writes (sign, ln q high, low, q high, low), q = sum / (count term of the max), for each state."""
    out[:] = [1.0, 0.0, 0.0, 1.0, 0.0]
    maximum = states["max"]
    out[:, 0] = np.where(np.isnan(maximum), np.nan, np.where(maximum == -np.inf, 0.0, 1.0))
    rows = np.flatnonzero(np.isfinite(maximum))
    if not rows.size:
        return
    states, n = states[rows], counts[rows]
    yh, yl = others_of(states, scale)
    qh, error = two_sum(np.ones_like(yh), yh)
    qh, ql = quick_two_sum(qh, error + yl)
    apart = np.zeros(n.size, np.int64)
    many = n != 1
    ph, pl = divide(qh, ql, *pair_of_integers(n))
    qh, ql = np.where(many, ph, qh), np.where(many, pl, ql)
    alike = many & (qh >= 0.5)
    # S - n T is exact in integers: what is equal cancels.
    base, own, sums = totals_of(states, scale)
    rest, below = magnitude(less_terms(sums, [multiply_wide(limb, n) for limb in own]))
    near = is_near(states["max"], scale)
    th, tl, exponent = own_terms(np.where(near, states["max"], 0.0), scale)
    th, tl = quick_two_sum(th, tl)
    power = power_of(np.where(near, exponent - base, 0))
    rh, rl = divide(*pair_of(rest), *times_integers(th * power, tl * power, n))
    sign = np.where(below, -1.0, 1.0)
    yh, yl = np.where(alike, sign * rh, yh), np.where(alike, sign * rl, yl)
    high, low = logs_of(qh, ql, yh, yl, apart, of_itself=many & ~alike)
    out[rows] = np.stack([np.ones_like(qh), high, low, qh, ql], axis=1)


def times_integers(high: Floats, low: Floats, n: Ints) -> tuple[Floats, Floats]:
    """Products of double-doubles and integers of 0 or more."""
    n_high, n_low = pair_of_integers(n)
    ph, pl = two_prod(high, n_high)
    return quick_two_sum(ph, pl + (high * n_low + low * n_high))


def logs_of(
    qh: Floats, ql: Floats, yh: Floats, yl: Floats, apart: Ints, of_itself: npt.NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """ln q as double-doubles: log1p(y) or, of q itself 2^apart, by its exponent."""
    fraction, exponent = np.frexp(qh)
    yh = np.where(of_itself, fraction * 2.0 - 1.0, yh)
    yl = np.where(of_itself, np.ldexp(ql, 1 - exponent), yl)
    return scaled_log(yh, yl, np.where(of_itself, exponent - 1 + apart, 0))


def reciprocals_from(sums: Sequence[Wide], base: Ints, known: npt.NDArray[np.bool_]) -> tuple[Floats, Floats, Ints]:
    """1 / S as (high + low) 2^exponent of sums on the grids of bases; NaN where S is 0 or not known."""
    positive, negative = magnitude(sums)
    sh, sl = pair_of(positive)
    known = known & (sh != 0.0)
    exponent = np.frexp(sh)[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        rh, rl = divide(np.ones_like(sh), np.zeros_like(sh), np.ldexp(sh, -exponent), np.ldexp(sl, -exponent))
    sign = np.where(negative, -1.0, 1.0)
    return (
        np.where(known, sign * rh, np.nan),
        np.where(known, sign * rl, 0.0),
        np.where(known, -exponent - base, 0),
    )


def put_reciprocals(
    out: Floats, reciprocals: tuple[Floats, Floats, Ints], maximum: Floats, is_far: npt.NDArray[np.bool_]
) -> None:
    """Writes (n, 5): reciprocals as high and low, the max; as integers the exponent and whether the max is far."""
    out[:, 0], out[:, 1], exponent = reciprocals
    out[:, 2] = maximum
    out.view(np.int64)[:, 3:] = np.stack([exponent, is_far], axis=1)


@tiny
def reciprocals_of(states: Sums, scale: Floats, out: Floats) -> None:
    """Writes what ``softmax_by`` needs of each state."""
    maximum = np.ascontiguousarray(states["max"])
    known = np.isfinite(maximum)
    of_known = states.copy()
    of_known["max"][~known] = 0.0
    of_known["second"][~known] = -np.inf
    base, _, sums = totals_of(of_known, scale)
    put_reciprocals(out, reciprocals_from(sums, base, known), maximum, known & ~is_near(maximum, scale))
