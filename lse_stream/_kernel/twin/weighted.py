"""Weights, in NumPy: the twin of weighted.h."""

import numpy as np
import numpy.typing as npt

from .. import constants as c
from ..constants import FAR_BASE, NO_BASE, NO_EXPONENT
from ..double_double import divide, quick_two_sum, two_prod
from ..sums import NOTHING, WEIGHTED_SUM, Sums, concat_sums, empty_sums
from .grouped import CHUNK, NATURAL, check_codes, group_scaled, group_values, merge_states, merged_counts, sort_runs
from .state import base_of_exponent, is_near, limbs_on, move_limbs, own_terms, positions
from .values import (
    logs_of,
    pair_of,
    put_reciprocals,
    reciprocals_from,
    times_integers,
)
from .values import quotients_of as quotients_of_states
from .values import reciprocals_of as reciprocals_of_states
from .vector_loops import power_of, tiny
from .wide import get_limbs, less_terms, magnitude, multiply_wide, put_limbs, sum_runs

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def no_sums(n: int) -> Sums:
    return np.repeat(NOTHING, n)


def is_near_base(base: Ints) -> Mask:
    return np.asarray((base != NO_BASE) & (base < FAR_BASE // 2))


@tiny
def reduce_weighted(states: Sums, starts: Ints) -> Sums:
    """One sum per run of sums: the merge."""
    lengths = np.diff(starts, append=states.size)
    merged = no_sums(starts.size)
    merged["count"] = merged_counts(states, starts)
    maxima = np.maximum.reduceat(states["max"], starts)
    merged["max"] = np.where(np.isnan(maxima), np.nan, maxima)
    # Records with a base are summed, unless the maximum is too far above: then those that tie with it are.
    is_max = states["max"] == np.repeat(maxima, lengths)
    largest = np.where(is_max, states["base"], NO_BASE)
    near = np.repeat(is_near_base(np.maximum.reduceat(largest, starts)), lengths)
    used = np.where(near, is_near_base(states["base"]), is_max)
    merged["base"] = np.maximum.reduceat(np.where(used, states["base"], NO_BASE), starts)
    base = np.repeat(merged["base"], lengths)
    moved = move_limbs(get_limbs(states), np.where(used, positions(states["base"], base), 3))
    # Of infinities the first limb is the sign, which must be one.
    infinite = np.isinf(maxima)
    signs = np.where(is_max, states["limbs"][:, 0, 0].view(np.int64), 0)
    opposite = infinite & (np.minimum.reduceat(signs, starts) < 0) & (np.maximum.reduceat(signs, starts) > 0)
    merged["max"][opposite] = np.nan
    put_limbs(merged, [sum_runs(limb, starts) for limb in moved])
    sign = np.sign(np.add.reduceat(signs, starts))
    merged["limbs"][infinite] = 0
    merged["limbs"][infinite, 0] = np.stack([sign, sign >> 1], axis=1).view(np.uint64)[infinite]
    merged["limbs"][np.isnan(merged["max"])] = 0
    return merged


def weigh(x: Floats, w: Floats, scale: Floats) -> tuple[Floats, Floats, Ints]:
    """w e^(c x) = (high + low) 2^exponent, 1 <= abs(high) < 4; 0 and NO_EXPONENT for exceptional rows or w = 0."""
    none = (w == 0.0) | ~is_near(x, scale)
    high, low, exponent = own_terms(np.where(none, 0.0, x), scale)
    fraction, of_weight = np.frexp(np.where(none, 1.0, w))
    fraction *= 2.0
    product, product_low = two_prod(fraction, high)
    exponent = of_weight.astype(np.int64) - 1 + exponent
    product_low += fraction * low
    product[none] = product_low[none] = 0.0
    exponent[none] = NO_EXPONENT
    return product, product_low, exponent


def base_of_products(high: Floats, exponent: Ints) -> Ints:
    return base_of_exponent(exponent + np.frexp(high)[1].astype(np.int64) - 1)


@tiny
def reduce_products(x: Floats, w: Floats, starts: Ints, scale: Floats) -> Sums:
    """One sum per run of products w e^(c x)."""
    counts = np.diff(starts, append=x.size)
    high, low, exponent = weigh(x, w, scale)
    sums = no_sums(x.size)
    used = exponent != NO_EXPONENT
    sums["max"][used] = x[used] + 0.0
    sums["base"][used] = base_of_products(high[used], exponent[used])
    # What is too far: x alone decides, and the weights of ties are summed.
    exceptional = ~used & (w != 0.0) & (x != -np.inf)
    far = exceptional & np.isfinite(x)
    fraction, power = np.frexp(w[far])
    high[far], low[far], exponent[far] = 2.0 * fraction, 0.0, power.astype(np.int64) - 1
    weight_base = base_of_products(high[far], exponent[far])
    sums["max"][exceptional] = np.where(np.isnan(x[exceptional]), np.nan, x[exceptional])
    sums["base"][far] = weight_base + FAR_BASE
    grid = np.zeros(x.size, np.int64)
    grid[used] = sums["base"][used]
    grid[far] = weight_base
    # Each run has one base, on which its products are cut.
    is_max = sums["max"] == np.repeat(np.maximum.reduceat(sums["max"], starts), counts)
    near = np.repeat(is_near_base(np.maximum.reduceat(np.where(is_max, sums["base"], NO_BASE), starts)), counts)
    top = np.repeat(np.maximum.reduceat(np.where(near & used, sums["base"], NO_BASE), starts), counts)
    sums["base"] = np.where(near & used, top, sums["base"])
    grid = np.where(near & used, top, grid)
    put_limbs(sums, limbs_on(high, low, exponent, grid))
    sums["limbs"][~(used | far)] = 0
    infinite = exceptional & (x == np.inf)
    sign = np.where(w[infinite] > 0.0, 1, -1)
    sums["limbs"][infinite, 0] = np.stack([sign, sign >> 1], axis=1).view(np.uint64)
    reduced = reduce_weighted(sums, starts)
    reduced["count"] = counts
    return reduced


def group_terms(out: Sums, codes: npt.NDArray[np.int32], x: Floats, weights: Floats, scale: Floats) -> None:
    """Writes the state of each code's terms e^(c x), or the sum of its products w e^(c x)."""
    if out.dtype != WEIGHTED_SUM:
        group_scaled(out, codes, x, scale)
        return
    check_codes(codes, out.size)
    out[:] = no_sums(out.size)
    for i in range(0, codes.size, CHUNK):
        order, starts = sort_runs(codes[i : i + CHUNK])
        rows = (x[i : i + CHUNK][order], weights[i : i + CHUNK][order])
        add_weighted_parts(out, codes[i : i + CHUNK][order[starts]], reduce_products(*rows, starts, scale))


def add_weighted_parts(out: Sums, present: npt.NDArray[np.int32], part: Sums) -> None:
    """Merges a sum into that of each code, of which none is there twice."""
    if present.size:
        pairs = np.arange(2 * present.size).reshape(2, -1).T.ravel()
        out[present] = reduce_weighted(concat_sums([out[present], part])[pairs], np.arange(0, pairs.size, 2))


def merge_groups(out: Sums, codes: npt.NDArray[np.int32], states: Sums, scale: Floats) -> None:
    """Writes the merged state of each code's states."""
    if out.dtype != WEIGHTED_SUM:
        merge_states(out, codes, states, scale)
        return
    check_codes(codes, out.size)
    out[:] = no_sums(out.size)
    if codes.size:
        order, starts = sort_runs(codes)
        out[codes[order[starts]]] = reduce_weighted(states[order], starts)


@tiny
def quotients_of(sums: Sums, counts: Ints, scale: Floats, out: Floats) -> None:
    """Writes (sign, ln q high, low, q high, low), q = abs(sum) / (count term of the max), for each state."""
    if sums.dtype != WEIGHTED_SUM:
        quotients_of_states(sums, counts, scale, out)
        return
    out[:] = [1.0, 0.0, 0.0, 1.0, 0.0]
    maximum = sums["max"]
    upper = sums["limbs"][:, 0, 1].view(np.int64)
    out[:, 0] = np.where(np.isnan(maximum), np.nan, np.where(maximum == -np.inf, 0.0, np.where(upper < 0, -1.0, 1.0)))
    rows = np.flatnonzero(np.isfinite(maximum))
    if not rows.size:
        return
    sums, n, maximum = sums[rows], counts[rows], maximum[rows]
    near = is_near_base(sums["base"])
    th, tl, exponent = own_terms(np.where(near, maximum, 0.0), scale)
    base = np.where(near, base_of_exponent(exponent), 0)
    own = limbs_on(np.where(near, th, 1.0), np.where(near, tl, 0.0), np.where(near, exponent, 0), base)
    power = power_of(np.where(near, exponent - base, 0))
    th, tl = np.where(near, th * power, 1.0), np.where(near, tl * power, 0.0)
    base = np.where(near, base, FAR_BASE)
    positive, negative = magnitude(get_limbs(sums))
    sh, sl = pair_of(positive)
    none = sh == 0.0
    sh[none] = 1.0
    th, tl = times_integers(*quick_two_sum(th, tl), n)
    qh, ql = divide(sh, sl, th, tl)
    alike = (sums["base"] == base) & (qh >= 0.5)
    rest, below = magnitude(less_terms(positive, [multiply_wide(limb, n) for limb in own]))
    yh, yl = divide(*pair_of(rest), th, tl)
    sign = np.where(none, 0.0, np.where(below, -1.0, 1.0))
    apart = np.where(alike, 0, sums["base"] - base)
    high, low = logs_of(qh, ql, sign * yh, sign * yl, apart, of_itself=~alike)
    apart = np.clip(apart, -c.MOST_SHIFT, c.MOST_SHIFT).astype(np.int32)
    with np.errstate(over="ignore"):
        qh, ql = np.ldexp(qh, apart), np.ldexp(ql, apart)
    results = np.stack([np.where(negative, -1.0, 1.0), high, low, qh, ql], axis=1)
    results[none] = [0.0, -np.inf, 0.0, 0.0, 0.0]
    out[rows] = results


@tiny
def reciprocals_of(sums: Sums, scale: Floats, out: Floats) -> None:
    """Writes what ``softmax_by`` needs of each state."""
    if sums.dtype != WEIGHTED_SUM:
        reciprocals_of_states(sums, scale, out)
        return
    known = np.isfinite(sums["max"]) & (sums["base"] != NO_BASE)
    far = np.isfinite(sums["max"]) & ~is_near_base(sums["base"])
    base = np.where(known, sums["base"], 0)
    base = np.where(far & known, base - FAR_BASE, base)
    put_reciprocals(out, reciprocals_from(get_limbs(sums), base, known), sums["max"], far)


@np.errstate(under="ignore", over="ignore", invalid="ignore", divide="ignore")
def softmax_by(reciprocals: Floats, codes: npt.NDArray[np.int32], x: Floats, scale: Floats, out: Floats) -> None:
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
        product = np.where(~is_near(v, scale), np.where(v > 0, infinite, 0.0), product)
        product = np.where(far, np.where(v < maximum, 0.0, infinite), product)
        of_ties = np.ldexp(fh, shift[code].clip(-c.MOST_EXPONENT, c.MOST_EXPONENT).astype(np.int32))
        product = np.where(far & (v == maximum), of_ties, product)
        out[i : i + CHUNK] = np.where(np.isnan(fh) | np.isnan(v), np.nan, product)


def row_softmax(x: Floats, out: Floats) -> None:
    """Writes e^x over the sum of its row, for rows and columns of x (n, columns)."""
    rows, columns = x.shape
    step = max(1, CHUNK // max(columns, 1))
    for i in range(0, rows, step):
        part = np.ascontiguousarray(x[i : i + step])
        states = empty_sums(part.shape[0])
        codes = np.repeat(np.arange(part.shape[0], dtype=np.int32), columns)
        group_values(states, codes, part.ravel())
        reciprocals = np.empty((states.size, 5))
        reciprocals_of(states, NATURAL, reciprocals)
        softmax_by(reciprocals, codes, part.ravel(), NATURAL, out[i : i + step].reshape(-1))
