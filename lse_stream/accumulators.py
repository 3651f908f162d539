"""Accumulators: one state each, to which numbers are added, and with which others are merged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from threading import Lock
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from . import _kernel
from ._kernel import SUM, StateError
from .float64 import (
    array_and_nulls,
    columns_to_float64_exact,
    is_arrow,
    is_sequence,
    to_float64_exact,
    to_float_exact,
    valid_numbers,
)
from .integers import split_units, split_values, to_units
from .scales import NATURAL, Scale
from .states.aggregations import (
    CROSS_ENTROPY,
    EFFECTIVE_SAMPLE_SIZE,
    EXACT_SUM,
    LOG_LIKELIHOOD,
    LOGSUMEXP,
    WEIGHTED_LOGSUMEXP,
    Aggregation,
    exact_sum,
    leave_one_out,
)
from .states.arrays import StateArray, check_same
from .states.codec import decode_states, encode_states
from .states.leave_one_out import cross_validate, values_to_keep
from .states.results import result_of, variances

# Values converted at a time: half a megabyte, which stays in the cache.
BLOCK = 1 << 16
# Integers that wait until they are added up together.
UNITS = 1 << 10

Values = npt.NDArray[np.float64] | npt.NDArray[np.float32]


def _blocks(array: npt.NDArray[Any]) -> Iterator[Values]:
    if array.ndim != 1:
        raise ValueError(f"expected an array of 1 dimension, found {array.ndim} dimensions of shape {array.shape}")
    if array.dtype in (np.float64, np.float32) and array.dtype.isnative and array.flags.c_contiguous:
        yield array
        return
    for i in range(0, max(array.size, 1), BLOCK):
        yield to_float64_exact(array[i : i + BLOCK])


def _arrays(values: object) -> Iterator[Values]:
    """The values as contiguous arrays of float64 or float32, nulls and masked ones left out."""
    if type(values) is np.ndarray:
        yield from _blocks(values)
    elif is_sequence(values):
        for i in range(0, len(values), BLOCK):
            yield from _blocks(array_and_nulls(values[i : i + BLOCK])[0])
    elif is_arrow(values):
        for array in valid_numbers(values):
            yield from _blocks(array)
    else:
        array, null = array_and_nulls(values)
        yield from _blocks(array if null is None or array.ndim != 1 else array[~null])


_NOTHING: tuple[()] = ()


def _sum_of(first: Any, second: object) -> Any:
    if not isinstance(second, Accumulator):
        return NotImplemented
    total = first.copy()
    total.merge(second)
    return total


class LogSumExpAccumulator(_kernel.State):
    """Log-sum-exp of the values added so far, ``ln sum(exp(x))``, kept so that partial results combine exactly.

    The sum is held in integers, so that the state, its bytes and its value depend on the multiset of values alone: not
    on their order, how they were split, the tree of merges, the machine or the kernel. A state takes 88 bytes however
    many values it holds (96 where the scale has a number).

    Values: nothing gives -inf; NaN gives NaN, whatever follows; +inf gives +inf; -inf adds a term of 0; -0.0 counts as
    0.0. On the natural scale the value's error is at most 0.51 ULP where its magnitude is 1 or more, else 2^-59 plus
    its rounding. On others it is at most 1 ULP of the larger of its magnitude and one unit of the scale, for abs(x) up
    to 1e6. Where a magnitude reaches 2^60 (in units of the natural scale), only ties with the maximum count.

    Several threads may add, update, merge and read at once: nothing is lost. ``update`` releases the GIL while it sums.

    Args:
      values: as for ``update``.
      scale: a ``Scale`` or its name.

    Raises:
      TypeError, ValueError: as ``update``, and as ``Scale``.

    >>> LogSumExpAccumulator([1, 2, 3, 4, 5]).value()
    5.451914395937593
    >>> round(float(LogSumExpAccumulator([60], scale="decibel") + LogSumExpAccumulator([60], scale="decibel")), 4)
    63.0103
    """

    __slots__ = ("_values_scale",)

    AGGREGATION: ClassVar[Aggregation] = LOGSUMEXP
    _values_scale: Scale

    def __new__(cls, *_: object, **__: object) -> Self:
        return cls._new()

    @classmethod
    def _new(cls) -> Self:
        self = _kernel.State.__new__(cls)
        self._values_scale = NATURAL
        return self

    def __init__(self, values: object = _NOTHING, *, scale: Scale | str = NATURAL) -> None:
        super().__init__()
        if scale is not self._values_scale:
            self._take_scale(Scale(scale))
        if values is not _NOTHING:
            self.update(values)

    def _take_scale(self, scale: Scale) -> None:
        if scale is not self._values_scale:
            high, low = scale.factor.tolist()
            self._use_scale(high, low, scale.descends)  # which refuses a state that is not empty
            self._values_scale = scale

    def _empty(self) -> Self:
        empty = self._new()
        empty._take_scale(self._values_scale)
        return empty

    def _to_float_exact(self, x: object) -> float:
        # Called by ``add`` for what is not a float.
        return to_float_exact(x)

    @property
    def scale(self) -> Scale:
        """The scale of the values."""
        return self._values_scale

    def update(self, values: object) -> None:
        """Adds every value of a 1-D array or sequence.

        Args:
          values: a NumPy array of 1 dimension (any stride and byte order; float16, float32, float64 or an integer
            dtype; masked values are left out), a sequence of numbers, or an object with the Arrow C data interface,
            such as a pyarrow, Polars or pandas column (nulls are left out).

        Raises:
          TypeError: a dtype that float64 does not hold exactly, named.
          ValueError: an integer beyond +-2^53, named, or more than one dimension. The state is as before then.
        """
        part = self._empty()
        for array in _arrays(values):
            part._update(array)
        self.merge(part)

    def _refuse_merge(self, other: object) -> None:
        # Called by ``merge`` for what is no state, or one of another aggregation or scale.
        if isinstance(other, Accumulator):
            check_same(self.states(), other.states())
        raise TypeError(f"expected a state to merge, found {type(other).__name__}")

    def copy(self) -> Self:
        """An independent state of the same value."""
        duplicate = self._empty()
        duplicate.merge(self)
        return duplicate

    def to_bytes(self) -> bytes:
        """The canonical record, which ``lse_stream.states.codec`` describes: equal states have equal bytes."""
        if self._values_scale is NATURAL:
            return super().to_bytes()
        return encode_states(self.states())[0].tobytes()

    @classmethod
    def from_bytes(cls, record: bytes | bytearray | memoryview) -> Self:
        """The state of a record that ``to_bytes`` gave.

        Args:
          record: bytes, or another object with the buffer protocol.

        Raises:
          TypeError: no such object.
          StateError: not such a record: truncated, of another version or aggregation, or not canonical; with expected
            and found.
        """
        state, record = cls._new(), _bytes(record)
        if not state._load(record):  # on another scale, or to be refused
            states = _decode(record, LOGSUMEXP)
            state._take_scale(states.scale)
            state._set_sum(states.sums[0].tobytes())
        return state

    def __add__(self, other: object) -> Self:
        """Both merged, as a new state. Raises as ``merge``."""
        total: Self = _sum_of(self, other)
        return total

    def __float__(self) -> float:
        """The aggregation's own result: the first of its results."""
        return self.result(self.AGGREGATION.results[0])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LogSumExpAccumulator):
            return NotImplemented
        return self.to_bytes() == other.to_bytes()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        of_scale = "" if self._values_scale is NATURAL else f", scale={self._values_scale.name!r}"
        return f"{type(self).__name__}(value={self.value()!r}, count={self.count}, max={self.max!r}{of_scale})"

    def states(self) -> StateArray:
        """The state as an array of one."""
        return StateArray(LOGSUMEXP, self._values_scale, (np.frombuffer(self._sum(), SUM),), ())

    def value(self) -> float:
        """The log-sum-exp, in units of the scale."""
        return super().value() if self._values_scale is NATURAL else self.result("logsumexp")

    def result(self, name: str) -> float:
        """One of the results of ``lse_stream.states.aggregations.LOGSUMEXP``.

        Raises:
          KeyError: another name.
        """
        value: float = result_of(self.states(), name)[0].item()
        return value

    def logmeanexp(self) -> float:
        """``ln(sum(exp(x)) / count)``, rounded once: exactly x for equal values x. -inf for none."""
        return self.result("logmeanexp")

    def bonus(self) -> float:
        """What the others add to the largest, ``LSE - max``, to 0.52 ULP on every scale. NaN without a finite max."""
        return self.result("bonus")

    def exp_bonus(self) -> float:
        """``exp(LSE - max)``: how many values tied with the largest would give the sum. NaN without a finite max."""
        return self.result("exp_bonus")


def _bytes(record: bytes | bytearray | memoryview) -> bytes:
    try:
        return record if type(record) is bytes else bytes(memoryview(record))
    except TypeError:
        raise TypeError(f"state: expected a bytes-like object, found {type(record).__name__}") from None


def _decode(record: bytes, expected: Aggregation) -> StateArray:
    """The state of a record, as an array of one; raises StateError as ``from_bytes``."""
    if len(record) % 8:
        raise StateError(0, f"state: expected a multiple of 8 bytes, found {len(record)}")
    words = np.frombuffer(record, np.uint64)
    states = decode_states(words, np.array([0, words.size]))
    if states.aggregation.family != expected.family:
        raise StateError(0, f"state: expected aggregation {expected.family}, found {states.aggregation.name}")
    return states


class _PartsAccumulator(_kernel.Rows):
    """The accumulators of the other aggregations, with the guarantees of ``LogSumExpAccumulator``.

    Attributes:
      AGGREGATION: of the class; of one that has a parameter, with the least.
    """

    __slots__ = ("_lock", "_states")

    AGGREGATION: ClassVar[Aggregation]

    def __init__(self, *columns: object, scale: Scale | str = NATURAL) -> None:
        self._begin(self.AGGREGATION, Scale(scale), columns)

    def _begin(self, aggregation: Aggregation, scale: Scale, columns: Sequence[object]) -> None:
        aggregation.check_scale(scale)
        self._become(StateArray.empty(aggregation, scale, 1))
        if columns:
            self.update(*columns)

    def _become(self, states: StateArray) -> None:
        self._states, self._lock = states, Lock()

    @property
    def scale(self) -> Scale:
        """The scale of the values."""
        return self._states.scale

    def _to_float_exact(self, x: object) -> float:
        return to_float_exact(x)  # called for what is not a float

    def _check_row(self, *row: float) -> None:
        self.AGGREGATION.check_inputs([np.array([x]) for x in row], self.AGGREGATION.inputs)

    def _settle(self) -> None:
        # When that happens cannot be seen in an exact sum.
        with self._lock:
            rows = self._waiting_rows()
            if rows:
                columns = np.frombuffer(rows).reshape(-1, len(self.AGGREGATION.inputs)).T
                self._states = self._merged(self._summed(list(columns)))
                self._drop_rows(rows)  # at once: no signal comes between the two

    def states(self) -> StateArray:
        """The state as an array of one."""
        self._settle()
        return self._states

    def _summed(self, columns: Sequence[npt.NDArray[np.float64]]) -> StateArray:
        """The state of rows."""
        parts = []
        for i in range(0, max(columns[0].size, 1), BLOCK):
            part = [column[i : i + BLOCK] for column in columns]
            codes = np.zeros(part[0].size, np.int32)
            parts.append(StateArray.group(self._states.aggregation, self.scale, codes, part, 1))
        return parts[0] if len(parts) == 1 else StateArray.concat(parts).merge(np.zeros(len(parts), np.int32), 1)

    def _merged(self, states: StateArray) -> StateArray:
        """This state and another; to be called, and become this one's, under the lock."""
        if self._states is StateArray.empty(self._states.aggregation, self.scale, 1):
            return states
        return StateArray.concat([self._states, states]).merge(np.zeros(2, np.int32), 1)

    def _merge_states(self, states: StateArray) -> None:
        with self._lock:
            self._states = self._merged(states)

    def update(self, *columns: object) -> None:
        """Adds rows, but for those with a null or masked value.

        Args:
          columns: (n,) each, in the order of the arguments of ``add``; of the types that
            ``LogSumExpAccumulator.update`` takes.

        Raises:
          TypeError: a dtype that float64 does not hold exactly, named, or another number of columns.
          ValueError: an integer beyond +-2^53; more than one dimension; columns of different lengths; a weight that is
            not finite, or a negative target. The state is as before then.
        """
        inputs = self.AGGREGATION.inputs
        if len(columns) != len(inputs):
            raise TypeError(f"expected {' and '.join(inputs)}, found {len(columns)} columns")
        self._merge_states(self._summed(self._columns(columns)))

    def _columns(self, columns: Sequence[object]) -> list[npt.NDArray[np.float64]]:
        inputs = self.AGGREGATION.inputs
        arrays = columns_to_float64_exact(columns, inputs)
        self.AGGREGATION.check_inputs(arrays, inputs)
        return arrays

    def merge(self, other: "Accumulator") -> None:
        """Adds all that another state holds; the other is left as it is.

        Raises:
          TypeError: no such state.
          StateError: one of another aggregation or scale; both named.
        """
        if not isinstance(other, Accumulator):
            raise TypeError(f"expected a state to merge, found {type(other).__name__}")
        added = other.states()
        check_same(self._states, added)
        self._merge_states(added)

    def value(self) -> Any:
        """The aggregation's own result: the first of its results."""
        return self.result(self.AGGREGATION.results[0])

    def result(self, name: str) -> float:
        """One of the results of the aggregation: ``lse_stream.states.aggregations`` lists them.

        Raises:
          KeyError: another name.
        """
        value: float = result_of(self.states(), name)[0].item()
        return value

    @property
    def count(self) -> int:
        """How many terms were added."""
        return int(self.result("count"))

    @property
    def max(self) -> float:
        """The value of the largest term; -inf where there is none."""
        return self.result("max")

    def to_bytes(self) -> bytes:
        """The canonical record, which ``lse_stream.states.codec`` describes: equal states have equal bytes."""
        return encode_states(self.states())[0].tobytes()

    @classmethod
    def from_bytes(cls, record: bytes | bytearray | memoryview) -> Self:
        """The state of a record that ``to_bytes`` gave.

        Args:
          record: bytes, or another object with the buffer protocol.

        Raises:
          TypeError: no such object.
          StateError: not such a record: truncated, of another version or aggregation, or not canonical.
        """
        accumulator = cls.__new__(cls)
        accumulator._become(_decode(_bytes(record), cls.AGGREGATION))
        return accumulator

    def copy(self) -> Self:
        """An independent state of the same value."""
        return self.from_bytes(self.to_bytes())

    def __add__(self, other: object) -> Self:
        """Both merged, as a new state. Raises as ``merge``."""
        total: Self = _sum_of(self, other)
        return total

    def __float__(self) -> float:
        """The aggregation's own result: the first of its results."""
        return float(self.result(self.AGGREGATION.results[0]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _PartsAccumulator):
            return NotImplemented
        return self.to_bytes() == other.to_bytes()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        try:
            value = repr(self.value())
        except StateError:  # of a part of the classes, say
            value = "undefined"
        return f"{type(self).__name__}(value={value}, count={self.count}, scale={self.scale.name!r})"


def _number(weight: float) -> float:
    """A weight or target, which may be a boolean."""
    return float(weight) if isinstance(weight, bool | np.bool_) else weight


class WeightedLogSumExpAccumulator(_PartsAccumulator):
    """``ln(sum(w exp(x)))`` for finite weights of either sign: NaN where the sum is negative, -inf where it is 0.

    A weight of 0 adds nothing whatever x is, NaN included, but counts as a term. +inf with weights of both signs gives
    NaN. Terms that cancel in pairs (w, x), (-w, x) give -inf and sign 0. Where abs(x) reaches 2^60, the largest x alone
    decides. With positive weights the error of the value is at most 0.51 ULP where its magnitude is 1 or more, else
    2^-59 plus its rounding: unlike in a state without weights, or ``logsumexp`` with weights of 1, what is more than 69
    below the max may leave nothing, even where every weight is 1. Under cancellation the error of the sum is at most
    2^-59 + n 2^-99 of the sum of magnitudes.

    Args:
      values, weights: as for ``update``.
      scale: a ``Scale`` or its name.

    Raises:
      TypeError, ValueError: as ``update``, and as ``Scale``.

    >>> state = WeightedLogSumExpAccumulator([0.0, 0.0], [1.0, -3.0])
    >>> state.value(), state.sign(), round(state.log_abs_sum(), 6)
    (nan, -1.0, 0.693147)
    """

    __slots__ = ()
    AGGREGATION = WEIGHTED_LOGSUMEXP

    def add(self, x: float, weight: float = 1.0) -> None:
        """Adds one number with its weight; raises ValueError for a weight that is not finite."""
        self._add_weighted(x, _number(weight))

    def log_abs_sum(self) -> float:
        """``ln abs(sum(w exp(x)))``, whatever the sign of the sum."""
        return self.result("log_abs_sum")

    def sign(self) -> float:
        """The sign of the sum: 1.0, -1.0 or 0.0; NaN where ``log_abs_sum`` is."""
        return self.result("sign")

    def weight(self) -> float:
        """The sum of the weights, rounded once."""
        return self.result("weight")

    def logmeanexp(self) -> float:
        """``ln(sum(w exp(x)) / sum(w))``; NaN where that mean is negative or the weights sum to 0."""
        return self.result("logmeanexp")


@dataclass(frozen=True)
class LogLikelihoodSummary:
    """Totals of log-likelihoods; every one depends on the multiset of values alone, and the sums are rounded once.

    Attributes:
      count: how many values.
      log_likelihood: their sum; 0 for none.
      logsumexp, max: of the values; -inf for none.
      mean: NaN for none.
      variance: of the sample (ddof 1); NaN for fewer than two.
    """

    count: int
    log_likelihood: float
    logsumexp: float
    max: float
    mean: float
    variance: float


class LogLikelihoodAccumulator(_PartsAccumulator):
    """Exact totals of log-likelihoods: count, sum, sum of squares, max and log-sum-exp.

    Args:
      values: as for ``update``.

    >>> LogLikelihoodAccumulator([-1.5, -0.25, 1e16, -1e16]).value().log_likelihood
    -1.75
    """

    __slots__ = ()
    AGGREGATION = LOG_LIKELIHOOD

    def value(self) -> LogLikelihoodSummary:
        """The totals."""
        names = ("log_likelihood", "logsumexp", "max", "mean", "variance")
        return LogLikelihoodSummary(self.count, *(self.result(name) for name in names))

    def variance(self, ddof: int = 1) -> float:
        """The variance, rounded once; NaN for ``ddof`` values or fewer, and where a value is not finite.

        Raises:
          TypeError, ValueError: a ``ddof`` that is no integer of 0 or more.
        """
        return float(variances(self.states(), ddof)[0])


@dataclass(frozen=True)
class LeaveOneOutSummary:
    """Leave-one-out cross-validation of one observation, in nats.

    Attributes:
      count: how many draws.
      elpd_loo: its log predictive density by draws of which it is left out; -inf where a log-likelihood is -inf.
      p_loo: ``lppd - elpd_loo``, the effective number of parameters.
      pareto_k: the shape of the tail; the estimate is in doubt above ``min(1 - 1 / log10(count), 0.7)``. inf where the
        tail was too short to fit, or all the same.
      lppd: the log pointwise predictive density.
      mcse: the Monte Carlo standard error of elpd_loo, which tells what other draws might give.
      p_waic: the variance of the log-likelihoods, the effective number of parameters of WAIC.
    """

    count: int
    elpd_loo: float
    p_loo: float
    pareto_k: float
    lppd: float
    mcse: float
    p_waic: float


class LeaveOneOutAccumulator(_PartsAccumulator):
    """Leave-one-out cross-validation (PSIS-LOO) of one observation, from its log-likelihoods under posterior draws.

    Whatever order the draws come in, however they are split over chains, files and machines: merged states give the
    same bits. A state takes some ``8 k + 300`` bytes for k values to keep, 1.8 kB for 4,000 draws.
    ``lse_stream.states.leave_one_out`` says what is computed, and from which papers.

    Args:
      log_likelihoods: as for ``update``.
      draws: how many draws all states together will have that are ever merged; it says how many of the smallest values
        a state keeps. Only states that keep the same number merge.
      r_eff: the effective over the actual number of draws, for the tail's length.

    Raises:
      TypeError, ValueError: as ``update``; and for draws of less than 1 or beyond 4.7e8.

    >>> observation = LeaveOneOutAccumulator(np.arange(30) * -0.1 - 1.1, draws=30).value()
    >>> round(observation.elpd_loo, 12), round(observation.pareto_k, 9)
    (-2.906740437123, 0.104648594)
    """

    __slots__ = ()
    AGGREGATION = leave_one_out(1)

    def __init__(self, *log_likelihoods: object, draws: int, r_eff: float = 1.0) -> None:
        self._begin(leave_one_out(values_to_keep(draws, r_eff)), NATURAL, log_likelihoods)

    def value(self, r_eff: float = 1.0, *, round_up: bool = False) -> LeaveOneOutSummary:
        """The results; NaN without draws, and where a log-likelihood is NaN or inf.

        Args:
          r_eff, round_up: as of ``lse_stream.states.leave_one_out.tail_length``. A state does not know the ``r_eff``
            that it was made for.

        Raises:
          ValueError: an ``r_eff`` that is not positive.
          StateError: more draws than the state was made for.
        """
        found = cross_validate(self.states(), r_eff, round_up=round_up)
        columns = [*(float(column[0]) for column in found), self.result("p_waic")]
        return LeaveOneOutSummary(self.count, *columns)


class EffectiveSampleSizeAccumulator(_PartsAccumulator):
    """Kish's effective sample size of importance weights given by their logarithms: ``(sum w)^2 / sum w^2``.

    That is ``exp(2 LSE(x) - LSE(2 x))``. 0 for no weight at all, NaN where a logarithm is NaN or +inf.
    Source: L. Kish, Survey Sampling (1965); A. Kong, "A note on importance sampling using standardized weights" (1992).

    Args:
      log_weights: as for ``update``.

    >>> EffectiveSampleSizeAccumulator([-1000.0, -1000.0, -1000.0]).value()
    3.0
    """

    __slots__ = ()
    AGGREGATION = EFFECTIVE_SAMPLE_SIZE

    def largest_weight(self) -> float:
        """The largest weight over the sum of all, ``exp(max - LSE)``."""
        return self.result("largest_weight")


class CrossEntropyAccumulator(_PartsAccumulator):
    """Cross-entropy of one example, in nats, whose classes may lie in shards: ``LSE(logits) - sum(target * logit)``.

    ``value`` raises StateError where the targets do not sum to 1, as of a part of the classes.

    Args:
      logits, targets: as for ``update``; the target is the probability of the class, 1 (or True) for the label, 0 for
        the others.

    >>> CrossEntropyAccumulator([2.0, 0.0, 0.0], [1, 0, 0]).value()
    0.2395447662218845
    """

    __slots__ = ()
    AGGREGATION = CROSS_ENTROPY

    def add(self, logit: float, target: float = 0.0) -> None:
        """Adds one class; raises ValueError for a target that is negative or not finite."""
        self._add_weighted(logit, _number(target))


@dataclass(frozen=True)
class ExactSumSummary:
    """Totals of numbers.

    Attributes:
      count: how many numbers.
      sum: rounded once; of integers and decimals exactly.
      mean, variance: rounded once; the variance is that of a sample (divisor n - 1), NaN for fewer than two.
      min, max: the least and the largest; of no numbers inf and -inf.
    """

    count: int
    sum: float | Decimal
    mean: float
    variance: float
    min: float | Decimal
    max: float | Decimal


class ExactSumAccumulator(_PartsAccumulator):
    """Exact totals of numbers: count, sum, mean, variance, min and max.

    Args:
      values: as for ``update``.
      digits: None for floats. For integers and decimals of up to 38 digits, how many there are after the point: their
        sum, min and max are ``decimal.Decimal`` then, exactly, and only states of the same number of digits merge.

    Raises:
      TypeError, ValueError: as ``update``; and for digits that are not within 0 to 38.

    >>> ExactSumAccumulator([0.1] * 10).value().sum, sum([0.1] * 10)
    (1.0, 0.9999999999999999)
    >>> ExactSumAccumulator([2**63 - 1, 1], digits=0).value().sum
    Decimal('9223372036854775808')
    """

    __slots__ = ("_units",)
    AGGREGATION = EXACT_SUM
    _units: list[int]  # that were added and wait, as integers

    def __init__(self, *values: object, digits: int | None = None) -> None:
        self._begin(EXACT_SUM if digits is None else exact_sum(digits), NATURAL, values)

    def _become(self, states: StateArray) -> None:
        super()._become(states)
        self._units = []

    def _columns(self, columns: Sequence[object]) -> list[npt.NDArray[np.float64]]:
        digits = self._states.aggregation.digits
        if digits is None:
            return super()._columns(columns)
        if len(columns) != 1:
            raise TypeError(f"expected value, found {len(columns)} columns")
        return split_values(columns[0], digits, "value")

    def add(self, value: Any) -> None:
        """Adds one number. Raises as ``update``."""
        digits = self._states.aggregation.digits
        if digits is None:
            super().add(value)
            return
        self._units.append(to_units(value, digits))
        if len(self._units) >= UNITS:
            self._settle()

    def _settle(self) -> None:
        super()._settle()
        if self._units:
            with self._lock:
                n = len(self._units)
                merged = self._merged(self._summed(split_units(self._units[:n])))
                self._states, self._units[:n] = merged, ()  # no signal comes between the two

    def result(self, name: str) -> Any:
        """One of the results: a float, an int, or a ``decimal.Decimal``. Raises KeyError for another name."""
        return _exact_result(self.states(), name)

    @property
    def max(self) -> Any:
        """The largest number; -inf where there is none."""
        return self.result("max")

    def value(self) -> ExactSumSummary:
        """The totals."""
        states, names = self.states(), ("count", "sum", "mean", "variance", "min", "max")
        return ExactSumSummary(*(_exact_result(states, name) for name in names))


def _exact_result(states: StateArray, name: str) -> Any:
    found = result_of(states, name)[0].item()
    if not isinstance(found, tuple):
        return found
    if name != "sum" and not states.counts[0]:
        return Decimal("-Infinity" if name == "max" else "Infinity")
    low, high = found
    return Decimal(f"{high << 64 | low}e-{states.aggregation.digits}")


# Any of them: what functions, CombineFns and coders take.
Accumulator = LogSumExpAccumulator | _PartsAccumulator
