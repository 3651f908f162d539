"""Logarithms and exponentials of doubles, in NumPy: the twin of elementary.h."""

import numpy as np
import numpy.typing as npt

from .. import constants as c
from ..double_double import quick_two_sum, two_sum
from .state import own_terms
from .vector_loops import log1p_pair

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NATURAL = np.array([1.0, 0.0])


def scaled_log(yh: Floats, yl: Floats, power: Ints) -> tuple[Floats, Floats]:
    """ln((1 + y) 2^power) as double-doubles."""
    high, low = log1p_pair(*quick_two_sum(yh, yl))
    powers = power.astype(np.float64)
    high, error = two_sum(powers * c.LN2_HIGH, high)
    return quick_two_sum(high, low + (error + powers * c.LN2_LOW))


def log_of_pair(high: Floats, low: Floats, power: Ints | int) -> tuple[Floats, Floats]:
    """ln((high + low) 2^power) as double-doubles; NaN unless abs(low) < high and high is finite."""
    known = (np.abs(low) < high) & (high < np.inf)
    m, exponent = np.frexp(np.where(known, high, 1.0))
    less = m < 0.75
    m, exponent = np.where(less, m * 2.0, m), exponent - less
    low = np.ldexp(np.where(known, low, 0.0), -exponent)
    log_high, log_low = scaled_log(m - 1.0, low, exponent + np.asarray(power))
    return np.where(known, log_high, np.nan), np.where(known, log_low, 0.0)


def terms_of(x: Floats) -> tuple[Floats, Floats, Ints]:
    """Terms e^x, of any shape, as double-doubles and their exponents."""
    high, low, exponent = own_terms(x.ravel(), NATURAL)
    return high.reshape(x.shape), low.reshape(x.shape), exponent.reshape(x.shape)


@np.errstate(all="ignore")
def log(x: Floats, out: Floats) -> None:
    """Writes each natural logarithm; -inf of 0, NaN below."""
    out[...] = np.where(x == 0.0, -np.inf, np.where(x == np.inf, x, log_of_pair(x, np.zeros_like(x), 0)[0]))


@np.errstate(all="ignore")
def exp(x: Floats, out: Floats) -> None:
    """Writes each exponential."""
    near = np.abs(x) < 1000.0
    high, low, exponent = terms_of(np.where(near, x, 0.0))
    beyond = np.where(x > 0.0, np.inf, np.where(x < 0.0, 0.0, np.nan))
    out[...] = np.where(near, np.ldexp(high + low, exponent.astype(np.int32)), beyond)
