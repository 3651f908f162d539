"""Values and states by group, in NumPy: the twin of grouped.h and codes.h, and of sums on a scale."""

import numpy as np
import numpy.typing as npt

from ..constants import VANISHING_BASE
from ..sums import Sums, concat_sums, empty_sums
from .state import bases_of, is_near, limbs_on, move_limbs, one_form, own_terms, positions
from .vector_loops import tiny
from .wide import Wide, get_limbs, multiply_wide, put_limbs, sum_runs, wide

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NATURAL = np.array([1.0, 0.0])

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
def reduce_values(values: Floats, starts: Ints, scale: Floats) -> Sums:
    """One state per run of values."""
    states = empty_sums(starts.size)
    states["count"] = lengths = np.diff(starts, append=values.size)
    states["max"] = one_form(np.maximum.reduceat(values, starts))
    maximum = np.repeat(states["max"], lengths)
    states["ties"] = np.add.reduceat(values == maximum, starts, dtype=np.int64)
    used = is_near(maximum, scale) & is_near(values, scale) & (values < maximum)
    states["second"] = np.maximum.reduceat(np.where(used, values, -np.inf), starts) + 0.0
    base = np.repeat(bases_of(states["second"], scale), lengths)
    put_limbs(states, _sum_terms(values, np.ones(values.size, np.int64), used, base, starts, scale))
    return states


def _sum_terms(
    x: Floats, times: Ints, used: npt.NDArray[np.bool_], base: Ints, starts: Ints, scale: Floats
) -> list[Wide]:
    """The limbs of each run's terms on the grids of bases."""
    high, low, exponent = own_terms(np.where(used, x, 0.0), scale)
    columns = limbs_on(high, low, exponent, np.where(used, base, VANISHING_BASE))
    return [sum_runs(multiply_wide(limb, times), starts) for limb in columns]


def merged_counts(states: Sums, starts: Ints) -> npt.NDArray[np.uint64]:
    """The count of each run of states; raises OverflowError beyond 2^63 - 1."""
    count, overflow = sum_runs(wide(states["count"]), starts)
    if overflow.any() or (count > np.uint64(2**63 - 1)).any():
        raise OverflowError("the count of a merged state exceeds 2^63 - 1")
    return count


@tiny
def reduce_states(states: Sums, starts: Ints, scale: Floats) -> Sums:
    """One state per run of states: the merge."""
    lengths = np.diff(starts, append=states.size)
    merged = empty_sums(starts.size)
    merged["count"] = merged_counts(states, starts)
    merged["max"] = one_form(np.maximum.reduceat(states["max"], starts))
    maximum, maxima = np.repeat(merged["max"], lengths), np.ascontiguousarray(states["max"])
    ties = np.ascontiguousarray(states["ties"])
    merged["ties"] = np.add.reduceat(np.where(maxima == maximum, ties, 0), starts)
    near = is_near(maximum, scale)
    smaller = near & is_near(maxima, scale) & (maxima < maximum)
    seconds = np.where(near, states["second"], -np.inf)
    merged["second"] = np.maximum.reduceat(np.maximum(seconds, np.where(smaller, maxima, -np.inf)), starts)
    base = np.repeat(bases_of(merged["second"], scale), lengths)
    of_maxima = _sum_terms(maxima, np.where(smaller, ties, 0), smaller, base, starts, scale)
    rests = move_limbs(get_limbs(states), positions(bases_of(seconds, scale), base))
    put_limbs(merged, [sum_runs(rest, starts, plus=limb) for rest, limb in zip(rests, of_maxima, strict=True)])
    return merged


def add_parts(out: Sums, present: npt.NDArray[np.int32], part: Sums, scale: Floats) -> None:
    """Merges a state into that of each code, of which none is there twice."""
    if present.size:
        pairs = np.arange(2 * present.size).reshape(2, -1).T.ravel()
        both = concat_sums([out[present], part])[pairs]
        out[present] = reduce_states(both, np.arange(0, pairs.size, 2), scale)


def group_scaled(out: Sums, codes: npt.NDArray[np.int32], x: Floats, scale: Floats) -> None:
    """Writes the state of each code's terms e^(c x)."""
    check_codes(codes, out.size)
    out[:] = empty_sums(out.size)
    for i in range(0, codes.size, CHUNK):
        order, starts = sort_runs(codes[i : i + CHUNK])
        part = reduce_values(x[i : i + CHUNK][order], starts, scale)
        add_parts(out, codes[i : i + CHUNK][order[starts]], part, scale)


def group_values(out: Sums, codes: npt.NDArray[np.int32], values: Floats) -> None:
    """Writes the state of each code's values."""
    group_scaled(out, codes, values, NATURAL)


def merge_states(out: Sums, codes: npt.NDArray[np.int32], states: Sums, scale: Floats) -> None:
    """Writes the merged state of each code's states."""
    check_codes(codes, out.size)
    out[:] = empty_sums(out.size)
    if codes.size:
        order, starts = sort_runs(codes)
        out[codes[order[starts]]] = reduce_states(states[order], starts, scale)
