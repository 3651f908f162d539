"""Values and states by group, in NumPy: the twin of grouped.h and codes.h."""

import numpy as np
import numpy.typing as npt

from ..constants import LIMB_BITS, NO_BASE, SPAN
from ..record import Records, empty_states
from .state import is_near, is_near_base, set_max
from .vector_loops import LIMB_PATTERN, Workspace, limbs, scale_by, terms, tiny
from .wide import put_limbs, sum_runs, wide

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Rows of one grouped pass: bounds the memory of the temporaries.
CHUNK = 2**20


def check_codes(codes: npt.NDArray[np.int32], n_groups: int) -> None:
    if codes.size and not 0 <= codes.min() <= codes.max() < n_groups:
        raise IndexError(f"codes must be in [0, {n_groups}), found {codes.min()} to {codes.max()}")


def sort_runs(codes: npt.NDArray[np.int32]) -> tuple[Ints, Ints]:
    """A stable order by code, and where each code's run starts in it."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return order, starts


@tiny
def reduce_values(values: Floats, starts: Ints) -> Records:
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


def reduce_states(states: Records, starts: Ints) -> Records:
    """One state per run of states: the merge."""
    lengths = np.diff(starts, append=states.size)
    merged = empty_states(starts.size)
    count, overflow = sum_runs(wide(states["count"]), starts)
    if overflow.any() or (count > np.uint64(2**63 - 1)).any():
        raise OverflowError("the count of a merged state exceeds 2^63 - 1")
    merged["count"] = count
    maxima = np.maximum.reduceat(states["max"], starts)
    merged["max"] = np.where(np.isnan(maxima), np.nan, maxima)
    # Records with a base are summed, unless the maximum is too far above: then those that tie with it are.
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


def group_values(out: Records, codes: npt.NDArray[np.int32], values: Floats) -> None:
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


def merge_groups(out: Records, codes: npt.NDArray[np.int32], states: Records) -> None:
    """Writes the merged state of each code's states."""
    check_codes(codes, out.size)
    out[:] = empty_states(out.size)
    if codes.size:
        order, starts = sort_runs(codes)
        out[codes[order[starts]]] = reduce_states(states[order], starts)
