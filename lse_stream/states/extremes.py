"""The counts of values, the least and the largest of them: exactly, in groups whose number grows.

A value is one float; or the sum of three, which ``lse_stream.integers`` makes of it and which are compared one after
another.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .._kernel import StateError, Sums

Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


MOST_COUNT = 2**63 - 1
# 10^38, which no integer of a decimal of 128 bits reaches, as the terms that ``lse_stream.integers`` makes of it.
_LIMIT = np.array(
    [
        float(10**38 >> 106 << 106),
        float((10**38 >> 53 & 2**53 - 1) << 53),
        float(10**38 & 2**53 - 1),
    ]
)


@lru_cache
def dtype_of(floats: int) -> np.dtype[np.void]:
    """Of the extremes of values that are the sum of so many floats."""
    return np.dtype([("count", "<i8"), ("min", "<f8", (floats,)), ("max", "<f8", (floats,))])


class GrowingExtremes:
    """Counts and extremes of groups whose number grows from batch to batch.

    Args:
      floats: of how many floats a value is the sum: 1 or 3.
    """

    def __init__(self, floats: int) -> None:
        self._floats = floats
        self._size = 0
        self._counts = np.zeros(0, np.int64)
        self._least, self._largest = np.empty((2, 0, floats))

    def grow(self, n_groups: int) -> None:
        """Makes it at least that many groups."""
        more = 2 * n_groups - self._counts.size
        if n_groups > self._counts.size:
            none = np.zeros((more, self._floats))
            none[:, 0] = np.inf
            self._counts = np.concatenate([self._counts, np.zeros(more, np.int64)])
            self._least = np.concatenate([self._least, none])
            self._largest = np.concatenate([self._largest, -none])
        self._size = max(self._size, n_groups)

    def update(self, codes: Codes, values: Sequence[Floats], n_groups: int) -> None:
        """Adds values, of columns (n,), to the groups of their codes (n,), of which there are ``n_groups`` from now on.

        Raises:
          OverflowError: the count of a group would exceed 2^63 - 1. All groups are as before then.
        """
        columns = np.stack(values[: self._floats], axis=1) + 0.0  # without -0.0
        self._add(codes, np.ones(codes.size, np.int64), columns, columns, n_groups)

    def merge(self, codes: Codes, extremes: Sums, n_groups: int) -> None:
        """Merges extremes (n,) into the groups of their codes (n,). Raises as ``update``."""
        some = extremes["count"] > 0
        of_some = extremes[some]
        self._add(codes[some], of_some["count"], of_some["min"], of_some["max"], n_groups)

    def _add(self, codes: Codes, counts: npt.NDArray[np.int64], least: Floats, largest: Floats, n_groups: int) -> None:
        self.grow(n_groups)
        self._check_counts(codes, counts)
        np.add.at(self._counts, codes, counts)
        if self._floats == 1:
            with np.errstate(invalid="ignore"):  # NaN
                np.minimum.at(self._least[:, 0], codes, least[:, 0])
                np.maximum.at(self._largest[:, 0], codes, largest[:, 0])
        else:
            _lower(self._least, codes, least)
            np.negative(self._largest, out=self._largest)
            _lower(self._largest, codes, -largest)
            np.negative(self._largest, out=self._largest)

    def _check_counts(self, codes: Codes, counts: npt.NDArray[np.int64]) -> None:
        """Raises OverflowError where a count would be too large, which only those of forged records come near."""
        if codes.size and float(counts.sum(dtype=np.float64)) + float(self._counts.max()) > MOST_COUNT / 2:
            totals = self._counts.astype(object)
            np.add.at(totals, codes, counts.astype(object))
            if totals.max() > MOST_COUNT:
                raise OverflowError("the count of a state would exceed 2^63 - 1")

    def states(self) -> Sums:
        """The extremes of the groups."""
        out = np.empty(self._size, dtype_of(self._floats))
        out["count"] = self._counts[: self._size]
        out["min"], out["max"] = self._least[: self._size] + 0.0, self._largest[: self._size] + 0.0
        is_nan = np.isnan(out["min"][:, 0])
        out["min"][is_nan] = out["max"][is_nan] = np.nan  # the one NaN
        return out

    @property
    def nbytes(self) -> int:
        """About how many bytes of memory it uses."""
        return self._counts.nbytes + self._least.nbytes + self._largest.nbytes


def _less(a: Floats, b: Floats) -> npt.NDArray[np.bool_]:
    """Where values of a (n, 3) are less than those of b (n, 3)."""
    (high, middle, low), (of_b, middle_of_b, low_of_b) = a.T, b.T
    return np.asarray(
        (high < of_b) | (high == of_b) & ((middle < middle_of_b) | (middle == middle_of_b) & (low < low_of_b))
    )


def _lower(kept: Floats, codes: Codes, values: Floats) -> None:
    """Puts values (n, 3) in the place of those kept of their groups, where they are less."""
    for term in range(3):
        before = kept[codes, term]
        np.minimum.at(kept[:, term], codes, values[:, term])
        now = kept[codes, term]
        kept[codes[now < before], term + 1 :] = np.inf  # those of what was kept until now
        least = values[:, term] == now
        codes, values = codes[least], values[least]


def group_extremes(codes: Codes, values: Sequence[Floats], floats: int, groups: int) -> Sums:
    """The extremes (groups,) of the values, of columns (n,), with each code (n,)."""
    growing = GrowingExtremes(floats)
    growing.update(codes, values, groups)
    return growing.states()


def merge_extremes(codes: Codes, extremes: Sums, floats: int, groups: int) -> Sums:
    """The merged extremes (groups,) of those (n,) with each code."""
    growing = GrowingExtremes(floats)
    growing.merge(codes, extremes, groups)
    return growing.states()


def check_extremes(extremes: Sums) -> None:
    """Raises StateError for the first that is not canonical."""
    least, largest, count = extremes["min"], extremes["max"], extremes["count"]
    if count.size and count.min() < 0:
        row = int((count < 0).argmax())
        raise StateError(row, f"state {row}: expected a count of 0 or more, found count {count[row]}")
    first, last = least[:, 0], largest[:, 0]
    bits = np.stack([least, largest]).view(np.uint64)
    canonical = (bits != np.float64(-0.0).view(np.uint64)).all(axis=(0, 2))
    of_none = (first == np.inf) & (last == -np.inf)
    if least.shape[1] == 1:
        is_nan = bits == np.float64(np.nan).view(np.uint64)
        fits = (first <= last) | is_nan.all(axis=(0, 2))
    else:
        of_none &= (least[:, 1:] == 0).all(axis=1) & (largest[:, 1:] == 0).all(axis=1)
        fits = _is_split(least) & _is_split(largest) & ~_less(largest, least)
    canonical &= np.where(count == 0, of_none, fits)
    if not canonical.all():
        row = int(canonical.argmin())
        raise StateError(
            row,
            f"state {row}: expected min and max that fit the count, found {least[row].tolist()} and "
            f"{largest[row].tolist()} of {count[row]}",
        )


def _is_split(values: Floats) -> npt.NDArray[np.bool_]:
    """Whether values (n, 3) are what an integer of at most 38 digits is split into: digits of 53 bits, of one sign."""
    units = np.array([2.0**106, 2.0**53, 1.0])
    with np.errstate(invalid="ignore", under="ignore"):
        digits = np.trunc(values / units)
        fits = (digits * units == values) & (np.abs(digits) < np.array([2.0**21, 2.0**53, 2.0**53]))
    one_sign = (digits >= 0).all(axis=1) | (digits <= 0).all(axis=1)
    return np.asarray(fits.all(axis=1) & one_sign & _less(np.abs(values), np.broadcast_to(_LIMIT, values.shape)))
