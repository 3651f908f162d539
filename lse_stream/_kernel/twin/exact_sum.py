"""Exact sums by group, in NumPy: the twin of exact_sum.h."""

import numpy as np
import numpy.typing as npt

from .. import constants as c
from ..stored_sum import decode_sum, encode_sum
from .grouped import check_codes

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


def read_sum(words: Words, at: int) -> tuple[int, int, int]:
    """What ``decode_sum`` gives; raises ValueError where no sum that can be read is stored."""
    head = int(words[at]) if 0 <= at < words.size else 0xFFFF
    n = head >> 16 & 0xFFFF
    if (head & 0xFFFF) + n > c.MOST_WORDS or head >> 32 > c.NOT_A_NUMBER or at + n >= words.size:
        raise ValueError("a stored sum that cannot be read")
    return decode_sum(words, at)


def join_sums(sums: list[tuple[int, int]], begins: Ints) -> bytes:
    parts = [encode_sum(*one) for one in sums]
    begins[0] = 0
    np.cumsum([part.size for part in parts], out=begins[1:])
    return b"".join(part.tobytes() for part in parts)


def sum_products(codes: npt.NDArray[np.int32], a: Floats, b: Floats, begins: Ints) -> bytes:
    """The words of each code's exact sum of a b; without b it is 1. A b of 0 adds 0. Writes where each begins."""
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
        units, low, special = read_sum(words, place)
        sums[code][0] += units << 64 * low
        sums[code][1] |= special
    return join_sums([(units, special) for units, special in sums], begins)
