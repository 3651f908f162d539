"""Log-sum-exp as a Beam CombineFn: glue around the accumulator, which holds the algorithm."""

from collections.abc import Iterable

import apache_beam as beam
import numpy as np
from apache_beam.typehints.decorators import IOTypeHints

from .accumulator import LogSumExpAccumulator
from .coders import LogSumExpAccumulatorCoder


class LogSumExpCombineFn(beam.CombineFn):
    """Combines numbers to ``ln(sum(exp(x)))``, a float that depends on the multiset of elements alone.

    Merging is exact, so lifting, fanout, retries and the order of bundles change no bit. Nothing combines to ``-inf``.
    An element that is no number raises ``TypeError``; so does None: whether to skip nulls is the caller's choice.
    """

    def __init__(self) -> None:
        beam.CombineFn.__init__(self)  # not super(): a checker of types sees only here that Beam's is untyped

    def create_accumulator(self) -> LogSumExpAccumulator:
        return LogSumExpAccumulator()

    def add_input(self, accumulator: LogSumExpAccumulator, element: float) -> LogSumExpAccumulator:
        # Runs once per element: anything more here shows in the cost of a pipeline.
        try:
            accumulator.add(element)
        except TypeError as error:
            if element is None:
                raise TypeError("expected a number, found None: filter nulls out before the combine") from error
            raise
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[LogSumExpAccumulator]) -> LogSumExpAccumulator:
        # Beam lets the first be changed and no other; Flink merges nothing at all when a window fires empty.
        remaining = iter(accumulators)
        merged = next(remaining, None)
        if merged is None:
            return self.create_accumulator()
        for accumulator in remaining:
            merged.merge(accumulator)
        return merged

    def extract_output(self, accumulator: LogSumExpAccumulator) -> float:
        return accumulator.value()

    def get_accumulator_coder(self) -> LogSumExpAccumulatorCoder:
        return LogSumExpAccumulatorCoder()

    def default_type_hints(self) -> IOTypeHints:
        return IOTypeHints.empty().with_input_types(float | int | np.floating | np.integer).with_output_types(float)
