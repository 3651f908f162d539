"""Columns of int128, of which limbs consist, in NumPy."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..constants import LIMB_BITS
from ..sums import Sums

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

# A column of int128 as low and high words.
Wide = tuple[Words, Words]


def wide(value: Ints) -> Wide:
    return value.astype(np.uint64), (value >> 63).astype(np.uint64)


def add_wide(a: Wide, b: Wide) -> Wide:
    low = a[0] + b[0]
    return low, a[1] + b[1] + (low < a[0])


def negate_wide(a: Wide) -> Wide:
    return add_wide((~a[0], ~a[1]), (np.ones_like(a[0]), np.zeros_like(a[1])))


def multiply_wide(a: Wide, n: Ints) -> Wide:
    """a n modulo 2^128, for n >= 0."""
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    factor = n.view(np.uint64)
    a0, a1, n0, n1 = a[0] & mask, a[0] >> shift, factor & mask, factor >> shift
    middle = a0 * n1 + ((a0 * n0) >> shift)  # at most 2^64 - 2^32
    carried = a1 * n0 + (middle & mask)
    high = a1 * n1 + (middle >> shift) + (carried >> shift)
    return a[0] * factor, high + a[1] * factor


def shift_limb(a: Wide) -> Wide:
    """Arithmetic shift right by one limb."""
    high = a[1].view(np.int64)
    return a[0] >> np.uint64(LIMB_BITS) | a[1] << np.uint64(64 - LIMB_BITS), (high >> LIMB_BITS).view(np.uint64)


def low_bits(a: Wide) -> Floats:
    return (a[0] & np.uint64((1 << LIMB_BITS) - 1)).astype(np.float64)


def sum_runs(column: Wide, starts: Ints, plus: Wide | None = None) -> Wide:
    """Sums of runs of rows, modulo 2^128, from pieces of 32 bits whose int64 sums cannot wrap; and of one more each."""
    mask = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    pieces = (column[0] & mask, column[0] >> shift, column[1] & mask, column[1] >> shift)
    carry = np.zeros(starts.size, np.uint64)
    words = []
    for piece in pieces:
        total = np.add.reduceat(piece, starts) + carry
        words.append(total & mask)
        carry = total >> shift
    sums = words[0] | words[1] << shift, words[2] | words[3] << shift
    return sums if plus is None else add_wide(sums, plus)


def put_limbs(states: Sums, columns: Sequence[Wide]) -> None:
    for i, (low, high) in enumerate(columns):
        states["limbs"][:, i, 0] = low
        states["limbs"][:, i, 1] = high


def get_limbs(states: Sums) -> list[Wide]:
    return [(states["limbs"][:, i, 0].copy(), states["limbs"][:, i, 1].copy()) for i in range(3)]


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
