"""The Beam coder of accumulators: the record is the encoding."""

from apache_beam.coders import Coder
from apache_beam.coders.typecoders import registry

from .accumulator import LogSumExpAccumulator


class LogSumExpAccumulatorCoder(Coder):
    """Codes a ``LogSumExpAccumulator`` as its canonical 80-byte record.

    Deterministic: equal accumulators have equal bytes. Decoding a record that is truncated, of another version or not
    canonical raises ``StateError``. Beam uses it wherever the type of the elements is known to be the accumulator.
    """

    def encode(self, value: LogSumExpAccumulator) -> bytes:
        return value.to_bytes()

    def decode(self, encoded: bytes) -> LogSumExpAccumulator:
        return LogSumExpAccumulator.from_bytes(encoded)

    def is_deterministic(self) -> bool:
        return True

    def to_type_hint(self) -> type[LogSumExpAccumulator]:
        return LogSumExpAccumulator


registry.register_coder(LogSumExpAccumulator, LogSumExpAccumulatorCoder)
