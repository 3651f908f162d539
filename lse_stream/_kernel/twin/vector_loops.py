"""What the kernel does to every value, in NumPy: the twin of vector_loops.h."""

from functools import reduce

import numpy as np
import numpy.typing as npt

from .. import constants as c
from ..constants import FAR, ROUND
from ..double_double import quick_two_sum, two_prod, two_sum

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

ROUND_BITS = np.uint64(c.ROUND_BITS)

LIMB_ROUND = (c.LIMB_ROUND_0, c.LIMB_ROUND_1, c.LIMB_ROUND_2)

LIMB_PATTERN = (c.LIMB_PATTERN_0, c.LIMB_PATTERN_1, c.LIMB_PATTERN_2)

# Subnormal numbers are no error, also for a caller who set NumPy to raise.
tiny = np.errstate(under="ignore")

EXP2_HIGH, EXP2_LOW = np.array(c.EXP2_TABLE).T.copy()

NEG_LOG_HIGH, NEG_LOG_LOW = np.array(c.NEG_LOG_TABLE).T.copy()


class Workspace:
    """Arrays for ``terms`` and ``limbs`` over n values, so that a loop over blocks allocates once."""

    def __init__(self, n: int) -> None:
        self.values = np.empty(n)
        self.floats = np.empty((7, n))
        self.index = np.empty(n, np.int64)


def terms(
    x: Floats, work: Workspace, *, far: bool = True, below: Floats | float = 0.0
) -> tuple[Floats, Floats, Words, Words]:
    """(high, low, steps, turns) with e^(x + below) = 2^(steps >> 7) 2^(turns << 22) (high + low); views into ``work``.

    abs(x) < 2^60, or, without ``far``, < 2^23: then the first reduction, which would change no bit, is left out.
    """
    high, low, u, k, r, p, q = work.floats[:, : x.size]
    index = work.index[: x.size]
    turns = np.zeros(1, np.uint64)
    if far:
        whole = np.where(np.abs(x) < FAR, 0.0, x * c.FAR_PER_UNIT + ROUND - ROUND)
        turns = (whole + ROUND).view(np.uint64) - ROUND_BITS
        whole *= 2.0**22
        near = x - whole * c.FAR_1 - whole * c.FAR_2 - whole * c.FAR_3
        near, below = two_sum(near, below)
        whole *= c.FAR_4
        x = near - whole
        tail = near - x - whole + below
    np.multiply(x, c.STEPS_PER_UNIT, out=u)
    u += ROUND
    np.subtract(u, ROUND, out=k)
    np.multiply(k, c.STEP_1, out=r)
    np.subtract(x, r, out=r)
    np.multiply(k, c.STEP_2, out=p)
    r -= p
    k *= c.STEP_3
    if far:
        k -= tail
    r -= k
    np.bitwise_and(u.view(np.int64), 127, out=index)  # the table has 2^7 entries
    EXP2_HIGH.take(index, out=high, mode="clip")
    EXP2_LOW.take(index, out=low, mode="clip")
    np.multiply(r, c.E3, out=p)
    p += c.E2
    p *= r
    p += c.E1
    p *= r
    p += 0.5
    np.multiply(r, r, out=q)
    p *= q
    p += r
    p *= high
    low += p
    steps = u.view(np.uint64)
    steps -= ROUND_BITS
    return high, low, steps, turns


def scale_by(high: Floats, low: Floats, steps: Words, turns: Words, base: Ints) -> None:
    """Multiplies the pair in place by 2^((steps >> 7) + (turns << 22) - base).

    Steps are 1/2^7 of a power of 2: a power is 128 of them, a turn of 2^22 powers 2^29, and a shift by 52 - 7 puts them
    into the field of a double's exponent. All that is above it is cut off.
    """
    steps += (turns << np.uint64(29)) + ((1023 - base) * 128).view(np.uint64)
    steps <<= np.uint64(45)
    steps &= np.uint64(0x7FF << 52)
    factor = steps.view(np.float64)
    high *= factor
    low *= factor


def limbs(high: Floats, low: Floats, work: Workspace) -> list[Ints]:
    """The pair, which is overwritten, cut into the three limbs, as bit patterns: subtract LIMB_PATTERN."""
    _, _, u, a, v, b, w = work.floats[:, : high.size]
    for magic, cut, spare in ((LIMB_ROUND[0], a, v), (LIMB_ROUND[1], v, b)):
        np.add(high, magic, out=u)
        np.add(low, u, out=cut)
        np.subtract(u, magic, out=spare)
        high -= spare
        u -= cut
        low += u
    high += LIMB_ROUND[2]
    np.add(low, high, out=w)
    return [cut.view(np.int64) for cut in (a, v, w)]


def power_of(exponent: Ints) -> Floats:
    """2^exponent, of normal numbers; 0 below them."""
    biased = exponent + 1023
    return (np.where(biased > 0, biased, 0) << 52).view(np.float64)


def log1p_pair(yh: Floats, yl: Floats) -> tuple[Floats, Floats]:
    """log1p of a double-double y > -1, as a double-double: 1 + y = 2^exponent s, ln s = -ln(i / 128) + log1p(w).

    Below 2^-8 it is log1p(y) itself, whose series then needs no table.
    """
    small = np.abs(yh) < 2.0**-8
    sh, sl = two_sum(np.ones_like(yh), yh)
    sh, sl = quick_two_sum(sh, sl + yl)
    exponent = (sh.view(np.int64) >> 52) - 1023
    scale = ((1023 - exponent) << 52).view(np.float64)
    sh = sh * scale
    sl = sl * scale
    centre = 128.0 / sh + ROUND - ROUND
    entry = np.where(small, 64, centre.astype(np.int64) - 64)
    centre = centre * 2.0**-7
    ph, pl = two_prod(sh, centre)
    wh, wl = quick_two_sum(ph - 1.0, pl + sl * centre)
    wh = np.where(small, yh, wh)
    wl = np.where(small, yl, wl)
    e = np.where(small, 0.0, exponent.astype(np.float64))
    # Where the square adds nothing it would underflow.
    factor = np.where(np.abs(wh) >= 2.0**-200, wh, 0.0)
    qh, ql = two_prod(factor, factor)
    ql = ql + 2.0 * (factor * wl)
    series = reduce(
        lambda p, coefficient: p * wh + coefficient,
        (c.L12, c.L11, c.L10, c.L9, c.L8, c.L7, c.L6, c.L5, c.L4, c.L3),
        np.full_like(wh, c.L13),
    )
    tail = qh * wh * series
    h, low = two_sum(wh, -0.5 * qh)
    low = low + (wl - 0.5 * ql) + tail
    h, error = two_sum(NEG_LOG_HIGH[entry], h)
    low = low + (error + NEG_LOG_LOW[entry])
    h, error = two_sum(e * c.LN2_HIGH, h)
    low = low + (error + e * c.LN2_LOW)
    return quick_two_sum(h, low)
