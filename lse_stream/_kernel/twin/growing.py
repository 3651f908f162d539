"""What lives from batch to batch, in NumPy: the twin of key_index.h, key_hashes.h and growing.h."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..record import Records, concat_states, empty_states
from .grouped import check_codes, group_values, merge_groups, reduce_states
from .weighted import group_terms

Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]

# What a key takes beside its bytes: an entry of a dictionary, a bytes object, an int.
ENTRY_BYTES = 200


def _first_appearances(rows: npt.NDArray[np.void] | Ints) -> tuple[Ints, Ints]:
    """Of each distinct row its first place, in that order, and for every row the number of its distinct one."""
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    return first[order], rank[inverse]


class WordIndex:
    """Dense codes of keys of some 64-bit words, in order of first appearance."""

    def __init__(self, width: int) -> None:
        if width < 1:
            raise ValueError(f"expected keys of one word or more, found {width}")
        self._width = width
        self._codes: dict[bytes, int] = {}

    def encode(self, columns: tuple[Ints, ...], codes: Codes, add: bool) -> int:
        """Writes each key's code, -1 for none; with ``add`` a new one. Returns how many keys there are."""
        if len(columns) != self._width:
            raise ValueError(f"expected {self._width} columns, found {len(columns)}")
        if any(column.size != codes.size for column in columns):
            raise ValueError("arrays of different lengths")
        keys = np.stack(columns, axis=1)
        first, number = _first_appearances(keys.view(np.dtype((np.void, 8 * self._width))).reshape(-1))
        distinct = [key.tobytes() for key in keys[first]]
        if add:
            found = [self._codes.setdefault(key, len(self._codes)) for key in distinct]
        else:
            found = [self._codes.get(key, -1) for key in distinct]
        codes[:] = np.array(found, np.int32)[number]
        return len(self._codes)

    def keys(self) -> bytes:
        """The words of all keys, in the order of their codes."""
        return b"".join(self._codes)

    @property
    def nbytes(self) -> int:
        return len(self._codes) * (8 * self._width + ENTRY_BYTES)


class ByteIndex:
    """Dense codes of byte strings and null, in order of first appearance."""

    def __init__(self) -> None:
        self._codes: dict[bytes | None, int] = {}

    def encode(self, arrays: tuple[Ints, Bytes, Bytes, Codes], add: bool) -> int:
        offsets, data, valid, codes = arrays
        if offsets.size != codes.size + 1 or valid.size not in (0, codes.size):
            raise ValueError("arrays of different lengths")
        bounds, text, present = offsets.tolist(), bytes(data), valid.tolist() or [1] * codes.size
        keys = [text[bounds[i] : bounds[i + 1]] if present[i] else None for i in range(codes.size)]
        if add:
            codes[:] = [self._codes.setdefault(key, len(self._codes)) for key in keys]
        else:
            codes[:] = [self._codes.get(key, -1) for key in keys]
        return len(self._codes)

    def keys(self) -> tuple[bytes, bytes]:
        """Where each key ends, and the bytes of all."""
        keys = [key or b"" for key in self._codes]
        return np.cumsum([len(key) for key in keys], dtype=np.int64).tobytes(), b"".join(keys)

    @property
    def null_code(self) -> int:
        return self._codes.get(None, -1)

    @property
    def nbytes(self) -> int:
        return sum(len(key or b"") + ENTRY_BYTES for key in self._codes)


class Groups:
    """The states of groups whose number grows: of "values", of "terms" ``w e^(c x)``, or merged of "states"."""

    def __init__(self, items: str) -> None:
        if items not in ("values", "terms", "states"):
            raise ValueError(f"expected values, terms or states, found {items}")
        self._items = items
        self._states = empty_states(0)

    def update(self, arrays: tuple[Codes, Any, Floats, Floats], n_groups: int) -> None:
        """Adds items to the groups of their codes."""
        codes, items, weights, scale = arrays
        if items.size != codes.size or (weights.size and weights.size != codes.size):
            raise ValueError("arrays of different lengths")
        if self._items == "states":
            self.merge((codes, items), n_groups)
            return
        check_codes(codes, max(n_groups, self._states.size))
        present, number = np.unique(codes, return_inverse=True)
        part, local = empty_states(present.size), number.astype(np.int32)
        if self._items == "terms":
            group_terms(part, local, items, weights, scale)
        else:
            group_values(part, local, items)
        self.merge((present, part), n_groups)

    def merge(self, arrays: tuple[Codes, Records], n_groups: int) -> None:
        """Merges states into the groups of their codes."""
        codes, states = arrays
        if states.size != codes.size:
            raise ValueError("arrays of different lengths")
        check_codes(codes, max(n_groups, self._states.size))
        merged = concat_states([self._states, empty_states(max(n_groups - self._states.size, 0))])
        present, number = np.unique(codes, return_inverse=True)
        part = empty_states(present.size)
        merge_groups(part, number.astype(np.int32), states)
        if present.size:
            pairs = np.stack([merged[present], part], axis=1).ravel()
            merged[present] = reduce_states(pairs, np.arange(0, pairs.size, 2))
        self._states = merged

    def export(self, out: Records) -> None:
        """Writes the groups' states."""
        out[:] = self._states

    @property
    def nbytes(self) -> int:
        return self._states.nbytes


def checksum_bytes(offsets: Ints, data: Bytes, out: Words) -> None:
    """Writes CRC-32 and length of each byte string."""
    bounds, text = offsets.tolist(), bytes(data)
    parts: Sequence[bytes] = [text[bounds[i] : bounds[i + 1]] for i in range(out.size)]
    out[:] = np.array([zlib.crc32(part) | len(part) << 32 for part in parts], np.uint64)


def _mix(words: Words) -> Words:
    """SplitMix64's step and finalizer."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ words >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return words ^ words >> np.uint64(31)


def hash_column(hashes: Words, words: Words, valid: Bytes) -> None:
    """Adds one more key column to the hashes of rows."""
    if words.size != hashes.size or valid.size not in (0, hashes.size):
        raise ValueError("arrays of different lengths")
    mixed = _mix(words)
    hashes[:] = _mix(hashes + (np.where(valid == 0, np.uint64(0), mixed) if valid.size else mixed))


def rows_by_shard(shards: Codes, rows: Ints, ends: Ints) -> None:
    """Writes the rows of each shard, one shard after another, in their order, and where each ends."""
    check_codes(shards, ends.size)
    rows[:] = np.argsort(shards, kind="stable")
    ends[:] = np.cumsum(np.bincount(shards, minlength=ends.size))
