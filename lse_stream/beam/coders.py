"""How tables travel between workers: as Arrow IPC, which a slice shares no more with than its own rows, and no pickle.

Imported for its effect: Beam uses these coders wherever the type of the elements is known.
"""

from typing import Any

import pyarrow as pa
from apache_beam.coders import Coder
from apache_beam.coders.typecoders import registry

from ..state_table import StateTable, from_ipc, to_ipc


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


registry.register_coder(pa.Table, TableCoder)
registry.register_coder(StateTable, StateTableCoder)
