"""Exact sums as they are stored: integers in units of 2^UNIT, of as many words as they need.

After R. M. Neal, "Fast exact summation using small and large superaccumulators" (2015).
"""

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]


def encode_sum(units: int, special: int) -> Words:
    """A sum as it is stored: a head, then its words, lowest first.

    The head has the place of the lowest word (uint16), the number of words (uint16) and special (uint32).
    """
    if special or not units:
        return np.array([special << 32], np.uint64)
    low = ((units & -units).bit_length() - 1) // 64
    units >>= 64 * low
    words = (units if units >= 0 else ~units).bit_length() // 64 + 1
    return np.frombuffer(
        (low | words << 16).to_bytes(8, "little") + units.to_bytes(8 * words, "little", signed=True), np.uint64
    )


def decode_sum(words: Words, at: int) -> tuple[int, int, int]:
    """(units of 2^(UNIT + 64 low), low, special) of the stored sum at a place."""
    head = int(words[at])
    low, n, special = head & 0xFFFF, head >> 16 & 0xFFFF, head >> 32
    return int.from_bytes(words[at + 1 : at + 1 + n].tobytes(), "little", signed=True), low, special
