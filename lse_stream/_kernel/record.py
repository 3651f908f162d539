"""The record of one state: 80 bytes, little-endian, canonical. Equal states have equal bytes.

========  =====  ==================================================================================================
field     bytes  meaning
========  =====  ==================================================================================================
version       1  ``VERSION``; a change of any kernel constant is a new version
aggregation   1  0: log-sum-exp
scale         2  0: natural (e)
reserved      4  0
count         8  int64, terms added: NaN and infinities included
max           8  float64: -inf where no value but -inf was added; never -0.0; NaN is 0x7ff8000000000000
base          8  int64, exponent of the first limb's quantum, a function of ``max``; ``NO_BASE`` where there is none
limbs        48  3 x int128: the sum in units of 2^base, 2^(base-50), 2^(base-100), carries not propagated; with
                 2^60 <= abs(max) < inf the number of terms equal to ``max`` in the first; else 0
========  =====  ==================================================================================================
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from . import constants as c
from .constants import AGGREGATION, NO_BASE, SCALE, VERSION

RECORD = np.dtype(
    [
        ("version", "u1"),
        ("aggregation", "u1"),
        ("scale", "<u2"),
        ("reserved", "<u4"),
        ("count", "<i8"),
        ("max", "<f8"),
        ("base", "<i8"),
        ("limbs", "<u8", (3, 2)),
    ]
)

Records = npt.NDArray[np.void]

# What a record that is not canonical violates, and the field: by what the kernels' check returns.
FAULTS = {
    c.FAULT_VERSION: (f"version {VERSION}", "version"),
    c.FAULT_AGGREGATION: (f"aggregation {AGGREGATION} (log-sum-exp)", "aggregation"),
    c.FAULT_SCALE: (f"scale {SCALE} (natural)", "scale"),
    c.FAULT_RESERVED: ("reserved bytes 0", "reserved"),
    c.FAULT_COUNT: ("a count of 0 or more", "count"),
    c.FAULT_MAX: (
        "a max that fits the count: -inf with no terms, else -inf, a number other than -0.0, +inf or the one NaN",
        "max",
    ),
    c.FAULT_BASE: ("the base that belongs to the max", "base"),
    c.FAULT_LIMBS: ("limbs that fit the count and hold at least the term of the max", "limbs"),
}


class StateError(ValueError):
    """A state is not canonical, of a version, aggregation or scale that this release does not read, or without such a
    result.

    Attributes:
      row: index of the first bad state.
    """

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row

    def __reduce__(self) -> tuple[type["StateError"], tuple[int, str]]:
        return StateError, (self.row, str(self))


EMPTY = np.zeros(1, RECORD)
EMPTY["version"] = VERSION
EMPTY["max"] = -np.inf
EMPTY["base"] = NO_BASE


def empty_states(n: int) -> Records:
    """``n`` empty states."""
    return np.repeat(EMPTY, n)


# NumPy moves structured records field by field, several times slower than the words they consist of.


def _words(states: Records) -> npt.NDArray[np.uint64]:
    return states.view(np.uint64).reshape(-1, RECORD.itemsize // 8)


def take_states(states: Records, rows: npt.NDArray[np.int64]) -> Records:
    """The states of ``rows``, in that order."""
    return _words(states).take(rows, axis=0).reshape(-1).view(RECORD)


def concat_states(parts: Sequence[Records]) -> Records:
    """All states of ``parts``; without a copy where there is one part."""
    return parts[0] if len(parts) == 1 else np.concatenate([_words(part) for part in parts]).reshape(-1).view(RECORD)


def fault_error(states: Records, row: int, fault: int) -> StateError:
    """The error for a fault that a kernel's check found."""
    expected, field = FAULTS[fault]
    found = states[row][field]
    shown = [hex(low | high << 64) for low, high in found.tolist()] if field == "limbs" else found.item()
    return StateError(row, f"state {row}: expected {expected}, found {field} {shown}")
