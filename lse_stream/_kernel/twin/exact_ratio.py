"""Exact sums as floats, by integers of Python: the twin of exact_ratio.h."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ..constants import UNIT
from .exact_sum import read_sum

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

SPECIALS = (0.0, np.inf, -np.inf, np.nan)


def exact_values(words: Words, at: Ints, divisors: Ints, out: Floats) -> None:
    """Writes each stored sum over its divisor, rounded once; NaN where that is not positive."""
    for i, (place, divisor) in enumerate(zip(at.tolist(), divisors.tolist(), strict=True)):
        numerator, denominator = _ratio(words, place)
        out[i] = _rounded(numerator, denominator * divisor) if divisor > 0 else np.nan


def exact_pairs(words: Words, at: Ints, out: Floats) -> None:
    """Writes each stored sum as a double-double; the low part is 0 where the high one is not finite."""
    for i, place in enumerate(at.tolist()):
        numerator, denominator = _ratio(words, place)
        high, low = _rounded(numerator, denominator), 0.0
        if abs(high) < np.inf:
            above, below = high.as_integer_ratio()
            low = (numerator * below - above * denominator) / (denominator * below)
        out[i] = high, low


def exact_variances(
    words_s: Words, at_s: Ints, words_q: Words, at_q: Ints, counts: Ints, divisors: Ints, out: Floats
) -> None:
    """Writes (q / e - s^2 / (n d^2)) / m of stored sums s / d and q / e, counts n and divisors m."""
    columns = (column.tolist() for column in (at_s, at_q, counts, divisors))
    for i, (place_s, place_q, n, m) in enumerate(zip(*columns, strict=True)):
        (s, d), (q, e) = _ratio(words_s, place_s), _ratio(words_q, place_q)
        if d and e and n > 0 and m > 0:
            out[i] = _rounded(q * n * d * d - s * s * e, e * d * d * n * m)
        else:
            out[i] = np.nan


def _ratio(words: Words, at: int) -> tuple[Any, int]:
    """A stored sum as (numerator, denominator); beside a denominator of 0 the NaN or infinity that it is."""
    units, low, special = read_sum(words, at)
    bits = -UNIT - 64 * low
    if special:
        return SPECIALS[special], 0
    return (units, 1 << bits) if bits >= 0 else (units << -bits, 1)


def _rounded(numerator: Any, denominator: int) -> float:
    """A ratio of integers, rounded once; infinite where it is beyond the floats."""
    try:
        return float(numerator / denominator if denominator else numerator)
    except OverflowError:
        return np.inf if numerator > 0 else -np.inf
