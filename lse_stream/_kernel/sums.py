"""Sums of terms, as arrays contain them: little-endian, canonical. Equal sums have equal bytes.

``SUM`` is of terms e^(c x), 80 bytes:

========  =====  ==================================================================================================
field     bytes  meaning
========  =====  ==================================================================================================
count         8  int64, terms added: NaN and infinities included
max           8  float64: -inf where no value but -inf was added; never -0.0; NaN is 0x7ff8000000000000
ties          8  int64, terms equal to ``max``; 0 for NaN
second        8  float64, the largest value below ``max`` that has a term; -inf where there is none; never -0.0
limbs        48  3 x int128: the sum of all terms below ``max`` in units of 2^base, 2^(base-50), 2^(base-100), carries
                 not propagated; the base is a function of ``second``. 0 where there is none
========  =====  ==================================================================================================

Values have terms where abs(c x) < 2^60. Where ``max`` has none, ``second`` is -inf: then the ties alone are known.

``WEIGHTED_SUM`` is of terms w e^(c x), 72 bytes:

========  =====  ==================================================================================================
count, max       as above; terms of weight 0 have no part in ``max``
base          8  int64, exponent of the first limb's quantum, that of the largest product; of the largest weight of a
                 tie, raised by ``FAR_BASE``, where ``max`` has no term; ``NO_BASE`` where it is infinite or NaN
limbs        48  as above, of all terms; 1 or -1 in the first is the sign where ``max`` is infinite
========  =====  ==================================================================================================
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from . import constants as c
from .constants import NO_BASE

SUM = np.dtype([("count", "<i8"), ("max", "<f8"), ("ties", "<i8"), ("second", "<f8"), ("limbs", "<u8", (3, 2))])
WEIGHTED_SUM = np.dtype([("count", "<i8"), ("max", "<f8"), ("base", "<i8"), ("limbs", "<u8", (3, 2))])

Sums = npt.NDArray[np.void]

# What a sum that is not canonical violates, and the field: by what the kernels' check returns.
FAULTS = {
    c.FAULT_COUNT: ("a count of 0 or more", "count"),
    c.FAULT_MAX: (
        "a max that fits the count: -inf with no terms, else -inf, a number other than -0.0, +inf or the one NaN",
        "max",
    ),
    c.FAULT_TIES: ("ties from 1 to the count, all of -inf, or 0 of no terms and of NaN", "ties"),
    c.FAULT_SECOND: ("a second that has a term below the max, or -inf", "second"),
    c.FAULT_BASE: ("a base that belongs to the max", "base"),
    c.FAULT_LIMBS: ("limbs that fit the count, and at least the term of the second", "limbs"),
}


class StateError(ValueError):
    """A state is not canonical, is of a kind that this release does not read, or has no such result.

    Attributes:
      row: index of the first bad state.
    """

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row

    def __reduce__(self) -> tuple[type["StateError"], tuple[int, str]]:
        return StateError, (self.row, str(self))


EMPTY = np.zeros(1, SUM)
EMPTY["max"] = EMPTY["second"] = -np.inf
NOTHING = np.zeros(1, WEIGHTED_SUM)
NOTHING["max"] = -np.inf
NOTHING["base"] = NO_BASE


def empty_sums(n: int) -> Sums:
    """``n`` empty sums."""
    return np.repeat(EMPTY, n)


# NumPy moves structured records field by field, several times slower than the words they consist of.


def words_of(sums: Sums) -> npt.NDArray[np.uint64]:
    """The words of each sum (n, words)."""
    return np.ascontiguousarray(sums).view(np.uint64).reshape(-1, sums.dtype.itemsize // 8)


def take_sums(sums: Sums, rows: npt.NDArray[np.int64]) -> Sums:
    """The sums of ``rows``, in that order."""
    return words_of(sums).take(rows, axis=0).reshape(-1).view(sums.dtype)


def concat_sums(parts: Sequence[Sums]) -> Sums:
    """All sums of ``parts``, of which there is one; without a copy where there is no other."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([words_of(part) for part in parts]).reshape(-1).view(parts[0].dtype)


def fault_error(sums: Sums, row: int, fault: int) -> StateError:
    """The error for a fault that a kernel's check found."""
    expected, field = FAULTS[fault]
    found = sums[row][field]
    shown = [hex(low | high << 64) for low, high in found.tolist()] if field == "limbs" else found.item()
    return StateError(row, f"state {row}: expected {expected}, found {field} {shown}")
