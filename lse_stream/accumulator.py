"""One state: add, update, merge, value, bytes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from . import _kernel
from .scales import NATURAL, Scale
from .states import (
    CROSS_ENTROPY,
    EFFECTIVE_SAMPLE_SIZE,
    LOG_LIKELIHOOD,
    LOGSUMEXP,
    WEIGHTED_LOGSUMEXP,
    Kind,
    StateArray,
    check_same,
    variances,
)
from .values import is_arrow, widen, widen_arrow, widen_rows, widen_scalar

# Values widened at a time: bounds the memory of a conversion.
BLOCK = 1 << 16

Values = npt.NDArray[np.float64] | npt.NDArray[np.float32]


def _blocks(array: npt.NDArray[Any]) -> Iterator[Values]:
    if array.ndim != 1:
        raise ValueError(f"expected an array of 1 dimension, found {array.ndim} dimensions of shape {array.shape}")
    if array.dtype in (np.float64, np.float32) and array.dtype.isnative and array.flags.c_contiguous:
        yield array
        return
    for i in range(0, max(array.size, 1), BLOCK):
        yield widen(array[i : i + BLOCK])


def _arrays(values: object) -> Iterator[Values]:
    """The values as contiguous arrays of float64 or float32, nulls and masked ones left out."""
    if isinstance(values, np.ma.MaskedArray):
        yield from _blocks(values.compressed())
    elif isinstance(values, np.ndarray):
        yield from _blocks(values)
    elif is_arrow(values):
        for array in widen_arrow(values):
            yield from _blocks(array)
    elif hasattr(values, "__array__") or isinstance(values, memoryview):
        yield from _blocks(np.asarray(values))
    elif isinstance(values, Sequence) and not isinstance(values, str | bytes):
        for i in range(0, len(values), BLOCK):
            yield np.array([x if type(x) is float else widen_scalar(x) for x in values[i : i + BLOCK]], np.float64)
    else:
        raise TypeError(f"expected an array or a sequence of real numbers, found {type(values).__name__}")


class LogSumExpAccumulator(_kernel.State):
    """Log-sum-exp of the values added so far, ``ln sum(exp(x))``, kept so that partial results combine exactly.

    The sum is held in integers, so that the state, its bytes and its value depend on the multiset of values alone: not
    on their order, how they were split, the tree of merges, the machine or the kernel. A state takes 80 bytes however
    many values it holds.

    Values: nothing gives -inf; NaN gives NaN for good; +inf gives +inf; -inf adds a term of 0; -0.0 counts as 0.0.
    The value's error is at most 0.51 ULP where its magnitude is 1 or more, else 2^-59 plus its rounding. Where a
    magnitude reaches 2^60, only ties with the maximum count.

    Not for simultaneous use from several threads, except that ``update`` releases the GIL while it sums.
    """

    __slots__ = ()

    def __init__(self, values: object = ()) -> None:
        super().__init__()
        self.update(values)

    def _widen(self, x: object) -> float:
        # Called by ``add`` for what is not a float.
        return widen_scalar(x)

    def update(self, values: object) -> None:
        """Adds every value of a 1-D array or sequence.

        Args:
          values: a NumPy array of 1 dimension (any stride and byte order; float16, float32, float64 or an integer
            dtype; masked values are left out), a sequence of numbers, or an object with the Arrow C data interface,
            such as a pyarrow, Polars or pandas column (nulls are left out).

        Raises:
          TypeError: a dtype that does not widen to float64 exactly, named.
          ValueError: an integer beyond +-2^53, named, or more than one dimension. The state is as before then.
        """
        part = type(self).__new__(type(self))
        for array in _arrays(values):
            part._update(array)
        self.merge(part)

    def copy(self) -> Self:
        """An independent state of the same value."""
        duplicate = type(self).__new__(type(self))
        duplicate.merge(self)
        return duplicate

    @classmethod
    def from_bytes(cls, record: bytes) -> Self:
        """The state of a record that ``to_bytes`` gave.

        Raises:
          StateError: not such a record: truncated, of another version, or not canonical; with expected and found.
        """
        size = _kernel.RECORD.itemsize
        if len(record) != size:
            raise _kernel.StateError(0, f"state: expected {size} bytes, found {len(record)}")
        state = cls.__new__(cls)
        fault = state._load(bytes(record))
        if fault is not None:
            raise _kernel.fault_error(np.frombuffer(record, _kernel.RECORD), 0, fault)
        return state

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LogSumExpAccumulator):
            return NotImplemented
        return bool(self.to_bytes() == other.to_bytes())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(value={self.value()!r}, count={self.count}, max={self.max!r})"

    def states(self) -> StateArray:
        """The state as an array of one."""
        return StateArray(LOGSUMEXP, NATURAL, (np.frombuffer(self.to_bytes(), _kernel.RECORD),), ())

    def result(self, name: str) -> float:
        """One of the results of ``lse_stream.states.LOGSUMEXP``.

        Raises:
          KeyError: another name.
        """
        value: float = self.states().result(name)[0].item()
        return value

    def mean(self) -> float:
        """``ln(sum(exp(x)) / count)``, rounded once: exactly x for equal values x. -inf for none."""
        return self.result("logmeanexp")

    def bonus(self) -> float:
        """What the others add to the largest, ``value - max``, even if tiny: to 2^-99. NaN without a finite max."""
        return self.result("bonus")

    def effective_number(self) -> float:
        """``exp(bonus)``: how many values tied with the largest would give the sum. NaN without a finite max."""
        return self.result("effective_number")


# Rows that wait to be summed together: when that happens cannot be seen in an exact sum.
_PENDING = 1024


class StateAccumulator:
    """The states of the other kinds, with the laws of ``LogSumExpAccumulator``: see the subclasses.

    Attributes:
      kind, scale: of the state.
    """

    __slots__ = ("_pending", "_states", "kind", "scale")

    KIND: ClassVar[Kind]

    def __init__(self, *columns: object, scale: Scale | str = NATURAL) -> None:
        self.kind = self.KIND
        self.scale = Scale.of(scale)
        self.kind.check_scale(self.scale)
        self._states = StateArray.empty(self.kind, self.scale, 1)
        self._pending: list[tuple[float, ...]] = []
        if columns:
            self.update(*columns)

    def _add(self, *row: object) -> None:
        values = tuple([x if type(x) is float else widen_scalar(x) for x in row])
        if len(values) > 1 and not 0.0 <= values[1] < np.inf:  # most weights need no closer look
            self.kind.check_inputs([np.array([x]) for x in values], self.kind.inputs)
        self._pending.append(values)
        if len(self._pending) == _PENDING:
            self.states()

    def states(self) -> StateArray:
        """The state as an array of one."""
        if self._pending:
            columns = np.array(self._pending).T
            self._pending = []
            self._add_columns(list(columns))
        return self._states

    def _add_columns(self, columns: Sequence[npt.NDArray[np.float64]]) -> None:
        for i in range(0, columns[0].size, BLOCK):
            part = [column[i : i + BLOCK] for column in columns]
            codes = np.zeros(part[0].size, np.int32)
            self._merge_states(StateArray.group(self.kind, self.scale, codes, part, 1))

    def _merge_states(self, states: StateArray) -> None:
        if self._states is StateArray.empty(self.kind, self.scale, 1):
            self._states = states
            return
        self._states = StateArray.concat([self._states, states]).merge(np.zeros(2, np.int32), 1)

    def update(self, *columns: object) -> None:
        """Adds rows, given as columns (n,) in the order of ``kind.inputs``, but for those with a null or masked value.

        Args and errors are those of ``LogSumExpAccumulator.update``; and:

        Raises:
          ValueError: columns of different lengths; a weight that is not finite, or a negative target.
        """
        if len(columns) != len(self.kind.inputs):
            raise TypeError(f"expected {' and '.join(self.kind.inputs)}, found {len(columns)} columns")
        arrays = widen_rows(columns, self.kind.inputs)
        self.kind.check_inputs(arrays, self.kind.inputs)
        self.states()
        self._add_columns(arrays)

    def merge(self, other: "StateAccumulator") -> None:
        """Adds all that another state holds; the other is left as it is.

        Raises:
          TypeError: no such state.
          StateError: one of another kind or scale; both named.
        """
        if not isinstance(other, StateAccumulator):
            raise TypeError(f"expected a state to merge, found {type(other).__name__}")
        check_same(self._states, other._states)
        added = other.states()
        self.states()
        self._merge_states(added)

    def value(self) -> Any:
        """The kind's own result."""
        return self.result(next(iter(self.kind.results)))

    def result(self, name: str) -> float:
        """One of ``kind.results``.

        Raises:
          KeyError: another name.
        """
        value: float = self.states().result(name)[0].item()
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
        """The canonical record: ``lse_stream.states`` describes it."""
        return self.states().to_words()[0].tobytes()

    @classmethod
    def from_bytes(cls, record: bytes) -> Self:
        """The state of a record that ``to_bytes`` gave.

        Raises:
          StateError: not such a record: truncated, of another version or kind, or not canonical.
        """
        if len(record) % 8:
            raise _kernel.StateError(0, f"state: expected a multiple of 8 bytes, found {len(record)}")
        words = np.frombuffer(record, np.uint64)
        states = StateArray.from_words(words, np.array([0, words.size]))
        if states.kind is not cls.KIND:
            raise _kernel.StateError(0, f"state: expected kind {cls.KIND.name}, found {states.kind.name}")
        accumulator = cls.__new__(cls)
        accumulator.kind, accumulator.scale = states.kind, states.scale
        accumulator._states, accumulator._pending = states, []
        return accumulator

    def copy(self) -> Self:
        """An independent state of the same value."""
        return self.from_bytes(self.to_bytes())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StateAccumulator):
            return NotImplemented
        return self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(value={self.value()!r}, count={self.count}, scale={self.scale.name!r})"


class ScaledLogSumExpAccumulator(StateAccumulator):
    """Log-sum-exp on a scale other than the natural one: ``log_b(sum(b ** x))`` and the like.

    The value's error is at most 1 ULP of the larger of its magnitude and one unit of the scale, for abs(x) up to 1e6.

    Args:
      values: as for ``update``.
      scale: a ``Scale`` or its name.
    """

    __slots__ = ()
    KIND = LOGSUMEXP

    def __init__(self, *columns: object, scale: Scale | str) -> None:
        super().__init__(*columns, scale=scale)

    def add(self, x: float) -> None:
        """Adds one number."""
        self._add(x)

    def mean(self) -> float:
        """The mean amount: as ``LogSumExpAccumulator.mean``, on the scale."""
        return self.result("logmeanexp")


class WeightedLogSumExpAccumulator(StateAccumulator):
    """``ln abs(sum(w exp(x)))`` and the sign of the sum, for finite weights of either sign.

    A weight of 0 adds nothing whatever x is, NaN included, but counts as a term. +inf with weights of both signs gives
    NaN. Terms that cancel in pairs (w, x), (-w, x) give -inf and sign 0. Where abs(x) reaches 2^60, the largest x alone
    decides. With positive weights the error is that of ``LogSumExpAccumulator``. Under cancellation the error of the
    sum is at most 2^-59 + n 2^-99 of the sum of magnitudes.

    Args:
      values, weights: as for ``update``.
      scale: a ``Scale`` or its name.
    """

    __slots__ = ()
    KIND = WEIGHTED_LOGSUMEXP

    def add(self, x: float, weight: float = 1.0) -> None:
        """Adds one number with its weight."""
        self._add(x, weight)

    def sign(self) -> float:
        """1.0, -1.0 or 0.0; NaN where the value is."""
        return self.result("sign")

    def weight(self) -> float:
        """The sum of the weights, rounded once."""
        return self.result("weight")

    def mean(self) -> float:
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


class LogLikelihoodAccumulator(StateAccumulator):
    """Exact totals of log-likelihoods: count, sum, sum of squares, max and log-sum-exp."""

    __slots__ = ()
    KIND = LOG_LIKELIHOOD

    def add(self, x: float) -> None:
        """Adds one number."""
        self._add(x)

    def value(self) -> LogLikelihoodSummary:
        """All of them."""
        names = ("log_likelihood", "logsumexp", "max", "mean", "variance")
        return LogLikelihoodSummary(self.count, *(self.result(name) for name in names))

    def variance(self, ddof: int = 1) -> float:
        """The variance, rounded once; NaN for ``ddof`` values or fewer, and where a value is not finite."""
        return float(variances(self.states(), ddof)[0])


class EffectiveSampleSizeAccumulator(StateAccumulator):
    """Kish's effective sample size of importance weights given by their logarithms: ``(sum w)^2 / sum w^2``.

    That is ``exp(2 LSE(x) - LSE(2 x))``. 0 for no weight at all, NaN where a logarithm is NaN or +inf.
    Source: L. Kish, Survey Sampling (1965); A. Kong, "A note on importance sampling using standardized weights" (1992).
    """

    __slots__ = ()
    KIND = EFFECTIVE_SAMPLE_SIZE

    def add(self, x: float) -> None:
        """Adds one log-weight."""
        self._add(x)

    def largest_weight(self) -> float:
        """The largest normalised weight, ``exp(max - LSE)``."""
        return self.result("largest_weight")


class CrossEntropyAccumulator(StateAccumulator):
    """Cross-entropy of one example, in nats, whose classes may lie in shards: ``LSE(logits) - sum(target * logit)``.

    Rows are (logit, target): the target is the probability of that class, 1 (or True) for the label, 0 for the others.
    """

    __slots__ = ()
    KIND = CROSS_ENTROPY

    def add(self, logit: float, target: float = 0.0) -> None:
        """Adds one class."""
        self._add(logit, float(target) if isinstance(target, bool | np.bool_) else target)
