"""The results of states: every one is a function of an array of states, rounded once where nothing else is said.

``RESULTS`` has them by name. Which ones an aggregation has is said in ``aggregations``.
"""

from collections.abc import Callable, Iterable, Iterator
from numbers import Integral
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from .. import _kernel
from .._kernel import WEIGHTED_SUM
from .._kernel.constants import UNIT
from .._kernel.double_double import divide, two_prod, two_sum
from .._kernel.stored_sum import decode_sum
from ..scales import NATURAL
from .aggregations import MOST_DIGITS, Extremes
from .arrays import Codes, Floats, Ints, Quotients, StateArray, Words, require, sum_once
from .leave_one_out import LeaveOneOut, cross_validate

# Integers as Arrow's decimals of 128 bits contain them.
INT128 = np.dtype([("low", "<u8"), ("high", "<i8")])
Integers = npt.NDArray[np.void]

Result = npt.NDArray[Any]  # of float64, int64 or INT128

# The place of the word of the units from 1 on, in an exact sum.
_WORD_OF_ONES = -UNIT // 64

# How far the targets of an example may be from a sum of 1: as float32 probabilities of some thousand classes are.
TARGET_TOLERANCE = 1e-6
# From 2^996 (6.7e299) on Dekker's splitting, by which products are made exact, overflows; this leaves room for W > 1.
_LARGEST_LOGIT = 1e290
# A bonus below this is the quotient that it is the logarithm of, less 1; above it, no product with a unit underflows.
_SMALL = 2.0**-600
# Terms of so many powers of two below the max give no float in any unit.
_LOWEST = 4000.0


def result_of(states: StateArray, name: str) -> Result:
    """A result (n,) of states (n,), one of ``states.aggregation.results``: float64 with one NaN and no -0.0, or counts.

    Sum, min and max of integers and decimals are integers of 128 bits, in units of the last digit.

    Raises:
      KeyError: no such result of this aggregation.
      StateError: the state of a row has no such result.
    """
    if name not in states.aggregation.results:
        raise KeyError(
            f"expected a result of {states.aggregation.name} ({', '.join(states.aggregation.results)}), found {name!r}"
        )
    values = RESULTS[name](states)
    if values.dtype != np.float64:
        return values
    out: Floats = np.add(values, 0.0)
    np.copyto(out, np.nan, where=np.isnan(out))
    return out


def variances(states: StateArray, ddof: int = 1) -> Floats:
    """The variance of the values, correctly rounded; NaN for ``ddof`` values or fewer, or one that is not finite.

    Raises:
      TypeError, ValueError: a ``ddof`` that is no integer of 0 or more.
    """
    if not isinstance(ddof, Integral):
        raise TypeError(f"ddof: expected an integer, found {ddof!r}")
    if ddof < 0:
        raise ValueError(f"ddof: expected 0 or more, found {ddof}")
    if states.aggregation.digits:
        unit, counts = 10 ** (2 * states.aggregation.digits), states.counts.tolist()
        totals, squares_of = _integers_in(states, 0), _integers_in(states, 1)
        return _quotients(
            (n * square - total * total for n, total, square in zip(counts, totals, squares_of, strict=True)),
            (n * max(n - int(ddof), 0) * unit for n in counts),
        )
    sums, squares = states.exact[:2]
    return _kernel.exact_variances(sums, squares, states.counts, states.counts - ddof)


# --- softmax by states ------------------------------------------------------------------------------------------------


class LogTotals:
    """The log-sum-exp of each state on the natural scale, in more than double precision, for rows to be taken from.

    Args:
      states: (n,), on the natural scale and without weights.
    """

    def __init__(self, states: StateArray) -> None:
        quotients = states.quotients()
        self._maxima = np.array(states.sums[0]["max"])
        self._high, self._low = quotients.log_high.copy(), quotients.log_low.copy()

    def log_softmax(self, codes: Codes, x: Floats) -> Floats:
        """``x - LSE`` of the state that the code of each x names, rounded once; codes have a shape that broadcasts."""
        maximum = self._maxima[codes]
        with np.errstate(invalid="ignore", over="ignore"):
            out = subtract_log(x, maximum, self._high[codes], self._low[codes])
            difference = x - maximum
            finite = np.isfinite(difference)
            if not finite.all():
                out = np.where(finite, out, difference)
                out = np.where(np.isnan(out), np.nan, out)  # the one NaN
        return np.asarray(out)


def subtract_log(x: Any, maximum: Any, high: Any, low: Any) -> Any:
    """``x - (maximum + (high + low))`` of floats or of arrays, rounded once."""
    total, excess = _difference(x, maximum)
    total, excess2 = _difference(total, high)
    excess += excess2
    excess += low
    total -= excess
    return total


def _difference(a: Any, b: Any) -> tuple[Any, Any]:
    """``a - b``, and by how much that is too large: as ``two_sum`` has it, but arrays are written in place."""
    difference = a - b
    taken = difference - a
    excess = difference - taken
    excess -= a
    taken += b
    excess += taken
    return difference, excess


# --- what results are made of -----------------------------------------------------------------------------------------


def _on_scale(states: StateArray, high: Floats, low: Floats, *, with_max: bool = True) -> Floats:
    """Natural logarithms (n,), as double-doubles, in units of the scale and on top of the max; rounded once."""
    maximum = states.sums[0]["max"] if with_max else np.zeros(len(states))
    with np.errstate(invalid="ignore", under="ignore", over="ignore"):
        if states.scale != NATURAL:
            unit, rest = states.scale.unit
            product, error = two_prod(high, np.full_like(high, unit))
            high, low = product, np.where(np.isfinite(high), error + (high * rest + low * unit), 0.0)
        out = sum_once(maximum, high, low)
        if states.scale != NATURAL and not states.aggregation.has_weights:
            small = np.flatnonzero((np.abs(high) < _SMALL * unit) & (states.sums[0]["second"] > -np.inf))
            if small.size:
                out[small] = maximum[small] + _small_bonuses(states.take(small))
    return -out if states.scale.descends else out


def _small_bonuses(states: StateArray) -> Floats:
    """LSE - max, in units of the scale, of states whose sum of all below the max is less than ``_SMALL`` of its term.

    It is their quotient then. The sum is read as one of weighted terms, on a grid so much higher that it is near the
    term, and the result lowered at the end: a logarithm near the least float is of too few bits to be multiplied.
    """
    sums, factor = states.sums[0], states.scale.factor
    n = sums.size
    powers = ((sums["max"] - sums["second"]) * (factor[0] / np.log(2.0))).clip(0.0, _LOWEST).astype(np.int64)
    raised = np.zeros(n, WEIGHTED_SUM)
    raised["count"], raised["max"], raised["limbs"] = 1, sums["max"], sums["limbs"]
    of_second = _kernel.group_terms(np.arange(n, dtype=np.int32), sums["second"], np.ones(n), n, factor)
    raised["base"] = of_second["base"] + powers
    quotients = Quotients(*_kernel.quotients_of(raised, np.ones(n, np.int64), factor).T)
    unit, rest = states.scale.unit
    product, error = two_prod(quotients.high, np.full(n, unit))
    return np.asarray(np.ldexp(product + (error + (quotients.high * rest + quotients.low * unit)), -powers))


def _nothing(states: StateArray) -> float:
    """The logarithm of a sum of 0."""
    return np.inf if states.scale.descends else -np.inf


# --- the results ------------------------------------------------------------------------------------------------------


def _logsumexp(states: StateArray) -> Floats:
    """NaN where the sum is negative, as it has no logarithm."""
    if states.scale == NATURAL and not states.aggregation.has_weights:
        return _kernel.state_values(states.sums[0])
    quotients = states.quotients()
    return np.where(quotients.sign < 0.0, np.nan, _log_of(states, quotients))


def _log_abs_sum(states: StateArray) -> Floats:
    return _log_of(states, states.quotients())


def _log_of(states: StateArray, quotients: Quotients) -> Floats:
    out = _on_scale(states, quotients.log_high, quotients.log_low)
    # What cancels is a sum of 0, however far from 0 the max is.
    return np.where((quotients.sign == 0.0) & (states.counts > 0), _nothing(states), out)


def _sign(states: StateArray) -> Floats:
    return np.asarray(states.quotients().sign)


def _count(states: StateArray) -> Ints:
    return states.counts


def _max(states: StateArray) -> Result:
    if isinstance(states.aggregation.sums[0], Extremes):
        return _extreme(states, "max")
    maxima = np.ascontiguousarray(states.sums[0]["max"])
    return -maxima if states.scale.descends else maxima


def _min(states: StateArray) -> Result:
    return _extreme(states, "min")


def _extreme(states: StateArray, name: str) -> Result:
    """Of no values +inf and -inf; as integers 0."""
    found = states.sums[0][name]
    if states.aggregation.digits is None:
        return np.ascontiguousarray(found[:, 0])
    some = np.where((states.counts > 0)[:, None], found, 0.0)
    rows = np.repeat(np.arange(len(states), dtype=np.int32), found.shape[1])
    words, begins = _kernel.sum_products(rows, np.ascontiguousarray(some).reshape(-1), None, len(states))
    return _integers(words, begins[:-1])


def _logmeanexp(states: StateArray) -> Floats:
    if states.aggregation.has_weights:
        return _weighted_logmeanexp(states)
    quotients = states.quotients(per_term=True)
    return _on_scale(states, quotients.log_high, quotients.log_low)


def _weighted_logmeanexp(states: StateArray) -> Floats:
    """ln(S / W) from double-doubles of both: that of W is the logarithm of a state of its two parts at x = 0."""
    high, low = _kernel.exact_pairs(states.exact[0]).T
    n = len(states)
    rows = np.tile(np.arange(n, dtype=np.int32), 2)
    finite = np.where(np.isfinite(high), high, 0.0)
    weights = _kernel.group_terms(rows, np.zeros(2 * n), np.concatenate([finite, low]), n)
    sign_of_weight, weight_high, weight_low, _, _ = _kernel.quotients_of(weights, np.ones(n, np.int64)).T
    quotients = states.quotients()
    with np.errstate(invalid="ignore"):
        log_high, error = two_sum(quotients.log_high, -weight_high)
        log_low = np.where(np.isfinite(log_high), error + (quotients.log_low - weight_low), 0.0)
        out = _on_scale(states, log_high, log_low)
        # A mean that is negative or without weight has no logarithm.
        of_zero = np.where((quotients.sign == 0) & (sign_of_weight != 0), _nothing(states), np.nan)
        return np.where(quotients.sign * sign_of_weight > 0, out, of_zero)


def _bonus(states: StateArray) -> Floats:
    """LSE - max."""
    quotients = states.quotients()
    out = _on_scale(states, quotients.log_high, quotients.log_low, with_max=False)
    return np.where(np.isfinite(states.sums[0]["max"]), out, np.nan)


def _exp_bonus(states: StateArray) -> Floats:
    quotients = states.quotients()
    return np.where(np.isfinite(states.sums[0]["max"]), quotients.high + quotients.low, np.nan)


def _exact_sum(part: int) -> Callable[[StateArray], Floats]:
    return lambda states: _kernel.exact_values(states.exact[part])


def _sum(states: StateArray) -> Result:
    if states.aggregation.digits is None:
        return _exact_sum(0)(states)
    return _integers(*states.exact[0])


def _integers(words: Words, at: Ints) -> Integers:
    """Exact sums (n,) that are integers.

    Raises:
      StateError: one has more than 38 digits.
    """
    heads = words[at]
    n = (heads >> np.uint64(16) & np.uint64(0xFFFF)).astype(np.int64)
    first = (heads & np.uint64(0xFFFF)).astype(np.int64) - _WORD_OF_ONES  # the place of the lowest word
    sign = (words[at + n].view(np.int64) >> 63).view(np.uint64)  # of heads, where n is 0, it is 0
    out = np.empty(at.size, INT128)
    for place, word in enumerate(("low", "high")):
        held = words[at + (place - first + 1).clip(0, n)]
        beyond = np.where(place < first, np.uint64(0), sign)
        out[word] = np.where((first <= place) & (place < first + n), held, beyond).astype(out.dtype[word])
    require(
        (n == 0) | (first + n <= 2) & _is_decimal(out),
        lambda i: f"expected a sum of at most {MOST_DIGITS} digits, found one of {64 * (first + n)[i]} bits",
    )
    return out


def _is_decimal(integers: Integers) -> npt.NDArray[np.bool_]:
    """Whether integers (n,) have no more digits than a decimal of 128 bits."""
    top, rest = divmod(10**MOST_DIGITS, 2**64)
    negative = integers["high"] < 0
    low = np.where(negative, ~integers["low"] + np.uint64(1), integers["low"])
    high = np.where(negative, ~integers["high"] + (low == 0), integers["high"])
    return np.asarray((high < top) | (high == top) & (low < np.uint64(rest)))


def _mean(states: StateArray) -> Floats:
    if states.aggregation.digits:
        unit = 10**states.aggregation.digits
        return _quotients(_integers_in(states, 0), (count * unit for count in states.counts.tolist()))
    return _kernel.exact_values(states.exact[0], states.counts)


def _quotients(numerators: Iterable[int], denominators: Iterable[int]) -> Floats:
    """Quotients (n,) of integers, rounded once, as Python does it; NaN where the denominator is 0."""
    return np.array([a / b if b else np.nan for a, b in zip(numerators, denominators, strict=True)], np.float64)


def _integers_in(states: StateArray, part: int) -> Iterator[int]:
    """The exact sums (n,) of integers, in units of the last digit."""
    words, at = states.exact[part]
    for place in at:
        units, low, _ = decode_sum(words, place)
        yield units << 64 * (low - _WORD_OF_ONES) if units else 0


def _effective_sample_size(states: StateArray) -> Floats:
    """(sum e^x)^2 / sum e^2x, both over the term of their max, which cancels."""
    first, second = states.quotients(), states.quotients(1)
    square, error = two_prod(first.high, first.high)
    size, rest = divide(square, error + 2.0 * first.high * first.low, second.high, second.low)
    maximum, doubled_maximum = states.sums[0]["max"], states.sums[1]["max"]
    # Of values so far out that their doubles are infinite only ties count, once and twice.
    size = np.where(np.isfinite(doubled_maximum), size + rest, first.high + first.low)
    return np.where(np.isfinite(maximum), size, np.where(maximum == -np.inf, 0.0, np.nan))


def _largest_weight(states: StateArray) -> Floats:
    quotients = states.quotients()
    one = np.ones_like(quotients.high)
    weight, rest = divide(one, 0.0 * one, quotients.high, quotients.low)
    return np.where(np.isfinite(states.sums[0]["max"]), weight + rest, np.nan)


def _cross_entropy(states: StateArray) -> Floats:
    """W LSE(x) - sum t x with W = sum t, added up in double-doubles.

    Raises:
      StateError: the targets of a state do not sum to 1.
    """
    targets = _exact_sum(1)(states)
    require(
        np.abs(targets - 1.0) <= TARGET_TOLERANCE,
        lambda i: f"expected targets that sum to 1, such as one label, found {targets[i]}",
    )
    chosen, rest = _kernel.exact_pairs(states.exact[0]).T
    quotients = states.quotients()
    maximum = states.sums[0]["max"]
    with np.errstate(invalid="ignore", over="ignore"):
        product, product_low = two_prod(targets, maximum)
        total, error = two_sum(product, -chosen)
        bonus, bonus_low = two_prod(targets, quotients.log_high)
        total, error2 = two_sum(total, bonus)
        out = total + (error + error2 + (product_low + bonus_low + targets * quotients.log_low - rest))
        exact = np.isfinite(maximum) & np.isfinite(chosen) & (np.abs(maximum) < _LARGEST_LOGIT)
        return np.asarray(np.where(exact, out, targets * maximum - chosen))


# What was found of states that still exist: a table of results asks for four of them, and they come together.
_FOUND: WeakKeyDictionary[StateArray, LeaveOneOut] = WeakKeyDictionary()


def _left_out(result: Callable[[LeaveOneOut], Floats]) -> Callable[[StateArray], Floats]:
    def find(states: StateArray) -> Floats:
        found = _FOUND.get(states)
        if found is None:
            found = _FOUND[states] = cross_validate(states)
        return result(found)

    return find


RESULTS: dict[str, Callable[[StateArray], Result]] = {
    "logsumexp": _logsumexp,
    "log_abs_sum": _log_abs_sum,
    "sign": _sign,
    "count": _count,
    "max": _max,
    "weight": _exact_sum(0),
    "logmeanexp": _logmeanexp,
    "bonus": _bonus,
    "exp_bonus": _exp_bonus,
    "log_likelihood": _exact_sum(0),
    "mean": _mean,
    "variance": variances,
    "sum_of_squares": _exact_sum(1),
    "effective_sample_size": _effective_sample_size,
    "largest_weight": _largest_weight,
    "cross_entropy": _cross_entropy,
    "sum": _sum,
    "min": _min,
    "elpd_loo": _left_out(lambda found: found.elpd),
    "p_loo": _left_out(lambda found: found.p),
    "pareto_k": _left_out(lambda found: found.pareto_k),
    "lppd": _left_out(lambda found: found.lppd),
    "mcse": _left_out(lambda found: found.mcse),
    "p_waic": variances,
}
