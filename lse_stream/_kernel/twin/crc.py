"""The check of stored records, CRC-32C, in NumPy: the twin of crc.h."""

from functools import cache

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected
ALL = np.uint64(0xFFFFFFFF)


@cache
def tables() -> npt.NDArray[np.uint64]:
    """By how many bytes of the same step follow a byte, and by the byte: what it adds (8, 256)."""
    crc = np.arange(256, dtype=np.uint64)
    for _ in range(8):
        crc = np.where(crc & np.uint64(1), np.uint64(POLYNOMIAL) ^ crc >> np.uint64(1), crc >> np.uint64(1))
    rows = [crc]
    for _ in range(7):
        rows.append(rows[0][(rows[-1] & np.uint64(0xFF)).astype(np.intp)] ^ rows[-1] >> np.uint64(8))
    return np.stack(rows)


def _step(crc: Words, words: Words, size: int) -> Words:
    """The CRC after so many more bytes of each word."""
    mixed, out = words ^ crc, np.zeros(words.size, np.uint64)
    for place in range(size):
        out ^= tables()[size - 1 - place][(mixed >> np.uint64(8 * place) & np.uint64(0xFF)).astype(np.intp)]
    return out


def check_places(offsets: Ints, words: int) -> None:
    """Raises ValueError unless each record has a word at least, and all are within so many words."""
    if not (offsets[0] >= 0 and offsets[-1] <= words and (offsets[1:] > offsets[:-1]).all()):
        raise ValueError("arrays of different lengths")


def checks_of(words: Words, offsets: Ints) -> Words:
    """The check of each record: of all its bytes but the upper half of the first word."""
    check_places(offsets, words.size)
    begin, sizes = offsets[:-1], np.diff(offsets)
    crc = _step(np.full(begin.size, ALL), words[begin] & ALL, 4)
    for i in range(1, int(sizes.max(initial=0))):
        rows = np.flatnonzero(sizes > i)
        crc[rows] = _step(crc[rows], words[begin[rows] + i], 8)
    return crc ^ ALL


def seal(words: Words, offsets: Ints) -> None:
    """Writes the checks of records."""
    begin = offsets[:-1]
    words[begin] = words[begin] & ALL | checks_of(words, offsets) << np.uint64(32)


def find_damage(words: Words, offsets: Ints) -> int:
    """The first record whose check is wrong, or how many there are."""
    wrong = words[offsets[:-1]] >> np.uint64(32) != checks_of(words, offsets)
    return int(wrong.argmax()) if wrong.any() else wrong.size
