"""How accumulators and tables travel between workers: as records and as Arrow IPC, never as pickles.

Its import registers these coders: Beam uses them wherever the type of the elements is known.
"""

from typing import Any

import pyarrow as pa
from apache_beam.coders import Coder
from apache_beam.coders.typecoders import registry

from ..accumulators import (
    Accumulator,
    CrossEntropyAccumulator,
    EffectiveSampleSizeAccumulator,
    ExactSumAccumulator,
    LeaveOneOutAccumulator,
    LogLikelihoodAccumulator,
    LogSumExpAccumulator,
    WeightedLogSumExpAccumulator,
)
from ..state_table import StateTable, from_ipc, to_ipc


class AccumulatorCoder(Coder):
    """Codes an accumulator as its canonical record.

    Deterministic: equal accumulators have equal bytes. Decoding a record that is truncated, of another version or not
    canonical raises ``StateError``.

    Args:
      accumulator: the class.

    >>> coder = AccumulatorCoder(LogSumExpAccumulator)
    >>> coder.decode(coder.encode(LogSumExpAccumulator([1, 2, 3])))
    LogSumExpAccumulator(value=3.40760596444438, count=3, max=3.0)
    """

    def __init__(self, accumulator: type[Accumulator]) -> None:
        self._accumulator = accumulator

    def encode(self, value: Accumulator) -> bytes:
        return value.to_bytes()

    def decode(self, encoded: bytes) -> Accumulator:
        return self._accumulator.from_bytes(encoded)

    def is_deterministic(self) -> bool:
        return True

    def to_type_hint(self) -> type[Accumulator]:
        return self._accumulator

    @classmethod
    def from_type_hint(cls, typehint: type[Accumulator], registry: Any) -> Any:
        del registry
        return cls(typehint)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AccumulatorCoder) and self._accumulator is other._accumulator

    def __hash__(self) -> int:
        return hash(self._accumulator)


class TableCoder(Coder):
    """Codes a ``pa.Table`` as an Arrow IPC stream."""

    def encode(self, value: pa.Table) -> bytes:
        return to_ipc(value)

    def decode(self, encoded: bytes) -> pa.Table:
        return from_ipc(encoded)

    def estimate_size(self, value: pa.Table) -> int:
        return int(value.nbytes)  # Beam samples sizes, and would encode for that

    def is_deterministic(self) -> bool:
        return False  # equal tables may be laid out in different chunks

    def to_type_hint(self) -> Any:
        return pa.Table


class StateTableCoder(Coder):
    """Codes a ``StateTable``; its own bytes are not checked again."""

    def encode(self, value: StateTable) -> bytes:
        return value.to_ipc()

    def decode(self, encoded: bytes) -> StateTable:
        return StateTable.from_ipc(encoded, trusted=True)

    def estimate_size(self, value: StateTable) -> int:
        return value.nbytes

    def is_deterministic(self) -> bool:
        return False

    def to_type_hint(self) -> Any:
        return StateTable


for accumulator in (
    LogSumExpAccumulator,
    WeightedLogSumExpAccumulator,
    LogLikelihoodAccumulator,
    LeaveOneOutAccumulator,
    EffectiveSampleSizeAccumulator,
    ExactSumAccumulator,
    CrossEntropyAccumulator,
):
    registry.register_coder(accumulator, AccumulatorCoder)
registry.register_coder(pa.Table, TableCoder)
registry.register_coder(StateTable, StateTableCoder)
