"""The kernel in NumPy: the same bits as native.c, from the same operations in the same order.

It is the oracle of the C kernel's tests, and what runs where no compiler was there. ``native.c`` has the reasoning;
here each step stands once, over arrays.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Self

import numpy as np
import numpy.typing as npt

from . import constants as c
from .constants import FAR, FAR_BASE, FLUSH, LIMB_BITS, NO_BASE, NO_EXPONENT, ROUND, SPAN, TOO_FAR
from .double_double import divide, quick_two_sum, two_prod, two_sum
from .exact_sum import decode_sum, encode_sum
from .record import FAULTS, RECORD, States, empty_states

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
# A column of int128 as low and high words.
Wide = tuple[Words, Words]

QUANTA = tuple(2.0 ** (-LIMB_BITS * i) for i in range(3))
LIMB_ROUND = (c.LIMB_ROUND_0, c.LIMB_ROUND_1, c.LIMB_ROUND_2)
LIMB_PATTERN = (c.LIMB_PATTERN_0, c.LIMB_PATTERN_1, c.LIMB_PATTERN_2)
ROUND_BITS = np.uint64(c.ROUND_BITS)
BLOCK = 4 * FLUSH  # values of one pass over the cache
CHUNK = 2**20  # rows of one grouped pass: bounds the memory of the temporaries

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

    abs(x) < 2^60, or, without ``far``, < 2^23: then the first reduction, which changes nothing there, is left out.
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
    np.bitwise_and(u.view(np.int64), 127, out=index)
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
    """Multiplies the pair in place by 2^((steps >> 7) + (turns << 22) - base). Above the exponent all is cut off."""
    steps += (turns << np.uint64(29)) + ((1023 - base) * 128).view(np.uint64)
    steps <<= np.uint64(45)
    steps &= np.uint64(0x7FF << 52)
    factor = steps.view(np.float64)
    high *= factor
    low *= factor


def limbs(high: Floats, low: Floats, work: Workspace) -> list[Ints]:
    """The pair, which is eaten, cut into the three limbs, as bit patterns: subtract LIMB_PATTERN."""
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


def base_of(maximum: Floats) -> Ints:
    """The base that belongs to each maximum, abs(maximum) < 2^60: exponent - base is in [-1, 48]."""
    _, _, steps, turns = terms(maximum, Workspace(maximum.size))
    exponent = (steps.view(np.int64) >> 7) + (turns.view(np.int64) << 22)
    return (exponent + 1) // LIMB_BITS * LIMB_BITS


def is_near(maximum: Floats) -> npt.NDArray[np.bool_]:
    """Where the maximum has a base: finite and below 2^60. NaN is False."""
    return np.abs(maximum) < TOO_FAR


def is_near_base(base: Ints) -> npt.NDArray[np.bool_]:
    return np.asarray((base != NO_BASE) & (base < FAR_BASE // 2))


# --- int128 columns ---------------------------------------------------------------------------------------------


def wide(value: Ints) -> Wide:
    return value.astype(np.uint64), (value >> 63).astype(np.uint64)


def add_wide(a: Wide, b: Wide) -> Wide:
    low = a[0] + b[0]
    return low, a[1] + b[1] + (low < a[0])


def negate_wide(a: Wide) -> Wide:
    return add_wide((~a[0], ~a[1]), (np.ones_like(a[0]), np.zeros_like(a[1])))


def shift_limb(a: Wide) -> Wide:
    """Arithmetic shift right by one limb."""
    high = a[1].view(np.int64)
    return a[0] >> np.uint64(LIMB_BITS) | a[1] << np.uint64(64 - LIMB_BITS), (high >> LIMB_BITS).view(np.uint64)


def low_bits(a: Wide) -> Floats:
    return (a[0] & np.uint64((1 << LIMB_BITS) - 1)).astype(np.float64)


def sum_runs(column: Wide, starts: Ints) -> Wide:
    """Sums of runs of rows, modulo 2^128, from pieces of 32 bits whose int64 sums cannot wrap."""
    mask = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    pieces = (column[0] & mask, column[0] >> shift, column[1] & mask, column[1] >> shift)
    carry = np.zeros(starts.size, np.uint64)
    words = []
    for piece in pieces:
        total = np.add.reduceat(piece, starts) + carry
        words.append(total & mask)
        carry = total >> shift
    return words[0] | words[1] << shift, words[2] | words[3] << shift


# --- states -----------------------------------------------------------------------------------------------------


def put_limbs(states: States, columns: Sequence[Wide]) -> None:
    for i, (low, high) in enumerate(columns):
        states["limbs"][:, i, 0] = low
        states["limbs"][:, i, 1] = high


def get_limbs(states: States) -> list[Wide]:
    return [(states["limbs"][:, i, 0].copy(), states["limbs"][:, i, 1].copy()) for i in range(3)]


@tiny
def set_max(states: States, maximum: Floats) -> None:
    """Writes max, in its one form, and base."""
    maximum = np.where(np.isnan(maximum), np.nan, maximum) + 0.0  # first the NaN: it may be of the kind that signals
    states["max"] = maximum
    near = is_near(maximum)
    states["base"] = NO_BASE
    states["base"][near] = base_of(maximum[near])


def sort_runs(codes: npt.NDArray[np.int32]) -> tuple[Ints, Ints]:
    """A stable order by code, and where each code's run starts in it."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return order, starts


@tiny
def reduce_values(values: Floats, starts: Ints) -> States:
    """One state per run of values."""
    lengths = np.diff(starts, append=values.size)
    states = empty_states(starts.size)
    states["count"] = lengths
    set_max(states, np.maximum.reduceat(values, starts))
    maximum = np.repeat(states["max"], lengths)
    near = is_near(maximum)
    x = np.where(near, np.maximum(values, maximum - SPAN), 0.0)
    work = Workspace(x.size)
    high, low, steps, turns = terms(x, work)
    scale_by(high, low, steps, turns, np.where(near, np.repeat(states["base"], lengths), 0))
    columns = []
    for i, cut in enumerate(limbs(high, low, work)):
        tie = (values == maximum) & np.isfinite(maximum) if i == 0 else np.zeros(1, np.bool_)
        columns.append(sum_runs(wide(np.where(near, cut - LIMB_PATTERN[i], tie)), starts))
    put_limbs(states, columns)
    return states


def reduce_states(states: States, starts: Ints) -> States:
    """One state per run of states: the merge."""
    lengths = np.diff(starts, append=states.size)
    merged = empty_states(starts.size)
    count, overflow = sum_runs(wide(states["count"]), starts)
    if overflow.any() or (count > np.uint64(2**63 - 1)).any():
        raise OverflowError("the count of a merged state exceeds 2^63 - 1")
    merged["count"] = count
    maxima = np.maximum.reduceat(states["max"], starts)
    merged["max"] = np.where(np.isnan(maxima), np.nan, maxima)
    # What has a base is summed unless something too far above is there; of that, what ties with the maximum.
    is_max = states["max"] == np.repeat(maxima, lengths)
    largest = np.where(is_max, states["base"], NO_BASE)
    near = np.repeat(is_near_base(np.maximum.reduceat(largest, starts)), lengths)
    used = np.where(near, is_near_base(states["base"]), is_max)
    merged["base"] = np.maximum.reduceat(np.where(used, states["base"], NO_BASE), starts)
    base = np.repeat(merged["base"], lengths)
    down = np.full(states.size, 3)
    down[used] = np.minimum((base[used] - states["base"][used]) // LIMB_BITS, 3)
    own = states["limbs"].copy()
    moved = np.zeros_like(own)
    for d in range(3):
        rows = down == d
        moved[rows, d:] = own[rows, : 3 - d]
    # Of infinities the first limb is the sign, which must be one.
    infinite = np.isinf(maxima)
    signs = np.where(is_max, states["limbs"][:, 0, 0].view(np.int64), 0)
    opposite = infinite & (np.minimum.reduceat(signs, starts) < 0) & (np.maximum.reduceat(signs, starts) > 0)
    merged["max"][opposite] = np.nan
    put_limbs(merged, [sum_runs((moved[:, i, 0], moved[:, i, 1]), starts) for i in range(3)])
    sign = np.sign(np.add.reduceat(signs, starts))
    merged["limbs"][infinite] = 0
    merged["limbs"][infinite, 0] = np.stack([sign, sign >> 1], axis=1).view(np.uint64)[infinite]
    merged["limbs"][np.isnan(merged["max"])] = 0
    return merged


def group_values(out: States, codes: npt.NDArray[np.int32], values: Floats) -> None:
    """Writes the state of each code's values."""
    check_codes(codes, out.size)
    out[:] = empty_states(out.size)
    for i in range(0, codes.size, CHUNK):
        order, starts = sort_runs(codes[i : i + CHUNK])
        present = codes[i : i + CHUNK][order[starts]]
        part = reduce_values(values[i : i + CHUNK][order], starts)
        # Old and new state of a code side by side: runs of two.
        pairs = np.stack([out[present], part], axis=1).ravel()
        out[present] = reduce_states(pairs, np.arange(0, pairs.size, 2))


def merge_groups(out: States, codes: npt.NDArray[np.int32], states: States) -> None:
    """Writes the merged state of each code's states."""
    check_codes(codes, out.size)
    out[:] = empty_states(out.size)
    if codes.size:
        order, starts = sort_runs(codes)
        out[codes[order[starts]]] = reduce_states(states[order], starts)


def check_codes(codes: npt.NDArray[np.int32], n_groups: int) -> None:
    if codes.size and not 0 <= codes.min() <= codes.max() < n_groups:
        raise IndexError(f"codes must be in [0, {n_groups}), found {codes.min()} to {codes.max()}")


# --- value ------------------------------------------------------------------------------------------------------


def log1p_pair(yh: Floats, yl: Floats) -> tuple[Floats, Floats]:
    """log1p of a double-double y > -1, as a double-double."""
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
    qh, ql = two_prod(wh, wh)
    ql = ql + 2.0 * (wh * wl)
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


def pair_of(columns: Sequence[Wide]) -> tuple[Floats, Floats]:
    """limb[0] + limb[1] 2^-50 + limb[2] 2^-100 >= 0, as a double-double."""
    first, second, third = columns
    digits = [low_bits(third) * QUANTA[2]]
    second = add_wide(second, shift_limb(third))
    digits.append(low_bits(second) * QUANTA[1])
    first = add_wide(first, shift_limb(second))
    digits.append(low_bits(first))
    upper = shift_limb(first)
    digits.append(low_bits(upper) * 2.0**50)
    digits.append(shift_limb(upper)[0].view(np.int64).astype(np.float64) * 2.0**100)
    s, e = digits[0], np.zeros_like(digits[0])
    for digit in digits[1:]:
        s, error = two_sum(digit, s)
        s, e = quick_two_sum(s, error + e)
    return s, e


def excess(states: States) -> tuple[Floats, Floats, list[Wide]]:
    """Of states with a finite max: the term of the max as a pair, and the limbs less that term's."""
    maximum = states["max"].copy()
    near = is_near(maximum)
    x = np.where(near, maximum, 0.0)
    work = Workspace(x.size)
    high, low, steps, turns = terms(x, work)
    scale_by(high, low, steps, turns, np.where(near, states["base"], 0))
    th, tl = high.copy(), low.copy()
    own = [np.where(near, cut - bits, 0) for cut, bits in zip(limbs(high, low, work), LIMB_PATTERN, strict=True)]
    own[0] = np.where(near, own[0], 1)
    rest = [add_wide(limb, negate_wide(wide(term))) for limb, term in zip(get_limbs(states), own, strict=True)]
    return th, tl, rest


@tiny
def values_of(states: States, out: Floats) -> None:
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
    q1 = s / term
    ph, pl = two_prod(q1, term)
    q2 = ((((s - ph) - pl) + e) - q1 * term_low) / term
    gh, gl = log1p_pair(*quick_two_sum(q1, q2))
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
def check(states: States, scale: Floats, is_signed: bytes) -> tuple[int, int] | None:
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
    faults[c.FAULT_KIND] = states["kind"] != c.KIND
    faults[c.FAULT_SCALE] = states["scale"] != c.SCALE
    faults[c.FAULT_RESERVED] = states["reserved"] != 0
    faults[c.FAULT_COUNT] = count < 0
    faults[c.FAULT_MAX] = bad_nan | (bits == np.uint64(1 << 63)) | ((count == 0) & (maximum != -np.inf))
    faults[c.FAULT_BASE] = bad_base
    faults[c.FAULT_LIMBS] = bad_limbs
    rows = np.flatnonzero(faults.any(axis=0))
    return (int(rows[0]), int(faults[:, rows[0]].argmax())) if rows.size else None


# --- weights and scales -----------------------------------------------------------------------------------------


def is_near_in(x: Floats, scale: Floats) -> npt.NDArray[np.bool_]:
    """Where abs(c x) < 2^60. NaN is False."""
    with np.errstate(over="ignore", invalid="ignore"):  # a NaN may be of the kind that signals
        return np.asarray(np.abs(x * scale[0]) < TOO_FAR)


def scaled(x: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """c x as a double-double."""
    high, low = two_prod(x, np.full_like(x, scale[0]))
    return high, low + x * scale[1]


def power_of(exponent: Ints) -> Floats:
    """2^exponent, of normal numbers; 0 below them."""
    biased = exponent + 1023
    return (np.where(biased > 0, biased, 0) << 52).view(np.float64)


def own_terms(maximum: Floats, near: npt.NDArray[np.bool_], scale: Floats) -> tuple[Floats, Floats, Ints]:
    """The terms of the maxima on the grids of their own bases, and these; where ``near`` is False, of 0."""
    x, below = scaled(np.where(near, maximum, 0.0), scale)
    high, low, steps, turns = terms(x, Workspace(x.size), below=below)
    exponent = (steps.view(np.int64) >> 7) + (turns.view(np.int64) << 22)
    base = (exponent + 1) // LIMB_BITS * LIMB_BITS
    scale_by(high, low, steps, turns, base)
    return high.copy(), low.copy(), base


def limbs_of(high: Floats, low: Floats) -> list[Wide]:
    cuts = limbs(high.copy(), low.copy(), Workspace(high.size))
    return [wide(cut - bits) for cut, bits in zip(cuts, LIMB_PATTERN, strict=True)]


def less_terms(sums: Sequence[Wide], own: Sequence[Wide]) -> list[Wide]:
    return [add_wide(limb, negate_wide(term)) for limb, term in zip(sums, own, strict=True)]


def is_negative(columns: Sequence[Wide]) -> npt.NDArray[np.bool_]:
    first, second, third = columns
    total = add_wide(first, shift_limb(add_wide(second, shift_limb(third))))
    return np.asarray(total[1].view(np.int64) < 0)


def magnitude(columns: Sequence[Wide]) -> tuple[list[Wide], npt.NDArray[np.bool_]]:
    """The limbs of the absolute value, and where the sum is negative."""
    negative = is_negative(columns)
    turned = [negate_wide(limb) for limb in columns]
    return [
        (np.where(negative, t[0], limb[0]), np.where(negative, t[1], limb[1]))
        for t, limb in zip(turned, columns, strict=True)
    ], negative


def multiply_wide(a: Wide, n: Ints) -> Wide:
    """a n modulo 2^128, for n >= 0."""
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    factor = n.view(np.uint64)
    a0, a1, n0, n1 = a[0] & mask, a[0] >> shift, factor & mask, factor >> shift
    middle = a0 * n1 + ((a0 * n0) >> shift)  # at most 2^64 - 2^32
    carried = a1 * n0 + (middle & mask)
    high = a1 * n1 + (middle >> shift) + (carried >> shift)
    return a[0] * factor, high + a[1] * factor


def weigh(x: Floats, w: Floats, scale: Floats) -> tuple[Floats, Floats, Ints]:
    """w e^(c x) = (high + low) 2^exponent, 1 <= abs(high) < 4; 0 and NO_EXPONENT for exceptional rows or w = 0."""
    none = (w == 0.0) | ~is_near_in(x, scale)
    y, below = scaled(np.where(none, 0.0, x), scale)
    high, low, steps, turns = terms(y, Workspace(y.size), below=below)
    fraction, exponent = np.frexp(np.where(none, 1.0, w))
    fraction *= 2.0
    product, product_low = two_prod(fraction, high)
    exponent = exponent.astype(np.int64) - 1 + (steps.view(np.int64) >> 7) + (turns.view(np.int64) << 22)
    product_low += fraction * low
    product[none] = product_low[none] = 0.0
    exponent[none] = NO_EXPONENT
    return product, product_low, exponent


def base_of_products(high: Floats, exponent: Ints) -> Ints:
    top = exponent + np.frexp(high)[1].astype(np.int64) - 1
    return (top + 1) // LIMB_BITS * LIMB_BITS


@tiny
def reduce_terms(x: Floats, w: Floats, starts: Ints, scale: Floats, *, has_signs: bool) -> States:
    """One state per run of products w e^(c x)."""
    counts = np.diff(starts, append=x.size)
    high, low, exponent = weigh(x, w, scale)
    states = empty_states(x.size)
    used = exponent != NO_EXPONENT
    states["max"][used] = x[used] + 0.0
    states["base"][used] = base_of_products(high[used], exponent[used])
    # What is too far: x alone decides, and the weights of ties are summed.
    exceptional = ~used & (w != 0.0) & (x != -np.inf)
    far = exceptional & np.isfinite(x)
    fraction, power = np.frexp(w[far])
    high[far], low[far], exponent[far] = 2.0 * fraction, 0.0, power.astype(np.int64) - 1
    weight_base = base_of_products(high[far], exponent[far])
    states["max"][exceptional] = np.where(np.isnan(x[exceptional]), np.nan, x[exceptional])
    states["base"][far] = weight_base + FAR_BASE if has_signs else NO_BASE
    grid = np.zeros(x.size, np.int64)
    grid[used] = states["base"][used]
    grid[far] = weight_base
    # Each run has one base, on which its products are cut.
    is_max = states["max"] == np.repeat(np.maximum.reduceat(states["max"], starts), counts)
    near = np.repeat(is_near_base(np.maximum.reduceat(np.where(is_max, states["base"], NO_BASE), starts)), counts)
    top = np.repeat(np.maximum.reduceat(np.where(near & used, states["base"], NO_BASE), starts), counts)
    states["base"] = np.where(near & used, top, states["base"])
    grid = np.where(near & used, top, grid)
    factor = power_of(exponent - grid)
    put_limbs(states, limbs_of(high * factor, low * factor))
    states["limbs"][~(used | far)] = 0
    if has_signs:
        infinite = exceptional & (x == np.inf)
        sign = np.where(w[infinite] > 0.0, 1, -1)
        states["limbs"][infinite, 0] = np.stack([sign, sign >> 1], axis=1).view(np.uint64)
    reduced = reduce_states(states, starts)
    reduced["count"] = counts
    return reduced


def group_terms(out: States, codes: npt.NDArray[np.int32], x: Floats, weights: Floats, scale: Floats) -> None:
    """Writes the state of each code's products w e^(c x); without weights every one is 1."""
    check_codes(codes, out.size)
    out[:] = empty_states(out.size)
    for i in range(0, codes.size, CHUNK):
        order, starts = sort_runs(codes[i : i + CHUNK])
        present = codes[i : i + CHUNK][order[starts]]
        values = x[i : i + CHUNK][order]
        w = weights[i : i + CHUNK][order] if weights.size else np.ones(order.size)
        part = reduce_terms(values, w, starts, scale, has_signs=bool(weights.size))
        pairs = np.stack([out[present], part], axis=1).ravel()
        out[present] = reduce_states(pairs, np.arange(0, pairs.size, 2))


@tiny
def quotients_of(states: States, counts: Ints, scale: Floats, out: Floats) -> None:
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


@np.errstate(under="ignore", over="ignore", invalid="ignore", divide="ignore")
def reciprocals_of(states: States, out: Floats) -> None:
    """Writes of each state (n, 5): the reciprocal of its sum as high and low, the max, the reciprocal's exponent, and
    whether the max is far. The last two are integers.
    """
    if not states.size:
        return
    sums, negative = magnitude(get_limbs(states))
    sh, sl = pair_of(sums)
    unknown = ~np.isfinite(states["max"]) | (sh == 0.0)
    exponent = np.frexp(sh)[1]
    rh, rl = divide(np.ones_like(sh), np.zeros_like(sh), np.ldexp(sh, -exponent), np.ldexp(sl, -exponent))
    sign = np.where(negative, -1.0, 1.0)
    rh, rl = np.where(unknown, np.nan, sign * rh), np.where(unknown, 0.0, sign * rl)
    far_state = ~unknown & ~is_near_base(states["base"])
    base = np.where(states["base"] == NO_BASE, 0, np.where(far_state, states["base"] - FAR_BASE, states["base"]))
    shift = np.where(unknown, 0, -exponent - base)
    out[:, 0], out[:, 1], out[:, 2] = rh, rl, states["max"]
    out.view(np.int64)[:, 3:] = np.stack([shift, far_state], axis=1)


@np.errstate(under="ignore", over="ignore", invalid="ignore", divide="ignore")
def softmax_of(reciprocals: Floats, codes: npt.NDArray[np.int32], x: Floats, scale: Floats, out: Floats) -> None:
    """Writes e^(c x) / S, with S the sum whose reciprocal the code of each row names."""
    check_codes(codes, reciprocals.shape[0])
    rh, rl, maxima = reciprocals[:, 0], reciprocals[:, 1], reciprocals[:, 2]
    shift, far_state = reciprocals.view(np.int64)[:, 3], reciprocals.view(np.int64)[:, 4] != 0
    for i in range(0, codes.size, CHUNK):
        code, v = codes[i : i + CHUNK], x[i : i + CHUNK]
        high, low, power = weigh(v, np.ones(v.size), scale)
        fh, fl = rh[code], rl[code]
        e = np.clip(power + shift[code], -c.MOST_EXPONENT, c.MOST_EXPONENT)
        half = e >> 1
        ph, pl = two_prod(high, fh)
        product = ph + (pl + (high * fl + low * fh))
        product = product * power_of(half) * power_of(e - half)
        far, maximum = far_state[code], maxima[code]
        infinite = np.copysign(np.inf, fh)
        product = np.where(~is_near_in(v, scale), np.where(v > 0, infinite, 0.0), product)
        product = np.where(far, np.where(v < maximum, 0.0, infinite), product)
        of_ties = np.ldexp(fh, shift[code].clip(-c.MOST_EXPONENT, c.MOST_EXPONENT).astype(np.int32))
        product = np.where(far & (v == maximum), of_ties, product)
        out[i : i + CHUNK] = np.where(np.isnan(fh) | np.isnan(v), np.nan, product)


# --- exact sums -------------------------------------------------------------------------------------------------


def join_sums(sums: list[tuple[int, int]], begins: Ints) -> bytes:
    parts = [encode_sum(*one) for one in sums]
    begins[0] = 0
    np.cumsum([part.size for part in parts], out=begins[1:])
    return b"".join(part.tobytes() for part in parts)


def sum_products(codes: npt.NDArray[np.int32], a: Floats, b: Floats, begins: Ints) -> bytes:
    """The words of each code's exact sum of a b, nothing where b is 0; without b it is 1. Writes where each begins."""
    groups = begins.size - 1
    check_codes(codes, groups)
    sums = [[0, 0] for _ in range(groups)]
    factors = b.tolist() if b.size else [1.0] * codes.size
    for code, one, other in zip(codes.tolist(), a.tolist(), factors, strict=True):
        if other == 0.0:
            continue
        try:
            (n1, d1), (n2, d2) = one.as_integer_ratio(), other.as_integer_ratio()
        except (OverflowError, ValueError):
            product = one * other
            sums[code][1] |= (
                c.NOT_A_NUMBER if product != product else c.PLUS_INFINITY if product > 0 else c.MINUS_INFINITY
            )
        else:
            sums[code][0] += (n1 * n2 << -c.UNIT) // (d1 * d2)
    return join_sums([(units, special) for units, special in sums], begins)


def merge_sums(codes: npt.NDArray[np.int32], words: Words, at: Ints, begins: Ints) -> bytes:
    """The words of each code's sum of the stored sums at some places. Writes where each begins."""
    groups = begins.size - 1
    check_codes(codes, groups)
    sums = [[0, 0] for _ in range(groups)]
    for code, place in zip(codes.tolist(), at.tolist(), strict=True):
        units, low, special = decode_sum(words, place)
        sums[code][0] += units << 64 * low
        sums[code][1] |= special
    return join_sums([(units, special) for units, special in sums], begins)


class State:
    """One state; see ``LogSumExpAccumulator``."""

    __slots__ = ("_pending", "_record")

    _record: States
    # Values that wait to be summed together: when that happens cannot be seen in an exact sum.
    _pending: list[float]

    def __new__(cls, *_: object) -> Self:
        self = super().__new__(cls)
        self._record = empty_states(1)
        self._pending = []
        return self

    def _widen(self, x: object) -> float:
        raise TypeError(f"expected a real number, found {type(x).__name__}")

    def add(self, x: object) -> None:
        self._pending.append(x if type(x) is float else float(x) if isinstance(x, float) else self._widen(x))
        if len(self._pending) == FLUSH:
            self._settled()

    def _settled(self) -> States:
        if self._pending:
            pending, self._pending = self._pending, []
            self._update(np.array(pending))
        return self._record

    @tiny
    def _update(self, values: npt.NDArray[np.float64] | npt.NDArray[np.float32]) -> None:
        """Adds a contiguous 1-D array."""
        if not values.size:
            return
        part = empty_states(1)
        part["count"] = values.size
        set_max(part, np.array([values.max()], np.float64))
        maximum = part["max"][0]
        sums = [0, 0, 0]
        if is_near(maximum):
            work = Workspace(min(BLOCK, values.size))
            for i in range(0, values.size, BLOCK):
                x = np.maximum(values[i : i + BLOCK], maximum - SPAN, out=work.values[: values.size - i])
                high, low, steps, turns = terms(x, work, far=abs(maximum) >= FAR - SPAN)
                scale_by(high, low, steps, turns, part["base"])
                for limb, cut in enumerate(limbs(high, low, work)):
                    for j in range(0, x.size, FLUSH):
                        bits = cut[j : j + FLUSH].view(np.uint64)
                        sums[limb] += signed(int(np.add.reduce(bits)) - bits.size * LIMB_PATTERN[limb])
        elif np.isfinite(maximum):
            sums[0] = int(np.count_nonzero(values == maximum))
        for limb, total in enumerate(sums):
            part["limbs"][0, limb] = total & (1 << 64) - 1, total >> 64 & (1 << 64) - 1
        self._merge_record(part)

    def _merge_record(self, record: States) -> None:
        self._record = reduce_states(np.concatenate([self._record, record]), np.zeros(1, np.int64))

    def merge(self, other: "State") -> None:
        self._settled()
        self._merge_record(other._settled())

    def value(self) -> float:
        out = np.empty(1)
        values_of(self._settled(), out)
        return float(out[0])

    @property
    def count(self) -> int:
        return int(self._settled()["count"][0])

    @property
    def max(self) -> float:
        return float(self._settled()["max"][0])

    def to_bytes(self) -> bytes:
        return self._settled().tobytes()

    def _load(self, record: bytes) -> int | None:
        """Takes a record over, or returns which of FAULTS it has."""
        states = np.frombuffer(record, RECORD)
        fault = check(states, np.array([1.0, 0.0]), b"\0")
        if fault:
            return fault[1]
        self._record = states.copy()
        self._pending = []
        return None


def signed(value: int) -> int:
    """The int64 that equals ``value`` modulo 2^64."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)
