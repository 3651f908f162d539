"""The Beam coders of accumulators: the record is the encoding."""

from typing import ClassVar

from apache_beam.coders import Coder
from apache_beam.coders.typecoders import registry

from .accumulator import (
    CrossEntropyAccumulator,
    EffectiveSampleSizeAccumulator,
    LogLikelihoodAccumulator,
    LogSumExpAccumulator,
    ScaledLogSumExpAccumulator,
    StateAccumulator,
    WeightedLogSumExpAccumulator,
)

Accumulator = LogSumExpAccumulator | StateAccumulator


class AccumulatorCoder(Coder):
    """Codes an accumulator as its canonical record.

    Deterministic: equal accumulators have equal bytes. Decoding a record that is truncated, of another version or not
    canonical raises ``StateError``. Beam uses it wherever the type of the elements is known to be the accumulator.
    """

    ACCUMULATOR: ClassVar[type[Accumulator]]

    def encode(self, value: Accumulator) -> bytes:
        return value.to_bytes()

    def decode(self, encoded: bytes) -> Accumulator:
        return self.ACCUMULATOR.from_bytes(encoded)

    def is_deterministic(self) -> bool:
        return True

    def to_type_hint(self) -> type[Accumulator]:
        return self.ACCUMULATOR


class LogSumExpAccumulatorCoder(AccumulatorCoder):
    ACCUMULATOR = LogSumExpAccumulator


class ScaledLogSumExpAccumulatorCoder(AccumulatorCoder):
    ACCUMULATOR = ScaledLogSumExpAccumulator


class WeightedLogSumExpAccumulatorCoder(AccumulatorCoder):
    ACCUMULATOR = WeightedLogSumExpAccumulator


class LogLikelihoodAccumulatorCoder(AccumulatorCoder):
    ACCUMULATOR = LogLikelihoodAccumulator


class EffectiveSampleSizeAccumulatorCoder(AccumulatorCoder):
    ACCUMULATOR = EffectiveSampleSizeAccumulator


class CrossEntropyAccumulatorCoder(AccumulatorCoder):
    ACCUMULATOR = CrossEntropyAccumulator


CODERS = {
    coder.ACCUMULATOR: coder
    for coder in (
        LogSumExpAccumulatorCoder,
        ScaledLogSumExpAccumulatorCoder,
        WeightedLogSumExpAccumulatorCoder,
        LogLikelihoodAccumulatorCoder,
        EffectiveSampleSizeAccumulatorCoder,
        CrossEntropyAccumulatorCoder,
    )
}
for accumulator, coder in CODERS.items():
    registry.register_coder(accumulator, coder)
