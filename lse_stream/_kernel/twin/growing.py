"""What lives from batch to batch, in NumPy: the twin of key_index.h, key_hashes.h, smallest.h, growing.h."""

import threading
import zlib
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from ..constants import MOST_SMALLEST, NOT_A_NUMBER
from ..sums import Sums, concat_sums, empty_sums
from .grouped import add_parts, check_codes
from .weighted import add_weighted_parts, group_terms, merge_groups, no_sums

Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]

# What a key takes beside its bytes: an entry of a dictionary, a bytes object, an int.
ENTRY_BYTES = 200


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="_Shared")


class _Shared:
    """What threads use in turn; in C one of them is refused."""

    def __init__(self) -> None:
        self._lock = threading.RLock()


def _in_turn(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    @wraps(method)
    def locked(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return locked


def _first_appearances(rows: npt.NDArray[np.void] | Ints) -> tuple[Ints, Ints]:
    """Of each distinct row its first place, in that order, and for every row the number of its distinct one."""
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    return first[order], rank[inverse]


class WordIndex(_Shared):
    """Dense codes of keys of some 64-bit words, in order of first appearance."""

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"expected keys of one word or more, found {width}")
        self._width = width
        self._codes: dict[bytes, int] = {}

    @_in_turn
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

    @_in_turn
    def keys(self) -> bytes:
        """The words of all keys, in the order of their codes."""
        return b"".join(self._codes)

    @property
    def nbytes(self) -> int:
        return len(self._codes) * (8 * self._width + ENTRY_BYTES)


class ByteIndex(_Shared):
    """Dense codes of byte strings and null, in order of first appearance."""

    def __init__(self) -> None:
        super().__init__()
        self._codes: dict[bytes | None, int] = {}

    @_in_turn
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

    @_in_turn
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


class Groups(_Shared):
    """The states of groups whose number grows: of "values", of "terms" e^(c x), or of "weighted" terms w e^(c x)."""

    def __init__(self, items: str, high: float, low: float) -> None:
        super().__init__()
        if items not in ("values", "terms", "weighted"):
            raise ValueError(f"expected values, terms or weighted, found {items}")
        self._weighted, self._scale = items == "weighted", np.array([high, low])
        self._states = no_sums(0) if self._weighted else empty_sums(0)

    def _add(self, present: Codes, part: Sums, n_groups: int) -> None:
        more = max(n_groups - self._states.size, 0)
        states = concat_sums([self._states, no_sums(more) if self._weighted else empty_sums(more)])
        if self._weighted:
            add_weighted_parts(states, present, part)
        else:
            add_parts(states, present, part, self._scale)
        self._states = states  # unless a count overflowed

    @_in_turn
    def update(self, arrays: tuple[Codes, Floats, Floats], n_groups: int) -> None:
        """Adds values to the groups of their codes."""
        codes, x, weights = arrays
        if x.size != codes.size or weights.size != (codes.size if self._weighted else 0):
            raise ValueError("arrays of different lengths")
        check_codes(codes, max(n_groups, self._states.size))
        present, number = np.unique(codes, return_inverse=True)
        part = np.empty(present.size, self._states.dtype)
        group_terms(part, number.astype(np.int32), x, weights, self._scale)
        self._add(present, part, n_groups)

    @_in_turn
    def update_others(self, lists: "Smallest", times: float, n_groups: int) -> None:
        """Adds what lists of smallest values do not keep, so many times its value."""
        if self._weighted:
            raise ValueError("arrays of different lengths")
        codes = np.concatenate([np.empty(0, np.int32), *(codes for codes, _ in lists.others)])
        values = np.concatenate([np.empty(0), *(values for _, values in lists.others)])
        with np.errstate(over="ignore"):
            self.update((codes, times * values, np.empty(0)), n_groups)

    @_in_turn
    def merge(self, arrays: tuple[Codes, Sums], n_groups: int) -> None:
        """Merges states into the groups of their codes."""
        codes, states = arrays
        if states.size != codes.size or states.dtype != self._states.dtype:
            raise ValueError("arrays of different lengths")
        check_codes(codes, max(n_groups, self._states.size))
        present, number = np.unique(codes, return_inverse=True)
        part = np.empty(present.size, self._states.dtype)
        merge_groups(part, number.astype(np.int32), states, self._scale)
        self._add(present, part, n_groups)

    @_in_turn
    def export(self, out: Sums) -> None:
        """Writes the groups' states."""
        out[:] = self._states

    @property
    def nbytes(self) -> int:
        return self._states.nbytes


class Smallest(_Shared):
    """The k smallest values of each group, copies counted; none where NaN or +inf was added."""

    def __init__(self, k: int) -> None:
        super().__init__()
        if not 1 <= k <= MOST_SMALLEST:
            raise ValueError(f"expected 1 to {MOST_SMALLEST}, found {k}")
        self._k = k
        self._lists: list[Floats] = []
        self._special = np.zeros(0, np.bool_)
        self.others: list[tuple[Codes, Floats]] = []

    def _let_go(self, code: int, values: Floats) -> None:
        self.others.append((np.full(values.size, code, np.int32), values + 0.0))

    @_in_turn
    def take_others(self) -> tuple[bytes, bytes]:
        """Codes and values of what is not, or no longer, in the lists."""
        others = self.others
        self.drop_others()
        return b"".join(codes.tobytes() for codes, _ in others), b"".join(values.tobytes() for _, values in others)

    @_in_turn
    def drop_others(self) -> None:
        """Forgets these."""
        self.others = []

    def _grow(self, codes: Codes, n_groups: int) -> None:
        check_codes(codes, max(n_groups, len(self._lists)))
        more = max(n_groups - len(self._lists), 0)
        self._lists += [np.empty(0)] * more
        self._special = np.append(self._special, np.zeros(more, np.bool_))

    @_in_turn
    def update(self, arrays: tuple[Codes, Floats], n_groups: int) -> None:
        """Adds values to the groups of their codes."""
        codes, x = arrays
        if x.size != codes.size:
            raise ValueError("arrays of different lengths")
        self._grow(codes, n_groups)
        if not codes.size:
            return
        order = np.argsort(codes, kind="stable")
        present, starts = np.unique(codes[order], return_index=True)
        for code, some in zip(present.tolist(), np.split(x[order], starts[1:]), strict=True):
            both = np.sort(np.concatenate([self._lists[code], some + 0.0]))  # 0.0, not -0.0; NaN is the last
            self._special[code] |= not both[-1] < np.inf
            kept = 0 if self._special[code] else self._k
            self._lists[code] = both[:kept]
            self._let_go(code, both[kept:])

    @_in_turn
    def merge(self, arrays: tuple[Codes, Words, Ints], n_groups: int) -> None:
        """Merges stored lists into the groups of their codes."""
        codes, words, at = arrays
        if at.size != codes.size:
            raise ValueError("arrays of different lengths")
        parts = [self._read(words, place) for place in at.tolist()]
        self._grow(codes, n_groups)
        for code, (_, special) in zip(codes.tolist(), parts, strict=True):
            if special:
                self._special[code] = True
                self._let_go(code, self._lists[code])
                self._lists[code] = np.empty(0)
        sizes = [values.size for values, _ in parts]
        self.update((np.repeat(codes, sizes), np.concatenate([np.empty(0), *(v for v, _ in parts)])), n_groups)

    def _read(self, words: Words, at: int) -> tuple[Floats, bool]:
        """The values of a stored list, and whether it is special."""
        head = int(words[at]) if 0 <= at < words.size else 0xFFFF << 16
        n = head >> 16 & 0xFFFF
        if n > self._k or at + n >= words.size:
            raise ValueError("a stored sum that cannot be read")
        return words[at + 1 : at + 1 + n].view(np.float64), head >> 32 != 0

    @_in_turn
    def export(self, begins: Ints) -> bytes:
        """The words of the stored lists; writes where each begins."""
        if begins.size != len(self._lists) + 1:
            raise ValueError("arrays of different lengths")
        parts = []
        for values, special in zip(self._lists, self._special.tolist(), strict=True):
            head = np.array([NOT_A_NUMBER << 32 if special else values.size << 16], np.uint64)
            parts.append(np.concatenate([head, values.view(np.uint64)]))
        begins[0] = 0
        np.cumsum([part.size for part in parts], out=begins[1:])
        return b"".join(part.tobytes() for part in parts)

    @property
    def nbytes(self) -> int:
        return sum(values.nbytes for values in self._lists) + self._special.nbytes


class ExactWindows(_Shared):
    """Sums that would be quicker: in NumPy there are none, and no row fits."""

    nbytes = 0

    def __init__(self) -> None:
        super().__init__()
        self._groups = 0

    @_in_turn
    def update(self, arrays: tuple[Codes, Floats, Floats, Ints], n_groups: int) -> int:
        """Writes the rows that do not fit, and says how many these are."""
        codes, a, b, others = arrays
        if a.size != codes.size or others.size != codes.size or b.size not in (0, codes.size):
            raise ValueError("arrays of different lengths")
        self._groups = max(self._groups, n_groups)
        check_codes(codes, self._groups)
        others[:] = np.arange(codes.size)
        return codes.size

    @_in_turn
    def take(self, begins: Ints) -> bytes:
        """The words of the sums, which are empty then; writes where each begins."""
        if begins.size != self._groups + 1:
            raise ValueError("arrays of different lengths")
        begins[:] = np.arange(begins.size)
        return bytes(8 * self._groups)


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


def sort_rows(codes: Codes, values: Floats, begins: Ints, sorted_codes: Codes, sorted_values: Floats) -> None:
    """Writes rows in the order of their codes."""
    if not codes.size == values.size == sorted_codes.size == sorted_values.size:
        raise ValueError("arrays of different lengths")
    rows = np.empty(codes.size, np.int64)
    rows_by_shard(codes, rows, begins)
    sorted_codes[:], sorted_values[:] = codes[rows], values[rows]
