"""Columns of states: the Arrow type, and states to and from a column."""

import json
from functools import lru_cache

import numpy as np
import pyarrow as pa

from ._kernel import StateError
from ._kernel.constants import VERSION
from .buffers import Mask, nulls_of, validity
from .scales import NATURAL, Scale
from .states.aggregations import LOGSUMEXP, Aggregation, find_aggregation
from .states.arrays import StateArray
from .states.codec import decode_states, encode_states

STATE = "state"

# As many words as the 32-bit offsets of a binary array reach.
_CHUNK_WORDS = np.iinfo(np.int32).max // 8


class StateType(pa.ExtensionType):
    """Arrow type of a column of states: binary, one record of an accumulator's ``to_bytes`` each.

    It survives IPC and Parquet, and loads as plain binary where this package is not imported. The metadata contains the
    records' version, aggregation and scale. A column of a version that this release does not know loads,
    and is refused in use.

    Args:
      version: of the records.
      aggregation, scale: their names.
      storage_type: binary or large_binary.

    Raises:
      TypeError: a version that is no integer.

    >>> str(StateType(scale="decibel"))
    'lse_stream.state of version 2, aggregation logsumexp, scale decibel'
    """

    def __init__(
        self,
        version: int = VERSION,
        aggregation: str = LOGSUMEXP.name,
        scale: str = NATURAL.name,
        storage_type: pa.DataType | None = None,
    ) -> None:
        if not isinstance(version, int):
            raise TypeError(f"version: expected an integer, found {version!r}")
        self.version, self.aggregation, self.scale = version, aggregation, scale
        self._serialized = json.dumps({"version": version, "aggregation": aggregation, "scale": scale}).encode()
        super().__init__(storage_type or pa.binary(), "lse_stream.state")

    def __arrow_ext_serialize__(self) -> bytes:
        return self._serialized

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "StateType":
        return _loaded(storage_type, serialized)

    def __str__(self) -> str:
        return f"lse_stream.state of version {self.version}, aggregation {self.aggregation}, scale {self.scale}"

    # Arrow asks these before it puts columns together; those of pa.ExtensionType look at name and storage alone.
    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, StateType)
            and self.storage_type == other.storage_type
            and self._serialized == other._serialized
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._serialized)


@lru_cache(maxsize=256)  # Arrow asks for it whenever it hands out a column or a field
def _loaded(storage_type: pa.DataType, serialized: bytes) -> StateType:
    try:
        found = json.loads(serialized)  # of a later version it may hold more
        return StateType(int(found["version"]), str(found["aggregation"]), str(found["scale"]), storage_type)
    except (ValueError, KeyError, TypeError):
        return StateType(0, "unknown", "unknown", storage_type)  # it loads all the same, and is refused in use


@lru_cache(maxsize=256)
def _type_of(aggregation: str, scale: str) -> StateType:
    return StateType(VERSION, aggregation, scale)


pa.register_extension_type(StateType())


def states_to_arrow(states: StateArray, null: Mask | None = None) -> pa.ChunkedArray:
    """The states (n,) as a column, null where ``null`` (n,) is true."""
    if null is not None:
        states = states.emptied(null)
    state_type = _type_of(states.aggregation.name, states.scale.name)
    words, offsets = encode_states(states)
    chunks: list[pa.Array] = []
    start = 0
    while start < len(states) or not chunks:
        end = int(np.searchsorted(offsets, offsets[start] + _CHUNK_WORDS, side="right")) - 1
        part = ((offsets[start : end + 1] - offsets[start]) * 8).astype(np.int32)
        valid = None if null is None else validity(null[start:end])
        buffers = [valid, pa.py_buffer(part), pa.py_buffer(words[offsets[start] : offsets[end]])]
        storage = pa.Array.from_buffers(pa.binary(), end - start, buffers)
        chunks.append(pa.ExtensionArray.from_storage(state_type, storage))
        start = end
    return pa.chunked_array(chunks, state_type)


def check_states(table: pa.Table) -> pa.Table:
    """The table as it is, once the records of its column "state" are checked; raises StateError for a damaged one."""
    states_from_arrow(table.column(STATE))
    return table


def states_from_arrow(
    column: pa.ChunkedArray | pa.Array, name: str = STATE, *, trusted: bool = False
) -> tuple[StateArray, Mask | None]:
    """The states (n,) of a column, checked, and where it is null; the state there is an empty one.

    Args:
      column: of ``StateType``, or of binary as it loads without this package; also large, or as a view.
      name: what an error calls the column.
      trusted: this process, or one of ours, has made the bytes: they are not checked again.

    Returns:
      The states, and where the column is null (n,); None where it nowhere is.

    Raises:
      TypeError: another type.
      StateError: records of another version, of two aggregations or scales, or not canonical; column and row named.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    expected = aggregation_of(column.type, name)
    parts: list[StateArray] = []
    nulls: list[tuple[int, Mask | None]] = []
    for chunk in chunks:
        storage = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
        if pa.types.is_binary_view(storage.type):
            storage = storage.cast(pa.large_binary())
        null = nulls_of(storage)
        try:
            if len(storage) > storage.null_count:
                parts.append(_records(storage if null is None else storage.drop_null(), expected, trusted=trusted))
                expected = parts[0].aggregation, parts[0].scale
        except StateError as error:
            place = error.row if null is None else int(np.flatnonzero(~null)[error.row])
            row = sum(n for n, _ in nulls) + place
            raise StateError(row, f"column {name!r}, row {row}: {str(error).partition(': ')[2]}") from None
        nulls.append((len(storage), null))
    n = sum(n for n, _ in nulls)
    empty = StateArray.empty(*(expected or (LOGSUMEXP, NATURAL)), min(n, 1))
    if all(null is None for _, null in nulls):
        return StateArray.concat(parts or [empty]), None
    is_null = np.concatenate([np.zeros(n, np.bool_) if null is None else null for n, null in nulls])
    states = StateArray.concat([*parts, empty])
    return states.take(np.where(is_null, len(states) - 1, np.cumsum(~is_null) - 1)), is_null


def aggregation_of(data_type: pa.DataType, name: str) -> tuple[Aggregation, Scale] | None:
    """What a column's type says of its states; None for plain binary, whose records say it."""
    storage = data_type.storage_type if isinstance(data_type, StateType) else data_type
    if not any(test(storage) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)):
        held = f" of {storage}" if isinstance(data_type, StateType) else ""
        raise TypeError(f"column {name!r}: expected states, as binary or large_binary, found {data_type}{held}")
    if not isinstance(data_type, StateType):
        return None
    found = f"version {data_type.version}, aggregation {data_type.aggregation}, scale {data_type.scale}"
    if data_type.version != VERSION:
        raise StateError(0, f"column {name!r}: expected states of version {VERSION}, found {found}")
    try:
        aggregation, scale = find_aggregation(data_type.aggregation), Scale(data_type.scale)
        aggregation.check_scale(scale)
    except ValueError as error:
        raise StateError(0, f"column {name!r}: expected states of version {VERSION}, found {found}: {error}") from error
    return aggregation, scale


def expected_states(data_type: pa.DataType) -> str | None:
    """What is expected in place of a type that is not of states which can be read; None where it is."""
    try:
        aggregation_of(data_type, STATE)
    except (TypeError, ValueError) as error:
        return str(error).partition("expected ")[2].partition(", found")[0]
    return None


def _records(storage: pa.Array, expected: tuple[Aggregation, Scale] | None, *, trusted: bool) -> StateArray:
    """The states of a binary array of one or more, without nulls."""
    n = len(storage)
    offset_type = np.int32 if pa.types.is_binary(storage.type) else np.int64
    _, offset_buffer, data = storage.buffers()
    offsets = np.frombuffer(offset_buffer, offset_type)[storage.offset : storage.offset + n + 1].astype(np.int64)
    sizes = np.diff(offsets)
    if (sizes % 8).any():
        row = int((sizes % 8 != 0).argmax())
        raise StateError(row, f"state {row}: expected a multiple of 8 bytes, found {sizes[row]}")
    held = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
    words = np.require(held.view(np.uint64), requirements="A")
    return decode_states(words, (offsets - offsets[0]) // 8, expected, trusted=trusted)
