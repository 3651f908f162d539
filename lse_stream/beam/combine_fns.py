"""The aggregations as Beam CombineFns: glue around the accumulators, which hold the algorithm."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.typehints.decorators import IOTypeHints

from ..accumulators import (
    Accumulator,
    CrossEntropyAccumulator,
    EffectiveSampleSizeAccumulator,
    ExactSumAccumulator,
    ExactSumSummary,
    LeaveOneOutAccumulator,
    LeaveOneOutSummary,
    LogLikelihoodAccumulator,
    LogLikelihoodSummary,
    LogSumExpAccumulator,
    WeightedLogSumExpAccumulator,
)
from ..scales import NATURAL, Scale
from .coders import AccumulatorCoder

Number = float | int | np.floating | np.integer


def check_combine_fn(combine_fn: beam.CombineFn) -> beam.CombineFn:
    """What was given; raises TypeError for what is no CombineFn, such as a class or a function."""
    if not isinstance(combine_fn, beam.CombineFn):
        raise TypeError(f"expected a CombineFn, such as LogSumExpCombineFn(), found {combine_fn!r}")
    return combine_fn


def check_element(combine_fn: beam.CombineFn, element: Any) -> None:
    """Raises what a CombineFn would raise for an element."""
    combine_fn.add_input(combine_fn.create_accumulator(), element)


def check_pair(combine_fn: beam.CombineFn, pair: tuple[Any, Any]) -> None:
    """Raises what a CombineFn would raise for the element of a pair (key, element), or for what is no pair."""
    _, element = pair
    check_element(combine_fn, element)


class _AccumulatorCombineFn(beam.CombineFn):
    """Combines elements in an accumulator; what it gives depends on the multiset of elements alone.

    Merging is exact, so lifting, fanout, retries and the order of bundles change no bit. An element that is no number
    raises ``TypeError``; so does None: whether to skip nulls is the caller's choice. Subclasses say which accumulator,
    and what it gives.
    """

    def __init__(self) -> None:
        beam.CombineFn.__init__(self)  # by name: through super(), mypy takes it for a function of ours without types

    def create_accumulator(self) -> Any:
        raise NotImplementedError

    def add_input(self, accumulator: Any, element: Any) -> Any:
        # Runs once per element: anything more here shows in the cost of a pipeline.
        try:
            accumulator.add(element)
        except TypeError as error:
            if element is None:
                raise TypeError("expected a number, found None: filter nulls out before the combine") from error
            raise
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Accumulator]) -> Any:
        # Beam lets the first be changed and no other; Flink merges nothing at all when a window fires empty.
        remaining = iter(accumulators)
        merged: Any = next(remaining, None)
        if merged is None:
            return self.create_accumulator()
        for accumulator in remaining:
            merged.merge(accumulator)
        return merged

    def extract_output(self, accumulator: Any) -> Any:
        return accumulator.value()

    def get_accumulator_coder(self) -> AccumulatorCoder:
        return AccumulatorCoder(type(self.create_accumulator()))

    def default_type_hints(self) -> IOTypeHints:
        return IOTypeHints.empty().with_input_types(Number).with_output_types(float)


class ToStateCombineFn(_AccumulatorCombineFn):
    """Combines elements to the accumulator itself, not to its result, so that panes and parts can be merged later.

    Args:
      combine_fn: what creates the accumulator, and adds to it.

    >>> to_state = ToStateCombineFn(LogSumExpCombineFn())
    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     _ = pipeline | beam.Create([60, 60]) | beam.CombineGlobally(to_state) | beam.Map(print)
    LogSumExpAccumulator(value=60.69314718055995, count=2, max=60.0)
    """

    def __init__(self, combine_fn: beam.CombineFn) -> None:
        super().__init__()
        self._combine_fn = check_combine_fn(combine_fn)

    def create_accumulator(self) -> Any:
        return self._combine_fn.create_accumulator()

    def add_input(self, accumulator: Any, element: Any) -> Any:
        return self._combine_fn.add_input(accumulator, element)

    def extract_output(self, accumulator: Any) -> Any:
        return accumulator.copy()  # Beam may go on adding to the one that it has

    def default_type_hints(self) -> IOTypeHints:
        hints: IOTypeHints = self._combine_fn.default_type_hints()
        return hints.with_output_types(type(self.create_accumulator()))


class MergeStatesCombineFn(_AccumulatorCombineFn):
    """Combines accumulators to what another one gives: exactly as if it had combined all elements behind them.

    Args:
      combine_fn: what created the accumulators; ``ToStateCombineFn`` of it, to merge to states.

    Raises:
      StateError: when the pipeline runs: a state of another aggregation or scale.

    >>> states = [LogSumExpAccumulator([1, 2]), LogSumExpAccumulator([3, 4, 5])]
    >>> merge = MergeStatesCombineFn(LogSumExpCombineFn())
    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     _ = pipeline | beam.Create(states) | beam.CombineGlobally(merge) | beam.Map(print)
    5.451914395937593
    """

    def __init__(self, combine_fn: beam.CombineFn) -> None:
        super().__init__()
        self._combine_fn = check_combine_fn(combine_fn)

    def create_accumulator(self) -> Any:
        return self._combine_fn.create_accumulator()

    def add_input(self, accumulator: Any, element: Accumulator) -> Any:
        accumulator.merge(element)
        return accumulator

    def extract_output(self, accumulator: Any) -> Any:
        return self._combine_fn.extract_output(accumulator)

    def default_type_hints(self) -> IOTypeHints:
        hints: IOTypeHints = self._combine_fn.default_type_hints()
        return hints.with_input_types(type(self.create_accumulator()))


class _PairCombineFn(_AccumulatorCombineFn):
    """Of elements that are pairs of numbers."""

    def add_input(self, accumulator: Any, element: tuple[float, float]) -> Any:
        try:
            accumulator.add(*element)
        except TypeError as error:
            if not isinstance(element, tuple) or len(element) != 2 or None in element:
                raise TypeError(f"expected a pair of numbers, found {element!r}") from error
            raise
        return accumulator

    def default_type_hints(self) -> IOTypeHints:
        return IOTypeHints.empty().with_input_types(tuple[Number, Number | bool]).with_output_types(float)


class LogSumExpCombineFn(_AccumulatorCombineFn):
    """Combines numbers to ``ln(sum(exp(x)))``, a float. Nothing combines to ``-inf``.

    Args:
      scale: a ``Scale`` or its name, such as "decibel" or "base 4".

    Raises:
      ValueError: no such scale.

    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     _ = pipeline | beam.Create([1, 2, 3, 4, 5]) | beam.CombineGlobally(LogSumExpCombineFn()) | beam.Map(print)
    5.451914395937593
    """

    def __init__(self, scale: Scale | str = NATURAL) -> None:
        super().__init__()
        self._scale = Scale(scale)

    def create_accumulator(self) -> LogSumExpAccumulator:
        return LogSumExpAccumulator(scale=self._scale)


class LogMeanExpCombineFn(LogSumExpCombineFn):
    """Combines numbers to ``ln(sum(exp(x)) / n)``, a float: exactly x for equal values x; ``-inf`` for none.

    Args:
      scale: a ``Scale`` or its name.

    Raises:
      ValueError: no such scale.

    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     _ = pipeline | beam.Create([-7.5, -7.5]) | beam.CombineGlobally(LogMeanExpCombineFn()) | beam.Map(print)
    -7.5
    """

    def extract_output(self, accumulator: LogSumExpAccumulator) -> float:
        return accumulator.logmeanexp()


class WeightedLogSumExpCombineFn(_PairCombineFn):
    """Combines pairs (x, weight) to ``ln(sum(weight * exp(x)))``, a float; NaN where the sum is negative.

    Args:
      scale: a ``Scale`` or its name.
      return_sign: combine to (log of the magnitude, sign) instead.

    Raises:
      ValueError: no such scale; when the pipeline runs: a weight that is not finite.

    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     pairs = pipeline | beam.Create([(0.0, 3.0), (0.0, -2.0)])
    ...     _ = pairs | beam.CombineGlobally(WeightedLogSumExpCombineFn()) | beam.Map(print)
    0.0
    """

    def __init__(self, scale: Scale | str = NATURAL, *, return_sign: bool = False) -> None:
        super().__init__()
        self._scale = Scale(scale)
        self._return_sign = return_sign

    def create_accumulator(self) -> WeightedLogSumExpAccumulator:
        return WeightedLogSumExpAccumulator(scale=self._scale)

    def extract_output(self, accumulator: WeightedLogSumExpAccumulator) -> float | tuple[float, float]:
        if self._return_sign:
            return accumulator.log_abs_sum(), accumulator.sign()
        value: float = accumulator.value()
        return value

    def default_type_hints(self) -> IOTypeHints:
        output = tuple[float, float] if self._return_sign else float
        return super().default_type_hints().with_output_types(output)


class LogLikelihoodCombineFn(_AccumulatorCombineFn):
    """Combines numbers to a ``LogLikelihoodSummary``: count, exact sum, log-sum-exp, max, mean, variance.

    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     summary = pipeline | beam.Create([-1.5, 1e16, -1e16]) | beam.CombineGlobally(LogLikelihoodCombineFn())
    ...     _ = summary | beam.Map(lambda found: print(found.count, found.log_likelihood))
    3 -1.5
    """

    def create_accumulator(self) -> LogLikelihoodAccumulator:
        return LogLikelihoodAccumulator()

    def default_type_hints(self) -> IOTypeHints:
        return super().default_type_hints().with_output_types(LogLikelihoodSummary)


class LeaveOneOutCombineFn(_AccumulatorCombineFn):
    """Combines an observation's log-likelihoods under posterior draws to a ``LeaveOneOutSummary``.

    Args:
      draws: how many there are in all, at most; also over states that will be merged later.
      r_eff: the effective over the actual number of draws.

    Raises:
      ValueError: as ``LeaveOneOutAccumulator``.

    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     draws = pipeline | beam.Create([-1.1 - 0.1 * s for s in range(30)])
    ...     found = draws | beam.CombineGlobally(LeaveOneOutCombineFn(draws=30))
    ...     _ = found | beam.Map(lambda found: print(round(found.elpd_loo, 12)))
    -2.906740437123
    """

    def __init__(self, draws: int, r_eff: float = 1.0) -> None:
        super().__init__()
        self._draws, self._r_eff = draws, r_eff
        self.create_accumulator()  # which checks them

    def create_accumulator(self) -> LeaveOneOutAccumulator:
        return LeaveOneOutAccumulator(draws=self._draws, r_eff=self._r_eff)

    def extract_output(self, accumulator: LeaveOneOutAccumulator) -> LeaveOneOutSummary:
        return accumulator.value(self._r_eff)

    def default_type_hints(self) -> IOTypeHints:
        return super().default_type_hints().with_output_types(LeaveOneOutSummary)


class ExactSumCombineFn(_AccumulatorCombineFn):
    """Combines numbers to an ``ExactSumSummary``: count, sum, mean, variance, min and max, exactly.

    Args:
      digits: None for floats; of integers and decimals, how many there are after the point.

    Raises:
      ValueError: as ``ExactSumAccumulator``.

    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     found = pipeline | beam.Create([2**62, 1, -(2**62)]) | beam.CombineGlobally(ExactSumCombineFn(digits=0))
    ...     _ = found | beam.Map(lambda found: print(found.sum))
    1
    """

    def __init__(self, digits: int | None = None) -> None:
        super().__init__()
        self._digits = digits
        self.create_accumulator()  # which checks them

    def create_accumulator(self) -> ExactSumAccumulator:
        return ExactSumAccumulator(digits=self._digits)

    def default_type_hints(self) -> IOTypeHints:
        return IOTypeHints.empty().with_input_types(Number | Decimal).with_output_types(ExactSumSummary)


class EffectiveSampleSizeCombineFn(_AccumulatorCombineFn):
    """Combines log-weights to Kish's effective sample size, a float; 0 for none.

    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     log_weights = pipeline | beam.Create([-9.0, -9.0, -9.0])
    ...     _ = log_weights | beam.CombineGlobally(EffectiveSampleSizeCombineFn()) | beam.Map(print)
    3.0
    """

    def create_accumulator(self) -> EffectiveSampleSizeAccumulator:
        return EffectiveSampleSizeAccumulator()


class CrossEntropyCombineFn(_PairCombineFn):
    """Combines the classes of one example, pairs (logit, target), to its cross-entropy in nats, a float.

    Raises:
      ValueError: when the pipeline runs: the targets of an example do not sum to 1.

    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     classes = pipeline | beam.Create([(0.0, 1), (0.0, 0)])
    ...     _ = classes | beam.CombineGlobally(CrossEntropyCombineFn()) | beam.Map(print)
    0.6931471805599453
    """

    def create_accumulator(self) -> CrossEntropyAccumulator:
        return CrossEntropyAccumulator()
