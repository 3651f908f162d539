"""Weights and scales, in NumPy: the twin of weighted.h."""

import numpy as np
import numpy.typing as npt

from .. import constants as c
from ..constants import FAR_BASE, NO_BASE, NO_EXPONENT
from ..double_double import divide, two_prod
from ..record import Records, empty_states
from .grouped import CHUNK, check_codes, reduce_states, sort_runs
from .state import base_of_exponent, exponent_of, is_near_base, is_near_in, limbs_of, scaled
from .values import pair_of
from .vector_loops import Workspace, power_of, terms, tiny
from .wide import get_limbs, magnitude, put_limbs

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def weigh(x: Floats, w: Floats, scale: Floats) -> tuple[Floats, Floats, Ints]:
    """w e^(c x) = (high + low) 2^exponent, 1 <= abs(high) < 4; 0 and NO_EXPONENT for exceptional rows or w = 0."""
    none = (w == 0.0) | ~is_near_in(x, scale)
    y, below = scaled(np.where(none, 0.0, x), scale)
    high, low, steps, turns = terms(y, Workspace(y.size), below=below)
    fraction, exponent = np.frexp(np.where(none, 1.0, w))
    fraction *= 2.0
    product, product_low = two_prod(fraction, high)
    exponent = exponent.astype(np.int64) - 1 + exponent_of(steps, turns)
    product_low += fraction * low
    product[none] = product_low[none] = 0.0
    exponent[none] = NO_EXPONENT
    return product, product_low, exponent


def base_of_products(high: Floats, exponent: Ints) -> Ints:
    return base_of_exponent(exponent + np.frexp(high)[1].astype(np.int64) - 1)


@tiny
def reduce_terms(x: Floats, w: Floats, starts: Ints, scale: Floats, *, has_signs: bool) -> Records:
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


def group_terms(out: Records, codes: npt.NDArray[np.int32], x: Floats, weights: Floats, scale: Floats) -> None:
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


@np.errstate(under="ignore", over="ignore", invalid="ignore", divide="ignore")
def reciprocals_of(states: Records, out: Floats) -> None:
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
        product = np.where(~is_near_in(v, scale), np.where(v > 0, infinite, 0.0), product)
        product = np.where(far, np.where(v < maximum, 0.0, infinite), product)
        of_ties = np.ldexp(fh, shift[code].clip(-c.MOST_EXPONENT, c.MOST_EXPONENT).astype(np.int32))
        product = np.where(far & (v == maximum), of_ties, product)
        out[i : i + CHUNK] = np.where(np.isnan(fh) | np.isnan(v), np.nan, product)
