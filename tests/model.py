"""A slow model of the second form of states, without the kernel: numbers of Python, one after another.

It makes the record of a multiset of values at once, from the definition; ``docs/state-format.md`` is that in words.
"""

import math
import struct
from collections.abc import Sequence
from fractions import Fraction

from lse_stream._kernel import constants as c

Pair = tuple[float, float]
NATURAL: Pair = (1.0, 0.0)


def two_sum(a: float, b: float) -> Pair:
    """Sum and its error, by exact arithmetic."""
    total = a + b
    return total, float(Fraction(a) + Fraction(b) - Fraction(total))


def product(a: float, b: float) -> Pair:
    """Product and its error, by exact arithmetic."""
    result = a * b
    return result, float(Fraction(a) * Fraction(b) - Fraction(result))


def is_near(x: float, scale: Pair) -> bool:
    return abs(x * scale[0]) < c.TOO_FAR


def term(x: float, scale: Pair) -> tuple[float, float, int]:
    """e^(c x) = (high + low) 2^exponent."""
    y, below = product(x, scale[0])
    below += x * scale[1]
    turns = 0
    tail = below
    if abs(y) >= c.FAR:
        turns = round(Fraction(y * c.FAR_PER_UNIT))
        whole = float(turns << 22)
        near = float(Fraction(y) - Fraction(whole) * sum(map(Fraction, (c.FAR_1, c.FAR_2, c.FAR_3))))
        near, below = two_sum(near, below)
        last = whole * c.FAR_4
        y = near - last
        tail = ((near - y) - last) + below
    else:
        y, below = two_sum(y, below)
        tail = below
    steps = round(Fraction(y * c.STEPS_PER_UNIT))
    r = float(Fraction(y) - steps * (Fraction(c.STEP_1) + Fraction(c.STEP_2)))
    r -= steps * c.STEP_3 - tail
    p = r + (r * r) * (0.5 + r * (c.E1 + r * (c.E2 + r * c.E3)))
    high, low = c.EXP2_TABLE[steps % 128]
    return high, low + high * p, (steps >> 7) + (turns << 22)


def cut(x: float, scale: Pair, base: int) -> list[int]:
    """The three limbs of a term on a grid."""
    high, low, exponent = term(x, scale)
    parts = [Fraction(part) * Fraction(2) ** max(exponent - base, -1100) for part in (high, low)]
    limbs = []
    for j in range(3):
        quantum = Fraction(1, 1 << c.LIMB_BITS * j)
        of_high = round(parts[0] / quantum)
        limb = round(of_high + parts[1] / quantum)
        parts = [parts[0] - of_high * quantum, parts[1] - (limb - of_high) * quantum]
        limbs.append(limb)
    return limbs


def base_of(x: float, scale: Pair) -> int:
    return (term(x, scale)[2] + 1) // c.LIMB_BITS * c.LIMB_BITS


def sum_of(values: Sequence[float], scale: Pair = NATURAL) -> bytes:
    """The sum of terms of values, as arrays contain it."""
    second, limbs = -math.inf, [0, 0, 0]
    if any(x != x for x in values):
        maximum, ties = math.nan, 0
    else:
        maximum = max(values, default=-math.inf) + 0.0
        ties = sum(x == maximum for x in values)
        rest = [x for x in values if x < maximum and is_near(x, scale)] if is_near(maximum, scale) else []
        if rest:
            second = max(rest) + 0.0
            base = base_of(second, scale)
            limbs = [sum(column) for column in zip(*(cut(x, scale, base) for x in rest), strict=True)]
    words = b"".join(limb.to_bytes(16, "little", signed=True) for limb in limbs)
    return struct.pack("<qdqd", len(values), maximum, ties, second) + words


def checksum(record: bytes) -> int:
    """CRC-32C of a record but for its check, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in record[:4] + record[8:]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sealed(record: bytes) -> bytes:
    """The record with the check that belongs to it."""
    return record[:4] + struct.pack("<I", checksum(record)) + record[8:]


def record_of(values: Sequence[float]) -> bytes:
    """The record of values on the natural scale."""
    return sealed(struct.pack("<BBHI", c.VERSION, 0, 0, 0) + sum_of(values))
